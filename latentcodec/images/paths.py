"""Where the files of a source are: braces, globs, folders, and fsspec URLs (``s3://...``)."""

import glob
import os
import posixpath
import re
from collections.abc import Sequence

import fsspec

from latentcodec.images.items import SourceError

_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)")


def is_url(path: str) -> bool:
    """Whether fsspec has to read it: ``s3://bucket/x``, ``hf://...``, ``memory://...``."""
    return "://" in path


def expand_braces(pattern: str) -> list[str]:
    """Expands ``{000..003}`` and ``{a,b}``, nested too, as bash does; webdataset users name their shards so.

    Numbers keep the zero padding of their ends and may count down. Braces that hold neither a range nor a comma stay.
    """
    start = pattern.find("{")
    while start >= 0:
        parts, end = _split_braces(pattern, start)
        numbers = _NUMBERS.fullmatch(parts[0]) if len(parts) == 1 else None
        if numbers or len(parts) > 1:
            tails = expand_braces(pattern[end:])
            inner = _count(*numbers.groups()) if numbers else [one for part in parts for one in expand_braces(part)]
            return [pattern[:start] + middle + tail for middle in inner for tail in tails]
        start = pattern.find("{", start + 1)
    return [pattern]


def _split_braces(pattern: str, start: int) -> tuple[list[str], int]:
    """The comma-separated parts between the brace at ``start`` and its partner, and the index behind that one."""
    parts, depth = [""], 0
    for position in range(start, len(pattern)):
        letter = pattern[position]
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return parts, position + 1
        if depth == 1 and letter == ",":
            parts.append("")
        elif position > start:
            parts[-1] += letter
    return [""], len(pattern)  # no partner: the brace is an ordinary letter


def _count(first: str, last: str) -> list[str]:
    padded = any(len(end.lstrip("-")) > 1 and end.lstrip("-")[0] == "0" for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + step, step)]


def find_files(spec: str, suffixes: Sequence[str]) -> list[str]:
    """Files that a spec names: one file, braces, a glob, or a folder (searched recursively), local or a URL.

    Args:
        suffixes: lower-case endings that count inside a folder, such as ``(".tar",)``.

    Returns:
        Paths or URLs, sorted, each once.

    Raises:
        SourceError: a named file does not exist, or a pattern or folder holds none.
    """
    if not is_url(spec) and os.path.isfile(spec):
        return [spec]
    found: list[str] = []
    missing: list[str] = []
    for pattern in expand_braces(spec):
        matches = _remote_matches(pattern, suffixes) if is_url(pattern) else _local_matches(pattern, suffixes)
        found.extend(matches)
        if not matches:
            missing.append(pattern)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SourceError(
            f"{spec}: no {' or '.join(suffixes)} file at {', '.join(missing[:3])}{more}; check the path, or the pattern"
        )
    return sorted(set(found))


def _local_matches(pattern: str, suffixes: Sequence[str]) -> list[str]:
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        inside = glob.iglob(os.path.join(glob.escape(pattern), "**", "*"), recursive=True)
        return [path for path in inside if path.lower().endswith(tuple(suffixes)) and os.path.isfile(path)]
    if os.path.isfile(pattern):
        return [pattern]
    return [path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path)]


def _remote_matches(pattern: str, suffixes: Sequence[str]) -> list[str]:
    filesystem, path = fsspec.core.url_to_fs(pattern)
    if filesystem.isdir(path):
        matches = [name for name in filesystem.find(path) if name.lower().endswith(tuple(suffixes))]
    else:
        matches = filesystem.glob(path)
    return [filesystem.unstrip_protocol(name) for name in matches]


def relative_names(paths: Sequence[str]) -> list[str]:
    """The paths below their common folder, in posix form: short names that stay the same when the folder moves."""
    if len(paths) == 1:
        return [posixpath.basename(paths[0].replace(os.sep, "/"))]
    whole = [path.replace(os.sep, "/") for path in paths]
    common = posixpath.commonpath([posixpath.dirname(path) for path in whole])
    return [posixpath.relpath(path, common) if common else path for path in whole]
