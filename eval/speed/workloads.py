"""Encoding and decoding, our way and the plain way.

The plain way is what most scripts do: Pillow, a loop over one image at a time, `vae.encode` in float32, default layout.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from latentcodec.codec import LatentCodec
from latentcodec.vae.loading import load_vae
from latentcodec.vae.presets import PRESETS, build_vae

Work = Callable[[], int]


def network(vae: str) -> AutoencoderKL:
    """float32 on the CPU, in evaluation mode, the same in every process."""
    if vae in PRESETS:
        torch.manual_seed(0)
        return build_vae(vae).eval()
    return load_vae(vae, scaling_factor=1.0)


@dataclass(frozen=True)
class Task:
    """What both sides are given. Picklable."""

    vae: str
    """The name of a preset, which gets random weights (speed does not depend on them), or whatever `load_vae` takes."""
    files: tuple[Path, ...]
    """PNG files of one size, `side` x `side`."""
    side: int
    device: str
    dtype: torch.dtype | None = None
    """Of our side; None: the library's choice for the device."""
    compile: bool = False

    def codec(self) -> LatentCodec:
        """The library's choices for `dtype` on `device`."""
        return LatentCodec.for_machine(network(self.vae), dtype=self.dtype, device=self.device, compile=self.compile)


def plain_pixels(file: Path, device: str) -> torch.Tensor:
    """float32 [1, 3, height, width] in [-1, 1], as scripts read it."""
    pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None]
    return pixels.to(device).float() / 127.5 - 1


def encode_files(task: Task) -> Work:
    """Files to latents through the library."""
    codec = task.codec()
    return lambda: len(codec.encode(list(task.files)))


def encode_files_plainly(task: Task) -> Work:
    """Files to latents in a loop, one at a time, float32."""
    vae = network(task.vae).to(task.device)

    @torch.no_grad()
    def work() -> int:
        latents = []
        for file in task.files:
            image = plain_pixels(file, task.device)
            latents.append(vae.encode(image).latent_dist.mean * vae.config.scaling_factor)
        return len(latents)

    return work


def decode_latents(task: Task) -> Work:
    """Latents to uint8 pixels through the library."""
    codec = task.codec()
    latents = _latents(task)
    return lambda: len(codec.decode(latents).to_uint8())


def decode_latents_plainly(task: Task) -> Work:
    """Latents to uint8 pixels in a loop, one at a time, float32."""
    vae = network(task.vae).to(task.device)
    latents = _latents(task)

    @torch.no_grad()
    def work() -> int:
        pictures = []
        for latent in latents:
            image = vae.decode(latent[None] / vae.config.scaling_factor).sample
            pictures.append(((image / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()[0])
        return len(pictures)

    return work


def _latents(task: Task) -> torch.Tensor:
    """Of unit normal values: as many as there are files, of their size."""
    config = network(task.vae).config
    side = task.side // 2 ** (len(config.block_out_channels) - 1)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(task.files), config.latent_channels, side, side, generator=generator).to(task.device)
