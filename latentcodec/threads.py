"""How many threads linear algebra takes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's matrix products on one thread.

    Small products gain little from several threads, and those wait for each other: after a network has run, its own
    threads still hold the cores, and the first product takes milliseconds. Threads of torch are not touched.

    The limit is the process's, so it is set from the main thread only: where several threads set and lift it in turns,
    one of them would keep what another had set (and OpenBLAS ignores some of them). Elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield
