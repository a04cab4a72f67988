"""eval/rate: BD-rate against the package's own example, what is undefined, plots, and curves that others have published."""

import math
import re
import xml.etree.ElementTree as ElementTree
from importlib.metadata import metadata
from pathlib import Path

import bjontegaard
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.interpolate import Akima1DInterpolator

from eval.images import ImageSet
from eval.metrics import METRICS
from eval.rate.curves import BdRate, Curve, bd_rate, curve_of, score_at
from eval.rate.plots import Plot, draw
from eval.rate.published import PublishedCurve, curves_for, published
from eval.rate.registry import CODECS
from eval.rate.sanity import Agreement, agreements
from eval.rate.table import agreement_lines, bd_lines, bd_text

ANCHOR = Curve((0.1, 0.2, 0.4, 0.8, 1.6), (27.0, 29.5, 32.0, 34.0, 37.0))


def published_example() -> tuple[Curve, Curve]:
    """Anchor and test curve of the example in the package's own description."""
    text = str(metadata("bjontegaard").get_payload())
    values = [
        tuple(float(number) for number in re.search(rf"{name} = \[(.*?)\]", text)[1].split(","))
        for name in ("rate_anchor", "psnr_anchor", "rate_test", "psnr_test")
    ]
    return Curve(values[0], values[1]), Curve(values[2], values[3])


def test_bd_rate_is_that_of_the_packages_example() -> None:
    anchor, test = published_example()
    found = bd_rate("test", test, "anchor", anchor, "psnr")
    expected = bjontegaard.bd_rate(anchor.rates, anchor.scores, test.rates, test.scores, method="akima")
    assert found.percent == pytest.approx(expected, abs=1e-9)
    assert found.percent == pytest.approx(-4.425245156997493, abs=1e-9)
    assert found.scores == (34.987, 40.037)
    assert found.overlap == pytest.approx((40.037 - 34.987) / (40.121 - 34.851))
    assert (found.left_out, found.undefined) == (0, None)


def test_bd_rate_is_its_definition() -> None:
    """Curves of different lengths, integrated by a fine sum instead of the package's own integral."""
    test = Curve((0.08, 0.3, 0.7, 1.2), (27.5, 32.5, 35.0, 36.0))
    found = bd_rate("test", test, "anchor", ANCHOR, "psnr")
    scores = np.linspace(27.5, 36.0, 200_001)
    logs = [Akima1DInterpolator(curve.scores, np.log10(curve.rates))(scores) for curve in (ANCHOR, test)]
    assert found.percent == pytest.approx(100 * (10 ** float(np.mean(logs[1] - logs[0])) - 1), abs=1e-3)
    assert found.overlap == pytest.approx(8.5 / 10)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25])
@pytest.mark.parametrize("metric", ["psnr", "lpips_alex"])
def test_scaled_rates_are_found_back(factor: float, metric: str) -> None:
    """Also where lower is better, and whatever the order of the points."""
    scores = ANCHOR.scores if metric == "psnr" else tuple(1 / score for score in ANCHOR.scores)
    anchor = Curve(ANCHOR.rates, scores)
    test = Curve(tuple(factor * rate for rate in anchor.rates[::-1]), scores[::-1])
    assert bd_rate("t", test, "a", anchor, metric).percent == pytest.approx(100 * (factor - 1), abs=1e-9)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (Curve((0.1, 0.2), (20.0, 25.0)), "no overlap"),
        (Curve((0.1, 0.2), (20.0, 27.0)), "no overlap"),  # they touch
        (Curve((0.1, 0.2), (38.0, 39.0)), "no overlap"),
        (Curve((0.3,), (30.0,)), "fewer than two points"),
        (Curve((0.3, 0.4), (30.0, 29.0)), "fewer than two points"),  # the second is beaten
        (Curve((0.3, 0.4), (30.0, math.inf)), "fewer than two points"),
        (Curve((), ()), "fewer than two points"),
    ],
)
def test_what_cannot_be_compared_is_undefined(test: Curve, reason: str) -> None:
    for found in (bd_rate("t", test, "a", ANCHOR, "psnr"), bd_rate("a", ANCHOR, "t", test, "psnr")):
        assert found.percent is None
        assert (found.undefined, found.overlap, found.scores) == (reason, 0.0, None)
        assert bd_text(found) == f"undefined: {reason}"


POINTS = st.lists(st.tuples(st.floats(0.01, 10), st.one_of(st.floats(0, 60), st.just(math.inf))), max_size=6)


@given(POINTS, POINTS, st.sampled_from(["psnr", "dists"]))
def test_a_number_means_an_overlap(
    points: list[tuple[float, float]], others: list[tuple[float, float]], metric: str
) -> None:
    """Whatever the curves: a finite number and a range of scores that both have, or neither."""
    one, other = curve_of(points), curve_of(others)
    found = bd_rate("one", one, "other", other, metric)
    if found.percent is None:
        assert found.undefined
        assert found.scores is None
        return
    assert found.undefined is None
    low, high = found.scores
    for curve in (one, other):
        finite = [score for score in curve.scores if math.isfinite(score)]
        assert min(finite) <= low < high <= max(finite)
    assert 0 < found.overlap <= 1
    assert -100 < found.percent < math.inf


def test_beaten_points_are_left_out_and_counted() -> None:
    wavy = Curve((0.1, 0.2, 0.3, 0.4), (30.0, 31.0, 30.9, 33.0))
    assert wavy.front(lower_is_better=False) == Curve((0.1, 0.2, 0.4), (30.0, 31.0, 33.0))
    assert Curve((0.2, 0.1), (0.3, 0.4)).front(lower_is_better=True) == Curve((0.1, 0.2), (0.4, 0.3))
    found = bd_rate("wavy", wavy, "anchor", ANCHOR, "psnr")
    assert found.left_out == 1
    assert found.percent == bd_rate("w", wavy.front(lower_is_better=False), "anchor", ANCHOR, "psnr").percent


def test_a_limit_compares_what_costs_less() -> None:
    """Two curves that cross at 0.4 bpp: below, the one needs half the bits, above, twice as many."""
    test = Curve((0.05, 0.1, 0.2, 0.4, 1.6, 3.2), (27.0, 29.5, 30.5, 32.0, 34.5, 37.0))
    whole = bd_rate("t", test, "a", ANCHOR, "psnr")
    part = bd_rate("t", test, "a", ANCHOR, "psnr", 0.4)
    assert part.percent < whole.percent
    assert (part.scores, part.most_bpp, whole.most_bpp) == ((27.0, 32.0), 0.4, None)
    cut = bd_rate("t", test, "a", ANCHOR, "psnr", 0.3)
    (end,) = score_at(test, [0.3])
    assert cut.scores == (27.0, min(end, *score_at(ANCHOR, [0.3])))
    assert ANCHOR.up_to(10.0, lower_is_better=False) == ANCHOR
    none = bd_rate("t", test, "a", ANCHOR, "psnr", 0.06)
    assert (none.percent, none.undefined) == (None, "fewer than two points")


def test_scores_between_points() -> None:
    assert score_at(ANCHOR, [0.1, 0.4, 1.6]) == pytest.approx([27.0, 32.0, 37.0])
    (between,) = score_at(ANCHOR, [0.3])
    assert 29.5 < between < 32.0
    assert score_at(ANCHOR, [0.09, 1.7]) == [None, None]
    assert score_at(Curve((0.1,), (1.0,)), [0.1]) == [None]


def line(shift: float, same_as: str | None = "jpeg") -> PublishedCurve:
    rates = (0.05, 0.15, 0.3, 0.6, 1.2)
    scores = [27.0, *(score + shift for score in score_at(ANCHOR, rates[1:]))]
    return PublishedCurve("JPEG", same_as, "as here", "a paper", rates, {"psnr": tuple(scores)})


def test_curves_that_differ_are_found() -> None:
    measured, kinds = {"mine": ANCHOR}, {"mine": "jpeg"}
    (same,) = agreements(measured, kinds, [line(0.1)])
    assert same.rates == (0.15, 0.3, 0.6, 1.2)  # 0.05 lies outside
    assert same.differences == pytest.approx([-0.1] * 4)
    assert (same.agrees, same.mean) == (True, pytest.approx(-0.1))
    (apart,) = agreements(measured, kinds, [line(-0.6)])
    assert not apart.agrees
    assert "DIFFERS by more than 0.5 dB" in next(agreement_lines([apart]))
    assert agreements(measured, kinds, [line(0, None), line(0, "webp")]) == []
    assert agreements({}, kinds, [line(0)]) == []
    one = Agreement("c", "C", "s", (0.1, 0.2), (0.3, -0.6))
    assert one.worst == (-0.6, 0.2)


def test_published_curves_are_those_of_their_sources() -> None:
    curves = {curve.codec: curve for curve in published().curves}
    known = [
        ("JPEG", 0.3266, 26.577, 0.8899), ("WebP", 0.2344, 28.328, 0.9257), ("AV1", 0.4987, 33.650, 0.9753),
        ("BPG", 0.6847, 34.858, 0.9808), ("VTM", 0.8748, 37.420, 0.9888), ("bmshj2018-hyperprior", 0.4784, 32.838, 0.9749),
        ("cheng2020-attn", 0.8059, 36.622, 0.9892), ("MS-ILLM", 0.1532, 27.53, 0.928), ("HiFiC", 0.3511, 29.65, 0.964),
        ("DiffEIC", 0.1233, 24.44, 0.887),
    ]  # fmt: skip
    assert list(curves) == [name for name, *_ in known]
    for name, bpp, psnr, ms_ssim in known:
        place = curves[name].bpp.index(bpp)
        assert curves[name].metrics["psnr"][place] == pytest.approx(psnr, abs=1.1e-3)
        assert curves[name].metrics["ms_ssim"][place] == pytest.approx(ms_ssim, abs=6e-5)
    for curve in curves.values():
        assert len(curve.source) > 20 < len(curve.protocol)
        assert curve.same_as is None or curve.same_as in CODECS
        assert list(curve.bpp) == sorted(curve.bpp)
        assert set(curve.metrics) <= set(METRICS)
        for scores in curve.metrics.values():
            assert len(scores) == len(curve.bpp)
    assert curves["MS-ILLM"].metrics["dists"][0] == 0.1085
    assert curves["JPEG"].curve("dists") is None


def test_published_curves_are_of_their_images_only() -> None:
    assert curves_for(published().pixels_digest) == published().curves
    assert curves_for("sha256:0") == ()


@pytest.mark.shared
def test_kodak_is_recognised_by_its_pixels(shared: Path) -> None:
    images = ImageSet(shared / "photos" / "kodak")
    assert len(list(images)) == 24
    assert curves_for(images.pixels_digest) == published().curves
    part = ImageSet(shared / "photos" / "kodak", limit=3)
    assert len(list(part)) == 3
    assert curves_for(part.pixels_digest) == ()


PLOT = Plot(
    "psnr", {"mine": ANCHOR, "x & <y>": Curve((0.3,), (30.0,))}, {"vae": 33.0}, (line(0.5), line(1.0)), "2 images"
)


def test_plots_hold_every_curve_and_are_repeatable(tmp_path: Path) -> None:
    first, second = (draw(PLOT, tmp_path / name) for name in "ab")
    assert [path.name for path in first] == ["rd-psnr.png", "rd-psnr.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    with Image.open(first[0]) as picture:
        assert picture.size == (1080, 720)
        assert len(np.unique(np.array(picture.convert("L")))) > 10
    texts = {element.text for element in ElementTree.parse(first[1]).iter() if element.text and element.text.strip()}
    assert {"mine", "x & <y>", "vae, not quantised", "JPEG (published)", "psnr, dB (higher is better)"} <= texts
    assert {"0.1", "0.2", "0.5", "1"} <= texts  # ticks of a logarithmic axis, as plain numbers


def test_plots_of_a_ceiling_alone(tmp_path: Path) -> None:
    draw(Plot("dists", {}, {"vae": 0.04}, (), "one image"), tmp_path)
    assert (tmp_path / "rd-dists.png").stat().st_size > 5000


def test_bd_table_says_what_is_missing() -> None:
    found = [
        BdRate("webp", "jpeg", "psnr", -28.14, 0.93, (27.0, 36.0), None, 0),
        BdRate("mine", "jpeg", "psnr", None, 0.0, None, "no overlap", 0),
    ]
    head, anchor, names, webp, mine = bd_lines(found, ["psnr"])
    assert anchor == "against jpeg"
    assert "bits for the same score" in head
    assert names.split() == ["psnr"]
    assert webp.split(maxsplit=1) == ["webp", "-28.1 % (93 %)"]
    assert mine.split(maxsplit=1) == ["mine", "undefined: no overlap"]
