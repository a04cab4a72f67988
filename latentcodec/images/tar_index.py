"""Where each file lies inside a tar, from its headers alone.

``tarfile`` makes an object of twenty fields for every member; for the millions of members of a webdataset that takes
minutes. This reads what is needed: names, offsets and sizes, in the ustar, GNU and pax dialects.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from latentcodec.images.items import SourceError

_BLOCK = 512
_REGULAR = (b"0", b"\0", b"7")
_GNU_LONG_NAME, _PAX, _PAX_GLOBAL = b"L", b"x", b"g"


@runtime_checkable
class SeekableFile(Protocol):
    """What is needed of an open binary file; `open` and fsspec give it."""

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...


class TarMember(NamedTuple):
    name: str
    offset: int
    """Of the content, in bytes from the start of the tar."""
    size: int


def read_members(file: SeekableFile, label: str) -> Iterator[TarMember]:
    """The regular files in an open tar, in its order. Reads headers, skips contents.

    Args:
        label: the tar's name in errors.

    Raises:
        SourceError: not a plain tar (compressed ones have no random access), or damaged.
    """
    position = 0
    overrides: dict[bytes, bytes] = {}  # from an extended header, for the member that follows it
    while True:
        file.seek(position)
        header = file.read(_BLOCK)
        if not header.strip(b"\0"):  # end-of-archive mark, or a writer that left it out
            if not position and not header:
                raise SourceError(f"{label}: expected a tar, found a file of 0 bytes; fetch or write it again")
            return
        _check(header, position, label)
        kind, size, offset = header[156:157], _number(header[124:136]), position + _BLOCK
        if kind == _GNU_LONG_NAME:
            overrides[b"path"] = file.read(size).partition(b"\0")[0]
        elif kind == _PAX:
            overrides.update(_pax_records(file.read(size)))
        elif kind != _PAX_GLOBAL:
            size = _number(overrides[b"size"], base=10) if b"size" in overrides else size
            if kind in _REGULAR:
                name = overrides.get(b"path") or _ustar_name(header)
                yield TarMember(name.decode("utf-8", "backslashreplace"), offset, size)
            overrides = {}
        position = offset + -(-size // _BLOCK) * _BLOCK


def _check(header: bytes, position: int, label: str) -> None:
    if position == 0 and header[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7", b"(\xb5"):
        raise SourceError(f"{label}: a compressed tar has no random access; unpack it to a plain .tar first")
    # The sum of the header's bytes, with the eight of the sum itself as spaces (POSIX ustar).
    if len(header) < _BLOCK or _number(header[148:156]) != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
        what = "damaged or cut off" if position else "not a tar"
        raise SourceError(f"{label}: {what}: no valid tar header at byte {position}; fetch or write it again")


def _number(field: bytes, base: int = 8) -> int:
    """Digits, or GNU's big-endian binary for what twelve octal digits cannot hold; 0 where neither."""
    if field[:1] >= b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits, base) if digits.isdigit() and (base == 10 or not digits.strip(b"01234567")) else 0


def _ustar_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """``"<length> <key>=<value>\\n"``, the length counting the whole record."""
    while content:
        digits = content.partition(b" ")[0]
        if not digits.isdigit() or not int(digits):
            return  # padding
        record, content = content[len(digits) + 1 : int(digits)], content[int(digits) :]
        key, _, value = record.rstrip(b"\n").partition(b"=")
        yield key, value
