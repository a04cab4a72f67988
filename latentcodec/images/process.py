"""Things that must not be shared between processes: open files, caches."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value that each process builds for itself on first use.

    After a fork the child builds its own, and pickling (spawned workers) leaves the value behind: two processes that
    read through one file handle would move each other's position.
    """

    def __init__(self, build: Callable[[], T]) -> None:
        self._build = build  # pickled, so a class or a module's function, not a lambda
        self._made: tuple[int, T] | None = None

    def get(self) -> T:
        made = self._made
        if made is None or made[0] != os.getpid():
            made = self._made = (os.getpid(), self._build())
        return made[1]

    def __reduce__(self) -> tuple[type["PerProcess[T]"], tuple[Callable[[], T]]]:
        return type(self), (self._build,)
