"""The networks whose features compare sets of images: torch-fidelity's Inception, or any other for tests."""

import pickle
import urllib.error
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eval.perceptual import BackboneFormatError, BackboneUnavailableError, load_lpips
from latentcodec.images.pixels import to_tensor


@runtime_checkable
class FeatureNetwork(Protocol):
    """Turns an image of any size into a vector. `eval.sets` asks no more of it."""

    description: str
    """Name, layer, and how it resizes its input: part of the protocol, printed and stored."""

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, " features"]:
        """float32 or float64 features of one image."""
        ...


class Inception:
    """The pooled 2048 features of torch-fidelity's Inception v3, the TensorFlow network of the first FID paper.

    Whole images, one at a time. It resizes them to 299 x 299 itself, as TensorFlow 1 did: bilinear, without antialiasing,
    without keeping the aspect ratio. FIDs after any other resizing are other figures.

    Args:
        weights: torch-fidelity's file of them (`weights-inception-2015-12-05-6726825d.pth`); None: torch's hub cache,
            then torch-fidelity's download.
        device: where the network runs, in float32.

    Raises:
        BackboneUnavailableError: no such file, or no download.
        BackboneFormatError: the file is another network's.
    """

    description = (
        "torch-fidelity's Inception v3 (inception-v3-compat), 2048 features; resized inside it to 299 x 299, bilinear as in "
        "TensorFlow 1 (no antialiasing, aspect ratio not kept)"
    )

    def __init__(self, weights: str | Path | None = None, *, device: str | torch.device = "cpu") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = None if weights is None else Path(weights).expanduser()
        if path is not None and not path.is_file():
            raise BackboneUnavailableError(f"{path} is not a file. {_WAYS}")
        try:
            if path is not None:  # before the package does, which would run code that is hidden in it
                torch.load(path, map_location="cpu", weights_only=True)
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=None if path is None else str(path)
            )
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise BackboneUnavailableError(f"The download of the Inception network failed: {error}. {_WAYS}") from error
        except (pickle.UnpicklingError, EOFError, RuntimeError, TypeError) as error:
            raise BackboneFormatError(
                f"{path or 'the downloaded file'}: expected the state dict of torch-fidelity's Inception v3; {error}"
            ) from error
        self.device = torch.device(device)
        self.network = network.to(self.device)

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, " features"]:
        """2048 features."""
        batch: Tensor = torch.from_numpy(np.array(image.transpose(2, 0, 1)))[None].to(self.device)
        with torch.inference_mode():
            (features,) = self.network(batch)
        return features[0].cpu().numpy()


POOLED = ("alex", "vgg")
"""Backbones of LPIPS that `PooledBackbone` knows."""


class PooledBackbone:
    """The last activations of LPIPS's AlexNet or VGG16, averaged over the image: 256 or 512 features.

    For comparisons where Inception is not at hand. Distances in this space are no FIDs.

    Args:
        net: `alex` or `vgg`.
        weights: as `eval.perceptual.load_lpips` takes its backbone.
        device: where the network runs, in float32.

    Raises:
        ValueError: another net.
        BackboneUnavailableError, BackboneFormatError: as `load_lpips`.
    """

    def __init__(self, net: str, weights: str | Path | None = None, *, device: str | torch.device = "cpu") -> None:
        if net not in POOLED:
            raise ValueError(f"features: expected inception or one of {', '.join(POOLED)}; found {net}")
        self.description = f"{net} backbone of LPIPS, last activations averaged over the image at its own size"
        self.device = torch.device(device)
        self._lpips = load_lpips("alex" if net == "alex" else "vgg", weights).to(self.device)

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> Float[np.ndarray, " features"]:
        """Features of one image."""
        batch = to_tensor(image)[None].to(self.device)
        with torch.inference_mode():
            last = self._lpips.net.forward(self._lpips.scaling_layer(batch))[-1]
        return last.mean(dim=(2, 3))[0].cpu().numpy()


_WAYS = (
    "rFID and KID need torch-fidelity's Inception v3. Either name its file, weights-inception-2015-12-05-6726825d.pth "
    "from the releases of toshas/torch-fidelity on GitHub, or put it into the folder checkpoints of torch's hub cache, "
    "or allow the download where there is a network."
)
