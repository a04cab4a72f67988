"""The writer of the page: what is in it, what must never be in it, and how large it gets."""

import base64
import hashlib
import io
import json
import math
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_results import (
    HOSTILE_CODEC,
    HOSTILE_IMAGE,
    HOSTILE_VAE,
    SmallResults,
    small_images,
    write_reconstruct,
    write_small_results,
)

from eval.__main__ import main as eval_main
from eval.metrics import psnr
from eval.report.benchmark import Choice
from eval.report.command import write_report
from eval.report.inputs import ReportError
from eval.report.pictures import LEVELS_ROOT, Gallery, error_map
from eval.report.writer import FOLDER, SCRIPTS, json_text, page

VOID = {"meta", "link", "img", "br", "input", "hr"}
RUNNABLE = {None, "text/javascript", "module"}


class Document(HTMLParser):
    """Elements of a page: their attributes, and the text of those that hold nothing else."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[dict[str, str | None], str]] = []
        self.problems: list[str] = []
        self._open: list[str] = []
        self._in_raw: dict[str, str | None] | None = None
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.problems += [
            f"<{tag}> has {name} twice" for name, times in Counter(name for name, _ in attrs).items() if times > 1
        ]
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("script", "style"):
            self._in_raw = {"tag": tag, **attributes}
            self.raw.append((self._in_raw, ""))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes another element")
        self._in_raw = None

    def handle_data(self, data: str) -> None:
        if self._in_raw is not None:
            attributes, text = self.raw[-1]
            self.raw[-1] = (attributes, text + data)

    def raw_text(self, **wanted: str) -> str:
        """Of the one `script` or `style` element with these attributes."""
        (text,) = [text for attributes, text in self.raw if wanted.items() <= attributes.items()]
        return text

    @property
    def content(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw_text(id="data"))
        return found

    def picture(self, number: int) -> np.ndarray:
        data = base64.b64decode(self.raw_text(id=f"picture-{number}"))
        return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallResults:
    return write_small_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def written(small: SmallResults) -> Document:
    output = small.folder / "page" / "page.html"
    write_report([small.folder], output, title=f"{HOSTILE_VAE} of {HOSTILE_CODEC}")
    return Document(output.read_text("utf-8"))


def test_the_page_is_well_formed(written: Document) -> None:
    assert written.problems == []
    tags = Counter(tag for tag, _ in written.elements)
    assert all(tags[tag] == 1 for tag in ("html", "head", "body", "title", "main", "h1", "style"))
    ids = Counter(attributes["id"] for _, attributes in written.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    (html,) = [attributes for tag, attributes in written.elements if tag == "html"]
    assert html == {"lang": "en"}


def test_the_page_refers_to_nothing_outside(written: Document) -> None:
    for tag, attributes in written.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), f"<{tag} {name}={value}>"
    style = written.raw_text(tag="style")
    assert "url(" not in style
    assert "@import" not in style
    script = next(
        text for attributes, text in written.raw if "type" not in attributes and attributes["tag"] == "script"
    )
    assert re.findall(r"https?://[^\"']+", script) == ["http://www.w3.org/2000/svg"], (
        "the name of SVG, which nobody fetches"
    )
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|eval|innerHTML|insertAdjacentHTML)\b",
        script,
    )


def test_the_policy_allows_this_script_and_style_only(written: Document) -> None:
    (policy,) = [a["content"] for _, a in written.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in str(policy).split("; "))
    running = [
        text for attributes, text in written.raw if attributes["tag"] == "script" and attributes.get("type") in RUNNABLE
    ]
    assert len(running) == 1
    for name, text in (("script-src", running[0]), ("style-src", written.raw_text(tag="style"))):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")


def test_names_reach_the_page_as_text_only(written: Document, small: SmallResults) -> None:
    content = written.content
    (of_images,) = content["sets"]
    assert HOSTILE_IMAGE in [image["id"] for image in of_images["images"]]
    assert [codec["name"] for codec in of_images["codecs"]] == ["jpeg", HOSTILE_CODEC, HOSTILE_VAE, "blurred"]
    assert content["latents"][0]["rows"][0]["vae"] == HOSTILE_VAE
    assert not [tag for tag, _ in written.elements if tag in ("b", "i", "img")]
    scripts = [attributes.get("type") for attributes, _ in written.raw if attributes["tag"] == "script"]
    assert scripts.count("text/plain") == len(scripts) - 2


def test_json_cannot_end_its_element() -> None:
    text = json_text({"</script>": ["<!--", "&amp;", "\u2028", "\ud800"]})
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == {"</script>": ["<!--", "&amp;", "\u2028", "\ud800"]}
    with pytest.raises(ValueError, match="JSON"):
        json_text({"score": math.nan})


def test_a_title_of_broken_characters_is_written() -> None:
    text = page("half a pair: \ud800 <", {"pictures": {}}, []).decode()
    assert "<title>half a pair: &#55296; &lt;</title>" in text


def test_every_script_of_the_folder_is_in_the_page() -> None:
    assert sorted(SCRIPTS) == sorted(path.stem for path in FOLDER.glob("*.js"))


def test_figures_are_those_of_the_results(written: Document, small: SmallResults) -> None:
    (of_images,) = written.content["sets"]
    rows = of_images["rows"]
    assert len(rows["image"]) == len(small.rows)
    for number, row in enumerate(small.rows):
        variant = of_images["variants"][rows["variant"][number]]
        assert of_images["images"][rows["image"][number]]["id"] == row.image
        assert (of_images["codecs"][variant["codec"]]["name"], variant["setting"]) == (row.codec, row.setting)
        assert rows["bytes"][number] == row.bytes
        assert rows["metrics"]["psnr"][number] == pytest.approx(row.metrics["psnr"], rel=1e-5)
    record = json.loads(small.reconstruct.read_text())
    summaries = {s["variant"]: s for s in of_images["summaries"] if s["bpp"] is None}
    assert [s["metrics"] for s in summaries.values()] == [summary["metrics"] for summary in record["rows"]]
    assert of_images["differences"] == record["differences"]
    assert [result["sha256"] for result in written.content["results"] if result["kind"] == "rate"] == [
        hashlib.sha256(small.rate.read_bytes()).hexdigest()
    ]


def test_pictures_are_without_loss_where_there_is_room(written: Document, small: SmallResults) -> None:
    (of_images,) = written.content["sets"]
    originals = {image.id: image.pixels for image in small.images}
    shown = 0
    for image in of_images["images"]:
        np.testing.assert_array_equal(written.picture(image["original"]), originals[image["id"]])
    rows = of_images["rows"]
    for number, row in enumerate(small.rows):
        if rows["picture"][number] is None:
            continue
        shown += 1
        picture = written.picture(rows["picture"][number])
        np.testing.assert_array_equal(picture, np.asarray(Image.open(small.folder / str(row.picture))))
        expected = error_map(originals[row.image], picture)
        np.testing.assert_array_equal(written.picture(rows["difference"][number]), expected)
    assert shown == 4 * len(small.images), "one setting of each codec"
    assert "without loss" in written.content["pictures"]["note"]


def test_latents_are_shown_position_by_position(written: Document, small: SmallResults) -> None:
    (latents,) = written.content["latents"]
    files = json.loads(small.latents.read_text())["rows"][0]["pictures"]["files"]
    for shown, names in zip(latents["rows"][0]["pictures"], files, strict=True):
        whole = np.asarray(Image.open(small.folder / names["latents"]))
        np.testing.assert_array_equal(written.picture(shown["latents"]), whole[::8, ::8])
    assert [group["title"] for group in latents["table"]][:2] == ["scale", "channels"]


def test_a_page_keeps_to_its_budget_and_says_how(small: SmallResults, tmp_path: Path) -> None:
    lossless = write_report([small.reconstruct], tmp_path / "lossless.html")
    budget = lossless.bytes - 60_000
    smaller = write_report([small.reconstruct], tmp_path / "smaller.html", budget=budget)
    assert smaller.bytes == (tmp_path / "smaller.html").stat().st_size <= budget
    assert smaller.pictures == lossless.pictures
    document = Document((tmp_path / "smaller.html").read_text("utf-8"))
    note = document.content["pictures"]["note"]
    quality, fidelity = re.findall(r"quality (\d+).* ([\d.]+) dB", note)[0]
    assert 50 <= int(quality) <= 95
    (of_images,) = document.content["sets"]
    rows = of_images["rows"]
    own = [row for row in small.rows if row.bytes is None]
    pairs = [(image.pixels, of_images["images"][number]["original"]) for number, image in enumerate(small.images)]
    pairs += [
        (np.asarray(Image.open(small.folder / str(row.picture))), picture)
        for row, picture in zip(own, rows["picture"], strict=True)
        if picture is not None
    ]
    assert len(pairs) == 9
    scores = [psnr(measured, document.picture(number)) for measured, number in pairs]
    assert np.mean(scores) == pytest.approx(float(fidelity), abs=0.06)
    exact = error_map(small.images[0].pixels, np.asarray(Image.open(small.folder / str(own[0].picture))))
    np.testing.assert_array_equal(document.picture(rows["difference"][0]), exact)


def test_a_budget_that_no_quality_meets_is_refused(small: SmallResults, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="--budget"):
        write_report([small.reconstruct], tmp_path / "page.html", budget=150_000)
    assert not list(tmp_path.iterdir()), "no half page is left"


def test_pictures_nearest_to_the_asked_rates_are_shown(small: SmallResults, tmp_path: Path) -> None:
    rates = {
        quality: np.mean(
            [
                8 * row.bytes / (row.width * row.height)
                for row in small.rows
                if row.bytes and (row.codec, row.setting) == ("jpeg", quality)
            ]
        )
        for quality in ("10", "40", "80")
    }
    for quality, rate in rates.items():
        write_report([small.rate], tmp_path / "page.html", choice=Choice(bpp=(float(rate) * 1.02,), images=2))
        (of_images,) = Document((tmp_path / "page.html").read_text("utf-8")).content["sets"]
        rows = of_images["rows"]
        shown = {
            (row.codec, row.setting, row.image)
            for row, picture in zip(small.rows, rows["picture"], strict=False)
            if picture is not None
        }
        assert {(setting, image) for codec, setting, image in shown if codec == "jpeg"} == {
            (quality, image.id) for image in small.images[:2]
        }


def test_results_on_other_images_stand_apart_and_namesakes_are_told_apart(small: SmallResults, tmp_path: Path) -> None:
    images = small_images(3)
    write_reconstruct(tmp_path / "again.json", images, {"blurred": 2.0})
    write_reconstruct(tmp_path / "fewer.json", images[:2], {"blurred": 2.0})
    write_report([small.reconstruct, tmp_path / "again.json", tmp_path / "fewer.json"], tmp_path / "page.html")
    same, fewer = Document((tmp_path / "page.html").read_text("utf-8")).content["sets"]
    assert [codec["name"] for codec in same["codecs"]] == [HOSTILE_VAE, "blurred", "blurred (again)"]
    assert (len(same["images"]), len(fewer["images"])) == (3, 2)


def test_pictures_that_are_gone_are_told(
    small: SmallResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small.folder, tmp_path / "results")
    for path in (tmp_path / "results" / "pictures" / "blurred").rglob("image-0.png.png"):
        path.unlink()
    assert eval_main(["report", str(tmp_path / "results" / "reconstruct.json"), "-o", str(tmp_path / "page.html")]) == 0
    assert "blurred/mean/image-0.png.png is not there" in capsys.readouterr().out
    content = Document((tmp_path / "page.html").read_text("utf-8")).content
    assert len(content["missing"]) == 1
    shown = [picture for picture in content["sets"][0]["rows"]["picture"] if picture is not None]
    assert len(shown) == 2 * 3 - 1


def test_speed_of_one_machine_stands_in_one_table(small: SmallResults, tmp_path: Path) -> None:
    record = json.loads(small.speed.read_text())
    for name, device in (("encode", record["device"]), ("train-step", record["device"]), ("elsewhere", "another")):
        (tmp_path / f"{name}.json").write_text(json.dumps({**record, "device": device}))
    write_report([tmp_path], tmp_path / "page.html")
    elsewhere, here = Document((tmp_path / "page.html").read_text("utf-8")).content["speed"]
    assert (len(elsewhere["rows"]), len(here["rows"])) == (2, 4)
    assert elsewhere["title"].startswith("another; ")
    expected = "Matrix peak in encode: bfloat16 0.01 Tera-operations/s. Matrix peak in train-step: "
    assert expected in here["protocol"]
    assert f"torch {record['versions']['torch']}" in here["protocol"]
    assert here["rows"][:2] == record["rows"]


def test_other_measurements_become_plain_tables(tmp_path: Path) -> None:
    record = {
        "kind": "tiling",
        "rows": {"exact": {"spread": {"low": 1.5}}, "fast": {"spread": {"low": 2}}},
        "device": "a machine",
    }
    (tmp_path / "tiling.json").write_text(json.dumps(record))
    write_report([tmp_path / "tiling.json"], tmp_path / "page.html")
    (other,) = Document((tmp_path / "page.html").read_text("utf-8")).content["other"]
    assert other["rows"] == [{"name": "exact", "spread low": 1.5}, {"name": "fast", "spread low": 2}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no JSON", "cannot be read as JSON"),
        ("[]", "an object with `rows`"),
        ('{"kind": "latents", "rows": [{"vae": "x"}], "settings": {}, "device": "d"}', "measure again"),
        ('{"kind": "rate", "rows": [], "device": "d"}', "measure again"),
    ],
)
def test_what_is_no_result_is_refused_by_name(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.json").write_text(text)
    assert eval_main(["report", str(tmp_path / "odd.json"), "-o", str(tmp_path / "page.html")]) == 1
    printed = capsys.readouterr().err
    assert "odd.json" in printed
    assert expected in printed
    assert not (tmp_path / "page.html").exists()


def test_folders_without_results_and_files_given_twice_are_refused(small: SmallResults, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ReportError, match="found none"):
        write_report([tmp_path], tmp_path / "page.html")
    with pytest.raises(ReportError, match="twice"):
        write_report([small.folder, small.speed], tmp_path / "page.html")


def test_a_picture_of_another_size_is_refused(small: SmallResults, tmp_path: Path) -> None:
    shutil.copytree(small.folder, tmp_path / "results")
    (odd,) = (tmp_path / "results" / "pictures" / "blurred" / "mean").glob("image-0*")
    Image.new("RGB", (8, 8)).save(odd)
    with pytest.raises(ReportError, match=r"image-0\.png\.png: expected a picture of 96x64"):
        write_report([tmp_path / "results" / "reconstruct.json"], tmp_path / "page.html")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_error_maps_of_small_images_are_of_each_pixel(height: int, width: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    errors = np.sqrt(np.square(a.astype(float) - b).mean(axis=2))
    assert (error_map(a, a) == 0).all()
    np.testing.assert_array_equal(error_map(a, b), np.rint(np.minimum(LEVELS_ROOT * np.sqrt(errors), 255)))


def test_error_maps_of_large_images_are_of_blocks() -> None:
    original = np.zeros((401, 500, 3), np.uint8)
    picture = original.copy()
    picture[0:3, 3:6] = 16  # one whole block of 3
    picture[399:401, 0:3] = 4  # one that the lower edge cuts
    picture[10, 10] = 9  # one pixel of nine
    found = error_map(original, picture)
    assert found.shape == (134, 167)
    assert (found[0, 1], found[133, 0]) == (LEVELS_ROOT * 4, LEVELS_ROOT * 2)
    assert found[3, 3] == round(LEVELS_ROOT * math.sqrt(9 / 3))
    assert np.count_nonzero(found) == 3


def test_a_gallery_numbers_what_it_is_given(tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (20, 10), (number * 40, 0, 0)).save(paths[-1])
    gallery = Gallery()
    numbers = [
        gallery.add_photo(paths[0]),
        gallery.add_exact(np.full((2, 2), 7, np.uint8)),
        gallery.add_photo(paths[2]),
    ]
    found = gallery.encode(10**6)
    assert numbers == [0, 1, 2]
    assert [file.type for file in found.files] == ["image/webp", "image/png", "image/webp"]
    assert np.asarray(Image.open(io.BytesIO(found.files[2].data)))[0, 0].tolist() == [80, 0, 0]


def test_the_command_says_what_it_wrote(
    small: SmallResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eval_main(["report", str(small.folder), "--output", str(tmp_path / "page.html"), "--title", "Mine"]) == 0
    printed = capsys.readouterr().out
    assert "page.html: 0." in printed
    assert "MB, 4 results" in printed
    with pytest.raises(SystemExit):
        eval_main(["report", str(small.folder), "-o", str(tmp_path / "other.html"), "--bpp", "[0]"])
    assert "bpp: expected rates above 0" in capsys.readouterr().err
