"""Files that appear whole or not at all."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE_SUFFIX = ".partial"
"""Of the files that wait to take their place. After a kill they stay, hidden, and can be deleted."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to. It takes the place of `path` when the block ends well, else it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # a token besides the process's number, which is unique on one machine only, and the folder may be shared
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{ASIDE_SUFFIX}")
    try:
        with usual_mode(aside):
            yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def usual_mode(path: Path) -> Iterator[None]:
    """Give what the block writes to `path` the permissions of any new file: safetensors makes files that only their owner
    can read, and models and latents lie in folders that a group shares."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    yield
    os.chmod(path, mode)
