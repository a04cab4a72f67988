"""Images to .lvc bytes and back."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from latentcodec.bitstream.container import Frame, Limits, parse
from latentcodec.bitstream.context import Choose, Maps
from latentcodec.bitstream.entropy import Decoder, Encoder, check_length
from latentcodec.bitstream.errors import BitstreamError
from latentcodec.bitstream.lattice import Pass
from latentcodec.bitstream.model import BitstreamModel, load_model
from latentcodec.bitstream.quality import STEPS, index_of_quality
from latentcodec.bitstream.rate import Nearest, RateDistortion
from latentcodec.bitstream.refine import refine
from latentcodec.bitstream.tables import Split
from latentcodec.codec import LatentCodec
from latentcodec.inputs import ImageLike, read_images, to_network
from latentcodec.latents import Moments
from latentcodec.padding import padded_side, reflect_pad
from latentcodec.vae.sources import default_source

DEFAULT_QUALITY = 50.0
EFFORTS = (0, 1, 2)
REFINED = 2
"""The effort from which coefficients are refined."""


class TargetError(ValueError):
    """No quality gives a file as small as was asked for."""


@dataclass(frozen=True, eq=False)
class Compressed:
    """A file, and what became of the image in it."""

    data: bytes
    width: int
    height: int
    step_index: int
    ideal_bits: float
    """Code length of the integers by their tables, which the entropy coder can come near to."""

    @property
    def bits_per_pixel(self) -> float:
        """Of the whole file."""
        return 8 * len(self.data) / (self.width * self.height)


class ImageCodec:
    """Compresses images to bytes with one VAE and the model that was prepared for it.

    Args:
        codec: the VAE. Its precision and device decide how fast it works and, within rounding, the pixels that come out,
            and not whether a file can be read.
        model: made for the VAE by `prepare_bitstream`.

    Raises:
        BitstreamError: the model was made for other weights.
    """

    def __init__(self, codec: LatentCodec, model: BitstreamModel) -> None:
        if codec.fingerprint != model.vae_fingerprint:
            raise BitstreamError(
                f"model: made for the weights {model.vae_fingerprint}, found {codec.fingerprint}; prepare this VAE"
            )
        self.codec, self.model = codec, model
        self._bank = model.bank()
        self._bits = -np.log2(self._bank, dtype=np.float64)
        self._name = model.short_hash()

    @classmethod
    def from_pretrained(cls, vae: str | Path | None = None, **options: Any) -> "ImageCodec":
        """A VAE with its bitstream model beside it.

        Args:
            vae: whatever `load_vae` takes; None: the weights that come with the package.
            **options: of `LatentCodec.from_pretrained`. A scaling factor plays no part.

        Raises:
            VAELoadError, BitstreamError: one of the two cannot be loaded.
        """
        source = default_source() if vae is None else vae
        codec = LatentCodec.from_pretrained(source, **({"scaling_factor": 1.0} | options))
        return cls(codec, load_model(source, codec.fingerprint))

    def compress(
        self, image: ImageLike, *, quality: float = DEFAULT_QUALITY, target_bytes: int | None = None, effort: int = 1
    ) -> Compressed:
        """Compress one image.

        Args:
            image: path, Pillow image, array or tensor, of any size; see `LatentCodec.encode_moments`.
            quality: 1 ... 100, the quantiser's step.
            target_bytes: make the largest file of at most so many bytes instead.
            effort: 0: nearest integers; 1: integers chosen by rate and distortion; 2: after a few gradient steps through
                the decoder as well, which take some twenty times as long. That lowers the squared error of the picture.

        Raises:
            BrokenImageError, ValueError: the image cannot be read.
            TargetError: even the coarsest step makes a larger file than `target_bytes`.
        """
        if effort not in EFFORTS:
            raise ValueError(f"effort: expected one of {', '.join(map(str, EFFORTS))}, found {effort}")
        (pixels,) = read_images([image])
        moments = self.codec.encode_moments([pixels])
        coefficients = self.model.transform.coefficients(moments.mean[0])
        size = moments.sizes[0]
        first = min(effort, REFINED - 1)
        if target_bytes is None:
            found = self._compress(coefficients, size, index_of_quality(quality), first)
        else:
            found = self._search(coefficients, size, target_bytes, first)
        if effort < REFINED:
            return found
        padded = reflect_pad(to_network(pixels, self.codec.device)[None], self.codec.factor)[0]
        refined = refine(
            self.codec, self.model.transform, self.model.context, padded, coefficients, self.integers(found.data),
            found.step_index,
        )  # fmt: skip
        if target_bytes is None:
            return self._compress(refined, size, found.step_index, effort)
        return self._search(refined, size, target_bytes, effort)

    def decompress(self, data: bytes, limits: Limits | None = None) -> UInt8[np.ndarray, "height width 3"]:
        """The image in a file.

        Raises:
            BitstreamError: no .lvc file, damaged, of another VAE, or beyond `limits`.
        """
        frame, _, coefficients = self._decode(data, limits)
        raw = self.model.transform.latents(coefficients)
        moments = Moments((raw,), (raw.new_full(raw.shape, -30.0),), ((frame.height, frame.width),), ("",))
        return self.codec.decode(moments).to_uint8()[0]

    def latents(self, data: bytes, limits: Limits | None = None) -> Tensor:
        """The raw latents in a file, float32 [channels, height, width]: what `decompress` decodes."""
        return self.model.transform.latents(self._decode(data, limits)[2])

    def integers(self, data: bytes, limits: Limits | None = None) -> Maps:
        """The integers in a file, int64 [channels, height, width]."""
        return self._decode(data, limits)[1]

    def compress_integers(self, integers: Maps, size: tuple[int, int], step_index: int) -> Compressed:
        """A file of integers that were chosen elsewhere.

        Args:
            integers: int64 [channels, height, width], in -2^28 ... 2^28.
            size: height and width of the image in pixels.
            step_index: of the step that they count.
        """

        def choose(
            channel: int, each: Pass, expected: Int64[np.ndarray, " n"], where: Split
        ) -> Int64[np.ndarray, " n"]:
            rows, columns = each.slices()
            return integers[channel, rows, columns].ravel()

        return self._encode(choose, integers.shape[1:], size, step_index)

    def _compress(
        self, coefficients: Float64[np.ndarray, "c h w"], size: tuple[int, int], index: int, effort: int
    ) -> Compressed:
        scaled = coefficients / self.model.context.steps[index]
        choose = RateDistortion(scaled, self._bits, self.model.offsets) if effort else Nearest(scaled)
        return self._encode(choose, coefficients.shape[1:], size, index)

    def _encode(self, choose: Choose, grid: tuple[int, ...], size: tuple[int, int], index: int) -> Compressed:
        encoder = Encoder(self._bank)

        def add(channel: int, each: Pass, expected: Int64[np.ndarray, " n"], where: Split) -> Int64[np.ndarray, " n"]:
            values = choose(channel, each, expected, where)
            encoder.add(values, where)
            return values

        integers = self.model.context.run(grid[0], grid[1], index, add)
        words, bits = encoder.finish()
        height, width = size
        frame = Frame(width, height, self._name, index, bits, words, _crc(integers))
        return Compressed(frame.to_bytes(), width, height, index, encoder.ideal_bits())

    def _search(
        self, coefficients: Float64[np.ndarray, "c h w"], size: tuple[int, int], target: int, effort: int
    ) -> Compressed:
        """The finest step whose file is not larger; files grow, but for a little, as steps get finer."""
        best, low, high = None, 0, STEPS - 1
        while low <= high:
            middle = (low + high) // 2
            found = self._compress(coefficients, size, middle, effort)
            if len(found.data) <= target:
                if best is None or len(found.data) > len(best.data):
                    best = found
                high = middle - 1
            else:
                low = middle + 1
        if best is None:
            raise TargetError(
                f"target_bytes: the smallest file of this image has {len(found.data)} bytes, more than {target}; "
                "make the image smaller"
            )
        return best

    def _decode(self, data: bytes, limits: Limits | None) -> tuple[Frame, Maps, Float64[np.ndarray, "c h w"]]:
        frame = parse(data, limits)
        if frame.model != self._name:
            raise BitstreamError(
                f"model: the file was made with {frame.model.hex()}, found {self._name.hex()}; name the VAE that made it"
            )
        channels = self.model.context.channels
        factor = self.codec.factor
        height, width = (padded_side(side, factor) // factor for side in (frame.height, frame.width))
        check_length(frame.words, channels * height * width)
        decoder = Decoder(self._bank, frame.words, frame.bits)
        coefficients = np.zeros((channels, height, width))
        step = float(self.model.context.steps[frame.step_index])

        def take(channel: int, each: Pass, expected: Int64[np.ndarray, " n"], where: Split) -> Int64[np.ndarray, " n"]:
            values = decoder.take(where)
            rows, columns = each.slices()
            points = values + self.model.offsets[where.table, where.symbols(values)]
            part = coefficients[channel, rows, columns]
            part[...] = (points * step).reshape(part.shape)
            return values

        integers = self.model.context.run(height, width, frame.step_index, take)
        decoder.finish()
        if _crc(integers) != frame.symbols_crc:
            raise BitstreamError("checksum: the decoded integers are not those that were encoded; the file is damaged")
        return frame, integers, coefficients


def _crc(integers: Maps) -> int:
    return zlib.crc32(integers.astype("<i4").tobytes())
