"""The command line as people meet it: real processes, exit codes, what is printed and what is not imported."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import latentcodec
from latentcodec import cli
from latentcodec.vae.families import guess_family
from latentcodec.vae.presets import PRESETS

ROOT = Path(cli.__file__).parents[1]
HEAVY = (
    "torch",
    "diffusers",
    "numpy",
    "PIL",
    "pyarrow",
    "transformers",
    "datasets",
    "pandas",
    "fsspec",
    "huggingface_hub",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m latentcodec ARGUMENTS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "latentcodec", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def heavy_modules_after(code: str) -> list[str]:
    """Which heavy modules a new interpreter holds after running `code`."""
    probe = f"import sys\n{code}\nprint([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stderr.strip().splitlines()[-1].replace("'", '"')))


def test_import_is_light() -> None:
    assert heavy_modules_after("import latentcodec; dir(latentcodec)") == []


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["--version"]])
def test_help_is_light(arguments: list[str]) -> None:
    lines = ["from latentcodec.cli import main", "try:", f"    main({arguments})", "except SystemExit as end:"]
    code = "\n".join([*lines, "    assert end.code == 0, end.code"])
    assert heavy_modules_after(code) == []


def test_the_probe_sees_a_heavy_import() -> None:
    assert "numpy" in heavy_modules_after("import numpy")


def test_public_names_are_found_and_listed() -> None:
    assert set(latentcodec.__all__) <= set(dir(latentcodec))
    for name in latentcodec.__all__:
        assert getattr(latentcodec, name) is not None
    with pytest.raises(AttributeError, match=r"no attribute 'load_vea'; its public names are .*load_vae"):
        _ = latentcodec.load_vea


def test_help_lists_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert re.search(rf"^    {name}\b", done.stdout, flags=re.MULTILINE)


def all_commands() -> list[str]:
    """Every command as it is typed: "inspect", "anomaly fit"."""
    return [
        f"{name} {inside}".strip()
        for name, entry in cli.COMMANDS.items()
        for inside in (entry if isinstance(entry, dict) else [""])
    ]


@pytest.mark.parametrize("name", all_commands())
def test_each_command_has_an_example_that_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*name.split(), "--help"])
    assert end.value.code == 0
    examples = re.findall(rf"^    latentcodec ({name} .*)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert examples
    for example in examples:
        assert cli.main_parser().parse_args(example.split()).command == name.split()[0]


def test_version() -> None:
    assert run("--version").stdout == f"latentcodec {latentcodec.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["inspect"], ["inspect", "vae", "--hieght", "64"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("latentcodec")
    assert captured.out == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VAE with random weights and SDXL's scaling factor, as a diffusers folder."""
    path = tmp_path_factory.mktemp("vae") / "tiny"
    latentcodec.save_vae(latentcodec.build_vae("tiny-f8d4", scaling_factor=0.13025), path)
    return path


def test_inspect_json_says_what_the_network_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    vae = latentcodec.load_vae(folder)
    assert told["preset"] == "tiny-f8d4"
    assert told["family"] == "Stable Diffusion XL; PixArt-Σ"
    assert told["geometry"]["downsampling"] == 8
    assert told["geometry"]["block_out_channels"] == [32, 64, 128, 128]
    assert sum(told["parameters"].values()) == sum(parameter.numel() for parameter in vae.parameters())
    assert told["gmac"]["decode"] > told["gmac"]["encode"] > 0
    assert told["scaling"]["scaling_factor"] == 0.13025
    assert told["fingerprint"] == latentcodec.weights_fingerprint(vae)
    assert told["loads_in"]["diffusers"] is None
    assert "32" in told["loads_in"]["ComfyUI"]


def test_inspect_in_words(folder: Path) -> None:
    done = run("inspect", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line[:15].strip(): line[16:] for line in done.stdout.splitlines()}
    assert lines["geometry"] == "f8, 4 latent channels"
    assert lines["like preset"] == "tiny-f8d4"
    assert lines["scaling factor"] == "0.13025"
    assert lines["diffusers"] == "loads it"
    assert lines["A1111"].startswith("cannot load it: ")


def test_convert_there_and_back_keeps_the_vae(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single, back = tmp_path / "vae.safetensors", tmp_path / "deep" / "back"
    assert cli.main(["convert", str(folder), str(single)]) == 0
    assert "note: ComfyUI cannot load this VAE: " in capsys.readouterr().out
    assert cli.main(["convert", str(single), str(back)]) == 0
    before, after = latentcodec.load_vae(folder), latentcodec.load_vae(back)
    assert latentcodec.weights_fingerprint(after) == latentcodec.weights_fingerprint(before)
    assert after.config.scaling_factor == 0.13025
    assert after.config.norm_num_groups == before.config.norm_num_groups


def test_convert_writes_a_prefix(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["convert", str(folder), str(tmp_path / "vae.safetensors"), "--prefix", "first_stage_model."]
    assert cli.main(arguments) == 0
    with safe_open(tmp_path / "vae.safetensors", "pt") as file:
        assert all(name.startswith("first_stage_model.") for name in file.keys())  # noqa: SIM118
    capsys.readouterr()
    assert cli.main(["convert", str(folder), str(tmp_path / "vae"), "--prefix", "vae."]) == 1
    assert "a diffusers folder has no prefix, found 'vae.'" in capsys.readouterr().err


def test_convert_takes_dtype_and_scaling(folder: Path, tmp_path: Path) -> None:
    arguments = ["--dtype", "bfloat16", "--scaling_factor", "0.5", "--shift_factor", "0.25"]
    assert cli.main(["convert", str(folder), str(tmp_path / "half.safetensors"), *arguments]) == 0
    half = latentcodec.load_vae(tmp_path / "half.safetensors")
    assert (half.config.scaling_factor, half.config.shift_factor) == (0.5, 0.25)
    rounded = latentcodec.load_vae(folder, dtype=torch.bfloat16)
    assert latentcodec.weights_fingerprint(half) == latentcodec.weights_fingerprint(rounded)


def test_flags_take_dashes_and_underscores(folder: Path, tmp_path: Path) -> None:
    for number, flag in enumerate(["--scaling-factor", "--scaling_factor"]):
        out = tmp_path / str(number)
        assert cli.main(["convert", str(folder), str(out), flag, "0.5", f"{flag.replace('scaling', 'shift')}=-2"]) == 0
        config = latentcodec.load_vae(out).config
        assert (config.scaling_factor, config.shift_factor) == (0.5, -2.0)
    odd = tmp_path / "--odd-name"  # neither a value nor what follows `--` is a flag
    assert cli.main(["convert", "--dtype=float32", "--", str(folder), str(odd)]) == 0
    assert odd.is_dir()


def test_inspect_measures_ranges_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "small"
    latentcodec.save_vae(latentcodec.build_vae("tiny-f8d4", block_out_channels=(8, 8, 8, 8), norm_num_groups=4), folder)
    assert cli.main(["inspect", str(folder), "--ranges"]) == 0
    lines = {line[:15].strip(): line[16:] for line in capsys.readouterr().out.splitlines()}
    assert "(float32)" in lines["encoder peak"]
    assert lines["float16"].startswith("within its range of 65504; pixels ")
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", (300 + number, 260), (number, 200, 90)).save(tmp_path / "photos" / f"{number}.png")
    assert cli.main(["inspect", str(folder), "--images", str(tmp_path / "photos"), "--json"]) == 0
    ranges = json.loads(capsys.readouterr().out)["ranges"]
    assert ranges["images"] == 2
    assert ranges["bfloat16"]["rms_levels"] > ranges["float16"]["rms_levels"] > 0
    assert cli.main(["inspect", str(folder), "--images", str(tmp_path / "absent")]) == 1
    assert "absent" in capsys.readouterr().err


def test_convert_never_replaces(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "vae.safetensors"
    kept.write_bytes(b"precious")
    assert cli.main(["convert", str(folder), str(kept)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert kept.read_bytes() == b"precious"
    assert cli.main(["convert", str(folder), str(tmp_path / "vae.ckpt")]) == 1
    assert "name a .safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "vae.ckpt").exists()


def test_named_error_exits_with_1_and_one_line(tmp_path: Path) -> None:
    done = run("convert", "vae", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"latentcodec: error: {tmp_path} exists already; delete it or name another destination\n"


def test_an_absent_vae_is_a_named_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "absent"]) == 1
    assert capsys.readouterr().err.startswith("latentcodec: error: no VAE at 'absent'")


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        """A command with a bug."""
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "broken", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main(["broken"])


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def slow() -> None:
        """A command that someone stops."""
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "slow", slow)
    assert cli.main(["slow"]) == 130
    assert capsys.readouterr().err == "latentcodec: interrupted\n"


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at the end", "in between"])
def test_closed_pipe_ends_quietly(lines: int) -> None:
    """As in `latentcodec inspect ... | head -1`, for output that fits into the buffer and for output that does not."""
    code = f"""
import sys
from latentcodec import cli
def chatter() -> None:
    "Print much."
    for _ in range({lines}):
        print("a line")
cli.COMMANDS["chatter"] = chatter
sys.exit(cli.main(["chatter"]))
"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scaling_factor": 0.18215}, "Stable Diffusion 1, 2; DiT"),
        ({"scaling_factor": 0.13025}, "Stable Diffusion XL; PixArt-Σ"),
        ({"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}, "Stable Diffusion 3"),
        ({"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}, "FLUX.1"),
        ({"latent_channels": 16, "scaling_factor": 0.3611}, None),
        ({"latent_channels": 16, "scaling_factor": 0.18215}, None),
        ({}, None),
    ],
)
def test_family_needs_channels_scale_and_shift(changes: dict[str, float], expected: str | None) -> None:
    assert guess_family(PRESETS["sd-f8d4"].config() | changes) == expected
