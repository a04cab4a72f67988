"""`python -m eval rate`: what it prints and leaves; runs that are killed, gone on with, refused, spread over processes."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from eval.__main__ import main
from eval.bootstrap import Bootstrap
from eval.images import NamedImage
from eval.rate.codec import RateError
from eval.rate.journal import Journal, run_path
from eval.rate.summary import summarise
from eval.rows import ImageRow, read_rows, rows_path

ROOT = Path(__file__).resolve().parents[1]
VAE = ROOT / "tests" / "expected" / "bitstream" / "vae"
COMMON = ["--metrics", "psnr,ms_ssim", "--resamples", "50", "--device", "cpu"]
QUALITIES = "jpeg=10/40/70/90,webp=10/50/90,latentcodec=20/50/80"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs of two sizes, one of them too small for MS-SSIM, and a broken file."""
    folder = tmp_path_factory.mktemp("rate") / "photos"
    folder.mkdir()
    Image.fromarray(skimage.data.astronaut()[:168, 100:276]).save(folder / "a.png")
    Image.fromarray(skimage.data.coffee()[100:268, 200:376]).save(folder / "b.png")
    Image.fromarray(skimage.data.chelsea()[100:173, 100:191]).save(folder / "small.png")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a run leaves."""
    out = tmp_path_factory.mktemp("out")
    arguments = ["rate", str(photos), "--codecs", f"jpeg,webp,latentcodec:{VAE}", "--qualities", QUALITIES]
    assert main([*arguments, *COMMON, "--anchor", "jpeg", *where(out)]) == 0
    return out


def where(out: Path) -> list[str]:
    return ["--json", str(out / "r.json"), "--pictures", str(out / "pictures"), "--plots", str(out / "plots")]


def record_of(out: Path) -> dict[str, Any]:
    text = (out / "r.json").read_text("utf-8")
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_rows_are_of_real_files(finished: Path, photos: Path) -> None:
    rows = read_rows(finished / "r.images.jsonl")
    assert len(rows) == 3 * (4 + 3 + 3 + 1)
    for row in rows:
        with Image.open(finished / row.picture) as picture:
            assert picture.size == (row.width, row.height)
        assert row.encode_seconds > 0 < row.decode_seconds
        assert (row.bytes is None) == (row.codec == "vae:vae") == (row.setting == "mean")
    (row,) = [row for row in rows if (row.image, row.codec, row.setting) == ("b.png", "jpeg", "40")]
    path = finished / "b.jpg"
    with Image.open(photos / "b.png") as image:
        image.save(path, quality=40)
        original = np.array(image)
    assert row.bytes == path.stat().st_size
    with Image.open(path) as image, Image.open(finished / row.picture) as kept:
        np.testing.assert_array_equal(np.array(image), np.array(kept))
        error = np.mean((np.array(image, np.float64) - original) ** 2)
    assert row.metrics["psnr"] == pytest.approx(10 * np.log10(255**2 / error))


def test_the_results_are_means_of_the_rows(finished: Path, photos: Path) -> None:
    record, rows = record_of(finished), read_rows(finished / "r.images.jsonl")
    assert record["kind"] == "rate"
    assert len(record["rows"]) == 4 + 3 + 3 + 1
    for point in record["rows"]:
        group = [row for row in rows if (row.codec, row.setting) == (point["codec"], point["setting"])]
        assert point["images"] == len(group) == 3
        assert point["metrics"]["psnr"]["mean"] == pytest.approx(np.mean([row.metrics["psnr"] for row in group]))
        assert point["metrics"]["ms_ssim"]["images"] == 2
        if point["bpp"] is not None:
            rates = [8 * row.bytes / (row.width * row.height) for row in group]
            assert point["bpp"]["mean"] == pytest.approx(np.mean(rates))
            assert point["bpp"]["low"] <= point["bpp"]["mean"] <= point["bpp"]["high"]
    settings = record["settings"]
    assert settings["data"]["sizes"] == {"176x168": 2, "91x73": 1}
    assert settings["codecs"]["latentcodec:vae"]["fingerprint"].startswith("sha256:")
    assert settings["codecs"]["jpeg"]["kind"] == settings["anchor"] == "jpeg"
    assert [row["image"] for row in record["skipped"]] == ["torn.jpg"]
    for file in (finished / "r.json", finished / "r.images.jsonl", finished / "r.run.jsonl"):
        assert str(photos.parent) not in file.read_text("utf-8")
        assert str(ROOT) not in file.read_text("utf-8")


def test_bd_rates_are_stated_or_undefined(finished: Path) -> None:
    found = {(each["codec"], each["metric"]): each for each in record_of(finished)["bd_rates"]}
    assert set(found) == {(codec, metric) for codec in ("webp", "latentcodec:vae") for metric in ("psnr", "ms_ssim")}
    assert found["webp", "psnr"]["percent"] < -10
    assert 0.3 < found["webp", "psnr"]["overlap"] < 1
    ours = found["latentcodec:vae", "psnr"]  # an untrained network: far below what any JPEG gives
    assert (ours["percent"], ours["undefined"]) == (None, "no overlap")


def test_plots_hold_the_ceiling_and_no_foreign_curve(finished: Path) -> None:
    assert sorted(path.name for path in (finished / "plots").iterdir()) == [
        "rd-ms_ssim.png", "rd-ms_ssim.svg", "rd-psnr.png", "rd-psnr.svg",
    ]  # fmt: skip
    drawn = (finished / "plots" / "rd-psnr.svg").read_text("utf-8")
    assert "vae:vae, not quantised" in drawn
    assert "published" not in drawn


def test_again_measures_nothing(finished: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command prints the same table from the same rows; a codec more adds its rows behind them."""
    lines, record = (finished / "r.images.jsonl").read_bytes(), record_of(finished)
    arguments = ["rate", str(photos), *COMMON, "--anchor", "jpeg", *where(finished)]
    same = ["--codecs", f"jpeg,webp,latentcodec:{VAE}", "--qualities", QUALITIES]
    assert main([*arguments, *same]) == 0
    printed = capsys.readouterr().out
    assert (finished / "r.images.jsonl").read_bytes() == lines
    again = record_of(finished)
    assert (again["rows"], again["bd_rates"], again["settings"]) == (
        record["rows"], record["bd_rates"], record["settings"],
    )  # fmt: skip
    for text in (
        "3 images of photos: 2 of 176x168, 1 of 91x73", "psnr dB", "no file", "BD-rate: bits", "against jpeg\n",
        "undefined: no overlap",
        "note: skipped torn.jpg: ", "note: ms_ssim leaves out 1 images that are too small for it, such as small.png",
    ):  # fmt: skip
        assert text in printed
    assert "published" not in printed

    narrower = ["--anchor", "jpeg, webp", "--most_bpp", "0.5"]
    assert main([*arguments, *same, *narrower]) == 0
    assert "against webp, up to 0.5 bpp" in capsys.readouterr().out
    found = [(each["anchor"], each["most_bpp"]) for each in record_of(finished)["bd_rates"]]
    assert list(dict.fromkeys(found)) == [("jpeg", None), ("webp", None), ("jpeg", 0.5), ("webp", 0.5)]

    assert main([*arguments, "--codecs", "jpeg,jpeg-444", "--qualities", "jpeg=20,jpeg-444=20/60"]) == 0
    more = (finished / "r.images.jsonl").read_bytes()
    assert more.startswith(lines)
    added = read_rows(finished / "r.images.jsonl")[33:]
    assert {(row.codec, row.setting) for row in added} == {("jpeg", "20"), ("jpeg-444", "20"), ("jpeg-444", "60")}
    assert len(record_of(finished)["rows"]) == 11 + 3


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished run, to be gone on with."""
    for file in ("r.images.jsonl", "r.run.jsonl", "r.json"):
        shutil.copy(finished / file, tmp_path / file)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--metrics", "psnr"], "measured with another metrics: ['psnr', 'ms_ssim'], now ['psnr']"),
        (["--size", "64"], "measured with another size: None, now 64"),
        (["--efforts", "0"], "another codec latentcodec:vae: effort: 1, now 0"),
        (["--dtype", "bfloat16"], "another codec latentcodec:vae: dtype: float32, now bfloat16"),
    ],
)
def test_other_settings_are_refused(
    copied: Path, photos: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "r.images.jsonl").read_bytes()
    arguments = ["rate", str(photos), "--codecs", f"latentcodec:{VAE}", *COMMON, *where(copied), *change]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "give the same again, or name another --json" in error
    assert (copied / "r.images.jsonl").read_bytes() == before


def test_other_pixels_are_refused(
    copied: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "photos"
    shutil.copytree(photos, other)
    Image.fromarray(skimage.data.coffee()[:168, :176]).save(other / "b.png")
    assert main(["rate", str(other), "--codecs", "jpeg", *COMMON, *where(copied)]) == 1
    assert "its rows about b.png are about other pixels" in capsys.readouterr().err


KEPT = ImageRow(
    image="a", codec="jpeg", setting="10", width=4, height=4, bytes=100, encode_seconds=0.1, decode_seconds=0.1,
    metrics={"psnr": 20.0}, picture=None,
)  # fmt: skip


def test_journals_are_exclusive_and_drop_torn_lines(tmp_path: Path) -> None:
    results = tmp_path / "new" / "r.json"
    first = Journal(results, {"metrics": ["psnr"]}, {"jpeg": {"kind": "jpeg"}})
    first.check_image(NamedImage("a", np.zeros((4, 4, 3), np.uint8)))
    first.add(KEPT)
    first.add(replace(KEPT, setting="20"))
    with pytest.raises(RateError, match="another run adds rows to it"):
        Journal(results, {"metrics": ["psnr"]}, {"jpeg": {"kind": "jpeg"}})
    first.close()
    for path in (rows_path(results), run_path(results)):
        with path.open("ab") as file:
            file.write(b'{"image": "b", "co')
    again = Journal(results, {"metrics": ["psnr"]}, {"webp": {"kind": "webp"}})
    assert again.rows == [KEPT, replace(KEPT, setting="20")]
    assert again.done == {("a", "jpeg", "10"), ("a", "jpeg", "20")}
    assert set(again.codecs) == {"jpeg", "webp"}
    again.check_image(NamedImage("b", np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(RateError, match="its rows about a are about other pixels"):
        again.check_image(NamedImage("a", np.ones((4, 4, 3), np.uint8)))
    again.close()
    assert [json.loads(line).get("image") for line in run_path(results).read_text().splitlines()] == [None, "a", "b"]

    run_path(results).write_text("{}\n")
    with pytest.raises(RateError, match="it is no file of a run"):
        Journal(results, {}, {})
    run_path(results).unlink()
    with pytest.raises(RateError, match=r"no r\.run\.jsonl that says what they were measured with"):
        Journal(results, {}, {})
    nowhere = Journal(None, {}, {})
    nowhere.add(KEPT)
    nowhere.close()
    assert nowhere.done == {("a", "jpeg", "10")}


def test_settings_that_miss_images_are_no_points() -> None:
    rows = [replace(KEPT, image=image, setting=setting) for image in "ab" for setting in ("10", "20")]
    found = summarise(rows[:-1], ["a", "b"], Bootstrap(50))
    assert [(point.setting, point.images) for point in found.points] == [("10", 2)]
    assert found.incomplete == {("jpeg", "20"): 1}
    assert [point.setting for point in summarise(rows, ["b"], Bootstrap(50)).points] == ["10", "20"]


def command(photos: Path, out: Path, *more: str) -> list[str]:
    codecs = ["--codecs", "jpeg,webp", "--qualities", "jpeg=5/25/45/65/85,webp=10/30/50/70/90", "--metrics", "psnr"]
    return ["rate", str(photos), *codecs, "--device", "cpu", "--json", str(out / "r.json"), *more]


def test_a_killed_run_goes_on_where_it_stopped(photos: Path, tmp_path: Path) -> None:
    """Killed without warning while it writes rows; the same command completes it, each row once, the old ones as they were."""
    rows = tmp_path / "r.images.jsonl"
    with subprocess.Popen(
        [sys.executable, "-m", "eval", *command(photos, tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as started:
        while started.poll() is None and (not rows.exists() or rows.read_bytes().count(b"\n") < 4):
            time.sleep(0.002)
        started.kill()
    before = rows.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert 4 <= whole.count(b"\n") < 3 * 10
    assert not (tmp_path / "r.json").exists()

    threads = torch.get_num_threads()
    try:  # as many as the killed process had, since that is a setting
        torch.set_num_threads(json.loads((tmp_path / "r.run.jsonl").read_text().splitlines()[0])["settings"]["threads"])
        assert main(command(photos, tmp_path)) == 0
    finally:
        torch.set_num_threads(threads)
    assert rows.read_bytes().startswith(whole)
    found = read_rows(rows)
    assert len({(row.image, row.codec, row.setting) for row in found}) == len(found) == 3 * 10
    assert all(point["images"] == 3 for point in record_of(tmp_path)["rows"])


def test_processes_find_the_same_in_the_same_order(photos: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(command(photos, alone)) == 0
    assert main(command(photos, together, "--jobs", "2")) == 0
    one, other = (
        [replace(row, encode_seconds=None, decode_seconds=None) for row in read_rows(out / "r.images.jsonl")]
        for out in (alone, together)
    )
    assert one == other
    assert len(one) == 3 * 10
    assert "times are those of a machine that does 2 images at once" in record_of(together)["notes"]
    assert len(record_of(together)["notes"]) == len(record_of(alone)["notes"]) + 1


def test_errors_are_explained(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing = [
        ([str(photos), "--codecs", "gif"], "codecs: expected one of jpeg"),
        ([str(photos), "--codecs", f"latentcodec:{tmp_path}"], "VAELoadError"),
        ([str(tmp_path / "nowhere"), "--codecs", "jpeg"], "nowhere"),
        ([str(photos), "--codecs", "jpeg", "--anchor", "webp"], "anchor: expected one of jpeg, found webp"),
        ([str(photos), "--codecs", "jpeg", "--efforts", "most"], "efforts: expected some of 0,1,2, found most"),
        ([str(photos), "--codecs", "jpeg", "--qualities", "jpeg=200"], "expected a whole quality 0 ... 100, found 200"),
    ]
    for arguments, message in failing:
        assert main(["rate", *arguments, *COMMON]) == 1
        assert message in capsys.readouterr().err
    for arguments, message in (
        (["--metrics", "psnr,fid"], "found fid"),
        (["--dtype", "int8"], "--dtype: expected float32"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["rate", str(photos), "--codecs", "jpeg", *arguments])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.shared
def test_jpeg_and_webp_agree_with_what_others_measured(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PSNR on Kodak within half a decibel of CompressAI's figures, at equal bits per pixel and subsampling."""
    codecs = ["--codecs", "jpeg,webp", "--qualities", "jpeg=5/10/20/40/60/80/95,webp=5/20/50/90", "--metrics", "psnr"]
    arguments = ["rate", str(shared / "photos" / "kodak"), *codecs, "--json", str(tmp_path / "r.json")]
    assert main([*arguments, "--resamples", "50", "--plots", str(tmp_path)]) == 0
    found = {each["codec"]: each for each in record_of(tmp_path)["agreements"]}
    assert set(found) == {"jpeg", "webp"}
    for codec, rates in (("jpeg", 18), ("webp", 16)):
        assert found[codec]["agrees"]
        assert len(found[codec]["rates"]) >= rates
        assert max(map(abs, found[codec]["differences"])) < 0.3
    printed = capsys.readouterr().out
    assert "jpeg minus published JPEG: mean +0.1" in printed
    assert "VTM" in printed.split("others have published")[1]
    assert "VTM" not in printed.split("others have published")[0]
    assert "VTM (published)" in (tmp_path / "rd-psnr.svg").read_text("utf-8")
