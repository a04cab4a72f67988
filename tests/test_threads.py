"""Linear algebra on one thread for a while, and then as before."""

import threading
from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from latentcodec.threads import one_blas_thread


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with threadpool_limits(2, user_api="blas"):
        if blas_threads() != {2}:
            pytest.skip("NumPy's linear algebra has no two threads here")
        yield


def test_it_ends_with_the_outermost_block() -> None:
    with one_blas_thread():
        with one_blas_thread():
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {2}


def test_an_error_ends_it_too() -> None:
    with pytest.raises(KeyError), one_blas_thread():
        raise KeyError
    assert blas_threads() == {2}


def test_other_threads_change_nothing() -> None:
    seen = []

    def inside() -> None:
        with one_blas_thread():
            seen.append(blas_threads())

    with one_blas_thread():
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        assert blas_threads() == {1}
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [{1}, {2}]
    assert blas_threads() == {2}
