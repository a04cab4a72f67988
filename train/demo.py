"""The main job in a few minutes on a CPU: `python -m train.demo --out out/demo` (what `make demo` runs).

Trains the `demo` preset on photographs that come inside scikit-image and matplotlib, mixed with procedural images;
validates on photographs not trained on; exports; uses the export in a fresh process with nothing but diffusers; and shows
what came of it on a page, `report.html`.
"""

import json
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import matplotlib
import numpy as np
import skimage
from PIL import Image

from eval.perceptual import find_backbone
from latentcodec.arguments import Parser
from latentcodec.images.decode import decode_image
from latentcodec.images.geometry import resize_short_side
from latentcodec.images.sources import ImageSource, open_source
from train.config import TrainConfig, load_preset
from train.demo_page import write_page
from train.export import export_run
from train.loop import train
from train.report import read_metrics

# Both packages keep these files in their wheels: no download.
TRAINING_PHOTOS = (
    "motorcycle_left",
    "motorcycle_right",
    "hubble_deep_field",
    "retina",
    "brick",
    "grass",
    "gravel",
    "ihc",
)
MATPLOTLIB_PHOTO = ("sample_data", "grace_hopper.jpg")
HELD_OUT_PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
PROCEDURAL_IMAGES = 150
SIDE = 256


def write_photos(folder: Path) -> dict[str, Path]:
    """Packaged photographs, at most SIDE pixels at their short side, and procedural images, as PNG files.

    Returns the folders `train`, `procedural` and `held-out`.
    """
    packaged = Path(skimage.__file__).parent / "data"
    files = {
        "train": [
            *(_only(packaged, name) for name in TRAINING_PHOTOS),
            Path(matplotlib.get_data_path(), *MATPLOTLIB_PHOTO),
        ],
        "held-out": [_only(packaged, name) for name in HELD_OUT_PHOTOS],
    }
    folders = {name: folder / name for name in (*files, "procedural")}
    for target in folders.values():
        target.mkdir(parents=True)
    for name, paths in files.items():
        for path in paths:
            image = decode_image(path)
            if min(image.shape[:2]) > SIDE:
                image = resize_short_side(image, SIDE)
            Image.fromarray(image).save(folders[name] / f"{path.stem}.png")
    procedural = open_source("procedural:0", size=SIDE)
    assert isinstance(procedural, ImageSource)
    for index in range(PROCEDURAL_IMAGES):
        Image.fromarray(procedural[index].decode()).save(folders["procedural"] / f"{index:04d}.png")
    return folders


def _only(folder: Path, stem: str) -> Path:
    (path,) = folder.glob(f"{stem}.*")
    return path


def demo_config(out: Path, folders: dict[str, Path], *overrides: str) -> TrainConfig:
    """The `demo` preset on these photographs; LPIPS as perceptual term where its backbone is at hand, else MS-SSIM."""
    weights = {"l1": 1.0, "kl": 1e-6} | ({"lpips": 0.2} if find_backbone("vgg") else {"ms_ssim": 0.2})
    metrics = ["psnr", "ssim"] + (["lpips_vgg"] if find_backbone("vgg") else [])
    return load_preset(
        "demo", "--out", str(out / "run"),
        "--data.source", json.dumps({str(folders["train"]): 0.5, str(folders["procedural"]): 0.5}),
        "--validation.source", str(folders["held-out"]), "--validation.metrics", json.dumps(metrics),
        "--loss.weights", json.dumps(weights), *overrides,
    )  # fmt: skip


def use_elsewhere(export: Path, held_out: Path, out: Path) -> dict[str, float]:
    """Run `train/demo_use.py` in a fresh process, with neither this project nor its modules on the path."""
    script = Path(__file__).with_name("demo_use.py")
    command = [sys.executable, "-I", str(script), str(export.resolve()), str(held_out.resolve()), str(out.resolve())]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=out, check=False)
    if finished.returncode:
        raise RuntimeError(f"the export could not be used in a fresh process:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def run_demo(out: Path, *overrides: str) -> dict[str, object]:
    """Do it all under `out`; returns what summary.json holds."""
    began = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    folders = write_photos(out / "images")
    config = demo_config(out, folders, *overrides)
    perceptual = "lpips" if "lpips" in config.loss.weights else "ms_ssim"
    print(
        f"training {config.model.preset} for {config.steps} steps of {config.batch_size} crops of {config.data.crop} pixels"
    )
    if perceptual == "ms_ssim":
        print("perceptual term: multi-scale SSIM (LPIPS has no backbone here; LATENTCODEC_LPIPS_VGG=FILE gives it one)")
    train(config)
    trained = time.perf_counter() - began
    export = export_run(Path(config.out), out / "export", calibration=32)
    shutil.copy(export / "reconstructions.png", out / "reconstructions.png")
    elsewhere = use_elsewhere(export, folders["held-out"], out)
    write_page(out, export, folders["held-out"], config)

    measured = read_metrics(Path(config.out), "validation")
    names = config.validation.metrics
    summary: dict[str, object] = {
        f"{name}_{when}": float(measured[name][index])
        for name in names
        for when, index in (("before", 0), ("after", -1))
    }
    summary |= {
        "perceptual": perceptual,
        "held_out": list(HELD_OUT_PHOTOS),
        "steps": config.steps,
        "seconds_training": round(trained, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "in_a_fresh_process": elsewhere,
        "versions": {name: version(name) for name in ("torch", "diffusers", "accelerate")}
        | {"python": platform.python_version()},
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    _print_table(names, measured, summary, out)
    return summary


def _print_table(names: list[str], measured: dict[str, np.ndarray], summary: dict[str, object], out: Path) -> None:
    print(f"\n{len(HELD_OUT_PHOTOS)} held-out photographs, {summary['seconds']} s in all\n")
    print(f"{'':12}{'before':>10}{'after':>10}")
    for name in names:
        print(f"{name:12}{measured[name][0]:10.3f}{measured[name][-1]:10.3f}")
    print(f"\n{out}/report.html           open it in a browser: pictures to compare, figures, latents")
    print(
        f"{out}/reconstructions.png   originals above reconstructions\n{out}/export/              a diffusers AutoencoderKL"
    )
    print(
        f"{out}/through_pipeline.png  a photograph through a Stable Diffusion pipeline with this VAE\n{out}/summary.json"
    )


def main() -> None:
    parser = Parser(prog="train.demo", description="Train, validate, export and use a small codec in a few minutes.")
    parser.add_argument("--out", type=str, default="out/demo", help="folder to write; emptied first")
    parser.add_argument("--steps", type=int | None, default=None, help="other number of steps than the preset's")
    options = parser.parse()
    overrides = [] if options.steps is None else ["--steps", str(options.steps)]
    run_demo(Path(options.out), *overrides)


if __name__ == "__main__":
    main()
