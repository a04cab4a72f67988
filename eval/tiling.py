"""`python -m eval tiling VAE --data DIR`: what tiles cost in accuracy, beside diffusers' own tiling, on one large image.

The large image is a mosaic of the source's images at their own size, so that its parts differ and its details are real.
Whole is the network on the whole image; everything is held against that, in float32.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor

from eval.images import ImageSet
from eval.results import write_results
from latentcodec.arguments import Parser
from latentcodec.codec import LatentCodec
from latentcodec.images.pixels import to_tensor
from latentcodec.vae.loading import load_vae

TILE = 512
"""Pixels, for both libraries. Latents are cut accordingly."""
SHIFT = (173, 301)
"""Rows and columns."""
LEVELS = 127.5
"""8-bit levels to a unit of the network's images."""


@dataclass(frozen=True)
class TilingError:
    """A tiled result against the whole network's. Pictures in 8-bit levels, latents in their standard deviation."""

    way: str
    method: str
    latent_max: float
    latent_rms: float
    picture_max: float
    picture_rms: float
    tile_shift: float
    """Root mean square of the difference between neighbouring tiles' mean errors: a patchwork of brightness and colour."""
    border_step: float
    """Mean change of the error from pixel to pixel across tile borders, less that elsewhere: 0 where borders cannot be
    told."""
    encode_seconds: float
    decode_seconds: float


def mosaic(images: ImageSet, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Images side by side and row under row until `side` x `side` is covered, again from the first if need be. All of
    it is moved down and right by SHIFT, so that the images' own borders do not fall on those of tiles."""
    pixels = [image.pixels for image in images]
    canvas = np.zeros((side, side, 3), np.uint8)
    top, number = 0, 0
    while top < side:
        left, height = 0, side - top
        while left < side:
            image = pixels[number % len(pixels)][: side - top, : side - left]
            canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
            left, height, number = left + image.shape[1], min(height, image.shape[0]), number + 1
        top += height
    return np.roll(canvas, SHIFT, axis=(0, 1))


def tile_shift(error: Float[Tensor, "channels height width"], tile: int) -> float:
    """See `TilingError`; 0 for a single tile."""
    means = torch.nn.functional.avg_pool2d(error[None], tile)[0]
    steps = torch.cat([means.diff(dim=1).flatten(), means.diff(dim=2).flatten()])
    return steps.square().mean().sqrt().item() if len(steps) else 0.0


def border_step(error: Float[Tensor, "channels height width"], tile: int) -> float:
    """See `TilingError`."""
    at, elsewhere = [], []
    for dim in (1, 2):
        change = error.diff(dim=dim).abs().mean(dim=(0, 3 - dim))
        border = torch.arange(1, len(change) + 1) % tile == 0
        at.append(change[border])
        elsewhere.append(change[~border])
    return torch.cat(at).mean().item() - torch.cat(elsewhere).mean().item() if len(torch.cat(at)) else 0.0


def compare_ways(vae: AutoencoderKL, image: UInt8[np.ndarray, "height width 3"], budget: int) -> list[TilingError]:
    """Exact tiles, fast tiles and diffusers' tiles against the whole network."""
    pixels = to_tensor(image)[None]
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        picture = vae.decode(latents).sample
    found = []
    for mode in ("exact", "fast"):
        codec = LatentCodec(vae, tiling=mode, tile=TILE, memory_budget=budget)  # type: ignore[arg-type]
        moments, encoding = _timed(partial(codec.encode_moments, [image]))
        decoded, decoding = _timed(partial(codec.decode, codec.scaling.apply(latents)))
        method = f"encode {moments.methods[0]}; decode {decoded.methods[0]}"
        found.append(
            _error(mode, method, moments.mean[0][None] - latents, latents, decoded.tensor - picture, encoding, decoding)
        )
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // codec.factor
    try:
        with torch.no_grad():
            encoded, encoding = _timed(lambda: vae.encode(pixels).latent_dist.mean)
            output, decoding = _timed(lambda: vae.decode(latents).sample)
    finally:
        vae.disable_tiling()
    way = "tiles with a quarter of overlap, blended"
    found.append(_error("diffusers", way, encoded - latents, latents, output - picture, encoding, decoding))
    return found


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def _error(
    way: str, method: str, latent_error: Tensor, latents: Tensor, error: Tensor, encoding: float, decoding: float
) -> TilingError:
    spread, levels = latents.std().item(), LEVELS * error[0]
    return TilingError(
        way, method, latent_error.abs().max().item() / spread, latent_error.square().mean().sqrt().item() / spread,
        levels.abs().max().item(), levels.square().mean().sqrt().item(), tile_shift(levels, TILE),
        border_step(levels, TILE), encoding, decoding,
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    """Print a table and, with --json FILE, save it."""
    parser = Parser(prog="eval tiling", description=__doc__)
    parser.add_argument("vae", type=str, help="whatever load_vae takes")
    parser.add_argument("--data", type=str, required=True, help="source of the images")
    parser.add_argument("--images", type=int, default=24, help="at most so many of them")
    parser.add_argument("--side", type=int, default=2048, help="of the large image, in pixels: a multiple of 512")
    parser.add_argument(
        "--budget_mib", type=int, default=64, help="memory for a map that is kept; less forces more surveys"
    )
    parser.add_argument("--json", type=str | None, default=None, help="file to write")
    options = parser.parse(arguments)
    vae = load_vae(options.vae, scaling_factor=1.0)
    image = mosaic(ImageSet(options.data, limit=options.images), options.side)
    rows = compare_ways(vae, image, options.budget_mib * 2**20)
    print(
        f"{'':10}{'latents: max':>14}{'rms':>9}{'picture: max':>14}{'rms':>9}{'tile shift':>12}{'border':>9}{'s':>7}{'s':>7}"
    )
    for row in rows:
        print(
            f"{row.way:10}{row.latent_max:14.2g}{row.latent_rms:9.2g}{row.picture_max:14.2g}{row.picture_rms:9.2g}"
            f"{row.tile_shift:12.2g}{row.border_step:9.2g}{row.encode_seconds:7.1f}{row.decode_seconds:7.1f}"
        )
    print("\nlatents in standard deviations, pictures in 8-bit levels, seconds to encode and to decode")
    for row in rows:
        print(f"{row.way}: {row.method}")
    if options.json is not None:
        settings = {
            "vae": Path(options.vae).name, "data": Path(options.data).name, "side": options.side, "tile": TILE,
            "budget_mib": options.budget_mib,
        }  # fmt: skip
        write_results(options.json, "tiling", settings, [asdict(row) for row in rows], torch.device("cpu"))
