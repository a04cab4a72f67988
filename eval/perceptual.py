"""LPIPS with its ImageNet backbone taken from a file, the environment or torch's hub cache. DISTS finds its own here too.

The `lpips` package ships the linear heads of LPIPS v0.1 (Zhang et al. 2018, arXiv 1801.03924) but downloads the
backbone. Here the backbone's origin is explicit, so that LPIPS works offline and never silently with random features.
"""

import os
import pickle
import warnings
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

import lpips
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, VGG16_Weights

LpipsNet = Literal["vgg", "alex"]

NETWORKS: dict[LpipsNet, str] = {"vgg": "VGG16", "alex": "AlexNet"}

ENVIRONMENT: dict[LpipsNet, str] = {"vgg": "LATENTCODEC_LPIPS_VGG", "alex": "LATENTCODEC_LPIPS_ALEX"}
"""Variable that names the backbone's file."""

_USERS: dict[LpipsNet, str] = {"vgg": "LPIPS-vgg and DISTS need", "alex": "LPIPS-alex needs"}

DOWNLOADS: dict[LpipsNet, str] = {"vgg": VGG16_Weights.IMAGENET1K_V1.url, "alex": AlexNet_Weights.IMAGENET1K_V1.url}
"""Address of torchvision's ImageNet weights; its last part is the file's name in torch's hub cache."""


class BackboneUnavailableError(RuntimeError):
    """The backbone of a metric is in none of the places that it may come from."""


class BackboneFormatError(ValueError):
    """A file was found, but it does not hold the features of the wanted backbone."""


def hub_cache_path(net: LpipsNet) -> Path:
    """Where torch's hub keeps torchvision's weights of `net`, whether or not the file is there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(DOWNLOADS[net]).path).name


def find_backbone(net: LpipsNet, backbone: str | Path | None = None) -> Path | None:
    """The file with the ImageNet features of `net`, or None where only a download is left. Downloads nothing.

    Looked for in this order: `backbone`; the environment variable of `ENVIRONMENT`; torch's hub cache.

    Raises:
        BackboneUnavailableError: `backbone` or the variable names a file that is not there. A named file is never
            passed over for the next place.
    """
    variable = ENVIRONMENT[net]
    for origin, named in (("the argument `backbone`", backbone), (f"${variable}", os.environ.get(variable) or None)):
        if named is None:
            continue
        path = Path(named).expanduser()
        if not path.is_file():
            raise BackboneUnavailableError(f"{origin} names {path}, which is not a file. {_ways(net)}")
        return path
    cached = hub_cache_path(net)
    return cached if cached.is_file() else None


def load_lpips(net: LpipsNet, backbone: str | Path | None = None, *, download: bool = True) -> lpips.LPIPS:
    """LPIPS v0.1 on images in [-1, 1]: `module(a, b)` is (batch, 1, 1, 1); smaller is more alike.

    Frozen, in eval mode, fp32, on the CPU; torch's random state is left as it was.

    Args:
        net: `vgg` (the usual training loss) or `alex` (the usual metric).
        backbone: safetensors or torch file with keys `features.N.weight` and `.bias` in any floating type, such as
            torchvision's state dict, whose classifier is ignored. None: the places of `find_backbone`.
        download: let torch's hub fetch the file when it is found nowhere.

    Raises:
        BackboneUnavailableError: no file anywhere, and no download.
        BackboneFormatError: the file cannot be read, or lacks layers of `net`.
    """
    path = backbone_file(net, backbone, download=download)
    module = untrained_lpips(net)
    load_features(module.net, net, path)
    return module


def backbone_file(net: LpipsNet, backbone: str | Path | None = None, *, download: bool = True) -> Path:
    """As `find_backbone`, and then the download.

    Raises:
        BackboneUnavailableError: no file anywhere, and no download.
    """
    return find_backbone(net, backbone) or _download(net, allowed=download)


def load_features(module: nn.Module, net: LpipsNet, path: Path) -> None:
    """Copy torchvision's ImageNet features of `net` into a network that is cut into parts: its parameters are named
    `PART.N.weight` and `PART.N.bias`, where N is the layer's number in torchvision's `features`.

    Raises:
        BackboneFormatError: the file cannot be read, or lacks layers of `net`.
    """
    _copy_features(module, _read_state(path), f"{path} does not hold torchvision's {NETWORKS[net]} features")


def untrained_lpips(net: LpipsNet) -> lpips.LPIPS:
    """LPIPS with a random backbone: geometry and arithmetic of the real one, for costs and tests. Needs no file.

    Frozen, in eval mode, fp32, on the CPU. The backbone is drawn from torch's random state, which is left as it was.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated", UserWarning)
        warnings.filterwarnings("ignore", "Arguments other than a weight enum", UserWarning)
        module = lpips.LPIPS(net=net, version="0.1", pnet_rand=True, verbose=False)
    return module.requires_grad_(False).eval()


def _ways(net: LpipsNet) -> str:
    return (
        f"{_USERS[net]} torchvision's ImageNet features of {NETWORKS[net]}. Either name a file (safetensors, or "
        f"torch's .pth with tensors only) as `backbone`; or set {ENVIRONMENT[net]} to it; or put "
        f"{hub_cache_path(net).name} into {hub_cache_path(net).parent}; or allow the download where there is a network."
    )


def _download(net: LpipsNet, *, allowed: bool) -> Path:
    if not allowed:
        raise BackboneUnavailableError(f"No backbone was found, and the download is switched off. {_ways(net)}")
    try:
        torch.hub.load_state_dict_from_url(
            DOWNLOADS[net], map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no network, or a file whose hash is wrong
        raise BackboneUnavailableError(f"The download of the backbone failed: {error}. {_ways(net)}") from error
    return hub_cache_path(net)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise BackboneFormatError(
            f"{path}: expected a safetensors file, or a torch file that holds tensors only; reading it failed: {error}"
        ) from error
    if not isinstance(state, dict):
        raise BackboneFormatError(f"{path}: expected a dict of tensors, found {type(state).__name__}")
    return state


def _copy_features(net: nn.Module, state: dict[str, Tensor], complaint: str) -> None:
    """Copy `features.N.*` of torchvision's network into the parts that a package cuts it into; N is kept there."""
    problems = []
    for name, parameter in net.named_parameters():
        _, index, kind = name.split(".")  # part.N.weight
        key = f"features.{index}.{kind}"
        found = state.get(key)
        if not isinstance(found, Tensor):
            problems.append(f"{key} is missing")
        elif found.shape != parameter.shape:
            problems.append(f"{key} has shape {tuple(found.shape)}, expected {tuple(parameter.shape)}")
        else:
            parameter.data.copy_(found)
    if problems:
        raise BackboneFormatError(
            f"{complaint}: {'; '.join(problems)}. Give the state dict of torchvision's ImageNet weights of that network"
        )
