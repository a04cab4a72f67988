"""From one image to another through latents."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from latentcodec.codec import LatentCodec
from latentcodec.images.geometry import center_crop, resize
from latentcodec.latents import Latents, Pictures
from latentcodec.store.preprocessing import cover

Distance = Callable[[np.ndarray, np.ndarray], float]
"""Between two images, uint8 HWC."""

RawLatents = Float[Tensor, "channels height width"]

_FINER = 4
"""Images that a way is measured on, for each that is wanted."""

_PARALLEL = 1e-4
"""Sine of the angle below which a straight line and an arc are the same to fp32."""


def lerp(start: RawLatents, end: RawLatents, t: float) -> RawLatents:
    """The straight line, (1 - t) start + t end: what a VAE without regularisation is best crossed on."""
    return (1 - t) * start + t * end


def slerp(start: RawLatents, end: RawLatents, t: float) -> RawLatents:
    """The arc (Shoemake 1985) between two images' latents as single vectors, whose lengths change evenly.

        sin((1 - t) a) / sin(a) start + sin(t a) / sin(a) end,    a the angle between them

    It keeps the norm of latents that are spread like noise, where the middle of a straight line is too short, hence its
    image too flat. Nearly parallel vectors, or one of length 0, are joined by the straight line.
    """
    one, other = start.flatten().double(), end.flatten().double()
    lengths = one.norm() * other.norm()
    if lengths == 0:
        return lerp(start, end, t)
    angle = torch.arccos((one @ other / lengths).clamp(-1, 1))
    if angle.sin() < _PARALLEL:
        return lerp(start, end, t)
    first, second = (torch.sin(share * angle) / angle.sin() for share in (1 - t, t))
    return (first * one + second * other).reshape(start.shape).to(start.dtype)


METHODS: dict[str, Callable[[RawLatents, RawLatents, float], RawLatents]] = {"linear": lerp, "spherical": slerp}
"""Ways from one point to another, by name: (start, end, t from 0 to 1) -> point."""


def interpolate(
    codec: LatentCodec,
    start: UInt8[np.ndarray, "height width 3"],
    end: UInt8[np.ndarray, "end_height end_width 3"],
    *,
    frames: int = 9,
    method: str = "spherical",
    distance: Distance | None = None,
) -> Pictures:
    """Images on the way from one to another, both included: the first is the reconstruction of `start`, the last of `end`.

    Args:
        frames: of the way, at least 2; evenly spaced in latents, unless there is a `distance`.
        method: a name in `METHODS`.
        distance: space them evenly by it, LPIPS for example; measured on a way of four times as many images.

    Raises:
        ValueError: images of different sizes, which `fit` prevents; too few frames; an unknown method.
    """
    if start.shape != end.shape:
        raise ValueError(
            f"end: expected an image of {start.shape[:2]} as start is, found {end.shape[:2]}; use fit(end, ...)"
        )
    if frames < 2:
        raise ValueError(f"frames: expected at least 2, found {frames}")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}; found {method!r}")
    moments = codec.encode_moments([start, end])
    # Between the ends in scaled latents, which lie around 0, as arcs need it; the ends themselves as they were encoded.
    first, last = (codec.scaling.apply(mean) for mean in moments.mean)
    ends = codec.decode(moments)

    def between(shares: Sequence[float]) -> Pictures:
        latents = tuple(METHODS[method](first, last, share) for share in shares)
        return codec.decode(Latents(latents, moments.sizes[:1] * len(latents), ("whole",) * len(latents)))

    shares = np.linspace(0, 1, frames)
    if distance is not None and frames > 2:
        dense = np.linspace(0, 1, _FINER * (frames - 1) + 1)
        pictures = _joined(ends, between(dense[1:-1].tolist())).to_uint8()
        steps = [distance(one, other) for one, other in pairwise(pictures)]
        way = np.concatenate([[0.0], np.cumsum(steps)])
        shares = np.interp(np.linspace(0, way[-1], frames), way, dense)
    return _joined(ends, between(shares[1:-1].tolist()))


def _joined(ends: Pictures, middle: Pictures) -> Pictures:
    return Pictures(
        (ends.tensors[0], *middle.tensors, ends.tensors[1]), (ends.methods[0], *middle.methods, ends.methods[1])
    )


def fit(
    image: UInt8[np.ndarray, "height width 3"], height: int, width: int
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """The middle of an image, resized to fill height x width without distortion."""
    filled = cover(image.shape[0], image.shape[1], height, width).resized
    return center_crop(resize(image, *filled), height, width)
