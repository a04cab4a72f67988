"""The numeric range of a VAE's activations, measured: what overflows in float16, and what 16 bits cost.

SDXL's VAE shows why: its decoder's activations pass float16's 65504, become infinite and then NaN, and the picture is
black. bfloat16 has float32's range, but only 8 bits of precision.
"""

import copy
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from latentcodec.images.geometry import center_crop, resize_short_side
from latentcodec.images.pixels import to_tensor
from latentcodec.images.sources import open_source


class RangeError(ValueError):
    """Activations that cannot be measured: no images, or values that are not finite even in float32."""


HALF_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Peak:
    """The largest absolute activation of a part of the network."""

    value: float
    module: str
    """Name of the module that puts it out."""


@dataclass(frozen=True)
class ActivationRanges:
    """What was measured."""

    images: int
    encoder: Peak
    decoder: Peak
    rms_levels: dict[str, float | None]
    """For each type of `HALF_TYPES`, the root mean square difference between its reconstructions and float32's, in
    levels of 8-bit pixels; None if the type overflowed and there is no picture."""

    @property
    def largest(self) -> Peak:
        """The larger of the two peaks."""
        return max(self.encoder, self.decoder, key=lambda peak: peak.value)

    def fits(self, dtype: torch.dtype) -> bool:
        """Whether every activation is within the range of `dtype`: 65504 for float16, 3.39e38 for bfloat16."""
        return self.largest.value <= torch.finfo(dtype).max

    def to_json(self) -> dict[str, Any]:
        """Dicts, numbers and text; for each type its `limit`, whether it `fits`, and its `rms_levels`."""
        types = {
            name: {"limit": torch.finfo(dtype).max, "fits": self.fits(dtype), "rms_levels": self.rms_levels[name]}
            for name, dtype in HALF_TYPES.items()
        }
        return {"images": self.images, "encoder": asdict(self.encoder), "decoder": asdict(self.decoder)} | types


@contextmanager
def in_float32(vae: AutoencoderKL) -> Iterator[AutoencoderKL]:
    """The network in float32 inside the block, in its own type after it; exact, for float32 holds every 16-bit value."""
    dtype = vae.dtype
    nn.Module.to(vae, torch.float32)  # not ModelMixin.to, which warns about modules that AutoencoderKL does not have
    try:
        yield vae
    finally:
        nn.Module.to(vae, dtype)


def probe_images(
    spec: str | Path = "procedural", *, count: int = 1, size: int = 256
) -> Iterator[Float[Tensor, "1 3 size size"]]:
    """The first `count` images of a source (see `open_source`), short side `size`, centre cut, in [-1, 1]."""
    source: Any = open_source(spec)
    for index in range(min(count, len(source))):
        image = center_crop(resize_short_side(source[index].decode(), size), size, size)
        yield to_tensor(image)[None]


@torch.no_grad()
def measure_ranges(vae: AutoencoderKL, batches: Iterable[Float[Tensor, "_ 3 _ _"]]) -> ActivationRanges:
    """Encode and decode images in float32 and record the largest absolute output of any module.

    The 16-bit types are emulated: every weight and every module's output is rounded to the type, and the arithmetic
    between is float32's, like that of GPU kernels, which accumulate in float32. So a machine without float16 units
    finds float16's overflow too. What a fused attention kernel keeps to itself is not seen.

    Args:
        vae: the network, in any type; it is left as it was.
        batches: images in [-1, 1], NCHW, sides multiples of the network's factor.

    Raises:
        RangeError: no images, or an activation that is NaN or infinite in float32 (the module is named).
    """
    peaks = {"encoder": Peak(0.0, "none"), "decoder": Peak(0.0, "none")}
    squares = dict.fromkeys(HALF_TYPES, 0.0)
    images = values = 0
    with in_float32(vae), torch.autocast(vae.device.type, enabled=False):
        rounded = {name: _rounded(vae, dtype) for name, dtype in HALF_TYPES.items()}
        for batch in batches:
            batch = batch.to(vae.device, torch.float32)
            with _recording(vae, peaks):
                expected = _reconstruct(vae, batch)
            for name, network in rounded.items():
                squares[name] += (_reconstruct(network, batch) - expected).double().square().sum().item()
            images, values = images + len(batch), values + expected.numel()
    if not images:
        raise RangeError("batches: expected at least one batch of images, found none")
    levels = {name: _finite(127.5 * math.sqrt(total / values)) for name, total in squares.items()}
    return ActivationRanges(images, peaks["encoder"], peaks["decoder"], levels)


def _reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    return vae.decode(vae.encode(images).latent_dist.mean).sample


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _side(module: str) -> str:
    return "decoder" if module.startswith(("decoder", "post_quant_conv")) else "encoder"


@contextmanager
def _recording(vae: AutoencoderKL, peaks: dict[str, Peak]) -> Iterator[None]:
    """Raise `peaks` to the largest absolute output of any module while the block runs."""

    def hook(name: str) -> Any:
        def record(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                value = max(abs(end.item()) for end in output.aminmax())
                if not math.isfinite(value):
                    raise RangeError(f"{name} puts out NaN or infinity even in float32; the weights are damaged")
                if value > peaks[_side(name)].value:
                    peaks[_side(name)] = Peak(value, name)

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in vae.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rounded(vae: AutoencoderKL, dtype: torch.dtype) -> AutoencoderKL:
    """A copy whose weights, input and module outputs are values of `dtype`, in float32 tensors."""

    def rounded(value: Any) -> Any:
        return value.to(dtype).to(torch.float32) if isinstance(value, Tensor) else value

    network = copy.deepcopy(vae)
    for parameter in network.parameters():
        parameter.copy_(rounded(parameter))
    for module in network.modules():
        module.register_forward_hook(lambda _, __, output: rounded(output))
    network.encoder.conv_in.register_forward_pre_hook(lambda _, inputs: tuple(rounded(value) for value in inputs))
    return network
