"""All images through all codecs at all qualities, in this process or in several."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess

import torch

from eval.exact import exact_float32
from eval.images import ImageSet, NamedImage
from eval.rate.codec import Quality, RateError, setting_name
from eval.rate.journal import Journal
from eval.rate.measure import Bench, BenchOptions
from eval.rate.registry import CodecSpec
from eval.rows import ImageRow
from latentcodec.memory import freed_memory_kept

Plan = Sequence[tuple[CodecSpec, Sequence[Quality]]]
Task = tuple[NamedImage, CodecSpec, Quality]
_AHEAD = 4
"""Tasks that wait for each process; each holds an image."""


def run(
    images: ImageSet, plan: Plan, bench: Bench, options: BenchOptions, journal: Journal, *, jobs: int = 1,
    progress: Callable[[], object] = lambda: None,
) -> list[str]:  # fmt: skip
    """Measure what `journal` does not have yet; rows go there in the order of images, codecs, qualities.

    Args:
        bench: with the codecs of `plan`; works if there is one job.
        options: of other processes' benches.
        jobs: processes; times are then those of a machine that is shared.
        progress: called for each row, an old one too.

    Returns:
        The ids of the images.

    Raises:
        RateError: see `Bench.measure`; or a process has died.
        SourceError: no image could be read.
    """
    ids: list[str] = []

    def tasks() -> Iterator[Task]:
        for image in images:
            ids.append(image.id)
            journal.check_image(image)
            bench.save_original(image)
            for spec, qualities in plan:
                for quality in qualities:
                    if (image.id, spec.name, setting_name(quality)) in journal.done:
                        progress()
                    else:
                        yield image, spec, quality

    with measurer(bench, options, jobs) as measure:
        for row in measure(tasks()):
            journal.add(row)
            progress()
    return ids


@contextmanager
def measurer(
    bench: Bench, options: BenchOptions, jobs: int
) -> Iterator[Callable[[Iterator[Task]], Iterator[ImageRow]]]:
    """A function from tasks to their rows, in order."""
    if jobs == 1:
        with exact_float32(), freed_memory_kept():
            yield lambda tasks: (bench.measure(*task) for task in tasks)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(options, threads)
    )
    try:
        yield lambda tasks: _through(pool, tasks, _AHEAD * jobs)
    except BrokenProcessPool as error:
        raise RateError(
            "a process has died, for want of memory perhaps; run the same again with fewer --jobs"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _through(pool: ProcessPoolExecutor, tasks: Iterator[Task], ahead: int) -> Iterator[ImageRow]:
    waiting: deque[Future[ImageRow]] = deque()
    for task in tasks:
        waiting.append(pool.submit(_measure, task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_here: dict[str, Bench] = {}
"""The bench of a process of the pool."""
_kept = ExitStack()


def _begin(options: BenchOptions, threads: int) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:  # a process of a pool would wait for ever for work from one that was killed
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    _kept.enter_context(exact_float32())
    _kept.enter_context(freed_memory_kept())
    _here["bench"] = Bench(options)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _measure(task: Task) -> ImageRow:
    return _here["bench"].measure(*task)


def count_rows(images: int, plan: Plan) -> int:
    """Rows of a run over so many images."""
    return images * sum(len(qualities) for _, qualities in plan)
