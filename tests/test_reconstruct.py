"""eval/reconstruct: bad VAEs come last, order changes nothing, and what the command prints and leaves."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from diffusers import AutoencoderKL
from handmade_vae import BOX, handmade_vae
from PIL import Image
from small_network import SmallNetwork

from eval.__main__ import main
from eval.bootstrap import Bootstrap
from eval.images import NamedImage
from eval.metrics import LOWER_IS_BETTER, METRICS, make_metrics
from eval.reconstruct import command
from eval.reconstruct.evaluate import Evaluation, EvaluationError, Plan, evaluate
from eval.reconstruct.modes import image_seed, reconstruct, reconstruct_modes
from eval.reconstruct.published import published_tables
from eval.reconstruct.summary import Summary, differences, ranking, scores_of, summarise, worst_first
from eval.reconstruct.table import with_interval
from eval.rows import read_rows
from latentcodec.codec import LatentCodec
from latentcodec.images.pixels import to_tensor, to_uint8
from latentcodec.vae.loading import save_vae
from latentcodec.vae.presets import build_vae

WITHOUT_WEIGHTS = ("psnr", "ssim", "ms_ssim")
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")


def photos(height: int = 168, width: int = 176) -> list[NamedImage]:
    """Corners and middles of the photographs of scikit-image, in slightly different sizes."""
    images = []
    for index, name in enumerate(PHOTOS):
        photo = getattr(skimage.data, name)()
        for corner, (top, left) in {"a": (0, 0), "b": (60, 100)}.items():
            part = photo[top : top + height + index, left : left + width]
            images.append(NamedImage(f"{name}-{corner}", np.ascontiguousarray(part)))
    return images


def vaes() -> dict[str, AutoencoderKL]:
    """One that loses a little contrast and whose samples are noisy; one that swaps colours too; one that blurs too."""
    common = {"gain": 0.98, "logvar": -8.0}
    return {
        "shuffled": handmade_vae(order=(1, 2, 0), **common),
        "good": handmade_vae(**common),
        "blurred": handmade_vae(kernel=BOX, **common),
    }


def run(images: Iterable[NamedImage], names: Iterable[str] = WITHOUT_WEIGHTS, **options: object) -> Evaluation:
    codecs = {name: LatentCodec(vae) for name, vae in vaes().items()}
    return evaluate(images, codecs, Plan(make_metrics(names), network=SmallNetwork(), keep_features=True, **options))


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return run(photos())


@pytest.fixture(scope="module")
def summaries(found: Evaluation) -> list[Summary]:
    return summarise(found, Bootstrap(resamples=500), rfid=True, kid=True)


@pytest.mark.parametrize("metric", [*WITHOUT_WEIGHTS, "rfid", "kid"])
@pytest.mark.parametrize("bad", ["shuffled", "blurred"])
def test_a_bad_vae_is_ranked_last(summaries: list[Summary], found: Evaluation, bad: str, metric: str) -> None:
    pair = [summary for summary in summaries if summary.codec in (bad, "good")]
    assert ranking(pair, metric, "mean") == ["good", bad]
    assert ranking(summaries, metric, "mean")[0] == "good"
    if metric in WITHOUT_WEIGHTS:  # and on every image, not only on average
        scores = scores_of(found.rows)
        good, worse = (scores[codec, "mean"][metric] for codec in ("good", bad))
        assert all(good[image] > worse[image] for image in good)


@pytest.mark.shared
@pytest.mark.parametrize("metric", ["lpips_alex", "lpips_vgg", "dists"])
def test_a_bad_vae_is_ranked_last_by_perceptual_metrics(
    metric: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTCODEC_LPIPS_ALEX", str(shared / "weights" / "alexnet_features.safetensors"))
    monkeypatch.setenv("LATENTCODEC_LPIPS_VGG", str(shared / "weights" / "vgg16_features.fp16.safetensors"))
    found = run(photos(96, 96)[::3], [metric], modes=("mean",))
    measured = summarise(found, Bootstrap(resamples=100))
    assert ranking(measured, metric, "mean")[0] == "good"
    assert measured[0].value(metric) > 5 * measured[1].value(metric) > 0


def test_a_sample_is_worse_than_the_mean(summaries: list[Summary]) -> None:
    by_key = {(summary.codec, summary.setting): summary for summary in summaries}
    assert list(by_key) == [(codec, mode) for codec in ("shuffled", "good", "blurred") for mode in ("mean", "sample")]
    assert by_key["good", "mean"].value("psnr") > by_key["good", "sample"].value("psnr") + 3


def test_differences_are_paired_and_clear(found: Evaluation) -> None:
    apart = {(d.codec, d.baseline, d.setting, d.metric): d.interval for d in differences(found.rows, Bootstrap())}
    assert len(apart) == 3 * 2 * 3
    interval = apart["good", "shuffled", "mean", "psnr"]
    scores = scores_of(found.rows)
    by_hand = [
        scores["good", "mean"]["psnr"][image] - value for image, value in scores["shuffled", "mean"]["psnr"].items()
    ]
    assert interval.mean == pytest.approx(np.mean(by_hand))
    assert 0 < interval.low < interval.mean < interval.high
    assert interval.images == 8


def test_order_of_images_changes_nothing(summaries: list[Summary]) -> None:
    """Means, intervals, samples, rFID and KID."""
    images = photos()
    again = summarise(run([*images[5:], *images[4::-1]]), Bootstrap(resamples=500), rfid=True, kid=True)
    for one, other in zip(summaries, again, strict=True):
        assert (one.codec, one.setting, one.images) == (other.codec, other.setting, other.images)
        for metric, interval in one.metrics.items():
            for field in ("mean", "low", "high"):
                assert getattr(interval, field) == pytest.approx(getattr(other.metrics[metric], field), abs=1e-9)
        assert one.rfid == pytest.approx(other.rfid, abs=1e-9)
        assert one.kid == other.kid


def test_batch_size_changes_nothing(found: Evaluation) -> None:
    """A codec that works in batches gives the same pictures as one image at a time."""
    images = [image.pixels[:168, :176] for image in photos()]
    vae = vaes()["good"]
    together = LatentCodec(vae, batch_pixels=3 * 168 * 176).reconstruct(images)
    for image, picture in zip(images, together.tensors, strict=True):
        alone = LatentCodec(vae).reconstruct([image]).tensors[0]
        torch.testing.assert_close(picture, alone, rtol=0, atol=1e-6)


def test_modes_are_diffusers() -> None:
    """The mean and the draw, decoded, against the network itself; any size is padded and cut back."""
    torch.manual_seed(0)
    vae = build_vae("tiny-f8d4", block_out_channels=(8, 8, 16, 16), norm_num_groups=4).eval()
    image = photos(64, 72)[0].pixels
    seed = image_seed(7, "a.png")
    results = reconstruct_modes(LatentCodec(vae), image, ("mean", "sample"), seed=seed)
    with torch.no_grad():
        posterior = vae.encode(to_tensor(image)[None]).latent_dist
        noise = torch.randn(posterior.mean[0].shape, generator=torch.Generator().manual_seed(seed))
        raw = {"mean": posterior.mean, "sample": posterior.mean + posterior.std * noise}
        for mode, result in results.items():
            assert np.array_equal(result.pixels, to_uint8(vae.decode(raw[mode]).sample)[0])
    assert np.array_equal(reconstruct(vae, image), results["mean"].pixels)
    assert not np.array_equal(results["mean"].pixels, results["sample"].pixels)
    odd = reconstruct_modes(LatentCodec(vae), image[:61, :35], ("mean",), seed=0)["mean"]
    assert odd.pixels.shape == (61, 35, 3)
    assert odd.encode_seconds > 0 < odd.decode_seconds
    assert len({image_seed(7, "a.png"), image_seed(8, "a.png"), image_seed(7, "b.png")}) == 3


def test_images_too_small_for_a_metric_are_said() -> None:
    images = [*photos()[:2], NamedImage("small", photos()[0].pixels[:40, :50])]
    found = run(images)
    assert found.too_small == {
        "ms_ssim": {"small": "height: expected at least 161 pixels, found 40. Use larger images"}
    }
    (row,) = [row for row in found.rows if (row.image, row.codec, row.setting) == ("small", "good", "mean")]
    assert set(row.metrics) == {"psnr", "ssim"}
    (summary,) = [s for s in summarise(found, Bootstrap()) if (s.codec, s.setting) == ("good", "mean")]
    assert (summary.images, summary.metrics["psnr"].images, summary.metrics["ms_ssim"].images) == (3, 3, 2)
    assert [row.image for row in worst_first(found.rows, "ms_ssim")][2::3] == ["small"] * 6


def test_worst_first(found: Evaluation) -> None:
    for metric in ("psnr", "ssim"):
        rows = worst_first(found.rows, metric)
        assert len(rows) == len(found.rows)
        for group in np.split(np.array([row.metrics[metric] for row in rows]), 6):
            assert (np.diff(group) >= 0).all()
    assert {"lpips_alex", "rfid"} <= LOWER_IS_BETTER


def test_what_is_not_finite_is_named() -> None:
    vae = vaes()["good"]
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(math.nan)
    with pytest.raises(EvaluationError, match=r"^mine, image astronaut-a: .*finite"):
        evaluate(photos()[:1], {"mine": LatentCodec(vae)}, Plan({}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `photos`, with a broken file and a small image, and three VAEs."""
    folder = tmp_path_factory.mktemp("reconstruct")
    (folder / "photos").mkdir()
    for image in photos()[:3]:
        Image.fromarray(image.pixels).save(folder / "photos" / f"{image.id}.png")
    Image.fromarray(photos()[3].pixels[:90, :70]).save(folder / "photos" / "small.png")
    (folder / "photos" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    for name, vae in vaes().items():
        save_vae(vae, folder / name)
    return folder


def test_the_command(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "out.json"
    command.main(
        [
            str(saved / "good"), f"bad={saved / 'shuffled'}", "--data", str(saved / "photos"),
            "--metrics", '["psnr","ms_ssim","rfid","kid"]', "--json", str(results), "--pictures", str(tmp_path / "pictures"),
            "--resamples", "200",
        ],
        network=SmallNetwork(),
    )  # fmt: skip
    printed = capsys.readouterr().out
    record = json.loads(results.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["kind"] == "reconstruct"
    assert [(row["codec"], row["setting"]) for row in record["rows"]] == [
        (codec, mode) for codec in ("good", "bad") for mode in ("mean", "sample")
    ]
    first = record["rows"][0]
    assert set(first["metrics"]["psnr"]) == {"mean", "low", "high", "images"}
    assert first["metrics"]["ms_ssim"]["images"] == 3
    assert first["sets"]["kid"]["subset_size"] == 4
    assert len(record["differences"]) == 2 * 2
    assert record["skipped"][0]["image"] == "torn.jpg"
    settings = record["settings"]
    assert settings["feature_network"] == SmallNetwork.description
    assert settings["data"]["sizes"] == {"176x168": 2, "176x169": 1, "70x90": 1}
    assert settings["vaes"][0]["fingerprint"].startswith("sha256:")
    assert str(saved) not in results.read_text("utf-8")

    rows = read_rows(tmp_path / "out.images.jsonl")
    assert len(rows) == 4 * 4
    good = [row for row in rows if (row.codec, row.setting) == ("good", "mean")]
    assert [row.metrics["psnr"] for row in good] == sorted(row.metrics["psnr"] for row in good)
    mean = np.mean([row.metrics["psnr"] for row in good])
    assert first["metrics"]["psnr"]["mean"] == pytest.approx(mean)
    for row in rows:
        picture = np.asarray(Image.open(tmp_path / row.picture))
        assert picture.shape == (row.height, row.width, 3)
    assert (tmp_path / "pictures" / "original" / "small.png.png").is_file()

    assert "4 images of photos: whole (2 of 176x168, 1 of 176x169, 1 of 70x90)" in printed
    assert "psnr (dB, higher is better)" in printed
    assert "bad - good" in printed
    assert f"rFID and KID of 4 images: {SmallNetwork.description}" in printed
    assert "note: skipped torn.jpg: damaged or truncated" in printed
    assert "note: ms_ssim leaves out 1 images that are too small for it, such as small.png" in printed
    assert "rFID of 4 images is far above that of many" in printed
    measured, reported = printed.split("reported by others, under other protocols")
    assert "FLUX.1" in reported
    assert "FLUX.1" not in measured


def test_the_command_again_gives_the_same(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [str(saved / "good"), "--data", str(saved / "photos"), "--metrics", '["psnr"]', "--size", "64"]
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert main(["reconstruct", *common, "--seed", seed, "--json", str(tmp_path / f"{name}.json")]) == 0
    a, b, c = (json.loads((tmp_path / f"{name}.json").read_text("utf-8"))["rows"] for name in "abc")
    assert a == b
    assert a[0]["metrics"]["psnr"]["mean"] == c[0]["metrics"]["psnr"]["mean"]
    assert a[1]["metrics"]["psnr"]["mean"] != c[1]["metrics"]["psnr"]["mean"]
    assert "short side scaled to 64 (Lanczos), 64x64 cut from the centre" in capsys.readouterr().out


def test_errors_are_explained(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, data = str(saved / "good"), ["--data", str(saved / "photos")]
    failing = [
        ([str(tmp_path / "absent"), *data], "absent"),
        ([good, "--data", str(tmp_path / "nowhere")], "nowhere"),
        ([good, good, *data], "found good twice"),
        (
            [good, *data, "--metrics", '["rfid"]', "--inception", str(tmp_path / "no.pth")],
            "weights-inception-2015-12-05",
        ),
    ]
    for arguments, message in failing:
        extra = [] if "--metrics" in arguments else ["--metrics", '["psnr"]']
        assert main(["reconstruct", *arguments, *extra]) == 1
        assert message in capsys.readouterr().err
    wrong = [
        (["--metrics", '["psnr","fid"]'], "--metrics: expected psnr or ssim"),
        (["--modes", '["median"]'], "--modes: expected mean or sample, found median"),
        (["--dtype", "float8"], "--dtype: expected float32"),
        (["--sort", "rfid"], "--sort: expected psnr"),
        (["--confidence", "95"], "confidence"),
    ]
    for arguments, message in wrong:
        with pytest.raises(SystemExit) as caught:
            main(["reconstruct", good, *data, *arguments])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


def test_published_rows_are_whole() -> None:
    tables = published_tables()
    models = {row.model for table in tables for row in table.rows}
    assert {"SDXL", "SD 3", "FLUX.1"} <= models
    assert any(model.startswith("SD 1") for model in models)
    for table in tables:
        assert len(table.protocol) > 20
        assert len(table.source) > 20
        for row in table.rows:
            assert set(row.metrics) <= {*METRICS, "rfid", "lpips"}
            assert all(math.isfinite(value) and value > 0 for value in row.metrics.values())


def test_figures_are_written_with_their_interval(summaries: list[Summary]) -> None:
    interval = summaries[0].metrics["psnr"]
    assert with_interval(interval, "psnr") == f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
