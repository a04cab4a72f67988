"""`python -m eval latents`: the command, its table, JSON and pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in_models import PoolingModel, pictures
from torch.testing import assert_close

from eval.__main__ import main
from eval.latents.distribution import RunningDistribution
from eval.latents.measure import batches
from eval.latents.pictures import SPREAD, PrincipalColours
from latentcodec.images.decode import decode_image
from latentcodec.images.geometry import center_crop, resize_short_side
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.loading import load_vae, save_vae
from latentcodec.vae.presets import build_vae

SMALL = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4}


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random networks on disk, with 16 and 4 channels."""
    folder = tmp_path_factory.mktemp("vaes")
    for seed, preset in enumerate(("tiny-f8d16", "tiny-f8d4")):
        torch.manual_seed(seed)
        save_vae(build_vae(preset, **SMALL, scaling_factor=0.5), folder / preset)
    return {preset: folder / preset for preset in ("tiny-f8d16", "tiny-f8d4")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of different sizes and a broken one."""
    folder = tmp_path_factory.mktemp("photos")
    for index, image in enumerate(pictures(5, 96)):
        Image.fromarray(image.pixels[: 96 - 8 * index]).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


FEW = ["--size", "64", "--decoded", "2", "--scales", "[0.5]", "--turns", "[90]", "--noise", "[0.1]", "--keep", "[0.5]"]


def run(vaes: list[Path], photos: Path | str, *options: str) -> int:
    return main(["latents", *map(str, vaes), "--data", str(photos), *FEW, *options])


def test_two_vaes_in_one_table_and_one_file(
    vaes: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "latents.json", tmp_path / "pictures"
    assert run(list(vaes.values()), photos, "--json", str(out), "--pictures", str(folder), "--pictured", "3") == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == list(vaes)
    assert "turn 90" in printed
    assert "1 image was skipped" in printed

    text = out.read_text()
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert str(tmp_path.parent) not in text
    assert results["kind"] == "latents"
    assert results["versions"]["torch"] in torch.__version__
    assert results["settings"]["data"] == photos.name
    assert [skipped["image"] for skipped in results["skipped"]] == ["broken.png"]
    for row, (name, path) in zip(results["rows"], vaes.items(), strict=True):
        vae = load_vae(path)
        channels = vae.config.latent_channels
        assert (row["vae"], row["fingerprint"]) == (name, weights_fingerprint(vae))
        assert (row["images"], row["channels"], len(row["per_channel"])) == (5, channels, channels)
        assert row["scaling"]["factor"] == 0.5
        assert (row["scaled_mean"], row["scaled_std"]) == pytest.approx((0.5 * row["mean"], 0.5 * row["std"]))
        assert row["measured_scaling_factor"] == pytest.approx(1 / row["std"])
        assert np.array(row["correlation"]).shape == (channels, channels)
        assert np.array(row["spectrum"]["power"]).shape == (channels, 7)
        assert row["equivariance"]["turn 90"]["latent_error"] > 0.01
        assert row["noise"]["0.1"]["images"] == row["cut"]["0.5"]["images"] == 2
        assert 0 < row["pictures"]["explained_variance"] <= 1
        for files in row["pictures"]["files"]:
            original, picture = (decode_image(out.parent / files[kind]) for kind in ("original", "latents"))
            photo = center_crop(resize_short_side(decode_image(photos / files["image"]), 64), 64, 64)
            assert (original == photo).all()
            assert picture.shape == (64, 64, 3)
            assert picture[::8, ::8].std() > 5
        assert len(row["pictures"]["files"]) == 3
    assert decode_image(folder / "sheet.png").shape == (3 * 64, 3 * 64, 3)


def test_the_same_run_gives_the_same_file(vaes: dict[str, Path], tmp_path: Path) -> None:
    rows = []
    for name, batch in (("one", "1"), ("two", "3")):
        out = tmp_path / f"{name}.json"
        assert run([vaes["tiny-f8d4"]], "procedural:2", "--images", "4", "--batch", batch, "--json", str(out)) == 0
        rows.append(json.loads(out.read_text())["rows"])
    assert rows[0][0]["kl_nats"] == pytest.approx(rows[1][0]["kl_nats"], rel=1e-9)
    assert rows[0][0]["noise"] == rows[1][0]["noise"]


def test_nothing_decoded(vaes: dict[str, Path], photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([vaes["tiny-f8d4"]], photos, "--decoded", "0") == 0
    assert "equivariance" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "60"], "takes multiples of 8 pixels, found 60"),
        (["--scales", "[0.25]"], "tiny-f8d4 has 8 latent positions along a side, of which the scale 0.25"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_errors_in_one_line(
    vaes: dict[str, Path], photos: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([vaes["tiny-f8d4"]], photos, *options) == 1
    assert message in capsys.readouterr().err


def test_one_vae_twice_is_an_error(vaes: dict[str, Path], photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([vaes["tiny-f8d4"]] * 2, photos) == 1
    assert "tiny-f8d4 twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", "[-1.0]"], "noise: expected positive sizes, found -1"),
        (["--keep", "[1.0]"], "keep: expected shares from 0 to below 1, found 1"),
        (["--turns", "[30]"], "turns: expected 90, 180 or 270 degrees, found 30"),
        (["--dtype", "int8"], "dtype: expected one of float32, bfloat16, float16, found int8"),
        (["--images", "0"], "images: expected at least 1, found 0"),
        (["--decoded", "-1"], "decoded: expected at least 0, found -1"),
    ],
)
def test_wrong_options_are_usage_errors(
    vaes: dict[str, Path], photos: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run([vaes["tiny-f8d4"]], photos, *options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_colours_are_the_principal_components() -> None:
    values = torch.randn(4, 5, 12, 12, dtype=torch.float64) * torch.tensor([1, 5, 0.1, 3, 2.0])[:, None, None]
    values = torch.einsum("dc,bchw->bdhw", torch.linalg.qr(torch.randn(5, 5).double())[0], values) + 4
    found = RunningDistribution.of(values)
    colours = PrincipalColours.fit(found.mean, found.covariance())
    matrix = values.transpose(0, 1).flatten(1)
    matrix = (matrix - matrix.mean(1, keepdim=True)).numpy()
    left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
    assert_close(colours.deviations, torch.from_numpy(singular[:3] / np.sqrt(matrix.shape[1])))
    np.testing.assert_allclose(np.abs(colours.axes.numpy()), np.abs(left[:, :3]), atol=1e-9)
    assert colours.explained == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum())
    assert all(axis[axis.abs().argmax()] > 0 for axis in colours.axes.T)

    picture = colours.picture(values[0], factor=3)
    assert (picture.dtype, picture.shape) == (np.uint8, (36, 36, 3))
    components = colours.axes.T @ (values[0].flatten(1) - colours.mean[:, None])
    expected = np.clip((components.T.numpy() / (SPREAD * colours.deviations.numpy()) + 1) * 127.5, 0, 255)
    np.testing.assert_allclose(picture[::3, ::3].reshape(-1, 3), expected, atol=0.501)
    assert (picture[1::3, 2::3] == picture[::3, ::3]).all()


@pytest.mark.parametrize("channels", [1, 2])
def test_fewer_than_three_channels_leave_colours_grey(channels: int) -> None:
    values = torch.randn(2, channels, 8, 8)
    found = RunningDistribution.of(values)
    colours = PrincipalColours.fit(found.mean, found.covariance())
    assert colours.explained == pytest.approx(1)
    picture = colours.picture(values[0])
    assert (picture[..., channels:] == 128).all()
    assert picture[..., :channels].std() > 20


def test_latents_that_never_change_are_grey() -> None:
    colours = PrincipalColours.fit(torch.full((4,), 2.0).double(), torch.zeros(4, 4).double())
    assert (colours.picture(torch.full((4, 5, 6), 2.0), factor=2) == 128).all()


def test_pictures_of_pooled_images_resemble_them() -> None:
    """The components hold all of three channels, so some mixture of the picture's colours is the image's."""
    (part,) = batches(pictures(3), 3)
    means = PoolingModel().encode(part.images).mean
    found = RunningDistribution.of(means)
    colours = PrincipalColours.fit(found.mean, found.covariance())
    assert colours.explained == pytest.approx(1)
    picture = colours.picture(means[0]).reshape(-1, 3) / 127.5 - 1
    inside = (np.abs(picture) < 0.99).all(axis=1)
    assert inside.mean() > 0.5
    mixture = torch.from_numpy(picture) * SPREAD * colours.deviations @ colours.axes.T + found.mean
    assert_close(mixture[inside], means[0].double().flatten(1).T[inside], atol=0.02, rtol=0)
