"""What it takes to open a store with many rows and to read some of them, in a process that does nothing else."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.memory import resident_peak
from latentcodec.store.dataset import LatentDataset

READS = 10_000


@dataclass(frozen=True)
class Opened:
    """Of one store. Memory is the most that the process has had resident so far, in bytes."""

    rows: int
    open_seconds: float
    memory_before: int
    """With everything imported."""
    memory_open: int
    reads: int
    """Rows at random places of all of the store."""
    read_seconds: float
    memory_read: int


def open_in_new_process(store: Path) -> Opened:
    """`open_and_read` in a process of its own. Imports are not timed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        task: Callable[[Path], Opened] = open_and_read
        return pool.submit(task, store).result()


def open_and_read(store: Path) -> Opened:
    """Open a store, ask for its length, read rows."""
    before = resident_peak()
    began = time.perf_counter()
    dataset = LatentDataset(store)
    rows = len(dataset)
    opened = time.perf_counter()
    memory_open = resident_peak()
    order = np.random.default_rng(0).integers(rows, size=READS).tolist()
    started = time.perf_counter()
    for row in order:
        dataset[row]
    return Opened(
        rows, opened - began, before, memory_open, READS, time.perf_counter() - started, resident_peak()
    )  # fmt: skip
