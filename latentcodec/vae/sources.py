"""Find and read a VAE: diffusers folder, hub name, single file, or the short name of shipped weights. No torch.

What comes out is a config and tensors. `load_vae` reads torch tensors and makes the network; `inspect` reads
`StoredTensor`s and only looks.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, runtime_checkable

from latentcodec.vae.families import FAMILIES
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.geometry import infer_config
from latentcodec.vae.ldm import config_from_metadata, to_diffusers
from latentcodec.vae.presets import PRESETS
from latentcodec.vae.stored import WEIGHT_SUFFIXES, NonFiniteWeightsError, T, VAELoadError, WeightsFile

PRETRAINED = Path(__file__).parent / "pretrained"
"""Folders of weights that come with the package, by short name."""

DEFAULT = "f8d16"
"""The short name that is meant where none is given."""

VARIANTS = ("fp16", "bf16")
"""Variants that `save_vae` writes. A variant of any name can be read."""

WEIGHTS_NAME = "diffusion_pytorch_model"
"""How the weights in a diffusers folder are called, before a variant and the suffix."""


@runtime_checkable
class Folder(Protocol):
    """Files of a VAE by name: a folder on disk, or a repository on the hub (`latentcodec.vae.hub`)."""

    label: str
    """What messages call it."""

    def file(self, name: str) -> Path | None:
        """Where the file of that relative name lies on this machine; None if the folder does not have it."""

    def hint(self) -> str:
        """A sentence for the message that a file is absent, with a leading space; empty if there is nothing to say."""


class LocalFolder:
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = str(path)

    def file(self, name: str) -> Path | None:
        """As `Folder.file`."""
        path = self.path / name
        return path if path.is_file() else None

    def hint(self) -> str:
        """As `Folder.hint`."""
        files = sorted(path.name for path in self.path.iterdir())
        return f" The folder holds {', '.join(files[:8]) + (', ...' if files[8:] else '') or 'nothing'}."


Reader = Callable[[Path], WeightsFile[T]]


@dataclass(frozen=True)
class Source(Generic[T]):
    """What was found."""

    label: str
    """What messages call it."""
    config: dict[str, Any]
    """The AutoencoderKL config, as far as the source says it or its shapes tell, with what the caller stated."""
    state: dict[str, T]
    """The tensors, in today's diffusers names."""
    fingerprint: str | None = None
    """Of these weights, where the source promised one and it was found to be true."""


def read_source(
    source: str | Path,
    read: Reader[T],
    *,
    variant: str | None = None,
    revision: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    norm_num_groups: int | None = None,
    require_scale: bool = True,
) -> Source[T]:
    """Find what `source` names and read its config and tensors. The arguments are those of `load_vae`.

    Args:
        read: reads one file of weights: `read_weights` into torch tensors, `read_stored` without torch.
        require_scale: refuse a file that does not say its scaling factor; if False, it is None in the config.

    Raises:
        VAELoadError: nothing there, a damaged or unsafe file, a config that is no AutoencoderKL, no scaling factor.
    """
    path = Path(source).expanduser()
    stated = {"scaling_factor": scaling_factor, "shift_factor": shift_factor, "norm_num_groups": norm_num_groups}
    stated = {name: value for name, value in stated.items() if value is not None}
    if path.is_file():
        if variant is not None or revision is not None:
            raise VAELoadError(f"{path} is a single file: variant and revision choose among files of a folder")
        return _read_file(path, read, stated, require_scale)
    return _read_folder(_find_folder(source, path, revision), read, variant, stated)


def shipped_names() -> list[str]:
    """Short names of the weights that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def default_source() -> str:
    """The short name of the weights that are used where none are named.

    Raises:
        VAELoadError: this installation has none.
    """
    names = shipped_names()
    if DEFAULT not in names:
        raise VAELoadError(
            "source: expected the VAE to use, found none; pass weights of your own: a diffusers folder, a .safetensors "
            "file, or owner/name on the Hugging Face hub"
        )
    return DEFAULT


def find_beside(source: str | Path, name: str, *, revision: str | None = None) -> Path | None:
    """A file that belongs to a VAE: `name` in its folder or repository, where the weights are; beside a single file
    STEM.safetensors it is STEM.name. None if it is not there.

    Raises:
        VAELoadError: there is no such VAE.
    """
    path = Path(source).expanduser()
    if path.is_file():
        beside = path.with_suffix(f".{name}")
        return beside if beside.is_file() else None
    folder = _find_folder(source, path, revision)
    return folder.file(name) or folder.file(f"vae/{name}")


def _find_folder(source: str | Path, path: Path, revision: str | None) -> Folder:
    if path.is_dir():
        return LocalFolder(path)
    name = str(source)
    if name in shipped_names():
        return LocalFolder(PRETRAINED / name)
    if isinstance(source, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and path.suffix not in WEIGHT_SUFFIXES:
        from latentcodec.vae.hub import HubFolder  # the client library of the hub takes a while to import

        return HubFolder(name, revision)
    hint = f"; {name!r} is a preset, an architecture without weights: build_vae makes one" if name in PRESETS else ""
    raise VAELoadError(
        f"no VAE at {name!r}: expected a folder or file (looked at {path.absolute()}), one of the shipped names "
        f"({', '.join(shipped_names()) or 'none'}), or owner/name on the Hugging Face hub{hint}"
    )


def _read_folder(folder: Folder, read: Reader[T], variant: str | None, stated: dict[str, Any]) -> Source[T]:
    inside, config = _read_config(folder)
    dotted = f".{variant}" if variant else ""
    wanted = [inside + WEIGHTS_NAME + end for end in (f"{dotted}.safetensors", f".safetensors.index{dotted}.json",
                                                  f"{dotted}.bin", f".bin.index{dotted}.json")]  # fmt: skip
    for name in wanted:
        file = folder.file(name)
        if file is None:
            continue
        state = _read_shards(folder, inside, file, read) if name.endswith(".json") else read(file).state
        with named(f"{folder.label}, {name}"):
            return Source(folder.label, config | stated, to_diffusers(state))
    held = [v for v in VARIANTS if v != variant and folder.file(f"{inside}{WEIGHTS_NAME}.{v}.safetensors")]
    remedy = f" It has the variant {held[0]}: pass variant={held[0]!r}." if held else ""
    if variant and folder.file(f"{inside}{WEIGHTS_NAME}.safetensors"):
        remedy = f" It has weights without a variant, not {variant!r}: leave out variant."
    raise VAELoadError(f"{folder.label}: no weights, looked for {', '.join(wanted)}.{remedy or folder.hint()}")


def _read_config(folder: Folder) -> tuple[str, dict[str, Any]]:
    """Where in the folder the VAE lies ("" or "vae/"), and its config."""
    others = []
    for inside in ("", "vae/"):
        file = folder.file(f"{inside}config.json")
        if file is None:
            continue
        config = read_json(file)
        # Configs written by hand may leave out the class; those of other libraries have other keys.
        kind = config.get("_class_name", "AutoencoderKL" if "block_out_channels" in config else "another model")
        if kind == "AutoencoderKL":
            return inside, config
        others.append(f"{inside}config.json describes {kind}")
    found = f" {'; '.join(others)}." if others else folder.hint()
    raise VAELoadError(f"{folder.label}: no AutoencoderKL, looked for config.json and vae/config.json.{found}")


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; VAELoadError if it holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # also UnicodeDecodeError
        raise VAELoadError(f"{file} is not JSON ({error}); fetch or write it again") from error
    if not isinstance(content, dict):
        raise VAELoadError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def _read_shards(folder: Folder, inside: str, index: Path, read: Reader[T]) -> dict[str, T]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(
        isinstance(name, str) and name == Path(name).name for name in shards.values()
    ):
        raise VAELoadError(f"{index}: expected 'weight_map' to name a file beside it for each tensor")
    state: dict[str, T] = {}
    for name in sorted(set(shards.values())):
        file = folder.file(inside + name)
        if file is None:
            raise VAELoadError(
                f"{folder.label}: the shard {inside}{name} is absent, though {index.name} names it.{folder.hint()}"
            )
        state |= read(file).state
    return state


def _read_file(path: Path, read: Reader[T], stated: dict[str, Any], require_scale: bool) -> Source[T]:
    file = read(path)
    beside = LocalFolder(path.parent)
    fingerprint = None
    with named(str(path)):
        state = to_diffusers(file.state)
        config = config_from_metadata(file.metadata)
        if config is not None:
            fingerprint = _checked_fingerprint(state, file.metadata)
        elif path.name.startswith(WEIGHTS_NAME) and beside.file("config.json"):
            _, config = _read_config(beside)
        else:
            config = infer_config(state, norm_num_groups=stated.get("norm_num_groups"))
            if (scale := file.state.get("scale_factor")) is not None:
                config["scaling_factor"] = scale.item()  # a buffer of LDM checkpoints trained with scale_by_std
            if "scaling_factor" not in {**config, **stated}:
                if require_scale:
                    raise VAELoadError(_no_scaling_factor())
                config["scaling_factor"] = None  # not diffusers' default, which is Stable Diffusion's
    return Source(str(path), config | stated, state, fingerprint)


def _no_scaling_factor() -> str:
    known = [
        f"{family.scaling_factor:g}{f' and shift_factor {family.shift_factor:g}' if family.shift_factor else ''} "
        f"for {family.name}"
        for family in FAMILIES
    ]
    return (
        f"the file does not say its scaling factor; pass scaling_factor: {', '.join(known)}; or 1.0, which leaves the "
        "latents raw and is enough to reconstruct or compress images"
    )


def _checked_fingerprint(state: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    expected, found = metadata.get("fingerprint"), weights_fingerprint(state)
    if expected != found:
        raise VAELoadError(
            f"the header promises weights {expected}, found {found}: the tensors were changed after the file was "
            "written, so its scaling factor may not hold; get the file again, or write changed weights with save_ldm"
        )
    return found


@contextmanager
def named(label: str) -> Iterator[None]:
    """Put the source before the message of an error that knows only of tensors."""
    try:
        yield
    except (VAELoadError, NonFiniteWeightsError) as error:
        raise VAELoadError(f"{label}: {error}") from error
