"""eval/rows.py, results.py, pictures.py, labels.py and images.py: what a benchmark reads and leaves."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eval.images import ImageSet, source_name
from eval.labels import LabelError, label_sources
from eval.pictures import PictureFolder, file_name
from eval.results import write_results
from eval.rows import ImageRow, RowsError, read_rows, rows_path, write_rows
from latentcodec.images.sources import SourceError

ROW = ImageRow(
    image="folder/a.png", codec="mine", setting="mean", width=30, height=20, bytes=None, encode_seconds=0.25,
    decode_seconds=None, metrics={"psnr": 31.5, "ssim": 0.9}, picture="pictures/a.png",
)  # fmt: skip


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, image="é\n\u2028 b", bytes=1234, metrics={"psnr": math.inf}, picture=None)]
    path = rows_path(tmp_path / "new" / "out.json")
    assert path.name == "out.images.jsonl"
    write_rows(path, rows)
    assert read_rows(path) == rows
    for line in path.read_bytes().split(b"\n")[:-1]:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert json.loads(path.read_bytes().split(b"\n")[1])["metrics"] == {"psnr": "inf"}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_rows_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [ROW])
    with pytest.raises(ValueError, match="NaN"):
        write_rows(path, [ROW, replace(ROW, metrics={"psnr": math.nan})])
    assert read_rows(path) == [ROW]
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("line", ['{"image": "a"}', "[]", '{"image', "7"])
def test_foreign_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [ROW])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(RowsError, match=r"rows\.jsonl, line 2: expected"):
        read_rows(path)


def test_results_are_strict_json_with_provenance(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_results(path, "rate", {"seed": 3}, [{"psnr": 30.0}], torch.device("cpu"), notes=["é"])
    record = json.loads(path.read_text("utf-8"))
    assert list(record)[:4] == ["kind", "settings", "rows", "notes"]
    assert (record["kind"], record["settings"], record["rows"]) == ("rate", {"seed": 3}, [{"psnr": 30.0}])
    assert {"device", "versions", "commit", "time", "python", "threads"} <= set(record)
    assert {"torch", "lpips", "torch-fidelity", "scikit-image"} <= set(record["versions"])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(path, "rate", {}, [{"psnr": math.inf}], torch.device("cpu"))
    assert json.loads(path.read_text("utf-8")) == record


@given(st.lists(st.text(min_size=1), unique=True, max_size=20))
def test_file_names_are_safe_and_different(names: list[str]) -> None:
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(files)
    for file in files:
        assert Path(file).name == file
        assert not file.startswith(".")
        assert len(file) < 120


def test_pictures_are_where_the_rows_say(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    folder = PictureFolder(tmp_path / "pictures", tmp_path / "results")
    names = [
        folder.save("owner/vae", "mean", "sub/a.jpg", pixels),
        folder.save("owner/vae", "sample", "sub/a.jpg", 255 - pixels),
        folder.save_original("sub/a.jpg", pixels),
    ]
    assert len(set(names)) == 3
    read = [np.asarray(Image.open(tmp_path / name.removeprefix("../"))) for name in names]
    assert all(name.startswith("../pictures/") for name in names)
    assert np.array_equal(read[0], pixels)
    assert np.array_equal(read[1], 255 - pixels)
    assert PictureFolder(tmp_path / "p").save_original("b.png", pixels) == "original/b.png.png"


def test_labels(tmp_path: Path) -> None:
    for name in ("one/vae", "two/vae", "three"):
        (tmp_path / name).mkdir(parents=True)
    one, two, three = (str(tmp_path / name) for name in ("one/vae", "two/vae", "three"))
    assert label_sources([three]) == {"three": three}
    assert label_sources([one, two]) == {"one/vae": one, "two/vae": two}
    assert list(label_sources([f"{three}/", "stabilityai/sdxl-vae"])) == ["three", "stabilityai/sdxl-vae"]
    assert list(label_sources([f"first={one}", two])) == ["first", "vae"]
    with pytest.raises(LabelError, match="found three twice; name one as NAME="):
        label_sources([three, three])
    with pytest.raises(LabelError, match="found a twice"):
        label_sources([f"a={one}", f"a={two}"])


def save_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(np.full((10 + index, 20, 3), 40 * index, np.uint8)).save(folder / f"{index}.png")


def test_image_sets_skip_and_list_what_is_broken(tmp_path: Path) -> None:
    save_images(tmp_path / "photos", 4)
    (tmp_path / "photos" / "1.png").write_bytes(b"broken")
    images = ImageSet(tmp_path / "photos")
    found = {image.id: image.pixels.shape for image in images}
    assert found == {"0.png": (10, 20, 3), "2.png": (12, 20, 3), "3.png": (13, 20, 3)}
    assert [image.id for image in images] == list(found)
    assert [id for id, _ in images.skipped.rows] == ["1.png"]
    assert (images.name, len(images)) == ("photos", 4)

    limited = ImageSet(str(tmp_path / "photos"), limit=2, size=6)
    assert [(image.id, image.pixels.shape) for image in limited] == [("0.png", (6, 6, 3)), ("2.png", (6, 6, 3))]
    for name in ("0.png", "2.png", "3.png"):
        (tmp_path / "photos" / name).write_bytes(b"")
    with pytest.raises(SourceError, match=r"photos: no image could be read\. 4 images were skipped"):
        list(ImageSet(tmp_path / "photos"))


def test_image_sets_have_an_identity(tmp_path: Path) -> None:
    save_images(tmp_path / "a", 3)
    save_images(tmp_path / "b", 3)

    def digest(folder: str, **options: int) -> str:
        images = ImageSet(tmp_path / folder, **options)
        assert len(list(images)) > 0
        return images.digest

    assert digest("a") == digest("b")
    assert len({digest("a"), digest("a", limit=2), digest("a", size=8)}) == 3
    Image.fromarray(np.full((10, 20, 3), 1, np.uint8)).save(tmp_path / "b" / "0.png")
    assert digest("a") != digest("b")


def test_image_sets_refuse_what_has_no_end() -> None:
    with pytest.raises(SourceError, match="no end"):
        ImageSet("procedural:3")
    images = list(ImageSet("procedural:3", limit=2))
    assert [image.id for image in images] == ["procedural:3/0", "procedural:3/1"]
    with pytest.raises(ValueError, match="limit: expected at least 1, found 0"):
        ImageSet("procedural", limit=0)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("hf:owner/name:test", "hf:owner/name:test"),
        ("procedural:4", "procedural:4"),
        ("procedural", "procedural"),
        ("some/where/photos/", "photos"),
        ("some/where/*.tar", "*.tar"),
        ("folder:some/where", "where"),
        ("s3://bucket/photos", "photos"),
    ],
)
def test_sources_are_named_without_their_path(
    spec: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "where").mkdir(parents=True)
    assert source_name(spec) == name
