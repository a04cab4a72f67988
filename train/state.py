"""Checkpoints: everything that a resumed run needs, in one list; written aside, hashed and renamed.

A checkpoint is a folder `step-00001000` of safetensors files and a `state.json`. It holds numbers only, no pickled
object. Random numbers need no state: data, crops, noise and transforms are functions of the seed and the step.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from latentcodec.aside import usual_mode

FORMAT = 1
_PREFIX = "step-"
_ASIDE = ".writing-"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or resumed; the message names the folder and the remedy."""


@dataclass
class TrainState:
    """What is resumed, besides what follows from the config. The names are those of the files."""

    networks: dict[str, nn.Module]
    """The networks that learn, and their averages."""
    optimizers: dict[str, torch.optim.Optimizer]
    step: int = 0
    """Updates made so far."""


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors stores values, not strides; channels_last weights come back as such through load_state_dict.
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """{"3.exp_avg": tensor}: the per-parameter state, whose entries must all be tensors (Adam's are)."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(state: TrainState, folder: Path, *, record: dict[str, Any], keep: int) -> Path:
    """Write `folder/step-N` aside, rename it, then remove all but the newest `keep`.

    `record` is written into state.json: the run's `config`, and whatever else its kind of run needs.
    Raises CheckpointError when it cannot be written (disk full, ...); the older checkpoints are then untouched.
    """
    final = folder / f"{_PREFIX}{state.step:08d}"
    aside = folder / f"{_ASIDE}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        files = {}
        contents = {name: network.state_dict() for name, network in state.networks.items()}
        contents |= {name: _optimizer_tensors(optimizer) for name, optimizer in state.optimizers.items()}
        for name, tensors in contents.items():
            path = aside / f"{name}.safetensors"
            with usual_mode(path):
                safetensors.torch.save_file(_contiguous(tensors), path)
            _sync(path)
            files[path.name] = _sha256(path)
        record = {"format": FORMAT, "step": state.step, "files": files, **record}
        (aside / "state.json").write_text(json.dumps(record, indent=1))
        _sync(aside / "state.json")
        _sync(aside)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        last = newest_checkpoint(folder)
        free = shutil.disk_usage(folder).free / 2**30 if folder.is_dir() else 0.0
        raise CheckpointError(
            f"the checkpoint of step {state.step} could not be written to {folder}: {error}; {free:.2f} GiB are free there. "
            f"{f'The last good one is {last.name}' if last else 'There is no earlier one'}. "
            "Make room (or lower keep_checkpoints) and run the same command again"
        ) from error
    for old in _folders(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def read_record(checkpoint: Path) -> dict[str, Any]:
    """The checked `state.json` of a checkpoint. Raises CheckpointError when a file is missing or damaged."""
    try:
        record: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
        files = record["files"]
        damaged = [name for name, digest in files.items() if _sha256(checkpoint / name) != digest]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{checkpoint}: not a whole checkpoint ({error}). Remove the folder") from error
    if damaged:
        raise CheckpointError(f"{checkpoint}: damaged, sha256 differs for {', '.join(damaged)}. Remove the folder")
    if record["format"] != FORMAT:
        raise CheckpointError(f"{checkpoint}: format {record['format']}, this version reads {FORMAT}")
    return record


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None. Damaged ones are passed over, and it says so."""
    for path in reversed(_folders(folder)):
        try:
            read_record(path)
        except CheckpointError as error:
            print(f"passed over: {error}")
            continue
        return path
    return None


def load_checkpoint(state: TrainState, checkpoint: Path) -> None:
    """Restore `state` in place.

    Raises CheckpointError when the networks differ in any key or shape.
    """
    record = read_record(checkpoint)
    for name, network in state.networks.items():
        try:
            network.load_state_dict(safetensors.torch.load_file(checkpoint / f"{name}.safetensors"))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint / name}.safetensors does not fit the network of this config: {error}"
            ) from error
    for name, optimizer in state.optimizers.items():
        _restore_optimizer(optimizer, safetensors.torch.load_file(checkpoint / f"{name}.safetensors"))
    state.step = record["step"]
