"""The .lvc file: header, payload, checksums. Version 1.

    magic              5 bytes   8B 4C 56 0D 0A   (a byte above 127 and a line end, which text transfers spoil)
    version            1         1
    width, height      varint each
    model              6         first bytes of the model's hash: of the VAE's weights and of all tables
    step               varint    index into the grid of steps
    bits               varint    bytes of stored bits
    words              varint    32-bit words of the ANS coder
    symbols            4         CRC-32 of the decoded integers
    file               4         CRC-32 of everything else, header and payload
    stored bits, words           to the end of the file; nothing may follow

Varints are LEB128, of at most five bytes and as short as they can be. Numbers are little-endian. A file of a 64 x 64
image has 26 bytes of header.
"""

import zlib
from dataclasses import dataclass

from latentcodec.bitstream.errors import BitstreamError
from latentcodec.bitstream.quality import STEPS

MAGIC = b"\x8bLV\r\n"
VERSION = 1
MODEL_BYTES = 6
_CHECK = 4


@dataclass(frozen=True)
class Limits:
    """What a file may ask for. As large as libavif's and Pillow's by default."""

    side: int = 32768
    pixels: int = 89_478_485


@dataclass(frozen=True)
class Frame:
    """What a file holds."""

    width: int
    height: int
    model: bytes
    """MODEL_BYTES long."""
    step_index: int
    bits: bytes
    words: bytes
    symbols_crc: int

    def to_bytes(self) -> bytes:
        """The file."""
        head = b"".join(
            (
                MAGIC, bytes([VERSION]), _varint(self.width), _varint(self.height), self.model, _varint(self.step_index),
                _varint(len(self.bits)), _varint(len(self.words) // 4), self.symbols_crc.to_bytes(_CHECK, "little"),
            )
        )  # fmt: skip
        payload = self.bits + self.words
        return head + zlib.crc32(head + payload).to_bytes(_CHECK, "little") + payload


def parse(data: bytes, limits: Limits | None = None) -> Frame:
    """Read a file's parts, and check everything that can be checked without a model.

    Raises:
        BitstreamError: what is wrong with it, before anything larger than the file is allocated.
    """
    limits = limits or Limits()
    if data[: len(MAGIC)] != MAGIC:
        raise BitstreamError(f"expected a .lvc file, which begins with {MAGIC!r}, found {data[: len(MAGIC)]!r}")
    reader = _Reader(data, len(MAGIC))
    version = reader.take(1)[0]
    if version != VERSION:
        raise BitstreamError(f"version: expected {VERSION}, found {version}; a newer latentcodec may read it")
    width, height = reader.varint("width"), reader.varint("height")
    model = reader.take(MODEL_BYTES)
    step_index, bits, words = reader.varint("step"), reader.varint("bits"), reader.varint("words")
    symbols_crc, file_crc = (int.from_bytes(reader.take(_CHECK), "little") for _ in range(2))
    rest = data[reader.place :]
    if len(rest) != bits + 4 * words:
        raise BitstreamError(f"payload: expected {bits + 4 * words} bytes, found {len(rest)}; the file is damaged")
    if zlib.crc32(data[: reader.place - _CHECK] + rest) != file_crc:
        raise BitstreamError("checksum: it does not fit the file, which is damaged")
    if not (1 <= width <= limits.side and 1 <= height <= limits.side and width * height <= limits.pixels):
        raise BitstreamError(
            f"size: {width} x {height} pixels is beyond the limits (a side of {limits.side}, {limits.pixels} pixels); "
            "raise them if you trust the file"
        )
    if step_index >= STEPS:
        raise BitstreamError(f"step: expected below {STEPS}, found {step_index}; the file is damaged")
    return Frame(width, height, model, step_index, rest[:bits], rest[bits:], symbols_crc)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@dataclass
class _Reader:
    data: bytes
    place: int

    def take(self, count: int) -> bytes:
        taken = self.data[self.place : self.place + count]
        if len(taken) < count:
            raise BitstreamError("header: the file ends inside it; it is damaged or not complete")
        self.place += count
        return taken

    def varint(self, name: str) -> int:
        value = 0
        for index in range(5):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if byte == 0 and index:
                    raise BitstreamError(f"{name}: a number that is longer than it need be; the file is damaged")
                return value
        raise BitstreamError(f"{name}: a number of more than five bytes; the file is damaged")
