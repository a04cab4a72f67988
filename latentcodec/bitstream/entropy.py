"""Integers to a payload of two parts, and back: words of an ANS coder, and bits stored as they are.

The coder is constriction's, given probabilities that are exact multiples of 2^-16, so that every machine gets the same.
It is a stack: the encoder writes the last integers first.
"""

import math
from dataclasses import dataclass, field

import constriction
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from latentcodec.bitstream.errors import BitstreamError
from latentcodec.bitstream.tables import ESCAPE, ESCAPE_BITS, MOST, PRECISION, RANGE, ROWS, SYMBOLS, Split

_FAMILY = constriction.stream.model.Categorical(perfect=False)


def probabilities(frequencies: Int64[np.ndarray, "rows symbols"]) -> Float32[np.ndarray, "rows symbols"]:
    """Exact in float32.

    Raises:
        BitstreamError: not frequencies of a bank: wrong shape, below 1, or another sum than 2^PRECISION.
    """
    if frequencies.shape != (ROWS, SYMBOLS) or frequencies.min() < 1 or (frequencies.sum(axis=1) != 2**PRECISION).any():
        raise BitstreamError(
            f"probability tables: expected {ROWS} x {SYMBOLS} frequencies >= 1 that sum to {2**PRECISION}"
        )
    return (frequencies / 2.0**PRECISION).astype(np.float32)


LEAST_BITS = -math.log2(1 - (SYMBOLS - 1) / 2**PRECISION)
"""Of an integer, whatever its table: every symbol has a frequency of at least 1."""


def check_length(words: bytes, integers: int) -> None:
    """Refuse a payload too short for its number of integers, so that no small file asks for much work.

    Raises:
        BitstreamError: it is too short.
    """
    if 8 * len(words) < LEAST_BITS * integers - 64:
        raise BitstreamError(
            f"payload: {len(words)} bytes cannot hold {integers} integers; the file is damaged or was made to do harm"
        )


@dataclass
class Encoder:
    """Collects integers in the order in which they will be decoded."""

    bank: Float32[np.ndarray, "rows symbols"]
    _symbols: list[np.ndarray] = field(default_factory=list)
    _tables: list[np.ndarray] = field(default_factory=list)
    _bits: list[np.ndarray] = field(default_factory=list)

    def add(self, values: Int64[np.ndarray, " n"], where: Split) -> None:
        """Integers in -MOST ... MOST."""
        symbols = where.symbols(values)
        escaped = symbols == ESCAPE
        self._symbols.append(symbols.astype(np.int32))
        self._tables.append(where.table)
        widths = np.where(escaped, ESCAPE_BITS, where.shift)
        if widths.any():
            stored = np.where(escaped, values & (2**ESCAPE_BITS - 1), (values - where.start) & ((1 << where.shift) - 1))
            self._bits.append(_to_bits(stored, widths))

    def finish(self) -> tuple[bytes, bytes]:
        """ANS words (little-endian uint32), and the stored bits."""
        coder = constriction.stream.stack.AnsCoder()
        for symbols, table in zip(reversed(self._symbols), reversed(self._tables), strict=True):
            if len(symbols):
                coder.encode_reverse(symbols, _FAMILY, self.bank[table])
        bits = np.concatenate(self._bits) if self._bits else np.zeros(0, np.uint8)
        return np.asarray(coder.get_compressed()).astype("<u4").tobytes(), np.packbits(bits).tobytes()

    def ideal_bits(self) -> float:
        """The code length by the tables: -log2 of each symbol's probability, and the stored bits."""
        coded = sum(
            -np.log2(self.bank[table, symbols].astype(np.float64)).sum()
            for symbols, table in zip(self._symbols, self._tables, strict=True)
        )
        return float(coded + sum(len(bits) for bits in self._bits))


class Decoder:
    """Gives integers in the order in which they were added.

    Raises:
        BitstreamError: words that are no ANS coder's, here or in `take`.
    """

    def __init__(self, bank: Float32[np.ndarray, "rows symbols"], words: bytes, bits: bytes) -> None:
        self.bank = bank
        compressed = np.frombuffer(words, "<u4").astype(np.uint32)
        if len(compressed) and compressed[-1] == 0:  # constriction would refuse it with a panic
            raise BitstreamError("payload: the last word of an ANS coder is never zero; the file is damaged")
        self._coder = constriction.stream.stack.AnsCoder(compressed)
        self._bits = np.unpackbits(np.frombuffer(bits, np.uint8))
        self._place = 0

    def take(self, where: Split) -> Int64[np.ndarray, " n"]:
        """The next integers, looked for where the encoder put them."""
        if not len(where.table):
            return np.zeros(0, np.int64)
        symbols = self._coder.decode(_FAMILY, self.bank[where.table]).astype(np.int64)
        escaped = symbols == ESCAPE
        stored = self._take_bits(np.where(escaped, ESCAPE_BITS, where.shift))
        signed = stored - ((stored >> (ESCAPE_BITS - 1)) << ESCAPE_BITS)
        values = np.where(escaped, signed, where.start + ((symbols - RANGE) << where.shift) + stored)
        if np.abs(values).max() > MOST:
            raise BitstreamError(f"payload: an integer is beyond {MOST}; the file is damaged")
        return values

    def finish(self) -> None:
        """Check that all has been used.

        Raises:
            BitstreamError: something is left.
        """
        if not self._coder.is_empty() or len(self._bits) - self._place >= 8:
            raise BitstreamError("payload: it holds more than the image needs; the file is damaged")

    def _take_bits(self, widths: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        total = int(widths.sum())
        if self._place + total > len(self._bits):
            raise BitstreamError("payload: its stored bits end too early; the file is damaged")
        bits = self._bits[self._place : self._place + total]
        self._place += total
        return _from_bits(bits, widths)


def _to_bits(values: Int64[np.ndarray, " n"], widths: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, " bits"]:
    """The lowest `widths` bits of each value, highest first."""
    owner, place = _owners(widths)
    return ((values[owner] >> (widths[owner] - 1 - place)) & 1).astype(np.uint8)


def _from_bits(bits: UInt8[np.ndarray, " bits"], widths: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    owner, place = _owners(widths)
    values = np.zeros(len(widths), np.int64)
    np.add.at(values, owner, bits.astype(np.int64) << (widths[owner] - 1 - place))
    return values


def _owners(widths: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " bits"], Int64[np.ndarray, " bits"]]:
    """For each bit the value that it belongs to, and its place in there."""
    owner = np.repeat(np.arange(len(widths)), widths)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(widths) - widths, widths)
