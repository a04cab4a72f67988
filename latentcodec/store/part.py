"""One part while it is being made: rows by shape, then its shards, then its record."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import torch
from jaxtyping import Float
from torch import Tensor

from latentcodec import __version__
from latentcodec.store.errors import StoreError
from latentcodec.store.files import StoreFolder
from latentcodec.store.index import IndexRow
from latentcodec.store.manifest import PartRecord, Statistics, record_name
from latentcodec.store.prepare import Skipped
from latentcodec.store.settings import Settings
from latentcodec.store.shards import ShardContent, write_shard
from latentcodec.store.statistics import measured, merged

_PACKAGES = ("torch", "diffusers", "numpy", "pillow")


class NonFiniteLatentsError(StoreError):
    """Latents that are NaN or infinite. The message names the image."""


@dataclass
class _Group:
    """The rows of one shape."""

    rows: list[IndexRow] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    flipped: list[Tensor] = field(default_factory=list)
    statistics: list[Statistics] = field(default_factory=list)


class PartBuilder:
    """Collects what belongs to a part and writes it when it is complete.

    Args:
        part: its number.
        settings: of the store.
        native: whether rows have shapes of their own and so share one shard.
    """

    def __init__(self, part: int, settings: Settings, *, native: bool) -> None:
        self.part = part
        self._settings = settings
        self._native = native
        self._groups: dict[tuple[int, int], _Group] = {}
        self._skipped: list[Skipped] = []

    def skip(self, image: Skipped) -> None:
        """An image that is left out."""
        self._skipped.append(image)

    def add(
        self,
        rows: Sequence[IndexRow],
        values: Float[Tensor, "rows stored height width"],
        flipped: Float[Tensor, "rows stored height width"] | None,
    ) -> None:
        """Rows of one shape with their latents, on the CPU in the type to store, and those of the mirrored images.

        Raises:
            NonFiniteLatentsError: a value is not finite.
        """
        for tensor in (values, flipped):
            if tensor is not None:
                _require_finite(rows, tensor, self._settings)
        group = self._groups.setdefault((0, 0) if self._native else (values.shape[2], values.shape[3]), _Group())
        group.rows += rows
        group.values.append(values.contiguous())
        if flipped is not None:
            group.flipped.append(flipped.contiguous())
        group.statistics.append(measured(values, self._settings.values))

    def write(self, folder: StoreFolder) -> PartRecord:
        """Write the shards, and then the record, which makes the part complete.

        Raises:
            StoreError: images of the part are missing, so an earlier step has failed.
        """
        groups = sorted(self._groups.items())
        rows = [row for _, group in groups for row in group.rows]
        planned = len(self._settings.part_range(self.part))
        if len(rows) + len(self._skipped) != planned:
            raise StoreError(
                f"part {self.part}: expected {planned} images, found {len(rows)} encoded and {len(self._skipped)} skipped; "
                "it is not written, run the command again"
            )
        record = PartRecord(
            part=self.part,
            settings=self._settings.digest,
            versions={"latentcodec": __version__} | {name: version(name) for name in _PACKAGES},
            shards=tuple(write_shard(folder, self._content(shape, group)) for shape, group in groups),
            statistics=merged(one for _, group in groups for one in group.statistics),
            skipped=tuple((image.id, image.reason) for image in self._skipped),
            captions=sum(row.caption is not None for row in rows),
            labels=sum(row.label is not None for row in rows),
        )
        if not folder.exists(record_name(self.part)):  # else somebody has made it too; theirs counts, not to change it
            folder.write(record_name(self.part), record.to_bytes())
        return record

    def _content(self, shape: tuple[int, int], group: _Group) -> ShardContent:
        flipped = group.flipped if self._settings.flipped else None
        return ShardContent(self.part, self._settings.values, *shape, group.rows, group.values, flipped)


def _require_finite(rows: Sequence[IndexRow], values: Tensor, settings: Settings) -> None:
    if torch.isfinite(values).all():
        return
    for row, one in zip(rows, values, strict=True):
        wrong = int((~torch.isfinite(one)).sum())
        if wrong:
            raise NonFiniteLatentsError(
                f"{row.id}: {wrong} of {one.numel()} latent values are NaN or infinite, computed in "
                f"{settings.compute_dtype} and stored in {settings.dtype}; float16 cannot hold the range of some VAEs: use "
                "bfloat16 or float32, in a new store"
            )
