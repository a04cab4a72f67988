"""Publishing to a stand-in for the hub, with real uploads, and loading what was published by its name."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from diffusers import AutoencoderKL
from hub_server import READER, WRITER, HubServer, serving

from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.inspection import inspect_source
from latentcodec.vae.ldm import save_ldm
from latentcodec.vae.loading import VAELoadError, load_vae, save_vae
from latentcodec.vae.presets import build_vae
from latentcodec.vae.publish import PushError, push_vae

# Of huggingface_hub's own call of its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

WEIGHTS = "diffusion_pytorch_model.safetensors"


def small_vae(**overrides: Any) -> AutoencoderKL:
    return build_vae("tiny-f8d4", **({"block_out_channels": (8, 16, 16), "norm_num_groups": 4} | overrides)).eval()


@pytest.fixture
def vae() -> AutoencoderKL:
    return small_vae(scaling_factor=0.75)


def test_a_network_is_published_and_loads_by_name(hub: HubServer, vae: AutoencoderKL) -> None:
    address = push_vae(vae, "someone/vae", token=WRITER, private=True)
    assert address == f"{hub.endpoint}/someone/vae/commit/{'0' * 40}"
    assert sorted(path.name for path in (hub.root / "someone" / "vae").iterdir()) == [
        "README.md",
        "config.json",
        WEIGHTS,
    ]
    assert [(entry["name"], entry["visibility"]) for entry in hub.created] == [("vae", "private")]
    assert len(hub.commits) == 1  # weights without their config are never there
    loaded = load_vae("someone/vae")
    assert weights_fingerprint(loaded) == weights_fingerprint(vae)
    assert loaded.config.scaling_factor == 0.75
    assert inspect_source("someone/vae")["fingerprint"] == weights_fingerprint(vae)


def test_the_card_says_what_the_vae_is_and_its_example_runs(hub: HubServer, vae: AutoencoderKL, tmp_path: Path) -> None:
    for name, config in {
        "plain": {},
        "shift": {"shift_factor": 0.125},
        "channels": {"latents_mean": [0.5] * 4, "latents_std": [2.0] * 4, "scaling_factor": 1.0},
    }.items():
        vae.register_to_config(**config)
        push_vae(vae, f"someone/{name}", token=WRITER)
        card = (hub.root / "someone" / name / "README.md").read_text()
        assert yaml.safe_load(card.split("---")[1])["library_name"] == "diffusers"
        assert weights_fingerprint(vae) in card
        assert "# f4d4 KL autoencoder" in card
        code = card.split("```python\n")[1].split("```")[0].replace(f'"someone/{name}"', repr(str(tmp_path / name)))
        save_vae(vae, tmp_path / name)
        exec(code, names := {})
        raw, scale = names["moments"].mean, vae.config.scaling_factor
        expected = (raw - 0.5) / 2 if name == "channels" else (raw - (vae.config.shift_factor or 0)) * scale
        assert (names["latents"] - expected).abs().max() < 1e-6


def test_a_folder_goes_up_as_it_is(hub: HubServer, vae: AutoencoderKL, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    save_vae(vae, folder)
    save_vae(vae, folder, variant="fp16")
    save_ldm(vae, folder / "ldm.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    (folder / "notes.txt").write_text("private")
    (folder / ".secret").write_text("private")
    push_vae(folder, "someone/export", token=WRITER, message="First")
    there = {path.name: path.read_bytes() for path in (hub.root / "someone" / "export").iterdir()}
    assert there == {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("notes.txt", ".secret")
    }
    assert hub.commits[0]["summary"] == "First"
    assert weights_fingerprint(load_vae("someone/export", variant="fp16")) == weights_fingerprint(
        load_vae(folder, variant="fp16")
    )


def test_weights_of_an_earlier_push_do_not_stay(hub: HubServer, vae: AutoencoderKL, tmp_path: Path) -> None:
    save_vae(vae, tmp_path / "vae")
    save_vae(vae, tmp_path / "vae", variant="fp16")
    push_vae(tmp_path / "vae", "someone/vae", token=WRITER)
    (hub.root / "someone" / "vae" / "LICENSE").write_text("mine")
    other = small_vae(scaling_factor=0.5)
    push_vae(other, "someone/vae", token=WRITER)
    names = sorted(path.name for path in (hub.root / "someone" / "vae").iterdir())
    assert names == ["LICENSE", "README.md", "config.json", WEIGHTS]
    assert weights_fingerprint(load_vae("someone/vae")) == weights_fingerprint(other)


def test_a_single_file_keeps_its_type(hub: HubServer, vae: AutoencoderKL, tmp_path: Path) -> None:
    save_ldm(vae.half(), tmp_path / "vae.safetensors")
    push_vae(tmp_path / "vae.safetensors", "someone/vae", token=WRITER, scaling_factor=0.25)
    told = inspect_source("someone/vae")
    assert list(told["stored"]) == ["F16"]
    assert told["scaling"]["scaling_factor"] == 0.25
    assert told["fingerprint"] == weights_fingerprint(vae)


def test_a_branch_is_made(hub: HubServer, vae: AutoencoderKL) -> None:
    push_vae(vae, "someone/vae", token=WRITER, revision="v2")
    assert hub.branches == {"main", "v2"}
    assert hub.commits[0]["branch"] == "v2"


def test_what_nobody_could_load_is_not_sent(hub: HubServer, vae: AutoencoderKL, tmp_path: Path) -> None:
    save_vae(vae, tmp_path / "vae")
    save_vae(vae, tmp_path / "vae", variant="fp16")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(VAELoadError, match=r"fp16\.safetensors is damaged"):
        push_vae(tmp_path / "vae", "someone/vae", token=WRITER)
    assert (hub.created, hub.commits) == ([], [])


@pytest.mark.parametrize(
    ("repo", "token", "message"),
    [
        ("someone/vae", "hf_wrong", r"does not accept the token, or there is none; log in with `hf auth login`"),
        ("someone/vae", None, r"does not accept the token, or there is none; log in with `hf auth login`"),
        ("someone/vae", READER, r"the token may not write to someone"),
        ("another/vae", WRITER, r"the token may not write to another"),
        ("vae", WRITER, r"repo: expected owner/name, found 'vae'"),
        ("someone/" + "a" * 200, WRITER, r"repo: "),
    ],
)
def test_refusals_say_what_to_do(
    repo: str, token: str | None, message: str, hub: HubServer, vae: AutoencoderKL
) -> None:
    with pytest.raises(PushError, match=message):
        push_vae(vae, repo, token=token)
    assert hub.commits == []


def test_without_a_network(hub: HubServer, vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match=r"offline mode is on \(HF_HUB_OFFLINE\); unset it"):
        push_vae(vae, "someone/vae", token=WRITER)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(PushError, match=r"the hub could not be reached .*run this again where there is a network"):
        push_vae(vae, "someone/vae", token=WRITER)


def test_the_command_in_a_process_of_its_own(vae: AutoencoderKL, tmp_path: Path) -> None:
    save_vae(vae, tmp_path / "vae")
    with serving(tmp_path / "hub") as server:
        settings = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | settings

        def command(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, "-m", "latentcodec", *arguments]
            return subprocess.run(line, env=environment | extra, capture_output=True, text=True, timeout=120)

        refused = command("push", str(tmp_path / "vae"), "someone/vae")
        assert refused.returncode == 1
        assert refused.stderr.startswith("latentcodec: error: the hub does not accept the token, or there is none")
        pushed = command("push", str(tmp_path / "vae"), "someone/vae", HF_TOKEN=WRITER)
        assert (pushed.returncode, pushed.stdout) == (0, f"{server.endpoint}/someone/vae/commit/{'0' * 40}\n")
        told = command("inspect", "someone/vae", "--json")
        assert json.loads(told.stdout)["fingerprint"] == weights_fingerprint(vae)
