"""Latents moved at random: sizes, seeds, the reader, the command, and how far images move."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_stores import write_store
from store_helpers import small_codec, small_vae, write_images

from eval.augmentation import distances
from eval.augmentation import main as measure
from eval.images import ImageSet
from eval.metrics import make_metrics
from latentcodec.augmentation import KINDS, Augmentation
from latentcodec.cli import main
from latentcodec.images.folder import FolderSource
from latentcodec.scaling import Scaling
from latentcodec.store.dataset import LatentDataset
from latentcodec.store.draws import Draw
from latentcodec.store.errors import StoreError
from latentcodec.vae.loading import save_vae


@pytest.mark.parametrize("kind", KINDS)
def test_displacements_have_their_size_and_are_functions_of_the_seed(kind: str) -> None:
    deviation = torch.full((4, 40, 56), 0.25)
    one = Augmentation(kind, 2.0).displacement(deviation, 7)
    unit = 0.25 if kind == "posterior" else 1.0
    assert float(one.square().mean().sqrt()) == pytest.approx(2 * unit, rel=0.05)
    assert torch.equal(one, Augmentation(kind, 2.0).displacement(deviation, 7))
    assert not torch.equal(one, Augmentation(kind, 2.0).displacement(deviation, 8))
    torch.testing.assert_close(Augmentation(kind, 0.5).displacement(deviation, 7), one / 4)
    assert not Augmentation(kind, 0.0).displacement(deviation, 7).any()


def test_smooth_is_smooth_and_white_is_not() -> None:
    def roughness(kind: str) -> float:
        field = Augmentation(kind).displacement(torch.ones(8, 64, 64), 0)
        return float(field.diff(dim=2).square().mean() / field.square().mean())

    assert roughness("white") == pytest.approx(2, rel=0.05)
    assert roughness("smooth") < 0.1


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected one of posterior, white, smooth; found 'pink'"):
        Augmentation("pink")
    with pytest.raises(ValueError, match=r"size: expected a number of at least 0, found -1\.0"):
        Augmentation(size=-1.0)


@pytest.mark.parametrize(
    "scaling",
    [Scaling(0.5), Scaling(0.5, 0.25), Scaling(0.5, None, (1.0, 2.0), (0.5, 4.0))],
    ids=["factor", "shift", "std"],
)
def test_deviations_scale_as_differences_do(scaling: Scaling) -> None:
    raw, apart = torch.randn(2, 3, 3), torch.rand(2, 3, 3)
    torch.testing.assert_close(scaling.apply(raw + apart) - scaling.apply(raw), scaling.apply_to_deviation(apart))


# ---- the reader


def test_the_reader_moves_rows_anew_in_each_epoch_and_keeps_their_labels(tmp_path: Path) -> None:
    store = write_store(tmp_path, shapes=((4, 4),))
    plain = LatentDataset(store.url, sample=False)
    for kind in KINDS:
        moved = LatentDataset(store.url, sample=False, augmentation=Augmentation(kind, 0.5))
        first = moved.batch([Draw(3, 0), Draw(9, 0)])
        assert first["label"].tolist() == plain.batch([3, 9])["label"].tolist()  # type: ignore[union-attr]
        assert torch.equal(first["latents"][0], moved[Draw(3, 0)]["latents"])
        assert not torch.equal(first["latents"][0], moved[Draw(3, 1)]["latents"])
        apart = first["latents"] - plain.batch([3, 9])["latents"]
        expected = 0.5
        if kind == "posterior":
            logvar = torch.stack([store.values[row][4:] for row in (3, 9)])
            expected = float((0.5 * 0.5 * torch.exp(0.5 * logvar)).square().mean().sqrt())  # size x scaling x deviation
        assert float(apart.square().mean().sqrt()) == pytest.approx(expected, rel=0.2)


def test_means_alone_have_no_posterior_to_move_in(tmp_path: Path) -> None:
    store = write_store(tmp_path, values="mean")
    with pytest.raises(StoreError, match=r"augmentation: .* holds means without variances, which posterior needs"):
        LatentDataset(store.url, augmentation=Augmentation())
    assert LatentDataset(store.url, augmentation=Augmentation("white"))[0]["latents"].isfinite().all()


# ---- the command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    save_vae(small_vae(), tmp_path / "vae")
    folder = write_images(tmp_path / "photos", 2)
    (folder / "sub").mkdir()
    (folder / "001.png").rename(folder / "sub" / "001.png")
    (folder / "000.txt").write_text("a caption")
    (folder / "sub" / "001.cls").write_text("7")
    return folder


def augment(photos: Path, out: str, *more: str) -> int:
    command = ["augment", str(photos), "-o", str(photos.parent / out), "--vae", str(photos.parent / "vae")]
    return main([*command, "--kind", "smooth", "--dtype", "float32", *more])


def test_the_command_keeps_labels_and_repeats_itself(photos: Path) -> None:
    assert augment(photos, "one", "--copies", "2", "--size", "0.5") == 0
    assert augment(photos, "two", "--copies", "2", "--size", "0.5") == 0
    assert augment(photos, "other", "--copies", "2", "--size", "0.5", "--seed", "1") == 0
    names = sorted(p.relative_to(photos.parent / "one").as_posix() for p in (photos.parent / "one").rglob("*.png"))
    assert names == ["000.png-0.png", "000.png-1.png", "sub/001.png-0.png", "sub/001.png-1.png"]
    pixels = {
        out: [np.asarray(Image.open(photos.parent / out / name)) for name in names] for out in ("one", "two", "other")
    }
    for first, again, other in zip(*pixels.values(), strict=True):
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
    assert not np.array_equal(pixels["one"][0], pixels["one"][1])

    source = FolderSource(photos.parent / "one")
    assert [source[i].metadata.get("caption") for i in range(4)] == ["a caption", "a caption", None, None]
    assert [source[i].metadata.get("label") for i in range(4)] == [None, None, 7, 7]
    assert source[3].metadata["augmentation"] == {
        "of": "sub/001.png", "kind": "smooth", "size": 0.5, "seed": 0, "number": 1,
    }  # fmt: skip


def test_size_0_is_the_reconstruction_and_broken_images_are_told(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    assert augment(photos, "plain", "--size", "0", "--json") == 1
    captured = capsys.readouterr()
    assert "broken.png" in captured.err
    assert [row["variant"] for row in json.loads(captured.out)["images"]] == ["000.png-0.png", "sub/001.png-0.png"]
    original = np.asarray(Image.open(photos / "000.png"))
    plain = np.asarray(Image.open(photos.parent / "plain" / "000.png-0.png"))
    # through scaled latents and back, which may round differently
    assert np.abs(plain.astype(int) - small_codec().reconstruct(original).to_uint8()[0]).max() <= 1


def test_wrong_flags_are_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert augment(photos, "out", "--copies", "0") == 1
    assert "--copies: expected at least 1, found 0" in capsys.readouterr().err
    assert augment(photos, "out", "--size", "-1") == 1
    assert "--size: expected a number of at least 0" in capsys.readouterr().err


# ---- how far images move


def test_images_move_farther_with_the_size(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = ImageSet(photos, size=32)
    sizes = (0.0, 0.3, 1.0, 3.0)
    scores = distances(small_codec(), images, [Augmentation("white", size) for size in sizes], make_metrics(["psnr"]))
    for image in ("000.png", "sub/001.png"):
        values = [of_size["psnr"][image] for of_size in scores]
        assert values == sorted(values, reverse=True)
        assert values[0] > 50
    arguments = [str(photos.parent / "vae"), "--data", str(photos), "--size", "32", "--metrics", "[psnr]"]
    measure([*arguments, "--kinds", "[white]", "--json", str(photos.parent / "r.json")])
    assert capsys.readouterr().out.count("white") == 4
    record = json.loads((photos.parent / "r.json").read_text())
    assert [row["size"] for row in record["rows"]] == [0.05, 0.1, 0.2, 0.4]
    assert str(photos.parent) not in json.dumps(record)
