"""Measuring speed: both sides do the same work, in turns, each in a process of its own, and failures are seen."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from torch.testing import assert_close

from eval.__main__ import main
from eval.metrics import psnr
from eval.pairing import Spread, paired
from eval.provenance import commit, device_name, provenance
from eval.speed import command
from eval.speed.bitstream import PlainFiles, image_codec, parts_of_compressing, parts_of_decompressing
from eval.speed.matrix import matrix_peak
from eval.speed.rows import ROWS, rows_for
from eval.speed.sides import Side, SideFailedError, compare
from eval.speed.workloads import Task
from latentcodec.images.procedural import ProceduralSource

CPU = torch.device("cpu")
PREPARED = Path(__file__).parent / "expected" / "bitstream" / "vae"
"""A VAE with a bitstream model."""


def _count_calls(log: Path, name: str) -> Callable[[], int]:
    def work() -> int:
        with log.open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        return 3

    return work


def _fail() -> Callable[[], int]:
    raise ValueError("no such thing")


def _die() -> Callable[[], int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return lambda: 0


def test_both_sides_work_in_turns_in_processes_of_their_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    found = compare(partial(_count_calls, log, "ours"), partial(_count_calls, log, "plain"), rounds=3, device=CPU)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [name for name, _ in lines] == ["ours", "plain", "plain", "ours", "ours", "plain", "plain", "ours"]
    processes = {name: {pid for other, pid in lines if other == name} for name in ("ours", "plain")}
    assert len(processes["ours"]) == len(processes["plain"]) == 1
    assert str(os.getpid()) not in processes["ours"] | processes["plain"]
    assert found.speedup.rounds == 3
    assert found.peak_memory > 2**20


@pytest.mark.parametrize(("prepare", "message"), [(_fail, "no such thing"), (_die, "exit code -9")])
def test_a_side_that_fails_is_an_error(prepare: Callable[[], Callable[[], int]], message: str) -> None:
    with pytest.raises(SideFailedError, match=message):
        Side(prepare, CPU)


def test_paired_alternates_and_gives_each_rounds_ratio() -> None:
    calls: list[str] = []
    times = paired(lambda: calls.append("a"), lambda: calls.append("b"), rounds=2, device=CPU, warm_up=1)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert len(times.ours) == len(times.other) == 2
    assert times.ratio().rounds == 2


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0, rounds=5)


def test_provenance_is_json_and_names_device_and_versions() -> None:
    record = json.loads(json.dumps(provenance()))
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert record["device"] == device_name(CPU)
    assert "cores" in record["device"]
    found = commit()
    assert found is None or set(found.removesuffix("+changes")) <= set("0123456789abcdef")


def test_matrix_peak_is_a_rate() -> None:
    assert 1e6 < matrix_peak(CPU, torch.float32, size=64, rounds=3) < 1e15


@pytest.mark.parametrize("row", list(ROWS))
def test_both_sides_of_a_row_do_the_same_work(row: str, tmp_path: Path) -> None:
    files = command.write_squares("procedural:0", tmp_path, 32, 2)
    task = Task(str(PREPARED) if ROWS[row].prepared else "tiny-f8d4", files, 32, "cpu", torch.float32)
    ours, plain = (prepare() for prepare in ROWS[row].sides(task))
    assert ours() == plain() == 2


def test_rows_that_take_a_bitstream_model_are_measured_where_there_is_one() -> None:
    assert rows_for(str(PREPARED)) == list(ROWS)
    assert rows_for("tiny-f8d4") == [name for name in ROWS if name not in ("compress", "decompress")]


def test_rows_that_are_none_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["speed", "--vae", "tiny-f8d4", "--rows", "[encode,decrypt]"])
    assert "found decrypt" in capsys.readouterr().err


def test_plain_files_hold_the_same_picture(tmp_path: Path) -> None:
    (file,) = command.write_squares("procedural:0", tmp_path, 64, 1)
    task = Task(str(PREPARED), (file,), 64, "cpu", torch.float32)
    codec, plain = image_codec(task), PlainFiles(task)
    ours, its = codec.compress(file, effort=0).data, plain.compress(file)
    integers = np.frombuffer(zstandard.ZstdDecompressor().decompress(its), np.int16)
    assert (integers != codec.integers(ours).ravel()).mean() < 0.01, "but for ties"
    # ours puts each integer at the middle of what was rounded to it, not at the middle of the step
    assert psnr(codec.decompress(ours), plain.decompress(its)) > 30


def test_parts_of_a_file_are_parts(tmp_path: Path) -> None:
    task = Task(str(PREPARED), command.write_squares("procedural:0", tmp_path, 64, 1), 64, "cpu", torch.float32)
    compressing, decompressing = parts_of_compressing(task, 2), parts_of_decompressing(task, 2)
    for parts in (compressing, decompressing):
        assert 0 < parts["coder_share"] < 1
        assert 0 < parts["network_share"] < 1.5, "timed beside the whole, which holds it"
        assert parts["symbols_per_second"] > 1000
    ours = len(image_codec(task).compress(task.files[0]).data)
    assert compressing["bytes_ratio"] == ours / len(PlainFiles(task).compress(task.files[0]))


def test_squares_are_those_of_the_source(tmp_path: Path) -> None:
    from latentcodec.images.decode import decode_image

    files = command.write_squares("procedural:3", tmp_path, 256, 2)
    expected = ProceduralSource(seed=3, size=256)
    for index, file in enumerate(files):
        assert (decode_image(file) == expected[index].decode()).all()


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "matrix_peak", partial(matrix_peak, size=64, rounds=3))
    out = tmp_path / "speed.json"
    options = ["--vae", "tiny-f8d4", "--sizes", "[32]", "--images", "1", "--rounds", "2", "--dtypes", "[float32]"]
    assert main(["speed", *options, "--rows", "[store]", "--json", str(out)]) == 0
    assert "speed-up" in capfd.readouterr().out
    record = json.loads(out.read_text())
    (row,) = record["rows"]
    assert row["row"] == "store"  # whose side has a process of its own that decodes
    assert row["speedup"]["low"] <= row["speedup"]["median"] <= row["speedup"]["high"]
    rate = row["images_per_second"]["median"]
    share = rate * row["operations_per_image"] / record["settings"]["matrix_peak"]["float32"]
    assert_close(row["share_of_matrix_peak"], share)
    assert str(tmp_path) not in out.read_text()


def test_wrong_commands_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sped"]) == 2
    assert "speed" in capsys.readouterr().err
