"""eval/symbols: code lengths against their definition, real files that come back, and what the command leaves."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import zstandard
from PIL import Image
from scipy.stats import entropy

from eval.__main__ import main
from eval.bootstrap import Bootstrap
from eval.images import NamedImage
from eval.symbols.general import SymbolsError, as_grey, jpeg_xl, jpeg_xl_bits, tiled, zstd_bits
from eval.symbols.measure import METHODS, Coded, code, summarise
from eval.symbols.speed import CoderSeconds, coder_seconds, coding_order, network_shares
from eval.symbols.static import Counts, code_length, pooled
from latentcodec.bitstream.codec import ImageCodec
from latentcodec.bitstream.container import parse
from latentcodec.bitstream.entropy import Encoder

VAE = Path(__file__).parent / "expected" / "bitstream" / "vae"
PHOTO = np.ascontiguousarray(skimage.data.astronaut()[:96, 150:250])


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    return ImageCodec.from_pretrained(VAE, dtype=torch.float32, device="cpu")


def integers(seed: int, channels: int = 4, spread: float = 3.0) -> np.ndarray:
    """Channels of different spreads, each smooth over the plane."""
    random = np.random.default_rng(seed)
    smooth = random.normal(size=(channels, 24, 30)).cumsum(axis=1).cumsum(axis=2)
    return np.rint(spread * np.arange(1, channels + 1)[:, None, None] * smooth / smooth.std()).astype(np.int64)


def test_code_lengths_are_entropies() -> None:
    values = integers(0)
    counts = Counts.of(values)
    bits = [channel.size * entropy(np.unique(channel, return_counts=True)[1], base=2) for channel in (*values, values)]
    assert code_length(counts, counts) == pytest.approx(sum(bits[:4]))
    assert code_length(counts.merged(), counts.merged()) == pytest.approx(bits[4])


def test_tables_that_know_more_never_cost_more() -> None:
    images = [Counts.of(integers(seed, spread=1.0 + seed)) for seed in range(3)]
    tables = pooled(images)
    iid = sum(code_length(one.merged(), tables.merged()) for one in images)
    static = sum(code_length(one, tables) for one in images)
    own = sum(code_length(one, one) for one in images)
    assert own < static < iid
    assert tables.channels[0].total() == 3 * 24 * 30


def test_static_tables_cannot_see_order() -> None:
    """Shuffled positions cost the same by counting, and more by everything that looks around."""
    values = integers(1)
    shuffled = np.random.default_rng(0).permuted(values.reshape(4, -1), axis=1).reshape(values.shape)
    assert code_length(Counts.of(values), Counts.of(values)) == code_length(Counts.of(shuffled), Counts.of(shuffled))
    assert jpeg_xl_bits(shuffled) > 1.2 * jpeg_xl_bits(values)
    assert zstd_bits(shuffled) > zstd_bits(values)


@pytest.mark.parametrize(("channels", "shape"), [(1, (24, 30)), (3, (24, 90)), (4, (48, 60)), (16, (96, 120))])
def test_jpeg_xl_gives_the_integers_back(channels: int, shape: tuple[int, int]) -> None:
    values = integers(2, channels)
    plane = tiled(values)
    assert plane.shape == shape
    np.testing.assert_array_equal(plane[:24, 30 * (shape[1] // 30 - 1) :], values[shape[1] // 30 - 1])
    with Image.open(io.BytesIO(jpeg_xl(as_grey(plane)))) as picture:
        assert picture.format == "JXL"
        np.testing.assert_array_equal(np.array(picture).astype(np.int64) + values.min(), plane)
    apart = sum(len(jpeg_xl(as_grey(channel))) for channel in values)
    assert jpeg_xl_bits(values) == 8 * min(apart, len(jpeg_xl(as_grey(plane))))


def test_zstd_gives_the_integers_back() -> None:
    values = integers(3)
    compressed = zstandard.ZstdCompressor(level=19).compress(values.astype("<i2").tobytes())
    assert zstd_bits(values) == 8 * len(compressed)
    back = np.frombuffer(zstandard.ZstdDecompressor().decompress(compressed), "<i2").reshape(values.shape)
    np.testing.assert_array_equal(back, values)


def test_integers_of_more_than_16_bits_are_refused() -> None:
    wide = np.zeros((1, 4, 4), np.int64)
    wide[0, 0, :2] = -40000, 40000
    for method in (zstd_bits, jpeg_xl_bits):
        with pytest.raises(SymbolsError, match="fit into 16 bits, found larger ones; ask for lower qualities"):
            method(wide)
    assert jpeg_xl_bits(np.maximum(wide, -20000)) > 0


def test_the_coder_is_timed_on_what_files_hold(codec: ImageCodec) -> None:
    """The parts in coding order, coded at once, are the payload of the file."""
    found = codec.compress(PHOTO, quality=60.0)
    coded = coding_order(codec, codec.integers(found.data), found.step_index)
    encoder = Encoder(codec.model.bank())
    for values, where in coded:
        encoder.add(values, where)
    frame = parse(found.data)
    assert encoder.finish() == (frame.words, frame.bits)
    seconds = coder_seconds(codec, coded, rounds=2)
    assert seconds.symbols == 4 * 12 * 13
    assert min(seconds.add, seconds.finish, seconds.take) > 0
    shares = network_shares(codec, PHOTO, 60.0, 1, rounds=3)
    assert len(shares) == 3
    assert min(shares) > 0


def test_one_image_is_coded_in_every_way(codec: ImageCodec) -> None:
    coded = code(codec, NamedImage("a", PHOTO), 60.0, effort=0, rounds=2)
    data = codec.compress(PHOTO, quality=60.0, effort=0).data
    values = codec.integers(data)
    assert coded.bits["context"] == 8 * len(data)
    assert coded.bits["zstd"] == zstd_bits(values)
    assert coded.bits["per_channel_own"] == code_length(Counts.of(values), Counts.of(values))
    assert set(METHODS) == {*coded.bits, "iid", "per_channel"}
    assert coded.ideal_bits < coded.payload_bits < coded.bits["context"]
    assert coded.payload_bits / coded.ideal_bits < 1.1


def test_savings_are_over_all_images() -> None:
    seconds = CoderSeconds(1000, 0.002, 0.001, 0.004)
    coded = [
        Coded(
            name, pixels, Counts.of(np.array([[[0, 1, 2, 3]]])),
            {"context": context, "jpeg_xl": 100.0, "zstd": 200.0, "per_channel_own": 8.0}, 60, 50.0, seconds, [0.9, 0.8],
        )
        for name, pixels, context in (("a", 100, 60.0), ("b", 200, 80.0))
    ]  # fmt: skip
    row = summarise(50.0, coded, Bootstrap(50))
    assert row.saved["jpeg_xl"] == pytest.approx(0.3)
    assert row.saved["zstd"] == pytest.approx(0.65)
    assert row.saved["iid"] == pytest.approx(1 - 140 / 16)  # two bits for each of eight integers
    assert row.bpp["jpeg_xl"]["mean"] == pytest.approx((1 + 0.5) / 2)
    assert row.coder_overhead == pytest.approx(0.2)
    speeds = (row.encode_symbols_per_second, row.add_symbols_per_second, row.decode_symbols_per_second)
    assert speeds == pytest.approx((1e6, 0.5e6, 0.25e6))
    assert row.network_share["median"] == pytest.approx(0.85)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(PHOTO).save(photos / "a.png")
    Image.fromarray(skimage.data.coffee()[:72, :88]).save(photos / "b.png")
    (photos / "torn.png").write_bytes(b"\x89PNG")
    results = tmp_path / "s.json"
    arguments = ["symbols", str(VAE), "--data", str(photos), "--device", "cpu", "--json", str(results)]
    assert main([*arguments, "--qualities", "40,70"]) == 0
    printed = capsys.readouterr().out
    record = json.loads(results.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["kind"] == "symbols"
    assert [(row["quality"], row["images"]) for row in record["rows"]] == [(40, 2), (70, 2)]
    for row in record["rows"]:
        assert set(row["bpp"]) == set(METHODS)
        assert set(row["saved"]) == set(METHODS) - {"context"}
        assert row["bpp"]["per_channel_own"]["mean"] <= row["bpp"]["per_channel"]["mean"] <= row["bpp"]["iid"]["mean"]
    assert record["settings"]["vae"]["channels"] == 4
    assert str(tmp_path) not in results.read_text("utf-8")
    for text in (
        "2 images of photos; 4 channels",
        "integers are the nearest",
        "network share",
        "torn.png",
        "in their favour",
    ):
        assert text in printed
    for wrong in ("low", "0", "101"):
        assert main([*arguments, "--qualities", wrong]) == 1
        assert "SymbolsError: qualities: expected" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--rounds", "1"])
    assert "--rounds: expected at least 2, found 1" in capsys.readouterr().err
