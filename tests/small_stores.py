"""Small latent stores of random values, written by the format layer as `precompute` would, without a network."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentcodec.store.files import StoreFolder
from latentcodec.store.finish import assemble
from latentcodec.store.index import IndexRow
from latentcodec.store.manifest import MANIFEST_NAME, SKIPPED_NAME, Manifest, PartRecord
from latentcodec.store.part import PartBuilder
from latentcodec.store.prepare import Skipped
from latentcodec.store.settings import Settings, write_settings
from latentcodec.store.shards import DTYPES

CONFIG: dict[str, Any] = {
    "block_out_channels": [32, 64, 128, 128], "latent_channels": 4, "scaling_factor": 0.5, "shift_factor": 0.25,
    "latents_mean": None, "latents_std": None,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class SmallStore:
    """A store and what was put into it, in the order of its rows."""

    folder: StoreFolder
    manifest: Manifest
    values: list[Tensor]
    mirrored: list[Tensor]
    index: list[IndexRow]

    @property
    def url(self) -> str:
        return self.folder.url


def write_store(
    url: Any,
    *,
    parts: int = 3,
    shapes: tuple[tuple[int, int], ...] = ((4, 4), (4, 6)),
    rows: int = 10,
    skipped: int = 0,
    captions: bool = True,
    labels: bool = True,
    **settings: Any,
) -> SmallStore:
    """A complete store.

    Args:
        shapes: of latents. If the preprocessing is native all are in one shard, in turns.
        rows: of each shape in each part.
        skipped: images of each part that were not encoded.
        settings: fields of `Settings` that are not as usual.
    """
    part_images = rows * len(shapes) + skipped
    chosen = Settings(**{
        "fingerprint": "sha256:" + "a" * 64, "config": CONFIG, "preprocessing": {"policy": "buckets", "pixels": 1536},
        "values": "moments", "dtype": "float32", "flipped": False, "compute_dtype": "float32", "source": "photos",
        "images": parts * part_images, "listing": "sha256:" + "b" * 64, "part_images": part_images,
        "caption_key": "caption", "label_key": "label", **settings,
    })  # fmt: skip
    folder = StoreFolder(url)
    write_settings(folder, chosen)
    native = chosen.preprocessing["policy"] == "native"
    channels = chosen.channels * (2 if chosen.values == "moments" else 1)
    generator = torch.Generator().manual_seed(5)
    values: list[Tensor] = []
    mirrored: list[Tensor] = []
    index: list[IndexRow] = []
    records: list[PartRecord] = []
    for part in range(parts):
        builder = PartBuilder(part, chosen, native=native)
        item = part * part_images
        pairs = [(shape, 1) for _ in range(rows) for shape in shapes] if native else [(shape, rows) for shape in shapes]
        for (height, width), count in pairs:
            both = torch.randn(2, count, channels, height, width, generator=generator).to(DTYPES[chosen.dtype][0])
            made = [index_row(item + i, 8 * height, 8 * width, captions, labels) for i in range(count)]
            item += count
            builder.add(made, both[0], both[1] if chosen.flipped else None)
            values += both[0]
            mirrored += both[1]
            index += made
        for number in range(skipped):
            builder.skip(Skipped(f"{item + number}.jpg", "empty file: 0 bytes"))
        records.append(builder.write(folder))
    manifest, listed = assemble(chosen, records)
    folder.write(SKIPPED_NAME, listed)
    folder.write(MANIFEST_NAME, manifest.to_bytes())
    return SmallStore(folder, manifest, values, mirrored, index)


def index_row(item: int, height: int, width: int, captions: bool, labels: bool) -> IndexRow:
    """Of an image of which a box of this size was encoded."""
    return IndexRow(
        id=f"{item}.jpg", item=item, source_sha256=f"{item:064x}", height=2 * height + item, width=2 * width + 14,
        resized_height=height, resized_width=width + 7, crop_top=0, crop_left=3, crop_height=height, crop_width=width,
        method="whole", caption=f"number {item}" if captions else None, label=item % 7 if labels else None,
        metadata='{"from": "nowhere"}',
    )  # fmt: skip
