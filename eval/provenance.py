"""Where and with what a figure was measured: what every results file carries."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("latentcodec", "torch", "torchvision", "diffusers", "accelerate", "lpips", "numpy", "pillow")
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def provenance(device: torch.device | str = "cpu", *, packages: tuple[str, ...] = PACKAGES) -> dict[str, Any]:
    """Device, threads, versions, commit and time (UTC), with JSON types.

    `commit` is None outside a git checkout, and ends in "+changes" where tracked files differ from it.
    """
    return {
        "device": device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: installed for name in packages if (installed := installed_version(name)) is not None},
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name(device: torch.device) -> str:
    """The GPU's name; or the processor's model, the cores this process may use, and what multiplies matrices."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    model = fields.get("model name") or platform.processor() or platform.machine()
    has = [flag for flag in _CPU_FLAGS if flag in fields.get("flags", "").split()]
    return ", ".join([model, f"{cores} cores", *has])


def installed_version(package: str) -> str | None:
    """Of a distribution; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Of the checkout that this file is in."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+changes", "--exclude=*"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):  # no git, or no checkout: a source archive
        return None
    return described.stdout.strip()
