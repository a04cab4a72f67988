"""Load and save a VAE: diffusers folder, hub name, single file, or the short name of shipped weights."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latentcodec.vae.families import FAMILIES
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.geometry import empty_vae, infer_config
from latentcodec.vae.hub import Folder, HubFolder, LocalFolder
from latentcodec.vae.ldm import config_from_metadata, to_diffusers
from latentcodec.vae.presets import PRESETS
from latentcodec.vae.weights import (
    WEIGHT_SUFFIXES,
    NonFiniteWeightsError,
    VAELoadError,
    cast_state,
    plain_state,
    read_weights,
    some,
)

__all__ = ["PRETRAINED", "VARIANTS", "VAELoadError", "load_vae", "save_vae", "shipped_names"]

PRETRAINED = Path(__file__).parent / "pretrained"
"""Folders of weights that come with the package, by short name."""

VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Variants that `save_vae` writes, and the type of their values. `load_vae` reads a variant of any name."""

_WEIGHTS = "diffusion_pytorch_model"


def load_vae(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    variant: str | None = None,
    revision: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    norm_num_groups: int | None = None,
) -> AutoencoderKL:
    """Load a VAE, in evaluation mode, with every tensor of the file in the network and every one of the network set.

    Args:
        source: the first of these that exists:

            - a diffusers folder (config.json and weights, also in shards), or a pipeline's folder with one in `vae/`;
            - a file of weights, .safetensors, or .ckpt, .bin, .pt, .pth without code, in LDM or diffusers names, with
              or without the prefix `first_stage_model.` or `vae.`. One named as in a diffusers folder
              (`diffusion_pytorch_model...`) is read with the config.json beside it;
            - the short name of shipped weights (`shipped_names()`);
            - `owner/name` on the Hugging Face hub, cached there after the first time.
        dtype: type of the weights; float32 if None, whatever the file holds.
        device: where the network goes.
        variant: "fp16" reads `diffusion_pytorch_model.fp16.safetensors` of a folder; None reads the plain file. A
            folder that lacks the one that was asked for is an error, never a reason to take the other.
        revision: branch, tag or commit on the hub.
        scaling_factor: latents = (moments - shift) * scaling_factor. A single file that `save_ldm` did not write does
            not say it, and no value is assumed: pass it. Given for another source, it replaces what is written there.
            A diffusers config without the key means 0.18215, as it does in diffusers.
        shift_factor: likewise; None keeps what the source says.
        norm_num_groups: likewise. For a single file that does not say it, LDM's 32 is taken.

    Raises:
        VAELoadError: nothing there, a damaged or unsafe file, a config that is no AutoencoderKL, missing or unexpected
            tensors, wrong shapes, values that are not finite, no scaling factor.
    """
    path = Path(source).expanduser()
    stated = {"scaling_factor": scaling_factor, "shift_factor": shift_factor, "norm_num_groups": norm_num_groups}
    stated = {name: value for name, value in stated.items() if value is not None}
    if path.is_file():
        if variant is not None or revision is not None:
            raise VAELoadError(f"{path} is a single file: variant and revision choose among files of a folder")
        config, state = _read_file(path, stated)
        label = str(path)
    else:
        folder = _find_folder(source, path, revision)
        config, state = _read_folder(folder, variant)
        label = folder.label
    with _named(label):
        vae = _assemble(config | stated, state, torch.float32 if dtype is None else dtype)
    return vae.to(device).eval()


def shipped_names() -> list[str]:
    """Short names of the weights that come with the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def _find_folder(source: str | Path, path: Path, revision: str | None) -> Folder:
    if path.is_dir():
        return LocalFolder(path)
    name = str(source)
    if name in shipped_names():
        return LocalFolder(PRETRAINED / name)
    if isinstance(source, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and path.suffix not in WEIGHT_SUFFIXES:
        return HubFolder(name, revision)
    hint = f"; {name!r} is a preset, an architecture without weights: build_vae makes one" if name in PRESETS else ""
    raise VAELoadError(
        f"no VAE at {name!r}: expected a folder or file (looked at {path.absolute()}), one of the shipped names "
        f"({', '.join(shipped_names()) or 'none'}), or owner/name on the Hugging Face hub{hint}"
    )


def _read_folder(folder: Folder, variant: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    inside, config = _read_config(folder)
    dotted = f".{variant}" if variant else ""
    wanted = [inside + _WEIGHTS + end for end in (f"{dotted}.safetensors", f".safetensors.index{dotted}.json",
                                                  f"{dotted}.bin", f".bin.index{dotted}.json")]  # fmt: skip
    for name in wanted:
        file = folder.file(name)
        if file is None:
            continue
        state = _read_shards(folder, inside, file) if name.endswith(".json") else read_weights(file).state
        with _named(f"{folder.label}, {name}"):
            return config, to_diffusers(state)
    held = [v for v in VARIANTS if v != variant and folder.file(f"{inside}{_WEIGHTS}.{v}.safetensors")]
    remedy = f" It has the variant {held[0]}: pass variant={held[0]!r}." if held else ""
    if variant and folder.file(f"{inside}{_WEIGHTS}.safetensors"):
        remedy = f" It has weights without a variant, not {variant!r}: leave out variant."
    raise VAELoadError(f"{folder.label}: no weights, looked for {', '.join(wanted)}.{remedy or folder.hint()}")


def _read_config(folder: Folder) -> tuple[str, dict[str, Any]]:
    """Where in the folder the VAE lies ("" or "vae/"), and its config."""
    others = []
    for inside in ("", "vae/"):
        file = folder.file(f"{inside}config.json")
        if file is None:
            continue
        config = _read_json(file)
        # Configs written by hand may leave out the class; those of other libraries have other keys.
        kind = config.get("_class_name", "AutoencoderKL" if "block_out_channels" in config else "another model")
        if kind == "AutoencoderKL":
            return inside, config
        others.append(f"{inside}config.json describes {kind}")
    found = f" {'; '.join(others)}." if others else folder.hint()
    raise VAELoadError(f"{folder.label}: no AutoencoderKL, looked for config.json and vae/config.json.{found}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # also UnicodeDecodeError
        raise VAELoadError(f"{file} is not JSON ({error}); fetch or write it again") from error
    if not isinstance(content, dict):
        raise VAELoadError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def _read_shards(folder: Folder, inside: str, index: Path) -> dict[str, Tensor]:
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(
        isinstance(name, str) and name == Path(name).name for name in shards.values()
    ):
        raise VAELoadError(f"{index}: expected 'weight_map' to name a file beside it for each tensor")
    state: dict[str, Tensor] = {}
    for name in sorted(set(shards.values())):
        file = folder.file(inside + name)
        if file is None:
            raise VAELoadError(
                f"{folder.label}: the shard {inside}{name} is absent, though {index.name} names it.{folder.hint()}"
            )
        state |= read_weights(file).state
    return state


def _read_file(path: Path, stated: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    file = read_weights(path)
    beside = LocalFolder(path.parent)
    with _named(str(path)):
        state = to_diffusers(file.state)
        config = config_from_metadata(file.metadata)
        if config is not None:
            _check_fingerprint(state, file.metadata)
        elif path.name.startswith(_WEIGHTS) and beside.file("config.json"):
            _, config = _read_config(beside)
        else:
            config = infer_config(state, norm_num_groups=stated.get("norm_num_groups"))
            if (scale := file.state.get("scale_factor")) is not None:
                config["scaling_factor"] = scale.item()  # a buffer of LDM checkpoints trained with scale_by_std
            if "scaling_factor" not in {**config, **stated}:
                raise VAELoadError(_no_scaling_factor())
    return config, state


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


def _check_fingerprint(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    expected, found = metadata.get("fingerprint"), weights_fingerprint(state)
    if expected != found:
        raise VAELoadError(
            f"the header promises weights {expected}, found {found}: the tensors were changed after the file was "
            "written, so its scaling factor may not hold; get the file again, or write changed weights with save_ldm"
        )


def _assemble(config: Mapping[str, Any], state: Mapping[str, Tensor], dtype: torch.dtype) -> AutoencoderKL:
    """The network of `config` with the tensors of `state`, on the CPU."""
    try:
        vae = empty_vae(config)
    except (ValueError, TypeError, IndexError) as error:
        raise VAELoadError(f"the config describes no AutoencoderKL: {error}") from error
    shapes = {key: tuple(value.shape) for key, value in vae.state_dict().items()}
    wrong = [
        f"{key} {tuple(state[key].shape)} where the config asks for {shape}"
        for key, shape in shapes.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    problems = {
        "missing tensors": [key for key in shapes if key not in state],
        "unexpected tensors": [key for key in state if key not in shapes],
        "wrong shapes": wrong,
    }
    if any(problems.values()):
        told = "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in problems.items() if keys)
        raise VAELoadError(f"the weights do not fit the network of the config: {told}")
    vae.load_state_dict(cast_state(state, dtype), strict=True, assign=True)
    return vae


@contextmanager
def _named(label: str) -> Iterator[None]:
    """Put the source before the message of an error that knows only of tensors."""
    try:
        yield
    except (VAELoadError, NonFiniteWeightsError) as error:
        raise VAELoadError(f"{label}: {error}") from error


def save_vae(vae: AutoencoderKL, folder: str | Path, *, variant: str | None = None) -> None:
    """Write a diffusers folder: config.json and one .safetensors file, whole or not at all.

    Without a variant the folder is this VAE from now on: weights of a previous save, variants included, go; other
    files stay. With one, the file is put beside what is there, which must have the same config. A new folder appears
    by one rename. In an old one config.json goes first and comes last, so what an interruption leaves does not load.

    Args:
        vae: the network, on any device; stored in its own type without a variant.
        folder: where to write; parents are made.
        variant: "fp16" or "bf16": the weights rounded to that type, as `diffusion_pytorch_model.fp16.safetensors`.

    Raises:
        ValueError: unknown variant, a variant for a folder with another config, or a folder of another model.
        NonFiniteWeightsError: values that are NaN, infinite or out of the type's range.
    """
    folder = Path(folder).absolute()
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)} or None, found {variant!r}")
    if (folder / "config.json").is_file():
        kind = _read_json(folder / "config.json").get("_class_name", "AutoencoderKL")
        if kind != "AutoencoderKL":
            raise ValueError(f"{folder} holds a {kind}, which would be overwritten; choose another folder")
    name = f"{_WEIGHTS}.{variant}.safetensors" if variant else f"{_WEIGHTS}.safetensors"
    state = cast_state(plain_state(vae), VARIANTS[variant] if variant else vae.dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        vae.save_config(staging)
        safetensors.torch.save_file(state, staging / name, metadata={"format": "pt"})
        if variant and (folder / "config.json").is_file():
            _require_same_config(folder / "config.json", staging / "config.json")
            os.replace(staging / name, folder / name)
        elif folder.is_dir():
            (folder / "config.json").unlink(missing_ok=True)
            for old in folder.glob(f"{_WEIGHTS}*"):
                old.unlink()
            os.replace(staging / name, folder / name)
            os.replace(staging / "config.json", folder / "config.json")
        else:
            os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _require_same_config(old: Path, new: Path) -> None:
    """Raise unless two config.json describe the same VAE; keys of diffusers' own (`_diffusers_version`) may differ."""
    theirs, ours = _read_json(old), _read_json(new)
    fields = sorted(key for key in theirs.keys() | ours.keys() if not key.startswith("_"))
    differing = [
        f"{key} {theirs.get(key)!r} there, {ours.get(key)!r} here" for key in fields if theirs.get(key) != ours.get(key)
    ]
    if differing:
        raise ValueError(
            f"{old} describes another VAE ({some(differing, 3)}); save this one without a variant first, or elsewhere"
        )
