"""Tensors in files: safetensors or a pickle of tensors in, safetensors out, never half a file."""

import math
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from torch import Tensor

PICKLE_SUFFIXES = (".ckpt", ".bin", ".pt", ".pth")
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
_GIT_LFS = b"version https://git-lfs"


class VAELoadError(ValueError):
    """A VAE could not be loaded. The message names the file or the tensors, what was expected, and what to do."""


class NonFiniteWeightsError(ValueError):
    """Weights that hold NaN or infinity, or would in the type that was asked for. The message names the tensors."""


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds."""

    state: dict[str, Tensor]
    """Tensors by the names in the file. Those of a safetensors file may still be a view of the file."""
    metadata: dict[str, str]
    """The safetensors header's own words; empty for a pickle."""


def read_weights(path: Path) -> WeightsFile:
    """Read a .safetensors file, or a .ckpt, .bin, .pt or .pth file that holds nothing but tensors.

    A pickle is opened with `weights_only=True`: it can hold tensors, numbers and text, and run no code. If the
    tensors lie under "state_dict", as in checkpoints of latent-diffusion, those are taken.

    Raises:
        VAELoadError: another suffix, a damaged file, a pickle that asks for more, or one without tensors.
    """
    if path.suffix not in WEIGHT_SUFFIXES:
        raise VAELoadError(f"{path}: expected a file named {', '.join(WEIGHT_SUFFIXES)}, found {path.suffix or 'none'}")
    with path.open("rb") as file:
        if file.read(len(_GIT_LFS)) == _GIT_LFS:
            raise VAELoadError(f"{path} is a git-lfs pointer, not the weights; fetch them with `git lfs pull`")
    return _read_safetensors(path) if path.suffix == ".safetensors" else WeightsFile(_read_pickle(path), {})


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return WeightsFile({key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {}))  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise VAELoadError(f"{path} is damaged or no safetensors file ({error}); fetch or write it again") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise VAELoadError(
            f"{path} is a pickle that holds more than tensors, and opening it would run code that came with the file, "
            "so it is refused; get the weights as .safetensors, or convert the file where you trust it"
        ) from error
    except (RuntimeError, EOFError) as error:  # a cut zip archive, an empty file
        raise VAELoadError(f"{path} is damaged or no file of torch.save ({error}); fetch or write it again") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise VAELoadError(f"{path}: expected a dict of tensors, by name or under 'state_dict', found no tensors")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def plain_state(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The tensors of a VAE on the CPU by their diffusers names, also if its encoder or decoder is compiled.

    They share memory with the network if it is on the CPU. `torch.compile(vae.encoder)` wraps the module and so puts
    `_orig_mod.` into the names; it is taken out.
    """
    return {key.replace("_orig_mod.", ""): value.detach().cpu() for key, value in vae.state_dict().items()}


def cast_state(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of the tensors in `dtype`, in plain row-major memory that nothing else shares.

    Raises:
        NonFiniteWeightsError: a value is NaN or infinite, or becomes so because it is out of the range of `dtype`.
    """
    cast = {key: value.to(dtype, copy=True, memory_format=torch.contiguous_format) for key, value in state.items()}
    broken = [key for key, value in cast.items() if not _all_finite(value)]
    if broken:
        overflow = [key for key in broken if _all_finite(state[key])]
        what = f"values out of the range of {dtype}" if overflow else "NaN or infinite values"
        remedy = "use float32 or bfloat16" if overflow else "the weights are damaged; get or train them again"
        raise NonFiniteWeightsError(f"{some(overflow or broken)}: {what}; {remedy}")
    return cast


def _all_finite(values: Tensor) -> bool:
    low, high = values.aminmax()  # NaN if any value is; one pass and no temporary, unlike isfinite over the tensor
    return math.isfinite(low.item()) and math.isfinite(high.item())


def count_indexed(keys: Iterable[str], pattern: str) -> int:
    """How many numbered parts the keys tell of: one more than the largest number that `pattern` captures, else 0."""
    found = (re.match(pattern, key) for key in keys)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def some(names: list[str], most: int = 5) -> str:
    """The first few of many names for a message: "a, b and 7 more"."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to. It takes the place of `path` when the block ends well, else it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
