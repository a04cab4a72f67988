"""Images to integers to bits, by every method."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.bootstrap import Bootstrap, mean_interval
from eval.images import NamedImage
from eval.pairing import Spread
from eval.symbols.general import jpeg_xl_bits, zstd_bits
from eval.symbols.speed import CoderSeconds, coder_seconds, coding_order, network_shares
from eval.symbols.static import Counts, code_length, pooled
from latentcodec.bitstream.codec import ImageCodec
from latentcodec.bitstream.container import parse
from latentcodec.bitstream.context import Maps

GENERAL: dict[str, Callable[[Maps], float]] = {"jpeg_xl": jpeg_xl_bits, "zstd": zstd_bits}
"""Compressors that see nothing but one image's integers: [channels, height, width] -> bits of real bytes."""

METHODS = {
    "iid": "one static table, ideal",
    "per_channel": "a static table for each channel, ideal",
    "per_channel_own": "a table for each channel of each image, ideal",
    "context": "context model, the whole .lvc file",
    "jpeg_xl": "lossless JPEG XL",
    "zstd": "zstd -19 of the integers as int16",
}
"""What is compared. Static tables are counted over all images of the run at that quality and cost nothing here; the third
ones are counted on each image alone, and cost nothing either."""


@dataclass(frozen=True, eq=False)
class Coded:
    """One image at one quality."""

    image: str
    pixels: int
    counts: Counts
    bits: dict[str, float]
    """By method, of those that do not depend on other images."""
    payload_bits: int
    """Of the file without its header."""
    ideal_bits: float
    """Code length by the context model's own tables."""
    coder: CoderSeconds
    network_shares: list[float]


@dataclass(frozen=True)
class Row:
    """All images at one quality."""

    quality: float
    images: int
    bpp: dict[str, dict[str, Any]]
    """By method: the mean over images of bits per pixel, with its interval."""
    saved: dict[str, float]
    """By method: the share of its bits that the context model saves, over all images."""
    coder_overhead: float
    """The payload over the code length of its own tables, less 1."""
    symbols: int
    encode_symbols_per_second: float
    """`Encoder.finish`."""
    add_symbols_per_second: float
    """`Encoder.add`: integers to symbols, before it."""
    decode_symbols_per_second: float
    """`Decoder.take`."""
    network_share: dict[str, float]
    """Of the time of compressing: median and quartiles over images and rounds."""


def code(codec: ImageCodec, image: NamedImage, quality: float, *, effort: int, rounds: int) -> Coded:
    """Compress one image, and code its integers otherwise.

    Args:
        rounds: of each timing; at least 2.

    Raises:
        SymbolsError: integers that are too large for the other methods.
    """
    found = codec.compress(image.pixels, quality=quality, effort=effort)
    integers, frame, counts = codec.integers(found.data), parse(found.data), Counts.of(codec.integers(found.data))
    bits = {name: method(integers) for name, method in GENERAL.items()}
    bits["per_channel_own"] = code_length(counts, counts)
    bits["context"] = 8.0 * len(found.data)
    return Coded(
        image.id, found.width * found.height, counts, bits, 8 * (len(frame.words) + len(frame.bits)), found.ideal_bits,
        coder_seconds(codec, coding_order(codec, integers, found.step_index), rounds),
        network_shares(codec, image.pixels, quality, effort, rounds),
    )  # fmt: skip


def summarise(quality: float, coded: Sequence[Coded], bootstrap: Bootstrap) -> Row:
    """All images of one quality, against tables that are pooled over them."""
    tables = pooled(one.counts for one in coded)
    bits = {
        "iid": [code_length(one.counts.merged(), tables.merged()) for one in coded],
        "per_channel": [code_length(one.counts, tables) for one in coded],
    }
    bits |= {method: [one.bits[method] for one in coded] for method in METHODS if method not in bits}
    symbols, context = sum(one.coder.symbols for one in coded), sum(bits["context"])
    return Row(
        quality=quality, images=len(coded),
        bpp={method: _mean(bits[method], coded, bootstrap) for method in METHODS},
        saved={method: 1 - context / sum(bits[method]) for method in METHODS if method != "context"},
        coder_overhead=sum(one.payload_bits for one in coded) / sum(one.ideal_bits for one in coded) - 1,
        symbols=symbols,
        encode_symbols_per_second=symbols / sum(one.coder.finish for one in coded),
        add_symbols_per_second=symbols / sum(one.coder.add for one in coded),
        decode_symbols_per_second=symbols / sum(one.coder.take for one in coded),
        network_share=Spread.of([share for one in coded for share in one.network_shares]).as_dict(),
    )  # fmt: skip


def _mean(bits: Iterable[float], coded: Sequence[Coded], bootstrap: Bootstrap) -> dict[str, Any]:
    return mean_interval({one.image: of / one.pixels for one, of in zip(coded, bits, strict=True)}, bootstrap).as_dict()
