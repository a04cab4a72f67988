"""DISTS with its VGG16 backbone found as LPIPS's is, and its own weights from the package.

The authors' `dists-pytorch` is the reference, but it downloads VGG16 while it is built, and looks for its weights in
`sys.prefix`, where not every installation puts them. Here the backbone comes from `eval.perceptual.find_backbone` and the
weights from the package's folder.
"""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from DISTS_pytorch import DISTS, DISTS_pt
from torch import nn
from torchvision.models import vgg16

from eval.perceptual import backbone_file, load_features

_WEIGHTS = Path(DISTS_pt.__file__).with_name("weights.pt")


def load_dists(backbone: str | Path | None = None, *, download: bool = True) -> DISTS:
    """DISTS (Ding et al. 2020, arXiv 2004.07728) on RGB in [0, 1]: `module(a, b)` is one distance for each image, without
    dimensions for a batch of one; smaller is more alike.

    Frozen, in eval mode, fp32, on the CPU; torch's random state is left as it was.

    Args:
        backbone: file of torchvision's VGG16 features, as for `eval.perceptual.load_lpips("vgg")`.
        download: let torch's hub fetch the file when it is found nowhere.

    Raises:
        BackboneUnavailableError: no file anywhere, and no download.
        BackboneFormatError: the file cannot be read, or lacks layers.
    """
    path = backbone_file("vgg", backbone, download=download)
    module = untrained_dists()
    stages = nn.ModuleList([module.stage1, module.stage2, module.stage3, module.stage4, module.stage5])
    load_features(stages, "vgg", path)
    return module


def untrained_dists() -> DISTS:
    """DISTS with its own weights on a backbone of zeros; geometry and arithmetic of the real one. Needs no file."""
    with torch.device("meta"):
        features = vgg16(weights=None).features  # of any values: they cost nothing here, and are replaced
    features.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in features.parameters():
            parameter.zero_()
    offline = SimpleNamespace(vgg16=lambda **_: SimpleNamespace(features=features))
    with torch.random.fork_rng(devices=[]), mock.patch.object(DISTS_pt, "models", offline):
        module = DISTS(load_weights=False)
    weights = torch.load(_WEIGHTS, map_location="cpu", weights_only=True)
    with torch.no_grad():
        module.alpha.copy_(weights["alpha"])
        module.beta.copy_(weights["beta"])
    return module.requires_grad_(False).eval()
