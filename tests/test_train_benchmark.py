"""The train step's rows of the speed table."""

import json
import pickle
from pathlib import Path

import pytest
from small_results import spread

from eval.speed.sides import Comparison, Prepare
from latentcodec.vae.presets import build_vae
from train import benchmark
from train.config import TrainConfig, load_preset

SMALL = [
    "--model.preset=tiny-f8d4", "--data.source=procedural", "--data.crop=32", "--data.workers=0", "--batch_size=2",
    "--mixed_precision=no", '--loss.weights={"l1": 1.0, "kl": 1e-8}', "--validation.source=null",
]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return load_preset("tiny", *SMALL, "--out", str(tmp_path / "run"))


def test_every_side_makes_steps_of_the_whole_batch(config: TrainConfig) -> None:
    for step in (
        benchmark.trainer_step(config),
        benchmark.trainer_step(config, loader=True),
        benchmark.bare_step(config),
    ):
        assert [step(), step()] == [2, 2]


def test_the_bare_loop_learns(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step changes all weights; else its time would be of something else."""
    vae = build_vae("tiny-f8d4")
    monkeypatch.setattr(benchmark, "build_vae", lambda preset: vae)
    before = [parameter.clone() for parameter in vae.parameters()]
    benchmark.bare_step(config)()
    assert all((old != new).any() for old, new in zip(before, vae.parameters(), strict=True))


def test_rows_are_those_of_the_speed_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides: list[Prepare] = []

    def compare(ours: Prepare, plain: Prepare, **options: object) -> Comparison:
        sides.extend([ours, plain])
        return Comparison(spread(0.9), spread(9.0), spread(10.0), 2**30, 2**29)

    monkeypatch.setattr(benchmark, "compare", compare)
    monkeypatch.setattr(benchmark, "matrix_peak", lambda device, dtype: 1e11)
    out = tmp_path / "train-step.json"
    overrides = json.dumps([*SMALL, f"--out={tmp_path / 'run'}"])
    benchmark.main(["--preset", "tiny", "--overrides", overrides, "--switches", "[channels_last]", "--json", str(out)])
    pickle.dumps(sides)  # each goes to a process of its own
    record = json.loads(out.read_text())
    assert record["kind"] == "speed"
    names = [row["row"] for row in record["rows"]]
    assert names == ["train step / bare loop", "with its loader / bare loop", "channels_last / default"]
    row = record["rows"][0]
    assert (row["side"], row["images"], row["dtype"]) == (32, 2, "float32")
    assert row["share_of_matrix_peak"] == pytest.approx(9.0 * row["operations_per_image"] / 1e11)
    assert str(tmp_path) not in out.read_text()
    printed = capsys.readouterr().out
    assert all(text in printed for text in (*names, "matrix peak: float32 0.1 Tera", "torch "))


def test_switches_that_are_none_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--switches", "[fp16]"])
    assert "--switches: expected fp32, channels_last" in capsys.readouterr().err
