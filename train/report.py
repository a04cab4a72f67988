"""What a run leaves for people: metrics.jsonl, pictures, a progress bar, and any tracker of Accelerate."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from latentcodec.images.save import save_png
from train.progress import progress
from train.run_config import RunConfig
from train.sheets import Image


class Report:
    """Writes on the main process only; every method may be called on all of them."""

    def __init__(self, config: RunConfig, accelerator: Accelerator, start_step: int, shown: Sequence[str]) -> None:
        self.config, self.accelerator, self.shown = config, accelerator, shown
        self.folder = Path(config.out)
        self.path = self.folder / "metrics.jsonl"
        self._skipped: dict[str, str] = {}
        if accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.json").write_text(json.dumps(config.as_dict(), indent=1) + "\n")
            self._drop_lines_after(start_step)
            self._read_skipped()
        if config.tracker is not None:
            accelerator.init_trackers("latentcodec", config=config.as_dict())
        self._bar = progress(
            config.steps * config.batch_size, start_step * config.batch_size, shown=accelerator.is_main_process
        )

    def _drop_lines_after(self, step: int) -> None:
        # Lines of steps that a killed run made after its last checkpoint; they will be made again.
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            self.path.write_text("".join(line + "\n" for line in kept))

    def _read_skipped(self) -> None:
        path = self.folder / "skipped.jsonl"
        if path.exists():
            rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            self._skipped = {row["id"]: row["reason"] for row in rows}

    def advance(self, images: int) -> None:
        """Move the progress bar."""
        self._bar.update(images)

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        if self.accelerator.is_main_process:
            self._bar.write(text)

    def log(self, kind: str, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl: {"kind": "train" | "validation" | ..., "step": ..., **values}."""
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if self.config.tracker is not None:
            self.accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)
        if kind == "train":
            beside = " ".join(f"{name} {values[name]:.4g}" for name in self.shown if name in values)
            self._bar.set_postfix_str(beside, refresh=False)

    def measured(self, step: int, means: dict[str, float]) -> None:
        """The figures of a validation, as a line of the log and on the screen."""
        self.log("validation", step, means)
        self.say(f"step {step}: " + "  ".join(f"{name} {value:.4g}" for name, value in means.items()))

    def rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """A file of one JSON object a line in the run's folder, in place of the one of the last validation."""
        if self.accelerator.is_main_process:
            (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def picture(self, step: int, picture: Image) -> None:
        """What the averaged weights give after `step` updates."""
        if self.accelerator.is_main_process:
            save_png(picture, self.folder / "pictures" / f"step-{step:08d}.png")

    def skipped(self, broken: list[tuple[str, str]]) -> None:
        """Images that could not be decoded, each listed once in skipped.jsonl and counted on the screen."""
        new: dict[str, Any] = {id: reason for id, reason in broken if id not in self._skipped}
        if not new or not self.accelerator.is_main_process:
            return
        self._skipped |= new
        with (self.folder / "skipped.jsonl").open("a") as file:
            file.writelines(json.dumps({"id": id, "reason": reason}) + "\n" for id, reason in new.items())
        first = next(iter(new.items()))
        self.say(f"skipped {len(self._skipped)} broken images so far, listed in skipped.jsonl; {first[0]}: {first[1]}")

    def close(self) -> None:
        """End the bar and the tracker."""
        self._bar.close()
        if self.config.tracker is not None:
            self.accelerator.end_training()


def read_metrics(run: Path, kind: str) -> dict[str, np.ndarray]:
    """{name: values} of the lines of one kind in a run's metrics.jsonl, `step` included."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [line for line in lines if line["kind"] == kind]
    names = sorted({name for row in rows for name in row} - {"kind"})
    return {name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names}
