"""What leaves look like: natural colours, smooth shading, stripes, checks and noise of several spectra.

All in sRGB values, 0 ... 1, element by element in ``float32``.
"""

import numpy as np
from jaxtyping import Float32, Int64

from latentcodec.images.procedural_random import Draws

_TILE = 256  # side of the noise fields, which repeat; a power of two

# sky, water, foliage, grass, earth, sand, skin, brick, bark, stone, snow, shadow, flower, fruit, wood, paper
_NATURAL = (
    np.array(
        [
            *[(135, 176, 222), (62, 98, 128), (58, 92, 42), (124, 150, 62), (110, 80, 54), (206, 182, 140)],
            *[(224, 172, 142), (152, 74, 58), (84, 66, 54), (142, 140, 136), (236, 238, 240), (30, 28, 34)],
            *[(196, 64, 112), (232, 146, 34), (168, 120, 72), (248, 244, 232)],
        ],
        dtype=np.float32,
    )
    / 255
)

_FLAT, _NOISE, _RIDGES, _STRIPES, _CHECKS = range(5)


def noise_fields(draws: Draws) -> Float32[np.ndarray, "3 tile tile"]:
    """Three tileable fields in 0 ... 1 with amplitude falling as f^-1/2, f^-1 and f^-2 (roughly): grain, cloud, haze.

    Sum of octaves: a field is doubled in size (by Chaikin's corner cutting, weights 3/4 and 1/4) and fresh noise is
    added, weaker at each step.
    """
    decay = np.array([1.2, 0.62, 0.36], dtype=np.float32)[:, None, None]
    field = draws.octets(3, 4, 4).astype(np.float32) / 127.5 - 1
    amplitude = np.ones_like(decay)
    while field.shape[-1] < _TILE:
        field = _double(_double(field, axis=1), axis=2)
        amplitude = amplitude * decay
        octets = draws.octets(field.shape[-1], field.shape[-1]).astype(np.float32)
        field += amplitude * (octets / 127.5 - 1)
    low, high = field.min(axis=(1, 2), keepdims=True), field.max(axis=(1, 2), keepdims=True)
    return (field - low) / (high - low)


def _double(field: Float32[np.ndarray, "3 rows columns"], axis: int) -> Float32[np.ndarray, "3 new_rows new_columns"]:
    """Twice as long on one axis, in a ring: each new line is 3/4 the line it lies in and 1/4 the one next to it."""
    near, far = (np.moveaxis(field * np.float32(weight), axis, 0) for weight in (0.75, 0.25))
    doubled = np.empty([side * (1 + (axis == place)) for place, side in enumerate(field.shape)], dtype=np.float32)
    first, second = (np.moveaxis(doubled, axis, 0)[half::2] for half in (0, 1))
    np.add(near[1:], far[:-1], out=first[1:])
    np.add(near[0], far[-1], out=first[0])
    np.add(near[:-1], far[1:], out=second[:-1])
    np.add(near[-1], far[0], out=second[-1])
    return doubled


def leaf_colours(draws: Draws, count: int) -> tuple[Float32[np.ndarray, "3 {count}"], Float32[np.ndarray, "3 {count}"]]:
    """Two colours for each leaf, its ground and its pattern, from a few natural ones that an image keeps to."""
    anchors = _NATURAL[draws.integers(2 + draws.integer(4), len(_NATURAL))]
    if draws.number() < 0.3:
        anchors = np.concatenate([anchors, draws.uniform(3).reshape(1, 3)])  # one artificial colour
    key = draws.number(0.55, 1.15)  # dim or bright scene
    ground = anchors[draws.integers(count, len(anchors))].T
    ground = ground * draws.uniform(count, 0.45 * key, 1.25 * key) + draws.uniform(3 * count, -0.05, 0.05).reshape(
        3, -1
    )
    other = anchors[draws.integers(count, len(anchors))].T
    mix = draws.uniform(count) * (draws.uniform(count) < 0.4)
    pattern = (ground + (other - ground) * mix) * draws.uniform(count, 0.45, 1.5)
    return ground, pattern


def shade(
    draws: Draws,
    labels: Int64[np.ndarray, "size size"],
    centres: Float32[np.ndarray, "2 leaves"],
    reach: Float32[np.ndarray, " leaves"],
    noise: Float32[np.ndarray, "3 tile tile"],
    *,
    textured_share: float,
) -> Float32[np.ndarray, "3 size size"]:
    """Colours every pixel by its leaf: ground, texture and shading of leaf ``labels[y, x]``; 0 is the background.

    ``centres`` (x, y) and ``reach`` of the leaves in pixels place the light on them.
    """
    size, count = len(labels), len(reach) + 1
    x_centre, y_centre = np.concatenate([np.full((2, 1), size / 2, np.float32), centres], axis=1)
    radius = np.concatenate([np.full(1, size, np.float32), reach])
    flat = labels.reshape(-1)
    x = np.broadcast_to(np.arange(size, dtype=np.float32), (size, size)).reshape(-1)
    y = np.repeat(np.arange(size, dtype=np.float32), size)
    ground, pattern = leaf_colours(draws, count)
    image = ground.take(flat, axis=1)

    kind = np.where(draws.uniform(count) < textured_share, 1 + draws.integers(count, 4), _FLAT)
    textured = np.flatnonzero(kind[flat])
    leaf = flat[textured]
    amount = _texture(draws, count, kind, noise, leaf, x[textured], y[textured])
    for channel, difference in zip(image, pattern - ground, strict=True):
        channel[textured] += amount * difference[leaf]

    # light: a slope across the leaf, and a fall-off from its middle, as on a ball
    slope_x, slope_y = (axis * draws.uniform(count, 0.0, 0.45) / radius for axis in draws.directions(count))
    round_off = np.where(draws.uniform(count) < 0.5, draws.uniform(count, 0.0, 0.5), np.float32(0)) / (radius * radius)
    dx, dy = x - x_centre[flat], y - y_centre[flat]
    light = 1 + slope_x[flat] * dx + slope_y[flat] * dy - round_off[flat] * (dx * dx + dy * dy)
    image *= np.clip(light, 0.25, 1.7)
    return image.reshape(3, size, size)


def _texture(
    draws: Draws,
    count: int,
    kind: Int64[np.ndarray, " {count}"],
    noise: Float32[np.ndarray, "3 tile tile"],
    leaf: Int64[np.ndarray, " pixels"],
    x: Float32[np.ndarray, " pixels"],
    y: Float32[np.ndarray, " pixels"],
) -> Float32[np.ndarray, " pixels"]:
    """How much of the pattern's colour each pixel has, 0 ... 1: of leaf ``leaf[k]`` at (``x[k]``, ``y[k]``)."""
    cos, sin = draws.directions(count)
    scale, stretch = draws.uniform(count, 0.7, 2.5), draws.uniform(count, 0.25, 1.0)
    spectrum, offset = draws.integers(count, 3), draws.integers(count, _TILE * _TILE)
    period = 3 + 30 * draws.uniform(count) * draws.uniform(count)
    hard = 1 + 9 * draws.uniform(count) * draws.uniform(count)
    warp = 4 * draws.uniform(count) * (draws.uniform(count) < 0.4)

    u = (cos * scale)[leaf] * x + (sin * scale)[leaf] * y
    v = (cos * scale * stretch)[leaf] * y - (sin * scale * stretch)[leaf] * x
    place = ((v.astype(np.int64) & (_TILE - 1)) * _TILE + (u.astype(np.int64) & (_TILE - 1)) + offset[leaf]) & (
        _TILE * _TILE - 1
    )
    wave = noise.reshape(-1).take(place + (spectrum * _TILE * _TILE)[leaf])
    kind_here = kind[leaf]
    ridges = np.flatnonzero(kind_here == _RIDGES)
    wave[ridges] = 1 - np.abs(2 * wave[ridges] - 1)
    for wanted in (_STRIPES, _CHECKS):
        chosen = np.flatnonzero(kind_here == wanted)
        here = leaf[chosen]
        inverse = (1 / period)[here]
        across = _triangle(u[chosen] * inverse + warp[here] * wave[chosen])
        if wanted == _CHECKS:
            down = _triangle(v[chosen] * inverse)
            across = across + down - 2 * across * down  # exclusive or, softened
        wave[chosen] = across
    return np.clip((wave - np.float32(0.5)) * hard[leaf] + np.float32(0.5), 0, 1)


def _triangle(phase: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """A triangle wave in 0 ... 1 with period 1."""
    return np.abs(2 * (phase - np.floor(phase)) - 1)
