"""The page in a real browser, opened from disk: what it asks for, what its controls do, with mouse, fingers and keys."""

import base64
import io
import os
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_results import HOSTILE_CODEC, HOSTILE_IMAGE, HOSTILE_VAE, SmallResults, write_small_results

from eval.rate.published import PublishedCurve
from eval.report import benchmark
from eval.report.command import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 800}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
CURVE = PublishedCurve("JPEG", "jpeg", "a protocol", "a source", (0.5, 1.0, 2.0), {"psnr": (25.0, 28.0, 31.0)})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, of the system or the one that `playwright install chromium` brings."""
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        named = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
        if named is None and not Path(own).is_file():
            pytest.skip(
                f"no Chromium here ({', '.join(BROWSERS)}): apt-get install chromium, or name one by CHROMIUM=FILE"
            )
        opened = driver.chromium.launch(executable_path=named or own, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallResults:
    return write_small_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def file(small: SmallResults) -> Path:
    """The page, with a published curve."""
    output = small.folder / "page" / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "curves_for", lambda digest: (CURVE,))
        write_report([small.folder], output)
    return output


class Opened:
    """A page, with all that it asked for and said."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.context.set_default_timeout(10_000)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.goto(file.as_uri())
        self.page.wait_for_function("performance.getEntriesByName('latentcodec-pictures').length > 0")

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def canvas(self, number: int) -> np.ndarray:
        """Pixels of a pane as they are on the screen's canvas."""
        url = self.page.locator(".pane canvas").nth(number).evaluate("canvas => canvas.toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))

    def stage(self) -> dict[str, float]:
        """Where the viewer's pictures are on the screen, after scrolling there."""
        self.settled(
            lambda: self.page.locator(".stage").evaluate("stage => stage.scrollIntoView({behavior: 'instant'})")
        )
        return dict(self.page.locator(".stage").bounding_box())

    def settled(self, work: Any) -> None:
        """Do something, and wait for two frames, so that it has been drawn."""
        work()
        self.page.wait_for_timeout(60)
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


@pytest.fixture
def desktop(browser: Any, file: Path) -> Iterator[Opened]:
    opened = Opened(browser, file, **DESKTOP)
    yield opened
    assert opened.said == [], "whatever a test does, the page has no errors"
    opened.context.close()


def test_it_opens_from_disk_and_asks_for_nothing(browser: Any, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    opened = Opened(browser, file, **DESKTOP)
    seconds = time.perf_counter() - began
    marks = dict(
        opened.page.evaluate(
            "performance.getEntriesByType('mark').map(mark => [mark.name, Math.round(mark.startTime)])"
        )
    )
    assert marks["latentcodec-ready"] < 2000, "all but the pictures"
    for place in ("#section-2", "#section-5", "footer"):
        opened.settled(lambda place=place: opened.page.locator(place).scroll_into_view_if_needed())
    assert [url for url in opened.requests if not url.startswith(("data:", file.as_uri()))] == []
    assert opened.said == []
    assert opened.page.title() == "Evaluation"
    headings = opened.page.locator("h2").all_inner_texts()
    assert headings == ["Summary", "Pictures", "Rate and distortion", "Every image", "Latents", "Speed", "Provenance"]
    blocked = opened.page.evaluate("() => fetch('https://example.com/').then(() => 'reached', () => 'refused')")
    assert blocked == "refused", "and its policy would not let it"
    with capsys.disabled():
        print(f"\nopened in {seconds:.2f} s; in the page, ms: {marks}")
    opened.context.close()


def test_names_are_shown_as_they_are_and_run_nothing(desktop: Opened) -> None:
    for name in (HOSTILE_CODEC, HOSTILE_IMAGE, HOSTILE_VAE):
        assert desktop.page.get_by_text(name).count() > 0
    assert desktop.page.title() == "Evaluation"
    assert desktop.page.locator("main b").count() == 0
    assert desktop.page.locator("img:not([alt])").count() == 0


def test_pictures_are_drawn_pixel_by_pixel(desktop: Opened, small: SmallResults) -> None:
    desktop.settled(lambda: desktop.page.get_by_role("button", name="1:1").click())
    shown = desktop.canvas(0)
    height, width = small.images[0].pixels.shape[:2]
    top, left = (shown.shape[0] - height) // 2, (shown.shape[1] - width) // 2
    part = shown[top : top + height, left : left + width]
    np.testing.assert_array_equal(part[..., :3], small.images[0].pixels)


def test_the_boundary_moves_by_mouse_and_keys(desktop: Opened) -> None:
    handle = desktop.page.get_by_role("slider")
    box = desktop.stage()
    desktop.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    desktop.page.mouse.down()
    desktop.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=4)
    desktop.page.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "25"
    handle.focus()
    for key, expected in (
        ("ArrowRight", "27"),
        ("Shift+ArrowRight", "37"),
        ("Home", "0"),
        ("End", "100"),
        ("ArrowLeft", "98"),
    ):
        desktop.page.keyboard.press(key)
        assert handle.get_attribute("aria-valuenow") == expected
    assert handle.get_attribute("aria-valuetext") == "98 % A"
    shown = desktop.page.locator(".pane").first.evaluate("pane => getComputedStyle(pane).clipPath")
    assert shown.replace(" ", "") in ("inset(0pxcalc(2%)0px0px)", "inset(0px2%0px0px)", "inset(0calc(2%)00)")


def test_zoom_and_place_stay_when_the_codec_changes(desktop: Opened) -> None:
    stage = desktop.page.locator(".stage")
    stage.focus()
    fit = desktop.text(".zoom")
    for key in ("+", "+", "+", "ArrowRight", "ArrowDown"):
        desktop.settled(lambda key=key: desktop.page.keyboard.press(key))
    zoomed, before = desktop.text(".zoom"), desktop.canvas(0)
    assert zoomed != fit
    menu = desktop.page.get_by_label("B", exact=True)
    other = menu.evaluate("menu => menu.options[menu.options.length - 1].value")
    was = desktop.canvas(1)
    desktop.settled(lambda: menu.select_option(other))
    assert desktop.text(".zoom") == zoomed
    np.testing.assert_array_equal(desktop.canvas(0), before)
    assert (desktop.canvas(1) != was).any()
    stage.focus()
    desktop.settled(lambda: desktop.page.keyboard.press("x"))
    np.testing.assert_array_equal(desktop.canvas(1), before)
    desktop.settled(lambda: desktop.page.keyboard.press("0"))
    assert desktop.text(".zoom") == fit


def test_wheel_zooms_about_the_pointer_only_where_it_should(desktop: Opened) -> None:
    box = desktop.stage()
    fit = desktop.text(".zoom")
    desktop.page.mouse.move(box["x"] + 200, box["y"] + 100)
    desktop.settled(lambda: desktop.page.mouse.wheel(0, -5))
    assert desktop.text(".zoom") == fit, "without focus it scrolls the page"
    desktop.page.keyboard.down("Control")
    desktop.settled(lambda: desktop.page.mouse.wheel(0, -240))
    desktop.page.keyboard.up("Control")
    assert int(desktop.text(".zoom").split()[0]) == pytest.approx(2 * int(fit.split()[0]), abs=2)


def test_all_codecs_are_shown_at_one_zoom(desktop: Opened) -> None:
    desktop.settled(lambda: desktop.page.get_by_role("radio", name="All codecs").check())
    assert desktop.page.locator(".pane").count() == 5
    sizes = {tuple(desktop.canvas(number).shape) for number in range(5)}
    assert len(sizes) == 1
    desktop.page.locator(".stage").focus()
    for key in ("+", "+", "+", "+"):
        desktop.settled(lambda key=key: desktop.page.keyboard.press(key))
    inks = [desktop.canvas(number)[..., 3].mean() for number in range(5)]
    assert len(set(inks)) == 1, "every pane shows the same part"


def test_difference_maps_show_where_a_codec_errs(desktop: Opened) -> None:
    desktop.settled(lambda: desktop.page.get_by_role("radio", name="All codecs").check())
    before = desktop.canvas(0)
    desktop.settled(lambda: desktop.page.get_by_role("switch", name="Difference map").click())
    desktop.page.get_by_text("levels of 255 or more").wait_for()
    np.testing.assert_array_equal(desktop.canvas(0), before)
    captions = desktop.page.locator(".pane-caption strong").all_inner_texts()
    light = {caption: desktop.canvas(number)[..., :3].mean() for number, caption in enumerate(captions)}
    assert light["blurred · mean"] > light[f"{HOSTILE_VAE} · mean"], "a wider blur errs more"
    desktop.settled(lambda: desktop.page.get_by_label("Lightest at").select_option("128"))
    darker = {caption: desktop.canvas(number)[..., :3].mean() for number, caption in enumerate(captions)}
    assert darker["blurred · mean"] < light["blurred · mean"]
    assert "of each pixel" in desktop.text(".legend")


def test_images_are_chosen_by_keys_and_from_the_table(desktop: Opened) -> None:
    radios = desktop.page.get_by_role("radiogroup", name="Image")
    radios.get_by_role("radio").first.focus()
    desktop.settled(lambda: desktop.page.keyboard.press("ArrowRight"))
    assert desktop.text(".viewer h3").startswith("image-1.png")
    desktop.page.locator(".stage").focus()
    desktop.settled(lambda: desktop.page.keyboard.press("]"))
    assert desktop.text(".viewer h3").startswith(HOSTILE_IMAGE)
    table = desktop.page.get_by_role("table", name="Every image")
    desktop.settled(lambda: table.get_by_role("button", name="image-0.png").last.click())
    assert desktop.text(".viewer h3").startswith("image-0.png")


def curves(desktop: Opened) -> int:
    return int(desktop.page.locator("#section-3 .series").count())


def test_the_plot_is_filtered(desktop: Opened) -> None:
    section = desktop.page.locator("#section-3")
    section.scroll_into_view_if_needed()
    assert curves(desktop) == 3
    assert section.locator(".series .dashed").count() == 1
    assert section.locator(".level").count() == 2, "the VAEs, which write no files"
    desktop.settled(lambda: section.get_by_role("checkbox", name="jpeg", exact=True).uncheck())
    assert curves(desktop) == 2
    desktop.settled(lambda: section.get_by_role("checkbox", name="JPEG", exact=True).uncheck())
    assert section.locator(".series .dashed").count() == 0
    desktop.settled(lambda: section.get_by_role("switch", name="Ceilings").uncheck())
    assert section.locator(".level").count() == 0
    ticks = section.locator(".axes text").all_inner_texts()
    desktop.settled(lambda: section.get_by_role("switch", name="Logarithmic rate").uncheck())
    assert section.locator(".axes text").all_inner_texts() != ticks
    desktop.settled(lambda: section.get_by_label("Metric").select_option("ssim"))
    assert section.locator(".axes .title").last.text_content() == "SSIM"
    desktop.settled(lambda: section.get_by_label("Images").select_option("1"))
    assert section.locator(".series .mark").count() == 3


def test_the_plot_tells_its_points(desktop: Opened) -> None:
    plane = desktop.page.locator("#section-3 .plane")
    plane.scroll_into_view_if_needed()
    mark = desktop.page.locator("#section-3 .series").first.locator(".mark").first.bounding_box()
    desktop.settled(lambda: desktop.page.mouse.move(mark["x"] + 4, mark["y"] + 4))
    assert desktop.text("#section-3 .tip").startswith("jpeg · q10")
    assert "bpp" in desktop.text("#section-3 .tip")
    plane.focus()
    desktop.page.keyboard.press("ArrowRight")
    first = desktop.text("#status")
    desktop.page.keyboard.press("ArrowRight")
    assert desktop.text("#status") != first
    assert "PSNR" in first
    desktop.page.keyboard.press("Escape")
    assert desktop.page.locator("#section-3 .tip").is_hidden()


def test_tables_sort_by_mouse_and_keys(desktop: Opened) -> None:
    table = desktop.page.get_by_role("table", name="Every image")
    header = table.get_by_role("columnheader", name="PSNR")

    def column() -> list[float]:
        place = table.get_by_role("columnheader").all_inner_texts().index("PSNR")
        cells = table.locator(f"tbody tr > :nth-child({place + 1})").all_inner_texts()
        return [float(cell.replace("−", "-")) for cell in cells]

    assert header.get_attribute("aria-sort") == "none"
    unsorted = column()
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert column() == sorted(unsorted, reverse=True)
    header.get_by_role("button").focus()
    desktop.page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(unsorted)
    assert desktop.text("#status") == "Every image: sorted by PSNR, ascending"
    desktop.page.get_by_label("Images whose name contains").fill("image-1")
    assert len(column()) == len(unsorted) // 3
    desktop.page.locator("#section-4").get_by_label("Codec").select_option(label="jpeg")
    assert len(column()) == 3


def test_speed_says_what_the_rows_have(desktop: Opened) -> None:
    table = desktop.page.get_by_role("table", name="Speed")
    headings = table.get_by_role("columnheader").all_inner_texts()
    assert [heading.strip() for heading in headings[-4:]] == ["Network", "Entropy coder", "Msymbols/s", "Bytes"]
    encode, compress = table.locator("tbody tr").all_inner_texts()
    assert encode.split()[-4:] == ["–"] * 4
    assert "0.60×" in compress
    assert compress.split()[-7:] == ["70", "%", "5.0", "%", "2.00", "40", "%"]


def test_the_keyboard_reaches_everything_in_order(desktop: Opened) -> None:
    page = desktop.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0, "it shows itself"
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "() => { const e = document.activeElement, b = e.getBoundingClientRect();"
                " return [e.tagName, e.getAttribute('role'), b.width > 0, b.top + scrollY, e.closest('header') !== null]; }"
            )
        )
    assert [tag for tag, *_ in seen[:7]] == ["A"] * 7, "links to the sections come first"
    assert seen[7][0] == "INPUT", "then the colours"
    assert all(visible for *_, visible, _, _ in seen)
    assert {"slider", "group", "region"} <= {role for _, role, *_ in seen}
    tops = [top for *_, top, in_header in seen if not in_header]
    assert all(after > before - 120 for before, after in pairwise(tops)), "down the page, never back up"
    page.evaluate("scrollTo(0, 0)")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.fixture(scope="module", params=["light", "dark"])
def themed(request: pytest.FixtureRequest, browser: Any, file: Path) -> Iterator[tuple[str, Opened]]:
    """What the system wants, and the page there."""
    opened = Opened(browser, file, color_scheme=request.param, **DESKTOP)
    yield request.param, opened
    assert opened.said == []
    opened.context.close()


def test_colours_follow_the_system_and_the_switch(themed: tuple[str, Opened]) -> None:
    scheme, opened = themed

    def is_light() -> bool:
        colour = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(","))) > 384

    assert is_light() == (scheme == "light")
    for choice in ("Dark", "Light", "Auto"):
        opened.page.get_by_role("radio", name=choice, exact=True).check()
        assert is_light() == {"Dark": False, "Light": True, "Auto": scheme == "light"}[choice]


def contrast(opened: Opened, selector: str) -> float:
    """Of an element's text against the page or its panel, by WCAG 2."""
    colours = opened.page.locator(selector).first.evaluate(
        """element => {
            const context = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
            const drawn = colour => { context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
                return [...context.getImageData(0, 0, 1, 1).data]; };
            let behind = element;
            while (drawn(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
            const style = getComputedStyle(element);
            const ink = element instanceof SVGElement ? style.fill : style.color;
            return [drawn(ink), drawn(getComputedStyle(behind).backgroundColor)];
        }"""
    )
    channels = np.array(colours)[:, :3] / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    light = np.sort(linear @ [0.2126, 0.7152, 0.0722])
    return float((light[1] + 0.05) / (light[0] + 0.05))


def test_nothing_scrolls_over_the_masthead(desktop: Opened) -> None:
    over = desktop.page.evaluate(
        """[...document.querySelectorAll(".track .bar, .track .point, thead, canvas, .chip")].map((each) => {
            each.scrollIntoView({ block: "start", behavior: "instant" });
            const box = each.getBoundingClientRect();
            const [x, y] = [box.left + box.width / 2, box.top + Math.min(box.height, 20) / 2];
            const under = y < document.querySelector(".masthead").getBoundingClientRect().bottom;
            return under && !document.elementFromPoint(x, y).closest(".masthead") ? each.className || each.tagName : null;
        })"""
    )
    assert len(over) > 5
    assert not list(filter(None, over))


def test_text_has_enough_contrast(themed: tuple[str, Opened]) -> None:
    _, opened = themed
    for selector in (
        "h1",
        "#subtitle",
        ".note",
        "thead button",
        "td.best",
        ".labels text",
        ".axes text",
        ".masthead nav a",
        "dt",
    ):
        assert contrast(opened, selector) >= 4.5, selector


def test_a_phone_shows_it_all_in_its_width(browser: Any, file: Path) -> None:
    opened = Opened(browser, file, **PHONE)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    box = opened.stage()
    fit = int(opened.text(".zoom").split()[0])
    fingers = opened.context.new_cdp_session(opened.page)
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def touch(kind: str, *offsets: int) -> None:
        points = [{"x": middle[0] + offset, "y": middle[1] + 40, "id": number} for number, offset in enumerate(offsets)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -20, 20)
    for apart in (30, 40, 60):
        touch("touchMove", -apart, apart)
    opened.settled(lambda: touch("touchEnd"))
    assert int(opened.text(".zoom").split()[0]) == pytest.approx(3 * fit, rel=0.1)
    opened.settled(lambda: opened.page.get_by_role("radio", name="Side by side").check())
    assert opened.page.locator(".pane").count() == 2
    assert opened.said == []
    opened.context.close()


def test_it_says_so_where_scripts_are_off(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False, **DESKTOP)
    page = context.new_page()
    page.goto(file.as_uri())
    assert "Allow scripts" in page.locator("main").inner_text()
    context.close()
