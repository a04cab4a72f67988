"""JSON objects that know whether they are whole: the last member is the hash of all bytes before it."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from latentcodec.store.errors import StoreDamagedError

FORMAT = "latentcodec store"
VERSION = 1

_SEAL = re.compile(rb'"sha256": "([0-9a-f]{64})"\n}\n')
_SEAL_BYTES = len('"sha256": ""\n}\n') + 64


def seal(fields: Mapping[str, Any]) -> bytes:
    """A JSON object with `format`, `version`, `fields` and its seal. A list of lists has a line for each of them."""
    members = {"format": FORMAT, "version": VERSION, **fields}
    lines = [f"{json.dumps(key)}: {_value(value)},\n" for key, value in members.items()]
    body = ("{\n" + "".join(lines)).encode("ascii")
    return body + f'"sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode("ascii")


def unseal(data: bytes, label: str) -> dict[str, Any]:
    """The fields of an object that `seal` made.

    Args:
        label: the object's name in errors.

    Raises:
        StoreDamagedError: a byte of it differs, it is cut off, or it is of another format or version.
    """
    matched = _SEAL.fullmatch(data[-_SEAL_BYTES:])
    body = data[:-_SEAL_BYTES]
    if matched is None or hashlib.sha256(body).hexdigest() != matched[1].decode():
        raise StoreDamagedError(
            f"{label}: expected the SHA-256 of the content at its end, found "
            f"{'none' if matched is None else 'another one'}; it is cut off, altered or no part of a store"
        )
    fields: dict[str, Any] = json.loads(data)
    kind = fields.pop("format"), fields.pop("version")
    if kind != (FORMAT, VERSION):
        raise StoreDamagedError(
            f"{label}: expected {FORMAT} {VERSION}, found {kind[0]} {kind[1]}; use the version of latentcodec that wrote it"
        )
    del fields["sha256"]
    return fields


def _value(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(entry, list) for entry in value):
        return "[\n" + ",\n".join(_dumps(entry) for entry in value) + "\n]"
    return _dumps(value)


def _dumps(value: Any) -> str:
    # NaN is no JSON, and nothing in a store may be NaN
    return json.dumps(value, ensure_ascii=True, allow_nan=False)
