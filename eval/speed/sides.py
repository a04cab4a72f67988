"""A piece of work in its own process, so that neither side's memory, allocator or threads reach the other's."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from eval.memory import resident_peak
from eval.pairing import Spread, synchronise

Prepare = Callable[[], Callable[[], int]]
"""Builds everything that is not timed and returns the work; each call of the work does the same and returns its images.
Must be picklable: a function of a module, or `functools.partial` of one."""


class SideFailedError(RuntimeError):
    """The work of a side raised; the message names the error, whose traceback the process printed."""


class Side:
    """A process that prepares a piece of work and then does it each time it is asked to. A context manager."""

    def __init__(self, prepare: Prepare, device: torch.device, threads: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # No daemon: those may not start processes, and a side may have a loader's. It ends when this end is closed.
        self._process = context.Process(target=_serve, args=(prepare, device, threads, theirs))
        self._process.start()
        theirs.close()
        self._receive()  # ready

    def __enter__(self) -> "Side":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()

    def run(self) -> tuple[float, int]:
        """Do the work once: seconds (wall clock, with what it left running on the device) and images."""
        self._connection.send("run")
        seconds, images = self._receive()
        return seconds, images

    def peak_memory(self) -> int:
        """Bytes: on a GPU the most that torch had allocated, on a CPU the most that the process had resident."""
        self._connection.send("memory")
        return int(self._receive())

    def _receive(self) -> Any:
        try:
            ok, value = self._connection.recv()
        except EOFError:
            self._process.join(timeout=10)
            raise SideFailedError(f"the process ended with exit code {self._process.exitcode}") from None
        if not ok:
            raise SideFailedError(value)
        return value


def _serve(prepare: Prepare, device: torch.device, threads: int | None, connection: Connection) -> None:
    # What it starts itself, the workers of a loader say, begins as in any program, not as this process did.
    multiprocessing.set_start_method(None, force=True)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        work = prepare()
        connection.send((True, None))
        while (question := connection.recv()) is not None:
            connection.send((True, _memory(device) if question == "memory" else _timed(work, device)))
    except EOFError:
        return  # the other end was closed
    except Exception as error:  # its traceback goes to stderr from here
        connection.send((False, f"{type(error).__name__}: {error}"))
        raise


def _timed(work: Callable[[], int], device: torch.device) -> tuple[float, int]:
    synchronise(device)
    began = time.perf_counter()
    images = work()
    synchronise(device)
    return time.perf_counter() - began, images


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_peak()


@dataclass(frozen=True)
class Comparison:
    """Two sides over several rounds."""

    speedup: Spread
    """Images a second of ours over the plain way's, round by round: above 1 we are faster."""
    images_per_second: Spread
    """Ours."""
    plain_images_per_second: Spread
    peak_memory: int
    """Bytes; see `Side.peak_memory`."""
    plain_peak_memory: int


def compare(
    ours: Prepare, plain: Prepare, *, rounds: int, device: torch.device, warm_up: int = 1, threads: int | None = None
) -> Comparison:
    """Let both work in turns, after `warm_up` rounds that do not count; who goes first alternates."""
    start = partial(Side, device=device, threads=threads)
    rates: tuple[list[float], list[float]] = ([], [])
    with start(ours) as our_side, start(plain) as plain_side:
        sides = (our_side, plain_side)
        for number in range(warm_up + rounds):
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                seconds, images = sides[index].run()
                if number >= warm_up:
                    rates[index].append(images / seconds)
        memory = [side.peak_memory() for side in sides]
    ratios = [mine / its for mine, its in zip(*rates, strict=True)]
    return Comparison(Spread.of(ratios), Spread.of(rates[0]), Spread.of(rates[1]), *memory)
