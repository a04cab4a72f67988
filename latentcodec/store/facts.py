"""What a reader needs of the index of a shard, in a form that takes little memory and answers fast."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from latentcodec.store.files import StoreFolder
from latentcodec.store.index import read_index
from latentcodec.store.manifest import ShardEntry

_SIZES = ("height", "width", "crop_top", "crop_left", "crop_height", "crop_width")


@dataclass(frozen=True, eq=False)
class ShardFacts:
    """Of all rows of one shard."""

    ids: pa.StringArray
    captions: pa.StringArray
    labels: pa.Int64Array
    sizes: Int64[np.ndarray, "rows 6"]
    """Height and width of the image as it came; top and left of the box in the resized image; height and width of the box.
    All in pixels."""
    mirrored_left: Int64[np.ndarray, " rows"]
    """Left side of the box if the resized image is mirrored first."""

    @classmethod
    def read(cls, folder: StoreFolder, entry: ShardEntry) -> "ShardFacts":
        """From the index.

        Raises:
            StoreDamagedError: it is missing or damaged.
        """
        table = read_index(folder, entry)
        numbers = {name: table.column(name).to_numpy() for name in (*_SIZES, "resized_width")}
        ids, captions, labels = (table.column(name).combine_chunks() for name in ("id", "caption", "label"))
        return cls(
            ids=ids,
            captions=captions,
            labels=labels,
            sizes=np.stack([numbers[name] for name in _SIZES], axis=1),
            mirrored_left=numbers["resized_width"] - numbers["crop_left"] - numbers["crop_width"],
        )

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        strings = self.ids.nbytes + self.captions.nbytes + self.labels.nbytes
        return int(strings + self.sizes.nbytes + self.mirrored_left.nbytes)

    def sizes_of(self, row: int, mirrored: bool) -> Int64[np.ndarray, "6"]:
        """The six numbers of `sizes`, of the image or of its mirrored twin."""
        sizes = self.sizes[row]
        if mirrored:
            sizes = sizes.copy()
            sizes[3] = self.mirrored_left[row]
        return sizes
