"""One image's latents in a file: safetensors, with the identity of the VAE, the scale and the image's size beside them."""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from latentcodec.aside import written_aside
from latentcodec.latents import Latents, Moments
from latentcodec.scaling import Scaling

_FORMAT = "latentcodec image"
_VERSION = "1"


class LatentFileError(ValueError):
    """A file that holds no latents, or those of another VAE. The message names the file and what to do."""


@dataclass(frozen=True, eq=False)
class LatentFile:
    """What a file of latents holds."""

    values: Latents | Moments
    """Of one image."""
    fingerprint: str
    """Of the VAE that made them, see `weights_fingerprint`."""
    scaling: Scaling
    """Of `Latents`; that of the VAE at the time. Moments are raw."""
    image: str
    """What the image was called."""


def write_latent_file(file: LatentFile, path: Path) -> None:
    """Write one image's latents (tensor `latents`) or moments (`mean`, `logvar`), whole or not at all."""
    values = file.values
    tensors = (
        {"mean": values.mean, "logvar": values.logvar} if isinstance(values, Moments) else {"latents": values.tensors}
    )
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "fingerprint": file.fingerprint,
        "scaling": json.dumps(file.scaling.to_json()),
        "size": json.dumps(values.sizes[0]),
        "method": values.methods[0],
        "image": file.image,
    }
    with written_aside(path) as aside:
        safetensors.torch.save_file(
            {name: part[0].cpu().contiguous() for name, part in tensors.items()}, aside, metadata
        )


def read_latent_file(path: Path) -> LatentFile:
    """Read what `write_latent_file` wrote.

    Raises:
        LatentFileError: missing, damaged, or another kind of file.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LatentFileError(f"{path}: cannot be read as safetensors ({error}); encode the image again") from error
    kind = (metadata.get("format"), metadata.get("version"))
    if kind != (_FORMAT, _VERSION):
        found = " ".join(str(part) for part in kind) if kind[0] else "a safetensors file without that mark"
        raise LatentFileError(
            f"{path}: expected {_FORMAT} {_VERSION}, which `latentcodec encode` writes, found {found}; check the path"
        )
    try:
        height, width = json.loads(metadata["size"])
        sizes, methods = ((height, width),), (metadata["method"],)
        values = (
            Latents((tensors["latents"],), sizes, methods)
            if "latents" in tensors
            else Moments((tensors["mean"],), (tensors["logvar"],), sizes, methods)
        )
        scaling = Scaling.from_json(json.loads(metadata["scaling"]))
        return LatentFile(values, metadata["fingerprint"], scaling, metadata["image"])
    except (KeyError, ValueError, TypeError) as error:
        raise LatentFileError(f"{path}: its header is damaged ({error!r}); encode the image again") from error
