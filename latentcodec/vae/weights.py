"""Tensors in files: safetensors, or a pickle of tensors; and what becomes of them on the way to a file."""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latentcodec.vae.stored import (
    NOT_FINITE,
    WEIGHT_SUFFIXES,
    NonFiniteWeightsError,
    StoredTensor,
    VAELoadError,
    WeightsFile,
    refuse_git_lfs,
    some,
)

_STORED_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def read_weights(path: Path) -> WeightsFile[Tensor]:
    """Read a .safetensors file, or a .ckpt, .bin, .pt or .pth file that holds nothing but tensors.

    A pickle is opened with `weights_only=True`: it can hold tensors, numbers and text, and run no code. If the
    tensors lie under "state_dict", as in checkpoints of latent-diffusion, those are taken.

    Raises:
        VAELoadError: another suffix, a damaged file, a pickle that asks for more, or one without tensors.
    """
    if path.suffix not in WEIGHT_SUFFIXES:
        raise VAELoadError(f"{path}: expected a file named {', '.join(WEIGHT_SUFFIXES)}, found {path.suffix or 'none'}")
    refuse_git_lfs(path)
    return _read_safetensors(path) if path.suffix == ".safetensors" else WeightsFile(_read_pickle(path), {})


def _read_safetensors(path: Path) -> WeightsFile[Tensor]:
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


def as_stored(value: Tensor) -> StoredTensor:
    """The tensor as a safetensors file would hold it."""
    value = value.detach().cpu().contiguous()
    if value.dtype not in _STORED_TYPES:
        value = value.float()
    data = value.reshape(-1).view(torch.uint8).numpy()
    return StoredTensor(tuple(value.shape), _STORED_TYPES[value.dtype], data)


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
        what = f"values out of the range of {dtype}; use float32 or bfloat16" if overflow else NOT_FINITE
        raise NonFiniteWeightsError(f"{some(overflow or broken)}: {what}")
    return cast


def _all_finite(values: Tensor) -> bool:
    low, high = values.aminmax()  # NaN if any value is; one pass and no temporary, unlike isfinite over the tensor
    return math.isfinite(low.item()) and math.isfinite(high.item())
