"""Encoding a dataset into a latent store, end to end: image files on disk to shards on disk.

Two rows of the table. `store`: against the usual script, one process with Pillow, `vae.encode` in float32 and a .npy file for
each image, one image at a time as such scripts do. `overlap`: against the bare encoder, the same network in the same type on
the same batches, which lie in memory ready for it; a ratio of 1 means that reading, decoding, hashing and writing cost no
time at all. Loading the network and opening the source are not timed; starting the decoding processes is.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eval.speed.workloads import Task, Work, network, plain_pixels
from latentcodec.images.decode import decode_image
from latentcodec.images.pixels import to_tensor
from latentcodec.images.sources import open_source
from latentcodec.memory import freed_memory_kept
from latentcodec.store.files import StoreFolder
from latentcodec.store.launch import Launch
from latentcodec.store.plan import plan_settings, require_listed
from latentcodec.store.precompute import precompute
from latentcodec.store.preprocessing import Crop, Preprocessing

JPEG_QUALITY = 95


def jpegs(task: Task) -> Path:
    """A folder with the images of a task as JPEG files, as datasets have them, under the names of the task's files."""
    folder = task.files[0].parent / "jpeg"
    if not folder.is_dir():  # the other side may have made it
        folder.mkdir()
        for file in task.files:
            with Image.open(file) as image:
                image.save(folder / f"{file.stem}.jpg", quality=JPEG_QUALITY)
    return folder


@contextmanager
def empty_folder(task: Task) -> Iterator[Path]:
    """On the disk that the images are on."""
    with tempfile.TemporaryDirectory(dir=task.files[0].parent) as folder:
        yield Path(folder)


def precompute_files(task: Task) -> Work:
    """Files to a store, as `latentcodec precompute` does it."""
    codec = task.codec()
    source = require_listed(open_source(jpegs(task)), "jpeg")
    settings = plan_settings(source, codec, Preprocessing(Crop(task.side, task.side)), name="jpeg")
    workers = 1 if codec.device.type == "cpu" else Launch().cores

    def work() -> int:
        with empty_folder(task) as folder:
            store = StoreFolder(folder / "store")
            return precompute(source, store, codec, settings, workers=workers, progress=False).manifest.rows

    return work


def script_files(task: Task) -> Work:
    """Files to .npy files in a loop, one at a time, float32: a scaled draw from each posterior."""
    vae = network(task.vae).to(task.device)
    files = sorted(jpegs(task).iterdir())

    @torch.no_grad()
    def work() -> int:
        with empty_folder(task) as folder:
            for file in files:
                latents = vae.encode(plain_pixels(file, task.device)).latent_dist.sample() * vae.config.scaling_factor
                np.save(folder / f"{file.stem}.npy", latents[0].cpu().numpy())
            return len(list(folder.iterdir()))

    return work


def encode_in_memory(task: Task) -> Work:
    """The network alone, in the type and layout of our side, on our side's batches."""
    codec = task.codec()
    layout = torch.channels_last if codec.dtype != torch.float32 else torch.contiguous_format
    images = [to_tensor(decode_image(file)) for file in sorted(jpegs(task).iterdir())]
    batches = [
        torch.stack(list(batch)).to(codec.device, codec.dtype, memory_format=layout)
        for batch in _in_batches(images, codec.batch_size(task.side, task.side))
    ]
    encoder: Callable[[torch.Tensor], torch.Tensor] = codec.vae.encoder
    if task.compile:
        encoder = torch.compile(encoder, dynamic=False)
    to_moments = codec.vae.quant_conv or torch.nn.Identity()

    @torch.inference_mode()
    def work() -> int:
        with freed_memory_kept():
            return sum(len(to_moments(encoder(batch))) for batch in batches)

    return work


def _in_batches(images: list[torch.Tensor], size: int) -> Iterator[list[torch.Tensor]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
