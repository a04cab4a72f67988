"""What goes wrong in a training run ends with one sentence that names it, and status 1."""

from pathlib import Path

import pytest

from train.__main__ import main
from train.config import load_preset
from train.health import NonFiniteLossError
from train.loop import train
from train.run_config import ConfigError


def arguments(out: Path, *overrides: str) -> list[str]:
    return [
        "--config", "train/presets/tiny.yaml", "--model.preset", "demo-f8d16", "--out", str(out), "--steps", "2",
        "--batch_size", "2", "--data.source", "procedural", "--data.crop", "32", "--data.workers", "0",
        "--loss.weights", "{l1: 1.0}", "--mixed_precision", "no", *overrides,
    ]  # fmt: skip


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "run", "--data.source", str(tmp_path / "nowhere"))) == 1
    assert str(tmp_path / "nowhere") in said(capsys)


def test_folder_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.md").write_text("no image")
    assert main(arguments(tmp_path / "run", "--data.source", str(tmp_path))) == 1
    assert str(tmp_path) in said(capsys)


def test_batch_not_divisible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "run", "--accumulate", "3")) == 1
    assert "batch_size: expected a multiple of processes x accumulate" in said(capsys)


def test_decoder_only_from_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "run", "--model.train", "decoder")) == 1
    assert "give model.init_from" in said(capsys)


def test_loss_that_explodes_stops_the_run_before_its_checkpoint(tmp_path: Path) -> None:
    config = load_preset("tiny", *arguments(tmp_path / "run", "--optimizer.lr", "1e30", "--optimizer.warmup", "0")[2:])
    config.steps, config.optimizer.clip = 6, 0.0
    with pytest.raises(NonFiniteLossError, match=r"at step [1-5] on the images procedural"):
        train(config)
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_checkpoint_of_another_config_is_refused_by_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(tmp_path / "run")) == 0
    assert main(arguments(tmp_path / "run", "--optimizer.lr", "0.5", "--data.crop", "40")) == 1
    text = said(capsys)
    assert "optimizer.lr was 0.001, now 0.5" in text
    assert "data.crop was 32, now 40" in text
    assert "another --out" in text


def test_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    assert main(arguments(tmp_path / "run")) == 0
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    assert main(arguments(tmp_path / "run")) == 0
    assert {path.name: path.stat().st_mtime_ns for path in checkpoint.iterdir()} == before


def test_streaming_takes_one_source(tmp_path: Path) -> None:
    config = load_preset("tiny", *arguments(tmp_path / "run", "--data.streaming", "true")[2:])
    config.data.source = {"hf:a/b": 0.5, "hf:c/d": 0.5}
    with pytest.raises(ConfigError, match=r"data\.streaming: expected one source"):
        train(config)
