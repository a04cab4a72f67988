"""Batches of prepared images through the encoder, copies to and from the device overlapping with its work."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from latentcodec.codec import LatentCodec
from latentcodec.store.index import IndexRow
from latentcodec.store.prepare import Prepared
from latentcodec.store.settings import Settings
from latentcodec.store.shards import DTYPES


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch on its way back from the device."""

    rows: list[IndexRow]
    _values: Tensor
    _flipped: Tensor | None
    _arrived: torch.cuda.Event | None

    def fetch(
        self,
    ) -> tuple[Float[Tensor, "rows stored height width"], Float[Tensor, "rows stored height width"] | None]:
        """The values to store, and those of the mirrored images, in ordinary memory. Waits until they are there."""
        if self._arrived is None:
            return self._values, self._flipped
        self._arrived.synchronize()
        # copied, since page-locked memory is scarce and parts are kept for a while
        return self._values.clone(), None if self._flipped is None else self._flipped.clone()


class BatchEncoder:
    """Encodes batches without waiting for the device: while it works on one, the next is copied and prepared.

    Args:
        codec: the network.
        settings: what to store of its output.
    """

    def __init__(self, codec: LatentCodec, settings: Settings) -> None:
        self._codec = codec
        self._settings = settings
        self._dtype = DTYPES[settings.dtype][0]
        self._cuda = codec.device.type == "cuda"
        self._uploads = torch.cuda.Stream(codec.device) if self._cuda else None

    def batch_size(self, image: Prepared) -> int:
        """How many images of the shape of this one make a batch."""
        height, width = image.pixels.shape[:2]
        return self._codec.batch_size(height, width)

    def __call__(self, images: Sequence[Prepared]) -> Encoded:
        """Start to encode images of one shape."""
        pixels = self._upload(images)
        values, methods = self._encode(pixels)
        flipped = self._encode(pixels.flip(3))[0] if self._settings.flipped else None
        rows = [replace(image.row, method=method) for image, method in zip(images, methods, strict=True)]
        arrived = None
        if self._cuda:
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(self._codec.device))
        return Encoded(rows, values, flipped, arrived)

    def _upload(self, images: Sequence[Prepared]) -> UInt8[Tensor, "batch 3 height width"]:
        staged = torch.empty((len(images), *images[0].pixels.shape), dtype=torch.uint8, pin_memory=self._cuda)
        for place, image in zip(staged, images, strict=True):
            place.copy_(torch.from_numpy(image.pixels))
        if self._uploads is None:
            return staged.permute(0, 3, 1, 2)
        # On a stream of its own, so that it does not queue up behind the encoding of the batch before.
        with torch.cuda.stream(self._uploads):
            pixels = staged.to(self._codec.device, non_blocking=True)
        compute = torch.cuda.current_stream(self._codec.device)
        compute.wait_stream(self._uploads)
        pixels.record_stream(compute)  # else its memory could be given away while the encoder reads it
        return pixels.permute(0, 3, 1, 2)

    def _encode(
        self, pixels: UInt8[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch stored latent_height latent_width"], tuple[str, ...]]:
        """Values in the type to store, on the CPU; on a GPU they arrive there later."""
        moments, methods = self._codec.encode_batch(pixels)
        kept = moments if self._settings.values == "moments" else moments.chunk(2, dim=1)[0]
        values = kept.to(self._dtype).contiguous()
        if not self._cuda:
            return values, methods
        arriving = torch.empty(values.shape, dtype=self._dtype, pin_memory=True)
        return arriving.copy_(values, non_blocking=True), methods
