"""Models of CompressAI's zoo, with real bytes: what its own tables count is the payload without a header."""

import struct
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from eval.provenance import installed_version
from eval.rate.codec import CodecOptions, Picture, Quality, RateError, Stored
from latentcodec.images.pixels import to_tensor, to_uint8

MULTIPLE = 64
"""Sides are padded to it, for the hyperprior halves them six times."""
_HEAD = struct.Struct("<BHHHHB")


class CompressAI:
    """A model trained for MSE, by its name in `compressai.zoo.image_models`; weights of a quality are loaded when first used.

    Args:
        source: such as `bmshj2018-hyperprior` or `cheng2020-attn`.

    Raises:
        RateError: CompressAI is not installed, or has no such model.
    """

    def __init__(self, source: str, options: CodecOptions) -> None:
        try:
            from compressai.zoo import image_models
        except ImportError as error:
            raise RateError(
                "compressai: it is not installed; pip install compressai, or leave its models out"
            ) from error
        known = [name for name in image_models if not name.endswith("-vbr")]  # which have another interface
        if source not in known:
            raise RateError(f"compressai:{source}: expected one of {', '.join(known)}")
        self.name, self.device = source, torch.device(options.device)
        self.qualities: tuple[Quality, ...] = tuple(range(1, 7 if source.startswith("cheng2020") else 9))
        self._make = image_models[source]
        self._models: dict[int, nn.Module] = {}

    def encode(self, image: Picture, quality: Quality) -> bytes:
        """A small header of our own, for CompressAI has none that is part of its library, and the model's strings."""
        if quality not in self.qualities:
            raise RateError(f"compressai:{self.name}: expected a quality 1 ... {len(self.qualities)}, found {quality}")
        chosen = int(quality or 0)
        height, width = image.shape[:2]
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        padded = F.pad((to_tensor(image)[None] + 1) / 2, padding, mode="replicate").to(self.device)
        with torch.inference_mode():
            found = self._model(chosen).compress(padded)
        return pack(chosen, (height, width), tuple(found["shape"]), [strings[0] for strings in found["strings"]])

    def decode(self, stored: Stored) -> Picture:
        if not isinstance(stored, bytes):
            raise TypeError(f"compressai: expected bytes, found {type(stored).__name__}")
        quality, (height, width), shape, strings = unpack(stored)
        with torch.inference_mode():
            found = self._model(quality).decompress([[string] for string in strings], shape)["x_hat"]
        return to_uint8((2 * found.float() - 1)[..., :height, :width].cpu())[0]

    def identity(self) -> dict[str, Any]:
        """CompressAI's version and the model."""
        return {"compressai": installed_version("compressai"), "model": self.name, "trained_for": "mse"}

    def _model(self, quality: int) -> Any:
        if quality not in self._models:
            try:
                model = self._make(quality=quality, metric="mse", pretrained=True)
            except OSError as error:
                raise RateError(f"compressai:{self.name}: its weights cannot be downloaded ({error})") from error
            self._models[quality] = model.eval().to(self.device)
        return self._models[quality]


def pack(quality: int, size: tuple[int, int], shape: Sequence[int], strings: Sequence[bytes]) -> bytes:
    """quality, height, width, height and width of the latents, number of strings, their lengths, the strings."""
    head = _HEAD.pack(quality, *size, *shape, len(strings))
    return head + struct.pack(f"<{len(strings)}I", *map(len, strings)) + b"".join(strings)


def unpack(data: bytes) -> tuple[int, tuple[int, int], tuple[int, int], list[bytes]]:
    """What `pack` was given."""
    quality, height, width, rows, columns, count = _HEAD.unpack_from(data)
    lengths = struct.unpack_from(f"<{count}I", data, _HEAD.size)
    place = _HEAD.size + 4 * count
    strings = []
    for length in lengths:
        strings.append(data[place : place + length])
        place += length
    return quality, (height, width), (rows, columns), strings
