"""Datasets of the Hugging Face hub, or kept by its `datasets` library in a local folder.

Needs ``pip install 'latentcodec[hub]'``. `datasets` takes two seconds to import, so it is imported when used.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentcodec.images.decode import BrokenImageError
from latentcodec.images.items import ImageItem, SourceError, checked_index, listing_hash
from latentcodec.images.parquet import image_bytes
from latentcodec.images.stream import shuffled

if TYPE_CHECKING:
    import datasets


class HubSource:
    """A map-style ``datasets.Dataset`` as a source. Ids are ``label/row``; the other columns become metadata."""

    def __init__(self, dataset: "datasets.Dataset", *, label: str, column: str | None = None, metadata: bool = True):
        self.column = _image_column(dataset, label, column)
        self.label = label
        self._dataset = _undecoded(dataset if metadata else dataset.select_columns([self.column]))
        if not len(self._dataset):
            raise SourceError(f"hf:{label}: expected images, found no rows")

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> ImageItem:
        index = checked_index(index, len(self))
        return _item(self._dataset[index], self.column, f"{self.label}/{index}")

    def listing(self) -> str:
        """See `ListedSource`."""
        return listing_hash("hf", self.label, len(self))


class HubStream:
    """A streamed ``datasets.IterableDataset``, optionally shuffled through a buffer and repeated without end.

    Its order is a pure function of the arguments. ``skip`` replays the order: it reads what it skips, but keeps nothing
    of it.

    Args:
        shuffle_buffer: how many rows to hold and draw from; 0 keeps the order. Memory is that many encoded images.
        seed: of the shuffle.
        endless: start over after the last row, each epoch in another order.
    """

    def __init__(
        self,
        dataset: "datasets.IterableDataset",
        *,
        label: str,
        column: str | None = None,
        metadata: bool = True,
        shuffle_buffer: int = 0,
        seed: int = 0,
        endless: bool = False,
    ) -> None:
        self.column = _image_column(dataset, label, column)
        self.label = label
        self._dataset = _undecoded(dataset if metadata else dataset.select_columns([self.column]))
        self._buffer, self._seed, self._endless = shuffle_buffer, seed, endless
        self._skipped = 0

    def skip(self, count: int) -> "HubStream":
        if count < 0:
            raise ValueError(f"skip: expected a count of at least 0, found {count}")
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _skipped=self._skipped + count)
        return other

    def __iter__(self) -> Iterator[ImageItem | BrokenImageError]:
        for number, row in itertools.islice(self._rows(), self._skipped, None):
            try:
                yield _item(row, self.column, f"{self.label}/{number}")
            except BrokenImageError as error:
                yield error

    def _rows(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for epoch in itertools.count():
            rows = 0
            for numbered in shuffled(enumerate(self._dataset), self._buffer, seed=self._seed, epoch=epoch):
                rows += 1
                yield numbered
            if not rows:
                raise SourceError(f"hf:{self.label}: expected images, found no rows")
            if not self._endless:
                return


def open_hub(
    name: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    column: str | None = None,
    metadata: bool = True,
    streaming: bool = False,
    shuffle_buffer: int = 0,
    seed: int = 0,
    endless: bool = False,
) -> HubSource | HubStream:
    """Opens ``owner/name[:split]`` from the hub, or ``./folder[:split]`` written by ``save_to_disk`` or a dataset folder.

    The split is ``train`` where none is named. Slices work for what the hub loads: ``owner/name:train[:10%]``.

    Args:
        config, revision: of the dataset, as in ``datasets.load_dataset``.
        cache_dir: where `datasets` keeps what it downloads and converts; by default in the user's cache.
        column: the image column; by default the only one that holds images.
        metadata: whether to read the other columns.
        streaming: read over the network while iterating, instead of downloading first; gives an `ImageStream`.
        shuffle_buffer, seed, endless: of a stream, see `HubStream`.

    Raises:
        SourceError: it cannot be loaded, has no such split, or no image column.
    """
    try:
        import datasets
    except ImportError as error:
        raise SourceError(f"hf:{name}: needs the datasets library: pip install 'latentcodec[hub]'") from error
    path, _, split = (name, "", "") if os.path.exists(name) else name.partition(":")
    split = split or "train"
    label = f"{os.path.basename(os.path.abspath(path)) if os.path.exists(path) else path}:{split}"
    try:
        if os.path.exists(os.path.join(path, "state.json")) or os.path.exists(os.path.join(path, "dataset_dict.json")):
            dataset: Any = _pick_split(datasets.load_from_disk(path), split, name)
            dataset = dataset.to_iterable_dataset() if streaming else dataset
        else:
            dataset = datasets.load_dataset(
                path,
                config,
                split=split,
                revision=revision,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                streaming=streaming,
            )
    except SourceError:
        raise
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SourceError(
            f"hf:{name}: cannot be loaded: {first_line}. Check name, split and access; without the network use "
            "files on this machine: a folder of images, .tar shards, .parquet files, or hf:./folder of a dataset "
            "written by save_to_disk"
        ) from error
    if streaming:
        return HubStream(
            dataset,
            label=label,
            column=column,
            metadata=metadata,
            shuffle_buffer=shuffle_buffer,
            seed=seed,
            endless=endless,
        )
    if shuffle_buffer or endless:
        raise SourceError(
            f"hf:{name}: shuffle_buffer and endless are for streams; add streaming=True or leave them out"
        )
    return HubSource(dataset, label=label, column=column, metadata=metadata)


def _pick_split(dataset: Any, split: str, name: str) -> Any:
    """One split of what ``load_from_disk`` returns: a dataset without splits, or a dict of them."""
    if not isinstance(dataset, dict):
        return dataset
    if split not in dataset:
        raise SourceError(f"hf:{name}: no split {split!r}; it has {', '.join(dataset)}; name one as hf:folder:split")
    return dataset[split]


def _image_column(dataset: Any, label: str, wanted: str | None) -> str:
    import datasets

    features = dataset.features
    if features is None:  # a stream whose types nobody wrote down: look at its first row
        kinds = {key: type(value).__name__ for key, value in next(iter(dataset), {}).items()}
        images = [key for key, kind in kinds.items() if kind in ("bytes", "dict")]
    else:
        kinds = {key: getattr(feature, "dtype", type(feature).__name__) for key, feature in features.items()}
        images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
        images = images or [key for key, kind in kinds.items() if kind in ("binary", "large_binary")]
    listed = ", ".join(f"{key} ({kind})" for key, kind in kinds.items())
    if wanted is None and len(images) == 1:
        return images[0]
    if wanted is not None and wanted in images:
        return wanted
    if wanted is None and "image" in images:
        return "image"
    problem = f"column {wanted!r} holds no images" if wanted else f"{len(images) or 'no'} columns hold images"
    raise SourceError(f"hf:{label}: {problem}; name the one to use with `column`. Its columns: {listed}")


def _undecoded(dataset: Any) -> Any:
    """The same rows with encoded images: decoding is `decode_image`'s, which knows orientation and profiles."""
    import datasets

    for key, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(key, datasets.Image(decode=False))
    return dataset


def _item(row: Mapping[str, Any], column: str, id: str) -> ImageItem:
    metadata = {key: value for key, value in row.items() if key != column}
    return ImageItem(id, image_bytes(row[column], id, ""), metadata)
