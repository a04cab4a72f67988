"""Rows of a store encoded once more, and compared with what is stored."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from latentcodec.codec import LatentCodec
from latentcodec.images.items import ListedSource
from latentcodec.store.dataset import LatentDataset
from latentcodec.store.encoding import BatchEncoder
from latentcodec.store.errors import StoreMismatchError
from latentcodec.store.expected import require_expected
from latentcodec.store.index import IndexRow
from latentcodec.store.prepare import Job, JobReader, Prepared, Skipped
from latentcodec.store.preprocessing import Preprocessing

LIMITS = {"float32": 0.005, "float16": 0.01, "bfloat16": 0.05}
"""By type, the coarser of what the store was computed in and what it holds: how far the posterior may be off, in standard
deviations of the latents. Measured on a CPU with a half-trained `tiny` VAE of 16 channels: another number of threads (1, 2) or
of images in a batch (1, 3), below 0.00001; bfloat16 against float32, 0.0042, and 0.0046 if bfloat16 is stored too; float16
0.0005. With random weights it is up to 0.004 for float16 and 0.03 for bfloat16, and such stores must pass as well, hence ten
times what trained weights need; GPUs compute float32 almost as coarsely as float16, hence its limit. Against that, an image that
is brighter by 1 of 255 is off by 0.01, a JPEG at quality 95 by 0.02, one that is shifted by a pixel by 0.2: changes of the
source that are smaller than the limit are found by its hash."""


@dataclass(frozen=True)
class ReencodedRow:
    """One row."""

    row: int
    id: str
    equal: bool
    """Bit for bit."""
    difference: float
    """Of mean or standard deviation of the posterior, whichever is larger: root mean square over the row, in standard
    deviations of the channel's latents. Infinite if nothing can be compared."""
    problem: str | None
    """What is wrong."""


def reencode(
    dataset: LatentDataset, source: ListedSource, codec: LatentCodec, rows: Sequence[int]
) -> Iterator[ReencodedRow]:
    """Encode rows from the source and compare.

    Args:
        dataset: the store.
        source: the images that it was made of.
        codec: the VAE that it was made with.

    Raises:
        StoreMismatchError: another VAE, or another source.
    """
    settings = dataset.manifest.settings
    require_expected(settings, str(dataset.folder), codec, {})
    if source.listing() != settings.listing:
        raise StoreMismatchError(
            f"{dataset.folder} was made of images with the list {settings.listing}, this source has {source.listing()}; "
            f"name the source that it was made of, {settings.source}"
        )
    reader = JobReader(
        source, Preprocessing.from_json(settings.preprocessing), settings.caption_key, settings.label_key
    )
    encoder = BatchEncoder(codec, settings)
    for row in rows:
        yield _compare(dataset, reader, encoder, row)


def _compare(dataset: LatentDataset, reader: JobReader, encoder: BatchEncoder, row: int) -> ReencodedRow:
    listed = dataset.index_row(row)
    image = reader[Job(0, range(listed.item, listed.item + 1))].images[0]
    if isinstance(image, Skipped):
        return ReencodedRow(row, listed.id, False, float("inf"), f"cannot be read any more: {image.reason}")
    differing = _differing(image, replace(listed, method=""))
    if differing:
        return ReencodedRow(row, listed.id, False, float("inf"), f"the source says otherwise: {differing}")
    settings = dataset.manifest.settings
    values, flipped = encoder([image]).fetch()
    pairs = [(values[0], dataset.stored(row))]
    if flipped is not None:
        pairs.append((flipped[0], dataset.stored(row, mirrored=True)))
    difference = max(_difference(dataset, now, then) for now, then in pairs)
    limit = max(LIMITS[settings.dtype], LIMITS[settings.compute_dtype])
    equal = all(torch.equal(now, then) for now, then in pairs)
    if difference <= limit:
        return ReencodedRow(row, listed.id, equal, difference, None)
    problem = f"encoded again it is off by {difference:.3g} standard deviations; up to {limit} is rounding"
    return ReencodedRow(row, listed.id, equal, difference, problem)


def _differing(image: Prepared, listed: IndexRow) -> str:
    now, then = asdict(image.row), asdict(listed)
    return "; ".join(f"{key}: {then[key]!r} in the store, {now[key]!r} now" for key in now if now[key] != then[key])


def _difference(dataset: LatentDataset, now: Tensor, then: Tensor) -> float:
    """See `ReencodedRow.difference`."""
    if now.shape != then.shape:
        return float("inf")
    statistics = dataset.manifest.statistics
    assert statistics is not None  # as in every store that has rows
    deviation = torch.tensor(statistics.sample_std or statistics.std).clamp(min=1e-12)[:, None, None]
    one, other = now.double(), then.double()
    if dataset.manifest.settings.values == "mean":
        return _root_mean_square((one - other) / deviation)
    (mean, logvar), (other_mean, other_logvar) = one.chunk(2), other.chunk(2)
    spread = torch.exp(0.5 * logvar) - torch.exp(0.5 * other_logvar)
    return max(_root_mean_square((mean - other_mean) / deviation), _root_mean_square(spread / deviation))


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
