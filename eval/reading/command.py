"""`python -m eval reading`: random rows of a latent store beside a .npy file for each image; opening large stores."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eval.reading.opening import Opened, open_in_new_process
from eval.reading.synthetic import CHANNELS, write_store, write_store_and_files
from eval.reading.workloads import ROWS, Task
from eval.results import write_results
from eval.speed.sides import Prepare, compare
from latentcodec.arguments import Parser
from latentcodec.store.files import StoreFolder

SIDE = 32
"""Of the latents: those of a 256 x 256 image under Stable Diffusion's VAE."""
SMALL_SIDE = 2
"""Of latents where only their number matters."""


def measure_reading(rows: int, rounds: int, names: list[str]) -> Iterator[dict[str, Any]]:
    """One record for each name of ROWS."""
    with tempfile.TemporaryDirectory() as folder:
        write_store_and_files(Path(folder), rows, SIDE)
        task = Task(Path(folder), rows)
        for name in names:
            ours, usual = ROWS[name]
            sides: tuple[Prepare, Prepare] = (partial(ours, task), partial(usual, task))
            found = compare(*sides, rounds=rounds, device=torch.device("cpu"), warm_up=1, threads=1)
            yield {"row": name, "rows": rows, **asdict(found)}


def measure_opening(rows: int) -> Iterator[Opened]:
    """A store with a tenth of so many rows, then one with all of them."""
    for count in (max(rows // 10, 1), rows):
        with tempfile.TemporaryDirectory() as folder:
            write_store(StoreFolder(folder), count, SMALL_SIDE)
            yield open_in_new_process(Path(folder))


_READING = f"{'':27}{'speed-up':>9}{'from':>7}{'to':>7}{'rows/s':>10}{'usual':>10}{'MiB':>8}{'usual':>8}"
_OPENING = f"{'rows':>12}{'open s':>9}{'MiB before':>12}{'open':>8}{'read':>8}{'rows/s':>10}"


def _reading_line(record: dict[str, Any]) -> str:
    speedup = record["speedup"]
    return (
        f"{record['row']:27}{speedup['median']:9.2f}{speedup['low']:7.2f}{speedup['high']:7.2f}"
        f"{record['images_per_second']['median']:10,.0f}{record['plain_images_per_second']['median']:10,.0f}"
        f"{record['peak_memory'] / 2**20:8.0f}{record['plain_peak_memory'] / 2**20:8.0f}"
    )


def _opening_line(opened: Opened) -> str:
    before, after, read = (
        size / 2**20 for size in (opened.memory_before, opened.memory_open, opened.memory_read)
    )  # fmt: skip
    return (
        f"{opened.rows:12,}{opened.open_seconds:9.3f}{before:12.0f}{after:8.0f}{read:8.0f}"
        f"{opened.reads / opened.read_seconds:10,.0f}"
    )


def main(arguments: list[str]) -> None:
    """Measure, print two tables and, with --json FILE, save them."""
    parser = Parser(prog="eval reading", description="Random rows of a latent store against .npy files, in turns.")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of 4 x 32 x 32 that both sides read")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", type=list[str], default=list(ROWS), help=f"which of {'; '.join(ROWS)}")
    parser.add_argument("--many", type=int, default=1_000_000, help="rows of the large store; 0: leave it out")
    parser.add_argument("--json", type=str | None, default=None, help="file to write")
    options = parser.parse(arguments)
    if unknown := [way for way in options.ways if way not in ROWS]:
        parser.error(f"--ways: expected some of {'; '.join(ROWS)}, found {'; '.join(unknown)}")
    rows: list[dict[str, Any]] = []
    print(_READING)
    for record in measure_reading(options.rows, options.rounds, options.ways):
        print(_reading_line(record), flush=True)
        rows.append(record)
    opened: list[Opened] = []
    if options.many:
        print(_OPENING)
        for found in measure_opening(options.many):
            print(_opening_line(found), flush=True)
            opened.append(found)
    if options.json is not None:
        settings = {"rows": options.rows, "rounds": options.rounds, "latents": [CHANNELS, SIDE, SIDE]}
        write_results(
            options.json, "reading", settings, rows, torch.device("cpu"), opening=[asdict(one) for one in opened]
        )
