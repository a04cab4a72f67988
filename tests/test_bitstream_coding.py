"""Integers to payload and back: exact for whatever integers, and as short as the tables say."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from threadpoolctl import threadpool_limits

from latentcodec.bitstream.entropy import LEAST_BITS, Decoder, Encoder, check_length, probabilities
from latentcodec.bitstream.errors import BitstreamError
from latentcodec.bitstream.integers import LOG_UNIT, integer_log2, log2_table
from latentcodec.bitstream.lattice import REACH, passes
from latentcodec.bitstream.network import DOUBLE, SINGLE, Network, Precision, rounded
from latentcodec.bitstream.quality import STEPS, index_of_quality, quality_of_index, step_grid
from latentcodec.bitstream.tables import (
    BASE_CLASSES,
    CLASSES,
    ESCAPE,
    MOST,
    PRECISION,
    ROWS,
    SYMBOLS,
    class_of,
    edges,
    integer_frequencies,
    logistic_probabilities,
    split,
    spread,
)  # fmt: skip
from latentcodec.bitstream.transform import RESOLUTION, fit_transform
from latentcodec.bitstream.view import VIEWS

BANK = probabilities(integer_frequencies(logistic_probabilities()))


@st.composite
def steps_of_integers(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(expected, classes, values) of a few calls: near the expected value, anywhere, or extreme."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 40))
        expected = draw(arrays.arrays(np.int64, count, elements=st.integers(-(2**30), 2**30)))
        classes = draw(arrays.arrays(np.int64, count, elements=st.integers(0, CLASSES - 1)))
        far = arrays.arrays(np.int64, count, elements=st.integers(-MOST, MOST))
        near = arrays.arrays(np.int64, count, elements=st.integers(-70, 70))
        values = draw(far) if draw(st.booleans()) else np.clip((expected >> 3) + draw(near), -MOST, MOST)
        found.append((expected, classes, values))
    return found


@given(steps_of_integers())
def test_every_integer_comes_back(calls: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    encoder = Encoder(BANK)
    for expected, classes, values in calls:
        encoder.add(values, split(expected, classes))
    words, bits = encoder.finish()
    decoder = Decoder(BANK, words, bits)
    for expected, classes, values in calls:
        np.testing.assert_array_equal(decoder.take(split(expected, classes)), values)
    decoder.finish()


def test_the_code_is_as_long_as_its_tables_say() -> None:
    """Integers drawn from the model: the file is within 1 % of the entropy of its tables, and those near the truth."""
    random = np.random.default_rng(0)
    classes = random.integers(0, 40, 60_000)
    expected = random.integers(-800, 800, 60_000)
    values = np.rint(expected / 8 + random.logistic(0, spread(classes) * math.sqrt(3) / math.pi)).astype(np.int64)
    encoder = Encoder(BANK)
    encoder.add(values, split(expected, classes))
    words, bits = encoder.finish()
    assert 8 * (len(words) + len(bits)) < 1.001 * encoder.ideal_bits() + 64
    scale = spread(classes) * math.sqrt(3) / math.pi
    cells = [0.5 * (1 + np.tanh((values - expected / 8 + side) / (2 * scale))) for side in (0.5, -0.5)]
    truth = -np.log2(np.maximum(cells[0] - cells[1], 1e-9)).sum()
    assert encoder.ideal_bits() < 1.01 * truth


def test_a_shift_is_chosen_where_tables_end() -> None:
    classes = np.arange(CLASSES)
    found = split(np.zeros(CLASSES, np.int64), classes)
    assert (found.shift[:BASE_CLASSES] == 0).all()
    octaves = spread(classes) / 2.0**found.shift
    assert (octaves[BASE_CLASSES:] > 2).all()
    assert (octaves <= 4).all()
    assert found.table.max() < ROWS


@given(st.integers(1, 2**40), st.integers(3, 14))
def test_the_class_is_the_nearest(spread_in_units: int, log2_step: int) -> None:
    table = log2_table()
    log2_spread = integer_log2(np.array([spread_in_units]), table)
    found = int(class_of(log2_spread, log2_step * LOG_UNIT, LOG_UNIT)[0])
    wanted = 4 * (math.log2(spread_in_units) - log2_step + 4)
    assert abs(found - np.clip(wanted, 0, CLASSES - 1)) < 0.51


def test_tables_are_those_of_cells_about_the_expected_value() -> None:
    assert (edges(4)[:-1] + edges(4)[1:] == 2 * np.arange(-31, 32) - 0.125).all()
    assert (edges(8)[:-1] == np.arange(-31, 32)).all()
    rows = logistic_probabilities()
    assert rows.shape == (ROWS, SYMBOLS)
    np.testing.assert_allclose(rows.sum(axis=1), 1)


@given(arrays.arrays(np.float64, (3, SYMBOLS), elements=st.floats(0, 1)))
def test_frequencies_are_at_least_one_and_add_up(values: np.ndarray) -> None:
    found = integer_frequencies(values + 1e-9)
    assert (found.sum(axis=1) == 2**PRECISION).all()
    assert found.min() >= 1


def test_a_bank_that_is_none_is_refused() -> None:
    frequencies = integer_frequencies(logistic_probabilities())
    frequencies[3, 5] += 1
    with pytest.raises(BitstreamError, match="probability tables"):
        probabilities(frequencies)


def test_a_payload_that_ends_early_or_late_is_an_error() -> None:
    where = split(np.zeros(50, np.int64), np.full(50, 60))
    encoder = Encoder(BANK)
    encoder.add(np.arange(50) * 1000, where)
    words, bits = encoder.finish()
    with pytest.raises(BitstreamError, match="too early"):
        Decoder(BANK, words, bits[:-1]).take(where)
    decoder = Decoder(BANK, words, bits + b"\0")
    decoder.take(where)
    with pytest.raises(BitstreamError, match="more than"):
        decoder.finish()
    with pytest.raises(BitstreamError, match="never zero"):
        Decoder(BANK, words + b"\0\0\0\0", bits)


def test_the_shortest_payload_holds_what_the_bound_says() -> None:
    """As many of the likeliest symbol as possible: the bound must let real files pass."""
    count = 200_000
    where = split(np.zeros(count, np.int64), np.zeros(count, np.int64))
    bank = BANK.copy()
    bank[:] = 2.0**-PRECISION
    bank[:, 31] = 1 - (SYMBOLS - 1) * 2.0**-PRECISION
    encoder = Encoder(bank)
    encoder.add(np.zeros(count, np.int64), where)
    words, _ = encoder.finish()
    check_length(words, count)
    assert 8 * len(words) < 1.05 * LEAST_BITS * count + 64
    with pytest.raises(BitstreamError, match="cannot hold"):
        check_length(words, 3 * count)


def test_escapes_are_marked() -> None:
    found = split(np.zeros(3, np.int64), np.zeros(3, np.int64)).symbols(np.array([31, 32, -32]))
    assert found.tolist() == [62, ESCAPE, ESCAPE]


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(sorted(VIEWS)))
def test_passes_meet_every_position_once_and_know_what_is_seen(height: int, width: int, version: int) -> None:
    met = np.zeros((height, width), int)
    for each in passes():
        rows, columns = each.slices()
        known = np.pad(met, REACH, constant_values=1)
        seen = VIEWS[version].own(each)
        assert seen[: len(each.neighbours)] == each.neighbours
        assert len(set(seen)) == len(seen)
        for down, right in seen:
            part = known[REACH + down : REACH + down + height, REACH + right : REACH + right + width][rows, columns]
            assert (part == 1).all(), f"{each} does not know {down, right}"
        met[rows, columns] += 1
    assert (met == 1).all()


@given(st.integers(1, 2**52))
def test_the_integer_logarithm_is_one(value: int) -> None:
    found = int(integer_log2(np.array([value], np.int64), log2_table())[0])
    assert abs(found / LOG_UNIT - math.log2(value)) < 0.004


def test_the_tables_of_integers_never_change() -> None:
    grid = step_grid()
    assert grid[[0, 1, 511, 1023]].tolist() == [8, 8, 361, 16384]
    assert (np.diff(grid) >= 0).all()
    assert log2_table()[[0, 1, 128, 255]].tolist() == [3, 9, 601, 1023]
    assert [index_of_quality(quality) for quality in (1.0, 50.0, 100.0)] == [STEPS - 1, 517, 0]
    assert quality_of_index(0) == 100
    with pytest.raises(ValueError, match=r"1 \.\.\. 100"):
        index_of_quality(0.5)


def exact_outputs(network: Network, given_: np.ndarray) -> np.ndarray:
    """In Python's integers, which have no limit."""
    exact = {name: np.vectorize(int, otypes=[object])(getattr(network, name)) for name in network.stored(SINGLE)}
    values = given_.astype(object)
    for layer in ("first", "second"):
        sums = (values @ exact[layer] + exact[f"{layer}_bias"]) // 2 ** exact[f"{layer}_shift"]
        values = np.clip(sums, 0, network.precision.hidden_limit)
    out = values @ exact["last"] + given_.astype(object) @ exact["linear"] + exact["last_bias"]
    return out * 2**network.precision.coarser // 2 ** exact["last_shift"]


def outputs(network: Network, given_: np.ndarray) -> np.ndarray:
    inputs = np.concatenate([given_.T, np.ones((1, len(given_)))])
    return network(inputs.astype(network.precision.dtype)).T


def extremes(precision: Precision, random: np.random.Generator, *shape: int) -> np.ndarray:
    """Some at the limits, which make the largest sums."""
    anywhere = random.integers(-precision.limit, precision.limit + 1, shape)
    return np.where(random.random(shape) < 0.5, np.sign(anywhere) * precision.limit, anywhere)


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 1000))
def test_networks_of_double_precision_compute_in_integers(inputs: int, hidden: int, seed: int) -> None:
    """With the largest weights there are."""
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return random.integers(-(2**15), 2**15, shape)

    sizes = {"first": (inputs, hidden), "second": (hidden, hidden), "last": (hidden, 2), "linear": (inputs, 2)}
    weights = {name: draw(*size).astype(np.int16) for name, size in sizes.items()}
    biases = {f"{name}_bias": (draw(sizes[name][1]) * 1000).astype(np.int32) for name in ("first", "second", "last")}
    network = Network.from_stored(weights | biases, DOUBLE)
    given_ = extremes(DOUBLE, random, 9, inputs)
    np.testing.assert_array_equal(outputs(network, given_), exact_outputs(network, given_).astype(np.int64))


def float_parts(inputs: int, hidden: tuple[int, int], size: float, seed: int) -> dict[str, np.ndarray]:
    """Of a network in floating point, as `rounded` takes them."""
    random = np.random.default_rng(seed)
    sizes = {"first": (inputs, hidden[0]), "second": hidden, "last": (hidden[1], 2), "linear": (inputs, 2)}
    weights = {f"{name}.weight": random.normal(0, size, shape) for name, shape in sizes.items()}
    return weights | {f"{name}.bias": random.normal(0, size, sizes[name][1]) for name in ("first", "second", "last")}


@settings(max_examples=40)
@given(
    st.integers(1, 180), st.integers(1, 50), st.integers(1, 50), st.sampled_from([0.0, 1e-3, 0.1, 1.0, 30.0]),
    st.integers(0, 1000),
)  # fmt: skip
def test_networks_of_single_precision_compute_in_integers(
    inputs: int, first: int, second: int, size: float, seed: int
) -> None:
    """Whatever the size of the weights, and in whatever order float32 adds them up."""
    network = rounded(float_parts(inputs, (first, second), size, seed), SINGLE)
    assert max(network.largest_sums().values()) < 2**24
    given_ = extremes(SINGLE, np.random.default_rng(seed), 9, inputs)
    np.testing.assert_array_equal(outputs(network, given_), exact_outputs(network, given_).astype(np.int64))


@pytest.mark.parametrize("threads", [1, 2])
def test_positions_are_calculated_alike_whatever_is_beside_them(threads: int) -> None:
    """They are taken in parts of some thousand, which is enough for the linear algebra to share them among threads."""
    network = rounded(float_parts(40, (13, 7), 0.1, 0), SINGLE)
    given_ = extremes(SINGLE, np.random.default_rng(0), 5000, 40)
    with threadpool_limits(threads, user_api="blas"):
        together = outputs(network, given_)
    np.testing.assert_array_equal(together, exact_outputs(network, given_).astype(np.int64))
    np.testing.assert_array_equal(together[2000:2100], outputs(network, given_[2000:2100]))


def test_rounding_uses_the_bits_there_are() -> None:
    """As fine as sums allow: with units half as large, one of them could be beyond what float32 counts."""
    parts = float_parts(100, (45, 31), 0.1, 0)
    network = rounded(parts, SINGLE)
    for name in ("first", "second"):
        finer = np.abs(parts[f"{name}.weight"] * 2.0 ** (getattr(network, f"{name}_shift") + 1)).sum(axis=0) * 2**11
        assert (finer > 0.9 * 2**24).all()
        np.testing.assert_allclose(
            getattr(network, name) * 0.5 ** getattr(network, f"{name}_shift"),
            parts[f"{name}.weight"],
            atol=0.51 * 0.5 ** getattr(network, f"{name}_shift").min(),
        )
    given_ = np.random.default_rng(0).integers(-300, 300, (50, 100))
    hidden = given_ / SINGLE.unit
    for name in ("first", "second"):
        hidden = np.clip(hidden @ parts[f"{name}.weight"] + parts[f"{name}.bias"], 0, SINGLE.hidden_limit / SINGLE.unit)
    wanted = hidden @ parts["last.weight"] + given_ / SINGLE.unit @ parts["linear.weight"] + parts["last.bias"]
    np.testing.assert_allclose(outputs(network, given_) / LOG_UNIT, wanted, atol=0.1)


def test_the_transform_decorrelates_and_weighs_by_harm() -> None:
    random = np.random.default_rng(0)
    mix, harm = random.normal(size=(5, 5)), random.normal(size=(5, 5))
    covariance, sensitivity = mix @ mix.T, harm @ harm.T
    transform = fit_transform(random.normal(size=5), covariance, sensitivity)
    np.testing.assert_allclose(transform.inverse @ transform.forward, np.eye(5), atol=1e-8)
    found = transform.forward @ covariance @ transform.forward.T
    np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-6 * found.max())
    assert (np.diff(np.diag(found)) < 0).all()
    # A unit error in any coefficient does the same harm.
    np.testing.assert_allclose(
        transform.inverse.T @ sensitivity @ transform.inverse, np.eye(5) / RESOLUTION**2, atol=1e-8
    )


def test_a_decoder_that_ignores_its_input_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not depend"):
        fit_transform(np.zeros(2), np.eye(2), np.zeros((2, 2)))
