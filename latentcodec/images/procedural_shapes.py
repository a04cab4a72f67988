"""Which leaf is seen at each pixel: overlapping shapes with radii by a power law, painted back to front.

The dead leaves model: A. B. Lee, D. Mumford, J. Huang, "Occlusion Models for Natural Images", IJCV 41 (2001). Radii with
density r^-3 make images whose statistics, as those of photographs, do not depend on scale.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Int64

from latentcodec.images.procedural_random import Draws
from latentcodec.images.procedural_text import text_mask

_SMALL = 7.0  # radius in pixels up to which leaves are stamped together; larger ones are drawn one by one
_STAMP_RADII = np.arange(1, 15, dtype=np.float32) / 2  # 0.5 ... 7
_STAMP_SHAPES = 12
_STROKE_POINTS = 96


def power_law_radii(draws: Draws, count: int, smallest: float, largest: float) -> Float32[np.ndarray, " {count}"]:
    """Radii with density proportional to r^-3 between two bounds, by inverting the distribution function."""
    top, bottom = np.float32(1 / (smallest * smallest)), np.float32(1 / (largest * largest))
    return 1 / np.sqrt(top - draws.uniform(count) * (top - bottom))


def leaf_count(size: int, smallest: float, largest: float, coverage: float) -> int:
    """How many leaves have ``coverage`` times the canvas as their area; the mean of r^2 is 2 a^2 ln(b/a)/(1 - a^2/b^2).

    The logarithm only decides a count, so a rounded one (to 1/64) is enough, and the same everywhere.
    """
    ratio = largest / smallest
    logarithm = round(float(np.log(ratio)) * 64) / 64
    mean_area = 3.0 * 2 * smallest * smallest * logarithm / (1 - 1 / (ratio * ratio))
    return max(4, int(coverage * size * size / mean_area))


def paint_leaves(
    draws: Draws,
    size: int,
    radii: Float32[np.ndarray, " leaves"],
    noise: Float32[np.ndarray, "tile tile"],
    *,
    round_share: float,
    texts: int,
    strokes: int,
) -> tuple[Int64[np.ndarray, "{size} {size}"], Float32[np.ndarray, "2 leaves"], Float32[np.ndarray, " leaves"]]:
    """Paints leaves, some of them text or strokes.

    Args:
        radii: of the leaves in pixels, the farthest first.
        noise: a tileable field in 0 ... 1 that makes the outlines of blobs ragged; side a power of two.
        round_share: share of ellipses and blobs among the large leaves; the others are polygons.
        texts: how many of the leaves are blocks of text-like glyphs.
        strokes: how many are thin curves, besides.

    Returns:
        For each pixel the number of the nearest leaf there, from 1, or 0 for the background; the leaves' centres
        (x, y); and their reach, over which light may change: the radius, or the canvas for text and strokes.
    """
    count = len(radii)
    centres = np.stack([draws.uniform(count, -0.1, 1.1), draws.uniform(count, -0.1, 1.1)]) * np.float32(size)
    labels = np.zeros((size, size), dtype=np.int64)
    large = np.flatnonzero(radii > _SMALL)
    text_leaves = set(draws.integers(texts, count).tolist())
    shape = draws.uniform(len(large))
    cos, sin = draws.directions(len(large))
    details = draws.uniform(8 * len(large)).reshape(len(large), 8)
    order = sorted({*large.tolist(), *text_leaves})
    row_of = {leaf: row for row, leaf in enumerate(large.tolist())}
    for leaf in order:
        if leaf in text_leaves:
            _paint_text(draws, labels, leaf + 1, centres[:, leaf])
        else:
            row = row_of[leaf]
            kind = "polygon" if shape[row] >= round_share else "blob" if shape[row] < round_share * 0.35 else "ellipse"
            turn = (float(cos[row]), float(sin[row]))
            _paint_large(labels, leaf + 1, centres[:, leaf], float(radii[leaf]), kind, turn, details[row], noise)
    stroke_leaves = draws.integers(strokes, count)
    _stamp_small(draws, labels, centres, radii, stroke_leaves)
    reach = radii.copy()
    reach[[*text_leaves, *stroke_leaves]] = size
    return labels, centres, reach


def _paint_large(
    labels: Int64[np.ndarray, "size size"],
    label: int,
    centre: Float32[np.ndarray, "2"],
    radius: float,
    kind: str,
    turn: tuple[float, float],
    details: Float32[np.ndarray, "8"],
    noise: Float32[np.ndarray, "tile tile"],
) -> None:
    """One ellipse, convex polygon, or blob (an ellipse with a ragged outline), inside the circle of its radius."""
    size = len(labels)
    left, right = max(0, int(centre[0] - radius)), min(size, int(centre[0] + radius) + 2)
    top, bottom = max(0, int(centre[1] - radius)), min(size, int(centre[1] + radius) + 2)
    if left >= right or top >= bottom:
        return
    x = (np.arange(left, right, dtype=np.float32) - centre[0]) / np.float32(radius)
    y = ((np.arange(top, bottom, dtype=np.float32) - centre[1]) / np.float32(radius))[:, None]
    cos, sin = turn
    u, v = x * cos + y * sin, y * cos - x * sin
    if kind == "polygon":
        inside = np.maximum(np.abs(u), np.abs(v)) < 0.9  # in the square, cut by two lines
        for at in (0, 4):
            a, b, reach = (float(value) for value in details[at : at + 3])
            inside &= (a - 0.5) * u + (b - 0.5) * v < 0.1 + 0.4 * reach
        if details[3] < 0.4:
            inside &= np.abs(v) < 0.08 + 0.5 * float(details[7])  # bars and planks
    else:
        flat = 1.0 + 6.0 * float(details[0]) ** 3
        inside = u * u + v * v * flat < 1.0
        if kind == "blob":
            columns = (np.arange(left, right) + int(997 * details[1])) & (len(noise) - 1)
            rows = (np.arange(top, bottom) + int(997 * details[2])) & (len(noise) - 1)
            inside &= u * u + v * v * flat < 1.6 * noise[rows[:, None], columns] - 0.1
    labels[top:bottom, left:right][inside] = label


def _paint_text(
    draws: Draws, labels: Int64[np.ndarray, "size size"], label: int, centre: Float32[np.ndarray, "2"]
) -> None:
    size = len(labels)
    mask = text_mask(draws)
    top, left = (int(abs(value)) % max(1, size * 3 // 4) for value in (centre[1], centre[0]))
    window = labels[top : top + mask.shape[0], left : left + mask.shape[1]]
    window[mask[: window.shape[0], : window.shape[1]]] = label


@lru_cache(maxsize=8)
def _stamps(width: int) -> tuple[Int64[np.ndarray, " total"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Small shapes as offsets into a flattened canvas of a given width, all in one array; starts and lengths of each.

    Stamp ``radius_number * _STAMP_SHAPES + shape``; shape 0 is a disk.
    """
    draws = Draws(2**64 - 1, 0)
    reach = int(_SMALL) + 1
    y, x = (axis.astype(np.float32) for axis in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    cos, sin = draws.directions(_STAMP_SHAPES)
    flat = 1 + 8 * draws.uniform(_STAMP_SHAPES)
    flat[0] = 1
    offsets = []
    for radius in _STAMP_RADII:
        for shape in range(_STAMP_SHAPES):
            u, v = (x * cos[shape] + y * sin[shape]) / radius, (y * cos[shape] - x * sin[shape]) / radius
            box = np.maximum(np.abs(u), np.abs(v * flat[shape])) < 0.8
            inside = box if shape % 3 == 2 else u * u + v * v * flat[shape] <= 1
            inside[reach, reach] = True
            offsets.append((y[inside] * width + x[inside]).astype(np.int64))
    lengths = np.array([len(offset) for offset in offsets])
    return np.concatenate(offsets), np.cumsum(lengths) - lengths, lengths


def _stamp_small(
    draws: Draws,
    labels: Int64[np.ndarray, "size size"],
    centres: Float32[np.ndarray, "2 leaves"],
    radii: Float32[np.ndarray, " leaves"],
    stroke_leaves: Int64[np.ndarray, " strokes"],
) -> None:
    """Paints the small leaves and the strokes, all at once, wherever they are nearer than what is there."""
    size = len(labels)
    small = np.flatnonzero(radii <= _SMALL)
    stroke_x, stroke_y, stroke_label, stroke_width = _stroke_points(draws, size, stroke_leaves)
    stamp = np.concatenate(
        [
            np.clip((radii[small] * 2).astype(np.int64) - 1, 0, len(_STAMP_RADII) - 1) * _STAMP_SHAPES
            + draws.integers(len(small), _STAMP_SHAPES),
            stroke_width * _STAMP_SHAPES,
        ]
    )
    x = np.concatenate([centres[0, small], stroke_x]).astype(np.int64)
    y = np.concatenate([centres[1, small], stroke_y]).astype(np.int64)
    label = np.concatenate([small + 1, stroke_label])
    seen = np.flatnonzero((x >= 0) & (x < size) & (y >= 0) & (y < size))
    seen = seen[np.argsort(label[seen], kind="stable")]  # the nearest last: where pixels repeat, the last one stays

    margin = int(_SMALL) + 1
    width = size + 2 * margin
    offsets, starts, lengths = _stamps(width)
    repeats = lengths[stamp[seen]]
    ends = np.cumsum(repeats)
    corner = (y[seen] + margin) * width + x[seen] + margin
    within = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts[stamp[seen]] - (ends - repeats), repeats)
    pixels = offsets[within] + np.repeat(corner, repeats)
    values = np.repeat(label[seen], repeats)
    padded = np.zeros((width, width), dtype=np.int64)
    padded[margin:-margin, margin:-margin] = labels
    flat = padded.reshape(-1)
    nearer = values > flat[pixels]
    flat[pixels[nearer]] = values[nearer]
    labels[:] = padded[margin:-margin, margin:-margin]


def _stroke_points(
    draws: Draws, size: int, leaves: Int64[np.ndarray, " strokes"]
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Points along quadratic Bezier curves: x, y, the label of each stroke's leaf, the number of its stamp's radius."""
    strokes = len(leaves)
    starts = draws.uniform(2 * strokes, -0.2, 1.2).reshape(2, strokes, 1) * np.float32(size)
    first, second = draws.uniform(4 * strokes, -0.35, 0.35).reshape(2, 2, strokes, 1) * np.float32(size)
    t = (np.arange(_STROKE_POINTS, dtype=np.float32) / _STROKE_POINTS)[None]
    x, y = (starts + 2 * t * (1 - t) * first + t * t * second).reshape(2, -1)
    width = draws.integers(strokes, 3)
    return x, y, np.repeat(leaves + 1, _STROKE_POINTS), np.repeat(width, _STROKE_POINTS)


def edges(labels: Int64[np.ndarray, "size size"]) -> Bool[np.ndarray, "size size"]:
    """Pixels that have a neighbour of another leaf to the right, left, below or above."""
    edge = np.zeros(labels.shape, dtype=bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge
