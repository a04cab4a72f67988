"""Prepare a VAE for the byte codec: measure its latents and its decoder, train the context model, count tables."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from latentcodec.bitstream.context_training import UPDATES, Example, count_tables, train_context
from latentcodec.bitstream.lattice import PASSES
from latentcodec.bitstream.model import BitstreamModel
from latentcodec.bitstream.quality import STEPS
from latentcodec.bitstream.transform import LatentTransform, fit_transform
from latentcodec.codec import LatentCodec
from latentcodec.latents import Moments

_LEAST_IMAGES = 8
_PROBES = 64
"""Images that the decoder's sensitivity is measured with, one random direction each. Eight leave it uncertain by a third."""
_PROBE_SIDE = 16
"""Latent positions along a side of the part that is probed, in the middle: the corners of photographs are sky."""
_LOW, _HIGH = 0.25, 0.95
"""Share of the grid of steps from which the examples' steps are drawn: those that make useful files."""


def prepare_bitstream(
    codec: LatentCodec,
    images: Iterable[UInt8[np.ndarray, "_ _ 3"]],
    *,
    seed: int = 0,
    updates: int = UPDATES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BitstreamModel:
    """Measure and train. Takes as long as encoding the images, and some minutes for the context model.

    Args:
        images: a few hundred photographs; none that the codec is later measured on.
        updates: of each network of the context model's finest passes: more give smaller files.
        progress: called with what is done and what there is, in parts of like length.

    Raises:
        ValueError: fewer than 8 images, or less than one update.
    """
    if updates < 1:
        raise ValueError(f"updates: expected at least 1, found {updates}")
    raw = [codec.encode_moments([image]).mean[0].cpu().double().numpy() for image in images]
    if len(raw) < _LEAST_IMAGES:
        raise ValueError(f"images: expected at least {_LEAST_IMAGES}, found {len(raw)}; a few hundred are better")
    values = np.concatenate([latents.reshape(len(latents), -1) for latents in raw], axis=1)
    transform = fit_transform(
        values.mean(axis=1),
        np.cov(values),
        decoder_sensitivity(codec, [raw[index] for index in from_all_over(len(raw), _PROBES)], seed),
    )
    examples = _examples(raw, transform, seed)
    parts = len(values) * PASSES
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, parts)

    context = train_context(examples, updates=updates, seed=seed, progress=count)
    frequencies, offsets = count_tables(context, examples)
    offsets = offsets.astype(np.float16).astype(np.float64)  # as they are stored
    about = {"images": len(raw), "latent_positions": values.shape[1], "seed": seed, "updates": updates}
    return BitstreamModel(transform, context, frequencies, offsets, codec.fingerprint, about)


def from_all_over(length: int, most: int) -> list[int]:
    """Indices of at most so many of `length` images, evenly: a source may have its kinds of images one after another."""
    count = min(most, length)
    return [index * length // count for index in range(count)]


def _examples(raw: list[Float64[np.ndarray, "c h w"]], transform: LatentTransform, seed: int) -> list[Example]:
    """Every image at two steps, which over all images lie evenly on the grid, in an order that the seed shuffles."""
    count = 2 * len(raw)
    steps = np.linspace(_LOW * (STEPS - 1), _HIGH * (STEPS - 1), count).round().astype(int)
    np.random.default_rng(seed).shuffle(steps)
    coefficients = [transform.coefficients(torch.from_numpy(latents)) for latents in raw]
    return [Example(coefficients[index % len(raw)], int(step)) for index, step in enumerate(steps)]


def decoder_sensitivity(
    codec: LatentCodec, raw: list[Float64[np.ndarray, "c h w"]], seed: int
) -> Float64[np.ndarray, "channels channels"]:
    """G: an error e in one position's latents changes the image by e' G e, in squared 8-bit levels summed over pixels and
    colours; the mean over positions.

    For a random image v of signs, g = J' v has E[g g'] = J' J (Hutchinson's estimate), whose blocks on the diagonal are
    what is wanted; one backward pass through the decoder gives g for all positions.
    """
    generator = torch.Generator().manual_seed(seed)
    channels = len(raw[0])
    total, positions = np.zeros((channels, channels)), 0
    for latents in raw:
        top, left = (max(0, side - _PROBE_SIDE) // 2 for side in latents.shape[1:])
        middle = latents[:, top : top + _PROBE_SIDE, left : left + _PROBE_SIDE]
        part = torch.from_numpy(middle).to(codec.device, codec.dtype)
        part = part[None].requires_grad_()
        with torch.enable_grad():
            image = codec.vae.decode(part).sample
            signs = torch.randint(0, 2, image.shape, generator=generator).to(image.device, image.dtype) * 2 - 1
            (gradient,) = torch.autograd.grad((image * signs).sum(), part)
        columns = gradient[0].double().cpu().numpy().reshape(channels, -1) * 127.5
        total += columns @ columns.T
        positions += columns.shape[1]
    return total / positions


def decode_latents(codec: LatentCodec, raw: torch.Tensor, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """The image of raw latents, cropped to `size`."""
    moments = Moments((raw,), (raw.new_full(raw.shape, -30.0),), (size,), ("",))
    return codec.decode(moments).to_uint8()[0]
