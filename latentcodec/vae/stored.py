"""Tensors of a safetensors file as they lie on disk: names, types, shapes and values, without torch.

torch and diffusers take seconds to import, numpy a tenth of one. What only looks at a file works on these.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

PICKLE_SUFFIXES = (".ckpt", ".bin", ".pt", ".pth")
WEIGHT_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)

NOT_FINITE = "NaN or infinite values; the weights are damaged; get or train them again"

# The type names of safetensors that numpy reads. bfloat16 is the upper half of a float32, see `StoredTensor.float32`.
_NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_GIT_LFS = b"version https://git-lfs"


class VAELoadError(ValueError):
    """A VAE could not be loaded. The message names the file or the tensors, what was expected, and what to do."""


class NonFiniteWeightsError(ValueError):
    """Weights that hold NaN or infinity, or would in the type that was asked for. The message names the tensors."""


@runtime_checkable
class Shaped(Protocol):
    """What names and geometry need of a tensor. `torch.Tensor` has it, and so has `StoredTensor`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def reshape(self, *shape: int) -> Any: ...

    def item(self) -> Any: ...


T = TypeVar("T", bound=Shaped)


@dataclass(frozen=True)
class WeightsFile(Generic[T]):
    """What a file of weights holds."""

    state: dict[str, T]
    """Tensors by the names in the file. Those of a safetensors file may still be a view of the file."""
    metadata: dict[str, str]
    """The safetensors header's own words; empty for a pickle."""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One tensor of a safetensors file; its bytes are read when they are used."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it: "F32", "F16", "BF16", ..."""
    data: np.ndarray
    """Its bytes, as a view of the mapped file."""

    def reshape(self, *shape: int) -> "StoredTensor":
        """The same values in another shape with as many of them."""
        if prod(shape) != prod(self.shape):
            raise ValueError(f"expected a shape of {prod(self.shape)} values, found {shape}")
        return replace(self, shape=shape)

    def float32(self) -> np.ndarray:
        """The values as little-endian float32, in this shape; a view of the file where it holds float32.

        Raises:
            VAELoadError: a type that is no float of 16, 32 or 64 bits.
        """
        if self.dtype not in _NUMPY_TYPES:
            raise VAELoadError(f"expected tensors of type {', '.join(_NUMPY_TYPES)}, found {self.dtype}")
        values = self.data.view(_NUMPY_TYPES[self.dtype])
        if self.dtype == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        return values.astype("<f4", copy=False).reshape(self.shape)

    def item(self) -> float:
        """The value of a tensor that holds only one."""
        return float(self.float32().item())

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        values = self.float32()  # min and max are NaN if any value is; no temporary, unlike isfinite over the tensor
        return not values.size or (isfinite(values.min()) and isfinite(values.max()))


def refuse_git_lfs(path: Path) -> None:
    """Raise VAELoadError for the text file that git-lfs leaves where it has not fetched the real one."""
    with path.open("rb") as file:
        if file.read(len(_GIT_LFS)) == _GIT_LFS:
            raise VAELoadError(f"{path} is a git-lfs pointer, not the weights; fetch them with `git lfs pull`")


def read_stored(path: Path) -> WeightsFile[StoredTensor]:
    """The tensors of a .safetensors file: an 8-byte length, a JSON header of that length, the values.

    Raises:
        VAELoadError: another suffix, or a damaged file.
    """
    if path.suffix != ".safetensors":
        raise VAELoadError(f"{path}: expected a .safetensors file, found {path.suffix or 'no suffix'}")
    refuse_git_lfs(path)
    try:
        header, values = _header_and_values(path)
        metadata = header.pop("__metadata__", {})
        state = {name: _stored(entry, values) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError) as error:  # of JSON, of the entries, or of a file that ends too early
        raise VAELoadError(f"{path} is damaged or no safetensors file ({error}); fetch or write it again") from error
    return WeightsFile(state, metadata)


def _header_and_values(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    size = path.stat().st_size
    if size < 8:
        raise ValueError(f"{size} bytes, which is not even a header's length")
    content = np.memmap(path, dtype=np.uint8, mode="r")
    length = int.from_bytes(content[:8].tobytes(), "little")
    if length > min(_MAX_HEADER, size - 8):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    return json.loads(content[8 : 8 + length].tobytes()), content[8 + length :]


def _stored(entry: dict[str, Any], values: np.ndarray) -> StoredTensor:
    shape, dtype, (first, last) = tuple(entry["shape"]), entry["dtype"], entry["data_offsets"]
    if not 0 <= first <= last <= len(values):
        raise ValueError(f"values at bytes {first} to {last} of {len(values)}")
    bits = re.search(r"\d+", dtype)
    if dtype in _NUMPY_TYPES and bits and prod(shape) * int(bits[0]) != 8 * (last - first):
        raise ValueError(f"{last - first} bytes for {dtype} values of shape {shape}")
    return StoredTensor(shape, dtype, values[first:last])


def count_indexed(keys: Iterable[str], pattern: str) -> int:
    """How many numbered parts the keys tell of: one more than the largest number that `pattern` captures, else 0."""
    found = (re.match(pattern, key) for key in keys)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def require_finite(state: Mapping[str, StoredTensor]) -> None:
    """Raise NonFiniteWeightsError, with the names, if a value is NaN or infinite."""
    if broken := [key for key, value in state.items() if not value.is_finite()]:
        raise NonFiniteWeightsError(f"{some(broken)}: {NOT_FINITE}")


def some(names: list[str], most: int = 5) -> str:
    """The first few of many names for a message: "a, b and 7 more"."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
