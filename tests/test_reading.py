"""The benchmark of the store's reader: both sides read the same values, and its figures are of what it says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.__main__ import main
from eval.pairing import Spread
from eval.reading import command, opening
from eval.reading.opening import READS, open_and_read, open_in_new_process
from eval.reading.synthetic import write_store, write_store_and_files
from eval.reading.workloads import ROWS, Task
from eval.speed.sides import Comparison
from latentcodec.store.dataset import LatentDataset
from latentcodec.store.files import StoreFolder
from latentcodec.store.verify import verify


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("rows")
    write_store_and_files(folder, 70, 4)
    return Task(folder, 70)


def test_both_sides_hold_the_same_values(task: Task) -> None:
    verified = verify(StoreFolder(task.folder / "store"), progress=lambda done, total: None)
    assert verified.problems == ()
    dataset = LatentDataset(task.folder / "store", sample=False)
    for row in (0, 69):
        moments = np.load(task.folder / "moments" / f"{row}.npy")
        assert np.array_equal(dataset.stored(row).float().numpy(), moments)
        assert np.array_equal(np.load(task.folder / "drawn" / f"{row}.npy"), moments[:4])
        assert dataset.stored(row).nbytes == np.load(task.folder / "drawn" / f"{row}.npy").nbytes


@pytest.mark.parametrize("way", list(ROWS))
def test_every_row_is_read_by_both(task: Task, way: str) -> None:
    assert [prepare(task)() for prepare in ROWS[way]] == [70, 70]
    assert sorted(task.order()) == sorted(row for batch in task.batches() for row in batch) == list(range(70))


def test_opening_happens_in_a_new_process_and_is_timed_there(tmp_path: Path) -> None:
    write_store(StoreFolder(tmp_path), 300, 2)
    found = open_in_new_process(tmp_path)
    assert (found.rows, found.reads) == (300, READS)
    assert 0 < found.open_seconds < 60
    assert 2**20 < found.memory_before <= found.memory_open <= found.memory_read


def test_the_command_prints_tables_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With both sides in this process, since starting processes is tested elsewhere."""

    def compare_here(ours: Any, usual: Any, **_: Any) -> Comparison:
        rates = [float(side()()) for side in (ours, usual)]
        return Comparison(*(Spread(rate, rate, rate, 2) for rate in (rates[0] / rates[1], *rates)), 2**20, 2**20)

    monkeypatch.setattr(command, "compare", compare_here)
    monkeypatch.setattr(command, "open_in_new_process", open_and_read)
    monkeypatch.setattr(opening, "READS", 50)
    out = tmp_path / "reading.json"
    assert main(["reading", "--rows", "65", "--rounds", "2", "--many", "100", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ROWS)
    record = json.loads(out.read_text())
    assert (record["kind"], record["settings"]) == ("reading", {"rows": 65, "rounds": 2, "latents": [4, 32, 32]})
    assert [row["row"] for row in record["rows"]] == list(ROWS)
    assert [row["images_per_second"]["median"] for row in record["rows"]] == [65.0] * len(ROWS)
    assert [opened["rows"] for opened in record["opening"]] == [10, 100]
    assert record["versions"]["torch"] in torch.__version__
