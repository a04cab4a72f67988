"""The fingerprint of weights: a literal value, the documented recipe, and independence of the file's format."""

import hashlib
import struct
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.ldm import save_ldm
from latentcodec.vae.loading import load_vae, save_vae
from latentcodec.vae.presets import build_vae

GOLDEN = "sha256:f988648d9988aebcb4d49da4e1936173e09290317b6161594a6d7ed57d355e9f"


@pytest.fixture
def vae() -> AutoencoderKL:
    """A small network whose values are multiples of 1/64 below 2, exact in float32, float16 and bfloat16."""
    vae = build_vae("tiny-f8d4", block_out_channels=(8, 16, 16), norm_num_groups=4)
    with torch.no_grad():
        for value in vae.state_dict().values():
            value.copy_(((torch.arange(value.numel()) % 251 - 125) / 64).reshape(value.shape))
    return vae


def test_golden(vae: AutoencoderKL) -> None:
    assert weights_fingerprint(vae) == GOLDEN


def test_the_recipe_of_the_docstring_gives_the_same(vae: AutoencoderKL) -> None:
    content = b"latentcodec weights 1\n"
    for key, value in sorted(vae.state_dict().items()):
        content += f"{key} {'x'.join(map(str, value.shape))}\n".encode()
        content += struct.pack(f"<{value.numel()}f", *value.flatten().tolist())
    assert weights_fingerprint(vae) == "sha256:" + hashlib.sha256(content).hexdigest()


def test_every_file_format_gives_the_same(vae: AutoencoderKL, tmp_path: Path) -> None:
    save_vae(vae, tmp_path / "folder")
    save_vae(vae, tmp_path / "folder", variant="bf16")
    save_vae(vae, tmp_path / "folder", variant="fp16")
    save_ldm(vae, tmp_path / "ldm.safetensors", dtype=torch.float16)
    assert weights_fingerprint(load_vae(tmp_path / "ldm.safetensors")) == GOLDEN
    for variant in (None, "bf16", "fp16"):
        assert weights_fingerprint(load_vae(tmp_path / "folder", variant=variant)) == GOLDEN
        assert weights_fingerprint(load_vae(tmp_path / "folder", variant=variant, dtype=torch.bfloat16)) == GOLDEN


def test_memory_format_and_compilation_do_not_matter(vae: AutoencoderKL, tmp_path: Path) -> None:
    vae.to(memory_format=torch.channels_last)
    vae.encoder = torch.compile(vae.encoder)  # wrapped, not yet compiled: that would happen at the first call
    assert any("_orig_mod" in key for key in vae.state_dict())
    assert weights_fingerprint(vae) == GOLDEN
    save_vae(vae, tmp_path / "vae")
    assert weights_fingerprint(load_vae(tmp_path / "vae")) == GOLDEN


def test_one_bit_a_name_or_a_shape_matters(vae: AutoencoderKL) -> None:
    state = dict(vae.state_dict())
    key = "decoder.conv_out.bias"
    others = [
        state | {key: torch.nextafter(state[key], state[key] + 1)},
        {("decoder.conv_out.bias_" if name == key else name): value for name, value in state.items()},
        state | {key: state[key][None]},
        {name: value for name, value in state.items() if name != key},
    ]
    assert len({GOLDEN, *map(weights_fingerprint, others)}) == 5
    assert weights_fingerprint(dict(reversed(state.items()))) == GOLDEN
