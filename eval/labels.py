"""Short names for the VAEs of a run: they head its tables and name its rows."""

import os
from collections.abc import Sequence
from pathlib import Path


class LabelError(ValueError):
    """Two VAEs of a run would have the same name."""


def label_sources(specs: Sequence[str]) -> dict[str, str]:
    """{name: source} of `NAME=SOURCE` or plain sources, in their order.

    A plain one is named by its last folder or file (a hub name by all of it), and by more of its path where two would be
    the same: `a/vae` and `b/vae`.

    Raises:
        LabelError: two names are the same nevertheless.
    """
    labels: dict[str, str] = {}
    named = [_split(spec) for spec in specs]
    ends = iter(_distinct([source for given, source in named if given is None]))
    for given, source in named:
        name = next(ends) if given is None else given
        if name in labels:
            raise LabelError(f"{source}: expected different names, found {name} twice; name one as NAME={source}")
        labels[name] = source
    return labels


def _split(spec: str) -> tuple[str | None, str]:
    name, equals, source = spec.partition("=")
    return (name, source) if equals and name and "/" not in name and not os.path.exists(spec) else (None, spec)


def _distinct(sources: list[str]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [_parts(source) for source in sources]
    for length in range(1, max(map(len, parts), default=0) + 1):
        ends = ["/".join(part[-length:]) for part in parts]
        if len(set(ends)) == len(ends):
            return ends
    return ["/".join(part[-1:]) for part in parts]


def _parts(source: str) -> tuple[str, ...]:
    path = Path(source).expanduser()
    if not path.exists():  # a hub name, of which both halves are needed
        return (source,)
    return path.resolve().parts[1:] or (source,)
