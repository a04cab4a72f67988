"""Memory that runs out, and memory that is worth keeping for a moment."""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


class MemoryFallbackWarning(RuntimeWarning):
    """Memory ran out, so the work went on with smaller batches, or in tiles."""


# Of torch's allocators; the last is oneDNN's, whose words for a lack of memory are the same as for a bug of ours.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on any device: torch has a class for it on some of them only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def attempt(run: Callable[[], T], device: torch.device) -> T | None:
    """What `run` returns; None if memory ran out, in which case everything that it held is free again."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # After the handler, for there the traceback still holds the feature maps.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if libc := _tunable_libc():
        libc.malloc_trim(0)
    return None


# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 2**20

_lock = threading.Lock()
_depth = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside the block, memory that torch frees on the CPU stays with the process, to be used again.

    By default glibc takes every block of more than 32 MiB from the kernel and gives it back at once, and the kernel
    clears each page again on first touch. Feature maps are such blocks: encoding one 512 x 512 image with the geometry
    of Stable Diffusion in float32 makes 1.5 million page faults, a third of all its time. Results do not depend on it.

    When the outermost block ends, the defaults are restored and free memory is given back. Nothing happens on systems
    without glibc, nor if the environment tunes malloc already. Large blocks of threads other than the main one are
    glibc's own business still.
    """
    global _depth
    libc = _tunable_libc()
    if libc is None:
        yield
        return
    with _lock:
        if _depth == 0:
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, -1)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                # Where glibc's own adaptation ends up in a process that has freed a block of 32 MiB.
                libc.mallopt(_MMAP_MAX, 65536)
                libc.mallopt(_MMAP_THRESHOLD, 32 * _MIB)
                libc.mallopt(_TRIM_THRESHOLD, 64 * _MIB)
                libc.malloc_trim(0)


def _tunable_libc() -> ctypes.CDLL | None:
    """The C library, if it is glibc and nobody has tuned its malloc by environment variables."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
