"""Latent stores of random values, written as the real ones are, but for the encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentcodec.store.files import StoreFolder
from latentcodec.store.finish import assemble
from latentcodec.store.index import IndexRow
from latentcodec.store.manifest import MANIFEST_NAME, SKIPPED_NAME
from latentcodec.store.part import PartBuilder
from latentcodec.store.settings import Settings, write_settings

CHANNELS, FACTOR = 4, 8
"""Of Stable Diffusion's VAE."""
PART = 10_000
"""Rows of a shard; as many as a store of millions of images has."""


def synthetic_settings(rows: int, side: int) -> Settings:
    """Of bfloat16 moments of latents of `side` x `side`."""
    return Settings(
        fingerprint="sha256:" + "0" * 64,
        config={
            "block_out_channels": [1] * 4, "latent_channels": CHANNELS, "scaling_factor": 0.18215, "shift_factor": None,
            "latents_mean": None, "latents_std": None,
        },
        preprocessing={"policy": "crop", "height": side * FACTOR, "width": side * FACTOR}, values="moments",
        dtype="bfloat16", flipped=False, compute_dtype="bfloat16", source="random", images=rows, listing="",
        part_images=PART, caption_key="caption", label_key="label",
    )  # fmt: skip


def write_store(
    store: StoreFolder, rows: int, side: int, *, also: Callable[[range, Tensor], None] = lambda numbers, values: None
) -> None:
    """Write a store of standard normal moments.

    Args:
        side: of the latents.
        also: called with the numbers and the bfloat16 moments of each part's rows.
    """
    settings = synthetic_settings(rows, side)
    write_settings(store, settings)
    records = []
    for part in range(settings.parts):
        builder = PartBuilder(part, settings, native=False)
        numbers = settings.part_range(part)
        values = torch.randn(len(numbers), 2 * CHANNELS, side, side).bfloat16()
        builder.add([_index_row(number, side * FACTOR) for number in numbers], values, None)
        records.append(builder.write(store))
        also(numbers, values)
    manifest, skipped = assemble(settings, records)
    store.write(SKIPPED_NAME, skipped)
    store.write(MANIFEST_NAME, manifest.to_bytes())


def write_store_and_files(folder: Path, rows: int, side: int) -> None:
    """The same values three times: `folder/store`; `folder/moments`, a float32 .npy file for each row; and
    `folder/drawn`, half as many values in each, as scripts that keep one draw write them."""
    for name in ("drawn", "moments"):
        (folder / name).mkdir()

    def write_files(numbers: range, values: Tensor) -> None:
        for number, moments in zip(numbers, values.float().numpy(), strict=True):
            np.save(folder / "drawn" / f"{number}.npy", moments[:CHANNELS])
            np.save(folder / "moments" / f"{number}.npy", moments)

    write_store(StoreFolder(folder / "store"), rows, side, also=write_files)


def _index_row(number: int, pixels: int) -> IndexRow:
    return IndexRow(
        id=f"{number:08d}.jpg", item=number, source_sha256=f"{number:064x}", height=480, width=640, resized_height=pixels,
        resized_width=pixels * 4 // 3, crop_top=0, crop_left=pixels // 6, crop_height=pixels, crop_width=pixels,
        method="whole", caption=f"a caption of the usual length for the image of the number {number}",
        label=number % 1000, metadata=None,
    )  # fmt: skip
