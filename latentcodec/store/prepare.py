"""One image of the source on its way to the network, in whichever process decodes it."""

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from jaxtyping import UInt8

from latentcodec.images.decode import BrokenImageError
from latentcodec.images.items import ImageItem, ImageSource
from latentcodec.store.index import IndexRow
from latentcodec.store.preprocessing import Fit, Preprocessing


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image for the network, and its row of the index; the row's `method` is still to be told."""

    pixels: UInt8[np.ndarray, "height width 3"]
    row: IndexRow


@dataclass(frozen=True)
class Skipped:
    """An image that is left out."""

    id: str
    reason: str


@dataclass(frozen=True)
class Job:
    """Some images of one part, in the order of the source."""

    part: int
    items: range


@dataclass(frozen=True, eq=False)
class JobResult:
    """What became of them, one for each."""

    job: Job
    images: Sequence[Prepared | Skipped]


@dataclass(frozen=True, eq=False)
class JobReader:
    """A map-style torch dataset whose indices are jobs, so that a DataLoader's workers do them."""

    source: ImageSource
    preprocessing: Preprocessing
    caption_key: str
    label_key: str

    def __getitem__(self, job: Job) -> JobResult:
        return JobResult(job, [self._prepare(item) for item in job.items])

    def _prepare(self, number: int) -> Prepared | Skipped:
        try:
            item = self.source[number]
            pixels, size, fit = self.preprocessing.apply(item)
        except BrokenImageError as error:
            return Skipped(error.id, error.reason)
        return Prepared(pixels, self._row(number, item, size, fit))

    def _row(self, number: int, item: ImageItem, size: tuple[int, int], fit: Fit) -> IndexRow:
        caption, label, metadata = split_metadata(item.metadata, self.caption_key, self.label_key)
        data = item.data if isinstance(item.data, bytes) else np.ascontiguousarray(item.data).data
        return IndexRow(
            id=item.id,
            item=number,
            source_sha256=hashlib.sha256(data).hexdigest(),
            height=size[0],
            width=size[1],
            resized_height=fit.resized[0],
            resized_width=fit.resized[1],
            crop_top=fit.top,
            crop_left=fit.left,
            crop_height=fit.height,
            crop_width=fit.width,
            method="",
            caption=caption,
            label=label,
            metadata=metadata,
        )


def leave_with_parent(_: int) -> None:
    """For a DataLoader's workers, when they start: end with the process that they work for, however it ends.

    They look themselves whether it is still there, but one that began just as it was killed would look in vain, for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_after, args=(parent,), name="leaves with parent", daemon=True).start()


def _leave_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def split_metadata(
    metadata: dict[str, Any], caption_key: str, label_key: str
) -> tuple[str | None, int | None, str | None]:
    """Caption, label, and the rest as JSON.

    A caption that is no text, or a label that is no integer of 64 bits, stays with the rest. Of the rest, binary values
    are left out, and what JSON does not have (dates, say) becomes text.
    """
    rest = dict(metadata)
    caption = _text(rest.pop(caption_key)) if isinstance(rest.get(caption_key), str) else None
    label = rest.pop(label_key) if _is_label(rest.get(label_key)) else None
    rest = {key: value for key, value in rest.items() if not isinstance(value, bytes | bytearray | memoryview)}
    return caption, label, json.dumps(rest, default=str) if rest else None


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _text(value: str) -> str:
    r"""Text that can be stored as UTF-8; half a surrogate pair, which JSON may hold, becomes `\udXXX`."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
