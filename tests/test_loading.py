"""Every source that load_vae takes, what it refuses and in which words, and folders that are never half written."""

import json
import os
import pickle
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from hub_server import HubServer
from torch import Tensor

from latentcodec.vae import loading, sources
from latentcodec.vae.ldm import diffusers_to_ldm, save_ldm
from latentcodec.vae.loading import VAELoadError, load_vae, save_vae
from latentcodec.vae.presets import build_vae
from latentcodec.vae.stored import NonFiniteWeightsError

SAFETENSORS = "diffusion_pytorch_model.safetensors"


def small_vae(**overrides: Any) -> AutoencoderKL:
    return build_vae("tiny-f8d4", **({"block_out_channels": (16, 32, 32), "norm_num_groups": 4} | overrides)).eval()


@pytest.fixture
def vae() -> AutoencoderKL:
    return small_vae(scaling_factor=0.75, shift_factor=0.125, sample_size=64, force_upcast=False)


@pytest.fixture
def folder(vae: AutoencoderKL, tmp_path: Path) -> Path:
    save_vae(vae, tmp_path / "vae")
    return tmp_path / "vae"


def fields(vae: AutoencoderKL) -> dict[str, Any]:
    """The config as JSON has it, without diffusers' own keys."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in vae.config.items() if key[0] != "_"
    }


def assert_same(found: AutoencoderKL, expected: AutoencoderKL) -> None:
    assert fields(found) == fields(expected)
    assert found.state_dict().keys() == expected.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value), key


def write(state: dict[str, Tensor], path: Path) -> Path:
    safetensors.torch.save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_gives_back_the_same_network(vae: AutoencoderKL, folder: Path) -> None:
    loaded = load_vae(folder)
    assert_same(loaded, vae)
    assert not loaded.training
    assert loaded.encoder.conv_in.weight.requires_grad
    assert_same(AutoencoderKL.from_pretrained(folder, local_files_only=True), vae)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", SAFETENSORS]


def test_loading_draws_no_random_numbers_and_keeps_no_hold_on_the_file(vae: AutoencoderKL, folder: Path) -> None:
    before = torch.get_rng_state()
    loaded = load_vae(str(folder))
    assert torch.equal(torch.get_rng_state(), before)
    with (folder / SAFETENSORS).open("r+b") as file:  # overwritten in place, as a careless copy would
        file.write(bytes((folder / SAFETENSORS).stat().st_size))
    assert_same(loaded, vae)


def test_a_pipeline_folder_has_it_inside(vae: AutoencoderKL, tmp_path: Path) -> None:
    save_vae(vae, tmp_path / "pipeline" / "vae")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    assert_same(load_vae(tmp_path / "pipeline"), vae)


def test_shards_and_pickled_tensors_of_diffusers(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert_same(load_vae(tmp_path / "shards"), vae)
    vae.save_pretrained(tmp_path / "bin", safe_serialization=False)
    assert [path.name for path in (tmp_path / "bin").glob("*.bin")] == ["diffusion_pytorch_model.bin"]
    assert_same(load_vae(tmp_path / "bin"), vae)
    vae.half().save_pretrained(tmp_path / "half", max_shard_size="100KB", variant="fp16")
    assert len(list((tmp_path / "half").glob("*.safetensors"))) > 2
    assert_same(load_vae(tmp_path / "half", variant="fp16"), vae.float())
    shard = min((tmp_path / "shards").glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(VAELoadError, match=rf"the shard {shard.name} is absent"):
        load_vae(tmp_path / "shards")


def test_shards_outside_the_folder_are_not_followed(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.save_pretrained(tmp_path / "vae")
    index = {"weight_map": {"encoder.conv_in.weight": "../other.safetensors"}}
    (tmp_path / "vae" / SAFETENSORS).rename(tmp_path / "other.safetensors")
    (tmp_path / "vae" / f"{SAFETENSORS}.index.json").write_text(json.dumps(index))
    with pytest.raises(VAELoadError, match="expected 'weight_map' to name a file beside it"):
        load_vae(tmp_path / "vae")


@pytest.mark.parametrize(("variant", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_variants(variant: str, dtype: torch.dtype, vae: AutoencoderKL, folder: Path) -> None:
    save_vae(vae, folder, variant=variant)
    stored = safetensors.torch.load_file(folder / f"diffusion_pytorch_model.{variant}.safetensors")
    assert {value.dtype for value in stored.values()} == {dtype}
    loaded = load_vae(folder, variant=variant)
    assert loaded.dtype == torch.float32
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, vae.state_dict()[key].to(dtype).float())
    assert load_vae(folder, variant=variant, dtype=dtype).dtype == dtype
    assert_same(load_vae(folder), vae)  # the plain file is still there
    theirs = AutoencoderKL.from_pretrained(folder, variant=variant, local_files_only=True, torch_dtype=dtype)
    assert_same(theirs, load_vae(folder, variant=variant, dtype=dtype))


def test_an_absent_variant_is_not_replaced_by_another(vae: AutoencoderKL, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VAELoadError, match=r"looked for diffusion_pytorch_model\.fp16\.saf.*leave out variant"):
        load_vae(folder, variant="fp16")
    save_vae(vae, tmp_path / "half", variant="fp16")
    with pytest.raises(VAELoadError, match="It has the variant fp16: pass variant='fp16'"):
        load_vae(tmp_path / "half")


def test_old_diffusers_names_in_a_folder(vae: AutoencoderKL, folder: Path) -> None:
    state = {
        key.replace(".to_q.", ".query.").replace(".to_k.", ".key.").replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn."): value
        for key, value in vae.state_dict().items()
    }  # fmt: skip
    write(state, folder / SAFETENSORS)
    assert_same(load_vae(folder), vae)


def test_scale_given_by_the_caller_wins(folder: Path) -> None:
    config = load_vae(folder, scaling_factor=2.0).config
    assert (config.scaling_factor, config.shift_factor) == (2.0, 0.125)


# --- single files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
@pytest.mark.parametrize("names", ["ldm", "diffusers"])
def test_a_bare_file_needs_its_scale_and_nothing_else(names: str, prefix: str, tmp_path: Path) -> None:
    vae = small_vae(block_out_channels=(32, 32, 32), norm_num_groups=32, sample_size=512, scaling_factor=0.3)
    state = diffusers_to_ldm(vae.state_dict()) if names == "ldm" else vae.state_dict()
    path = write({prefix + key: value for key, value in state.items()}, tmp_path / "vae.safetensors")
    with pytest.raises(VAELoadError, match=r"pass scaling_factor: 0\.18215 for .*0\.1159 for FLUX\.1; or 1\.0"):
        load_vae(path)
    assert_same(load_vae(path, scaling_factor=0.3), vae)
    assert load_vae(path, scaling_factor=0.3, shift_factor=0.1).config.shift_factor == 0.1


@pytest.mark.parametrize("overrides", [
    {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    {"layers_per_block": 1, "mid_block_add_attention": False},
    {"block_out_channels": (8, 16, 16, 24, 24), "use_quant_conv": False},
    {"in_channels": 1, "out_channels": 1, "latent_channels": 3},
])  # fmt: skip
def test_geometry_comes_from_the_shapes(overrides: dict[str, Any], tmp_path: Path) -> None:
    vae = small_vae(sample_size=512, scaling_factor=1.5, **overrides)
    path = write(diffusers_to_ldm(vae.state_dict()), tmp_path / "vae.safetensors")
    assert_same(load_vae(path, scaling_factor=1.5, norm_num_groups=4), vae)
    with pytest.raises(VAELoadError, match=r"32 norm groups do not divide.*norm_num_groups="):
        load_vae(path, scaling_factor=1.5)


def test_weights_of_a_folder_use_the_config_beside_them(vae: AutoencoderKL, folder: Path) -> None:
    assert_same(load_vae(folder / SAFETENSORS), vae)


def test_a_checkpoint_of_latent_diffusion(vae: AutoencoderKL, tmp_path: Path) -> None:
    state = diffusers_to_ldm(vae.state_dict(), "first_stage_model.") | {"model.diffusion_model.w": torch.zeros(2)}
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": state | {"scale_factor": torch.tensor(0.5)}, "epoch": 3, "global_step": 7}, path)
    loaded = load_vae(path, norm_num_groups=4)
    assert loaded.config.scaling_factor == 0.5  # LDM keeps the measured scale as a buffer
    for key, value in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "it ran"),)

    torch.save({"state_dict": {"encoder.conv_in.weight": torch.zeros(1)}, "callbacks": Payload()}, tmp_path / "a.ckpt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Payload(), protocol=2))
    for name in ("a.ckpt", "b.pt"):
        with pytest.raises(VAELoadError, match="would run code that came with the file, so it is refused"):
            load_vae(tmp_path / name, scaling_factor=1.0)
    assert not (tmp_path / "it ran").exists()


def test_variant_and_revision_mean_nothing_for_a_file(folder: Path) -> None:
    with pytest.raises(VAELoadError, match="single file: variant and revision choose"):
        load_vae(folder / SAFETENSORS, variant="fp16")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.safetensors", b"", "damaged or no safetensors file"),
    ("a.safetensors", b"\x40\0\0\0\0\0\0\0{", "damaged or no safetensors file"),
    ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer.*git lfs pull"),
    ("a.ckpt", b"", "damaged or no file of torch.save"),
    ("a.pt", b"PK\x03\x04 cut", "damaged or no file of torch.save"),
    ("a.txt", b"hello", "expected a file named .safetensors.*found .txt"),
])  # fmt: skip
def test_damaged_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VAELoadError, match=message):
        load_vae(tmp_path / name, scaling_factor=1.0)


def test_a_pickle_without_tensors(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "a.pt")
    with pytest.raises(VAELoadError, match=r"expected a dict of tensors.*found no tensors"):
        load_vae(tmp_path / "a.pt", scaling_factor=1.0)


# --- weights that do not fit -----------------------------------------------------------------------------------------


def test_missing_and_unexpected_tensors_and_shapes_are_named(vae: AutoencoderKL, folder: Path) -> None:
    state = dict(vae.state_dict())
    del state["decoder.conv_out.bias"]
    state["encoder.extra.weight"] = torch.zeros(1)
    state["encoder.conv_in.weight"] = torch.zeros(16, 3, 1, 1)
    write(state, folder / SAFETENSORS)
    with pytest.raises(VAELoadError) as caught:
        load_vae(folder)
    assert str(folder) in str(caught.value)
    assert "1 missing tensors: decoder.conv_out.bias" in str(caught.value)
    assert "1 unexpected tensors: encoder.extra.weight" in str(caught.value)
    assert "encoder.conv_in.weight (16, 3, 1, 1) where the config asks for (16, 3, 3, 3)" in str(caught.value)


def test_a_file_without_its_decoder(vae: AutoencoderKL, tmp_path: Path) -> None:
    state = {key: value for key, value in vae.state_dict().items() if key.startswith("encoder")}
    with pytest.raises(VAELoadError, match=r"decoder\.conv_out\.weight is absent, so this is not a whole"):
        load_vae(write(state, tmp_path / "a.safetensors"), scaling_factor=1.0, norm_num_groups=4)


def test_values_that_are_not_finite(vae: AutoencoderKL, folder: Path, tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in vae.state_dict().items()}
    state["decoder.conv_out.bias"][0] = 1e5
    write(state, folder / SAFETENSORS)
    with pytest.raises(VAELoadError, match=r"decoder\.conv_out\.bias: values out of the range of torch\.float16"):
        load_vae(folder, dtype=torch.float16)
    with pytest.raises(NonFiniteWeightsError, match="use float32 or bfloat16"):
        save_vae(load_vae(folder), folder, variant="fp16")
    state["decoder.conv_out.bias"][0] = float("nan")
    write(state, folder / SAFETENSORS)
    with pytest.raises(VAELoadError, match=r"decoder\.conv_out\.bias: NaN or infinite values"):
        load_vae(folder)


# --- sources that are none -------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(VAELoadError, match=r"looked at .*missing\).*shipped names \(.*owner/name on the Hugging Face"):
        load_vae(tmp_path / "missing")
    with pytest.raises(VAELoadError, match="'sd-f8d4' is a preset, an architecture without weights: build_vae"):
        load_vae("sd-f8d4")
    with pytest.raises(VAELoadError, match=r"no VAE at 'models/vae\.safetensors'"):
        load_vae("models/vae.safetensors")


def test_a_folder_without_a_vae(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(VAELoadError, match=r"looked for config\.json and vae/config\.json\. The folder holds notes"):
        load_vae(tmp_path)


def test_configs_of_other_models(vae: AutoencoderKL, folder: Path) -> None:
    edit_config(folder, lambda config: config.update(_class_name="AutoencoderTiny"))
    with pytest.raises(VAELoadError, match=r"config\.json describes AutoencoderTiny"):
        load_vae(folder)
    edit_config(folder, lambda config: config.pop("_class_name"))
    assert_same(load_vae(folder), vae)  # written by hand
    edit_config(folder, lambda config: config.update(down_block_types=["NoSuchBlock"] * 3))
    with pytest.raises(VAELoadError, match=r"no AutoencoderKL: down_block_types knows .*, found NoSuchBlock"):
        load_vae(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(VAELoadError, match=r"config\.json is not JSON"):
        load_vae(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(VAELoadError, match="expected a JSON object, found list"):
        load_vae(folder)


def test_shipped_names(vae: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PRETRAINED", tmp_path)
    save_vae(vae, tmp_path / "my-f4d4")
    assert loading.shipped_names() == ["my-f4d4"]
    assert_same(load_vae("my-f4d4"), vae)
    with pytest.raises(VAELoadError, match=r"shipped names \(my-f4d4\)"):
        load_vae("my-f4d5")


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_hub_names_download_once_and_then_work_offline(
    hub: HubServer, vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_vae(vae, hub.root / "someone" / "a.pipeline" / "vae")
    save_vae(vae, hub.root / "someone" / "a.pipeline" / "vae", variant="fp16")
    assert_same(load_vae("someone/a.pipeline"), vae)
    cached = {path.name for path in (hub.root.parent / "cache").rglob("*.safetensors")}
    assert cached == {SAFETENSORS}  # only what was asked for
    shutil.rmtree(hub.root / "someone")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert_same(load_vae("someone/a.pipeline"), vae)
    with pytest.raises(VAELoadError, match=r"no weights.*\.fp16\..*leave out variant"):
        load_vae("someone/a.pipeline", variant="fp16")


def test_hub_names_that_do_not_exist(hub: HubServer) -> None:
    with pytest.raises(VAELoadError, match="does not exist or is private, and there is no local folder of that name"):
        load_vae("nobody/nothing")
    (hub.root / "someone" / "empty").mkdir(parents=True)
    with pytest.raises(VAELoadError, match=r"someone/empty on the Hugging Face hub: no AutoencoderKL, looked for"):
        load_vae("someone/empty")


def test_offline_the_remedy_is_named(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(VAELoadError, match=r"could not be reached.*`hf download nobody/nothing --local-dir FOLDER`"):
        load_vae("nobody/nothing")


# --- saving ----------------------------------------------------------------------------------------------------------


def test_a_new_save_replaces_the_vae_and_keeps_other_files(vae: AutoencoderKL, folder: Path) -> None:
    save_vae(vae, folder, variant="fp16")
    (folder / "README.md").write_text("mine")
    other = small_vae(latent_channels=8)
    save_vae(other, folder)
    assert_same(load_vae(folder), other)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", SAFETENSORS]
    assert [path.name for path in folder.parent.iterdir()] == ["vae"]  # nothing left beside it


def test_a_variant_of_another_vae_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"describes another VAE.*latent_channels 4 there, 8 here"):
        save_vae(small_vae(latent_channels=8), folder, variant="fp16")
    with pytest.raises(ValueError, match="variant: expected one of fp16, bf16 or None, found 'int8'"):
        save_vae(small_vae(), folder, variant="int8")


def test_the_folder_of_another_model_is_not_overwritten(folder: Path) -> None:
    edit_config(folder, lambda config: config.update(_class_name="UNet2DConditionModel"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="holds a UNet2DConditionModel, which would be overwritten"):
        save_vae(small_vae(), folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("exists", [False, True])
def test_an_interruption_leaves_no_half_folder(
    exists: bool, vae: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "vae"
    if exists:
        save_vae(vae, folder)

    def half(state: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", half)
        with pytest.raises(KeyboardInterrupt):
            save_vae(small_vae(), folder)
    assert list(tmp_path.iterdir()) == ([folder] if exists else [])
    if exists:
        assert_same(load_vae(folder), vae)


def test_between_old_and_new_a_folder_does_not_load(
    vae: AutoencoderKL, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New weights under the old scaling factor would load and be wrong, so the config is away meanwhile."""

    def no_config(source: Path, target: Path) -> None:
        if target.name == "config.json":
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_config)
        with pytest.raises(KeyboardInterrupt):
            save_vae(small_vae(), folder)
    with pytest.raises(VAELoadError, match="no AutoencoderKL"):
        load_vae(folder)


def test_files_have_the_usual_rights(vae: AutoencoderKL, tmp_path: Path) -> None:
    """Those of any new file: others read them where the user lets others read. safetensors alone would not."""
    before = os.umask(0o027)
    try:
        save_vae(vae, tmp_path / "vae")
        save_vae(vae, tmp_path / "vae", variant="fp16")
        save_ldm(vae, tmp_path / "single.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "vae").stat().st_mode) == 0o750
    files = [*(tmp_path / "vae").iterdir(), tmp_path / "single.safetensors"]
    assert len(files) == 4
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {
        path.name: "0o640" for path in files
    }


def test_the_memory_format_leaves_no_trace(vae: AutoencoderKL, tmp_path: Path) -> None:
    expected = {key: value.clone() for key, value in vae.state_dict().items()}
    vae.to(memory_format=torch.channels_last)
    save_vae(vae, tmp_path / "vae")
    save_ldm(vae, tmp_path / "vae.safetensors")
    for loaded in (load_vae(tmp_path / "vae"), load_vae(tmp_path / "vae.safetensors")):
        assert loaded.state_dict().keys() == expected.keys()
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, expected[key])
            assert value.is_contiguous()


@pytest.mark.gpu
def test_device(folder: Path) -> None:
    assert load_vae(folder, device="cuda", dtype=torch.bfloat16).encoder.conv_in.weight.is_cuda
