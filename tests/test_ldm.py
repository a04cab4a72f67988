"""LDM single files: names, shapes and order of levels against diffusers' converter and against LDM's own forward."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors import safe_open
from torch import Tensor

from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.ldm import PREFIXES, diffusers_to_ldm, ldm_to_diffusers, save_ldm, to_diffusers
from latentcodec.vae.loading import VAELoadError, load_vae, save_vae
from latentcodec.vae.presets import build_vae

LEVELS = {3: (8, 16, 16), 4: (8, 16, 16, 24), 5: (8, 8, 16, 16, 24)}
ATTENTION_IN_LEVELS: dict[str, Any] = {  # as in LDM's kl-f16 and kl-f32
    "block_out_channels": LEVELS[3],
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
}


def small_vae(**overrides: Any) -> AutoencoderKL:
    """A few thousand weights, each norm and bias random too, so that no two tensors are alike."""
    vae = build_vae("tiny-f8d4", **({"block_out_channels": LEVELS[3], "norm_num_groups": 4} | overrides))
    with torch.no_grad():
        for parameter in vae.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return vae.eval()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key  # also the shape


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("quant_convs", [True, False])
@pytest.mark.parametrize("channels", [4, 8, 16])
@pytest.mark.parametrize("levels", LEVELS)
def test_both_ways_agree_with_diffusers(levels: int, channels: int, quant_convs: bool, prefix: str) -> None:
    vae = small_vae(
        block_out_channels=LEVELS[levels],
        latent_channels=channels,
        use_quant_conv=quant_convs,
        use_post_quant_conv=quant_convs,
    )
    state = vae.state_dict()
    ldm = diffusers_to_ldm(state, prefix)
    assert all(key.startswith(prefix) for key in ldm)
    assert_same(convert_ldm_vae_checkpoint(dict(ldm), vae.config), state)  # their reading of our file
    assert_same(to_diffusers(ldm), state)
    assert_same(diffusers_to_ldm(to_diffusers(ldm), prefix), ldm)


def ldm_shapes(
    ch: int, ch_mult: tuple[int, ...], blocks: int, attn: tuple[int, ...], z: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of latent-diffusion's own AutoencoderKL, from the arguments that it takes.

    Width of the first level, widths of all as multiples of it, residual blocks a level, levels with attention, latent
    channels. Levels count from the image's side; the decoder has one block more a level and goes through them backwards.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def resnet(name: str, inputs: int, outputs: int) -> None:
        layer(f"{name}.norm1", inputs)
        layer(f"{name}.conv1", outputs, inputs, 3, 3)
        layer(f"{name}.norm2", outputs)
        layer(f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1)

    def attention(name: str, width: int) -> None:
        layer(f"{name}.norm", width)
        for leaf in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{leaf}", width, width, 1, 1)

    def level(name: str, inputs: int, outputs: int, count: int, attends: bool) -> None:
        for i in range(count):
            resnet(f"{name}.block.{i}", inputs if i == 0 else outputs, outputs)
            if attends:
                attention(f"{name}.attn.{i}", outputs)

    widths, last = [ch * multiple for multiple in ch_mult], len(ch_mult) - 1
    for side in ("encoder", "decoder"):
        resnet(f"{side}.mid.block_1", widths[-1], widths[-1])
        attention(f"{side}.mid.attn_1", widths[-1])
        resnet(f"{side}.mid.block_2", widths[-1], widths[-1])
    layer("encoder.conv_in", ch, 3, 3, 3)
    for i, width in enumerate(widths):
        level(f"encoder.down.{i}", widths[max(i - 1, 0)], width, blocks, i in attn)
        level(f"decoder.up.{i}", widths[min(i + 1, last)], width, blocks + 1, i in attn)
        if i < last:
            layer(f"encoder.down.{i}.downsample.conv", width, width, 3, 3)
        if i > 0:
            layer(f"decoder.up.{i}.upsample.conv", width, width, 3, 3)
    layer("encoder.norm_out", widths[-1])
    layer("encoder.conv_out", 2 * z, widths[-1], 3, 3)
    layer("decoder.conv_in", widths[-1], z, 3, 3)
    layer("decoder.norm_out", ch)
    layer("decoder.conv_out", 3, ch, 3, 3)
    layer("quant_conv", 2 * z, 2 * z, 1, 1)
    layer("post_quant_conv", z, z, 1, 1)
    return shapes


LDM_MODELS = {  # ch_mult, levels with attention, latent channels, as latent-diffusion published them; 8 for its 128
    "kl-f4": ((1, 2, 4), (), 3),
    "kl-f8": ((1, 2, 4, 4), (), 4),
    "kl-f16": ((1, 1, 2, 2, 4), (4,), 16),
    "kl-f32": ((1, 1, 2, 2, 4, 4), (4, 5), 64),
}


@pytest.mark.parametrize("name", LDM_MODELS)
def test_the_file_is_the_one_that_latent_diffusion_writes(name: str, tmp_path: Path) -> None:
    ch_mult, attn, z = LDM_MODELS[name]
    shapes = ldm_shapes(8, ch_mult, 2, attn, z)
    ldm = {key: torch.randn(shape) for key, shape in shapes.items()}
    state = to_diffusers(ldm)
    blocks = [("Attn" if i in attn else "", i) for i in range(len(ch_mult))]
    vae = small_vae(
        block_out_channels=tuple(8 * multiple for multiple in ch_mult),
        down_block_types=tuple(f"{kind}DownEncoderBlock2D" for kind, _ in blocks),
        up_block_types=tuple(f"{kind}UpDecoderBlock2D" for kind, _ in reversed(blocks)),
        latent_channels=z,
    )
    vae.load_state_dict(state, strict=True)
    save_ldm(vae, tmp_path / "vae.safetensors")
    assert_same(safetensors.torch.load_file(tmp_path / "vae.safetensors"), ldm)
    torch.save(
        {"state_dict": ldm | {"loss.logvar": torch.zeros(())}}, tmp_path / "model.ckpt"
    )  # with what training left
    loaded = load_vae(tmp_path / "model.ckpt", scaling_factor=1.0, norm_num_groups=4)
    assert_same(loaded.state_dict(), state)
    assert list(loaded.config.up_block_types) == list(vae.config.up_block_types)
    if not attn:  # which diffusers' converter leaves out
        assert_same(convert_ldm_vae_checkpoint(dict(ldm), vae.config), state)


def test_attention_in_the_levels_both_ways() -> None:
    state = small_vae(**ATTENTION_IN_LEVELS).state_dict()
    ldm = diffusers_to_ldm(state)
    assert ldm["encoder.down.2.attn.1.q.weight"].shape == (16, 16, 1, 1)
    assert torch.equal(ldm["decoder.up.2.attn.0.norm.bias"], state["decoder.up_blocks.0.attentions.0.group_norm.bias"])
    assert_same(ldm_to_diffusers(ldm), state)


def test_old_attention_names_are_read() -> None:
    state = small_vae().state_dict()
    renames = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for key, value in state.items():
        for new_name, old_name in renames.items():
            key = key.replace(new_name, old_name)
        old[key] = value
    assert sum("proj_attn" in key for key in old) == 4
    assert_same(to_diffusers(old), state)


def test_training_leftovers_and_other_models_are_left_out() -> None:
    state = small_vae().state_dict()
    checkpoint = diffusers_to_ldm(state, "first_stage_model.") | {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1),
        "first_stage_model.loss.logvar": torch.zeros(1),
    }
    assert_same(to_diffusers(checkpoint), state)
    with pytest.raises(VAELoadError, match=r"unexpected tensors, which no AutoencoderKL has: encoder\.extra"):
        to_diffusers(diffusers_to_ldm(state) | {"encoder.extra": torch.zeros(1)})
    with pytest.raises(VAELoadError, match=r"expected one VAE.*found 0 of them among 1 tensors"):
        to_diffusers({"unet.conv_in.weight": torch.zeros(1)})
    with pytest.raises(VAELoadError, match="found 2 of them"):
        to_diffusers(checkpoint | diffusers_to_ldm(state, "vae."))


# ---------------------------------------------------------------------------------------------------------------------
# LDM's own arithmetic, written from its names alone: levels, residual blocks, attention over all positions, one head.


def _conv(state: dict[str, Tensor], name: str, x: Tensor, **options: Any) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], **({"padding": weight.shape[-1] // 2} | options))


def _norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, 4, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)


def _block(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    h = _conv(state, f"{name}.conv1", F.silu(_norm(state, f"{name}.norm1", x)))
    h = _conv(state, f"{name}.conv2", F.silu(_norm(state, f"{name}.norm2", h)))
    return h + (_conv(state, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in state else x)


def _attention(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    if f"{name}.q.weight" not in state:
        return x
    h = _norm(state, f"{name}.norm", x)
    q, k, v = (_conv(state, f"{name}.{leaf}", h).flatten(2) for leaf in "qkv")  # batch, channels, positions
    weights = torch.softmax(q.transpose(1, 2) @ k / x.shape[1] ** 0.5, dim=2)  # of each query over the keys
    return x + _conv(state, f"{name}.proj_out", (v @ weights.transpose(1, 2)).reshape(x.shape))


def _middle_and_out(state: dict[str, Tensor], side: str, x: Tensor, levels: Any) -> Tensor:
    x = _block(state, f"{side}.mid.block_1", x)
    x = _attention(state, f"{side}.mid.attn_1", x)
    x = _block(state, f"{side}.mid.block_2", x)
    x = levels(x)
    return _conv(state, f"{side}.conv_out", F.silu(_norm(state, f"{side}.norm_out", x)))


def ldm_moments(state: dict[str, Tensor], x: Tensor) -> Tensor:
    x = _conv(state, "encoder.conv_in", x)
    for level in range(3):
        for layer in range(2):
            x = _block(state, f"encoder.down.{level}.block.{layer}", x)
            x = _attention(state, f"encoder.down.{level}.attn.{layer}", x)
        if level < 2:
            x = _conv(state, f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2, padding=0)
    return _conv(state, "quant_conv", _middle_and_out(state, "encoder", x, lambda x: x))


def ldm_decode(state: dict[str, Tensor], z: Tensor) -> Tensor:
    def levels(x: Tensor) -> Tensor:
        for level in reversed(range(3)):
            for layer in range(3):
                x = _block(state, f"decoder.up.{level}.block.{layer}", x)
                x = _attention(state, f"decoder.up.{level}.attn.{layer}", x)
            if level > 0:
                x = _conv(state, f"decoder.up.{level}.upsample.conv", F.interpolate(x, scale_factor=2.0))
        return x

    z = _conv(state, "decoder.conv_in", _conv(state, "post_quant_conv", z))
    return _middle_and_out(state, "decoder", z, levels)


@pytest.mark.parametrize("overrides", [{}, ATTENTION_IN_LEVELS], ids=["mid attention", "attention in levels"])
@torch.no_grad()
def test_the_file_computes_the_same_in_ldm(overrides: dict[str, Any]) -> None:
    vae = small_vae(**overrides).double()
    state = diffusers_to_ldm(vae.state_dict())
    images, latents = torch.randn(2, 3, 16, 24).double(), torch.randn(2, 4, 4, 6).double()
    torch.testing.assert_close(ldm_moments(state, images), vae.encode(images).latent_dist.parameters)
    torch.testing.assert_close(ldm_decode(state, latents), vae.decode(latents).sample)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("overrides", [{}, ATTENTION_IN_LEVELS], ids=["plain", "attention in levels"])
def test_a_saved_file_gives_back_weights_and_config(prefix: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    vae = small_vae(scaling_factor=0.7125, shift_factor=-0.03, sample_size=96, force_upcast=False, **overrides)
    save_ldm(vae, tmp_path / "new folder" / "vae.safetensors", prefix)
    loaded = load_vae(tmp_path / "new folder" / "vae.safetensors")
    assert_same(loaded.state_dict(), vae.state_dict())
    assert {k: v for k, v in loaded.config.items() if k[0] != "_"} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in vae.config.items() if k[0] != "_"
    }


def test_the_header_is_readable_by_others(tmp_path: Path) -> None:
    vae = small_vae(scaling_factor=0.5)
    save_ldm(vae, tmp_path / "vae.safetensors", dtype=torch.float16)
    with safe_open(tmp_path / "vae.safetensors", "pt") as file:
        metadata = file.metadata()
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    assert metadata["format"] == "pt"
    assert [json.loads(metadata[key]) for key in ("scaling_factor", "shift_factor", "latent_channels")] == [
        0.5,
        None,
        4,
    ]
    assert metadata["fingerprint"] == weights_fingerprint(vae.half())


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("quant_convs", [True, False])
@pytest.mark.parametrize("levels", LEVELS)
def test_diffusers_reads_the_file(levels: int, quant_convs: bool, prefix: str, tmp_path: Path) -> None:
    convs = {"use_quant_conv": quant_convs, "use_post_quant_conv": quant_convs}
    vae = small_vae(block_out_channels=LEVELS[levels], scaling_factor=0.5, **convs)
    save_ldm(vae, tmp_path / "vae.safetensors", prefix)
    save_vae(vae, tmp_path / "folder")
    theirs = AutoencoderKL.from_single_file(str(tmp_path / "vae.safetensors"), config=str(tmp_path / "folder"))
    assert_same(theirs.state_dict(), vae.state_dict())
    assert theirs.config.scaling_factor == 0.5


def test_changed_tensors_under_an_old_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    save_ldm(small_vae(), path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = safetensors.torch.load_file(path)
    state["decoder.conv_out.bias"] = state["decoder.conv_out.bias"] + 1
    safetensors.torch.save_file(state, path, metadata)
    with pytest.raises(VAELoadError, match=r"header promises weights sha256:.*changed after the file was written"):
        load_vae(path)


def test_an_interrupted_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vae.safetensors"
    save_ldm(small_vae(), path)
    before = path.read_bytes()

    def half(state: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        save_ldm(small_vae(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: expected a file that ends in \.safetensors"):
        save_ldm(small_vae(), tmp_path / "vae.ckpt")
    with pytest.raises(ValueError, match="prefix: expected one of"):
        save_ldm(small_vae(), tmp_path / "vae.safetensors", "model.")
