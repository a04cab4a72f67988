"""Killed at any moment, the same command goes on to the very same bits."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from train.state import CheckpointError, TrainState, load_checkpoint, newest_checkpoint, read_record, save_checkpoint

ROOT = Path(__file__).parents[1]
STEPS = 14


def train_command(out: Path) -> list[str]:
    return [
        sys.executable, "-m", "train", "--config", "train/presets/tiny.yaml", "--model.preset", "tiny-f8d4",
        "--out", str(out), "--steps", str(STEPS), "--batch_size", "2", "--data.source", "procedural:3", "--data.crop", "32",
        "--data.workers", "1", "--loss.weights", "{l1: 1.0, kl: 1.0e-6}", "--optimizer.warmup", "2", "--threads", "1",
        "--adversarial.discriminator", "patch", "--adversarial.width", "16", "--adversarial.start", "2",
        "--adversarial.head_start", "2", "--adversarial.ramp", "4", "--adversarial.lecam", "0.01",
        "--equivariance.probability", "0.5", "--checkpoint_every", "1", "--log_every", "1",
    ]  # fmt: skip


def start(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        train_command(out),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def steps_written(out: Path) -> int:
    return max((int(path.name[5:]) for path in (out / "checkpoints").glob("step-*")), default=0)


def train_lines(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def test_a_cluster_that_takes_the_node_back_gets_a_checkpoint(tmp_path: Path) -> None:
    """SIGTERM to every process of the job, the workers that decode images among them."""
    command = [*train_command(tmp_path), "--steps", "100000", "--checkpoint_every", "100000"]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    metrics = tmp_path / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    assert steps_written(tmp_path) == 0
    os.killpg(process.pid, signal.SIGTERM)
    output = finish(process)
    assert 3 <= steps_written(tmp_path) < 100_000, output


def test_kill_9_at_random_moments_changes_no_bit(tmp_path: Path) -> None:
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    finish(start(reference))
    dice = random.Random()
    for least in (2, 7):
        process = start(killed)
        while steps_written(killed) < least:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        assert steps_written(killed) > 0
    assert steps_written(killed) < STEPS, "the run was over before it was killed"
    assert "resumed from step-" in finish(start(killed))

    last = f"step-{STEPS:08d}"
    expected = read_record(reference / "checkpoints" / last)["files"]
    assert read_record(killed / "checkpoints" / last)["files"] == expected
    assert set(expected) == {
        f"{name}.safetensors" for name in ("vae", "ema", "discriminator", "vae_optimizer", "discriminator_optimizer")
    }
    assert train_lines(killed) == train_lines(reference)


def small_state(seed: int, *, width: int = 200) -> TrainState:
    torch.manual_seed(seed)
    vae, ema = nn.Linear(width, width), nn.Linear(width, width)
    optimizer = torch.optim.AdamW(vae.parameters())
    vae(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return TrainState({"vae": vae, "ema": ema}, {"vae_optimizer": optimizer}, seed)


def save(state: TrainState, folder: Path, keep: int = 2) -> Path:
    return save_checkpoint(state, folder, record={"config": {}, "vae_config": {}}, keep=keep)


def test_others_may_read_a_checkpoint_where_they_may_read_other_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        written = save(small_state(1), tmp_path)
    finally:
        os.umask(before)
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in written.iterdir()} == {"0o644"}


def test_killed_while_a_checkpoint_is_being_written(tmp_path: Path) -> None:
    survived = []
    states = [small_state(step) for step in range(1, 60)]  # made here: a forked child must not start torch's threads
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        save(states[0], folder)
        child = os.fork()
        if child == 0:
            for state in states[1:]:
                save(state, folder)
            time.sleep(60)
            os._exit(1)
        time.sleep(random.uniform(0.005, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        newest = newest_checkpoint(folder)
        assert newest is not None
        state = small_state(0)
        load_checkpoint(state, newest)
        torch.testing.assert_close(
            state.networks["vae"].weight, small_state(state.step).networks["vae"].weight, rtol=0, atol=0
        )
        survived.append(state.step)
        save(small_state(state.step + 1), folder)  # what was left behind is not in the way
    assert max(survived) > 1


def test_round_trip_restores_every_bit(tmp_path: Path) -> None:
    before, after = small_state(3), small_state(4)
    load_checkpoint(after, save(before, tmp_path))
    assert after.step == 3
    for name, network in before.networks.items():
        for key, value in network.state_dict().items():
            assert torch.equal(after.networks[name].state_dict()[key], value)
    old, new = (state.optimizers["vae_optimizer"].state_dict()["state"] for state in (before, after))
    assert old.keys() == new.keys()
    for index, entry in old.items():
        for key, value in entry.items():
            assert torch.equal(new[index][key], value)


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older, newer = save(small_state(1), tmp_path), save(small_state(2), tmp_path)
    path = newer / "ema.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert newest_checkpoint(tmp_path) == older
    assert "ema.safetensors" in capsys.readouterr().out
    (older / "state.json").unlink()
    assert newest_checkpoint(tmp_path) is None


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(small_state(step), tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    checkpoint = save(small_state(1), tmp_path)
    with pytest.raises(CheckpointError, match=r"vae\.safetensors does not fit"):
        load_checkpoint(small_state(1, width=100), checkpoint)


DISK_FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_resume import save, small_state
from train.state import CheckpointError
folder = Path(sys.argv[1])
save(small_state(1), folder)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save(small_state(2), folder)
except CheckpointError as error:
    print(error)
"""


def test_disk_full_while_saving_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the same place with an OSError."""
    finished = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path)], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "step 2 could not be written" in finished.stdout
    assert "last good one is step-00000001" in finished.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert newest_checkpoint(tmp_path) == tmp_path / "step-00000001"
