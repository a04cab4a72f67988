"""Images to .lvc files and back: golden files, hostile files, targets, and the commands."""

import json
import subprocess
import sys
import textwrap
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade_vae import handmade_vae
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.numpy import load_file, save_file

from latentcodec.bitstream.codec import ImageCodec, TargetError
from latentcodec.bitstream.container import MAGIC, Frame, Limits, parse
from latentcodec.bitstream.errors import BitstreamError
from latentcodec.bitstream.model import load_model, model_files, model_hash
from latentcodec.bitstream.prepare import decoder_sensitivity, prepare_bitstream
from latentcodec.bitstream.tables import MOST
from latentcodec.cli import main
from latentcodec.codec import LatentCodec
from latentcodec.images.decode import decode_image
from latentcodec.images.procedural import ProceduralSource
from latentcodec.vae.presets import build_vae

GOLDEN = Path(__file__).parent / "expected" / "bitstream"
VAE = GOLDEN / "vae"
SECOND = GOLDEN / "second"
"""Another model of the same VAE, whose networks see more."""
FILE = GOLDEN / "version-1.lvc"
STEP_INDEX = 568
"""Of that file: quality 45."""
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    return ImageCodec.from_pretrained(VAE, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def second(codec: ImageCodec) -> ImageCodec:
    return ImageCodec(codec.codec, load_model(SECOND, codec.codec.fingerprint))


@pytest.fixture(scope="module")
def golden() -> bytes:
    return FILE.read_bytes()


def picture(side: int = 64, index: int = 0) -> np.ndarray:
    return ProceduralSource(1, size=side)[index].decode()


def test_version_1_files_are_read_for_ever(codec: ImageCodec, golden: bytes) -> None:
    expected = np.load(GOLDEN / "version-1.npz")["integers"]
    np.testing.assert_array_equal(codec.integers(golden), expected)
    pixels = codec.decompress(golden)
    assert pixels.shape == (61, 83, 3)
    assert pixels.std() > 1


def test_version_1_files_are_written_to_the_same_bytes(codec: ImageCodec, golden: bytes) -> None:
    expected = np.load(GOLDEN / "version-1.npz")["integers"].astype(np.int64)
    assert codec.compress_integers(expected, (61, 83), parse(golden).step_index).data == golden


def test_files_of_a_second_model_are_read_and_written_for_ever(
    codec: ImageCodec, second: ImageCodec, golden: bytes
) -> None:
    expected = np.load(GOLDEN / "version-1.npz")["integers"].astype(np.int64)
    data = (SECOND / "version-1.lvc").read_bytes()
    np.testing.assert_array_equal(second.integers(data), expected)
    assert second.compress_integers(expected, (61, 83), parse(golden).step_index).data == data
    assert (codec.model.context.version, second.model.context.version) == (1, 2)
    with pytest.raises(BitstreamError, match="name the VAE that made it"):
        codec.integers(data)


@pytest.mark.parametrize("threads", [1, 2])
def test_another_process_reads_and_writes_the_same(threads: int) -> None:
    """With one thread and two, in float32 and bfloat16, with models of both kinds."""
    code = f"""
        import torch
        torch.set_num_threads({threads})
        from pathlib import Path
        from latentcodec.bitstream.codec import ImageCodec
        from latentcodec.bitstream.model import load_model
        import numpy as np
        for model in ({str(VAE)!r}, {str(SECOND)!r}):
            data = Path({str(FILE)!r} if model == {str(VAE)!r} else model + "/version-1.lvc").read_bytes()
            for dtype in (torch.float32, torch.bfloat16):
                vae = ImageCodec.from_pretrained({str(VAE)!r}, device="cpu", dtype=dtype).codec
                codec = ImageCodec(vae, load_model(model, vae.fingerprint))
                integers = codec.integers(data)
                assert codec.compress_integers(integers, (61, 83), {STEP_INDEX}).data == data
                print(int(np.abs(integers).sum()), codec.decompress(data).shape)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True)
    expected = np.load(GOLDEN / "version-1.npz")["integers"]
    assert done.stdout.split() == 4 * [str(np.abs(expected).sum()), "(61,", "83,", "3)"], done.stderr


INTEGERS = st.one_of(
    st.integers(-3, 3), st.integers(-2000, 2000), st.just(0), st.sampled_from([-MOST, MOST]), st.integers(-MOST, MOST)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(), rows=st.integers(1, 14), columns=st.integers(1, 14), step=st.integers(0, 1023), newest=st.booleans()
)
def test_whatever_integers_come_back(
    codec: ImageCodec, second: ImageCodec, data: st.DataObject, rows: int, columns: int, step: int, newest: bool
) -> None:
    values = data.draw(arrays.arrays(np.int64, (4, rows, columns), elements=INTEGERS, fill=st.integers(-1, 1)))
    used = second if newest else codec
    found = used.compress_integers(values, (8 * rows, 8 * columns), step)
    np.testing.assert_array_equal(used.integers(found.data), values)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 70), width=st.integers(1, 70), quality=st.floats(1, 100), effort=st.sampled_from([0, 1]))
def test_any_size_and_quality(codec: ImageCodec, height: int, width: int, quality: float, effort: int) -> None:
    image = picture(70)[:height, :width]
    found = codec.compress(image, quality=quality, effort=effort)
    assert codec.decompress(found.data).shape == image.shape
    assert found.bits_per_pixel == 8 * len(found.data) / (height * width)


def test_a_file_is_as_long_as_its_tables_say(codec: ImageCodec) -> None:
    for quality in (20.0, 60.0, 95.0):
        found = codec.compress(picture(256), quality=quality)
        assert len(found.data) - 32 <= found.ideal_bits / 8 * 1.01


def test_a_small_image_has_at_most_32_bytes_beside_its_code(codec: ImageCodec) -> None:
    found = codec.compress(picture(64))
    assert len(found.data) - found.ideal_bits / 8 <= 32


def test_better_quality_is_larger_and_nearer(codec: ImageCodec) -> None:
    image = picture(128)
    raw = codec.codec.encode_moments([image]).mean[0]
    sizes, errors = [], []
    for quality in (10.0, 40.0, 70.0, 100.0):
        found = codec.compress(image, quality=quality)
        sizes.append(len(found.data))
        errors.append((codec.latents(found.data) - raw).square().mean().item())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


def test_effort_spends_fewer_bytes_on_the_same_cost(codec: ImageCodec) -> None:
    """Distortion + weight x rate, which effort 1 minimises, in squared steps."""
    image = picture(256)
    coefficients = codec.model.transform.coefficients(codec.codec.encode_moments([image]).mean[0])
    costs = []
    for effort in (0, 1):
        found = codec.compress(image, quality=40.0, effort=effort)
        decoded = codec.model.transform.coefficients(codec.latents(found.data))
        step = codec.model.context.steps[found.step_index]
        costs.append(np.square((decoded - coefficients) / step).sum() + 0.1 * found.ideal_bits)
    assert costs[1] < 0.99 * costs[0]


def test_effort_2_comes_nearer_where_encoder_and_decoder_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that loses a fifth of the contrast: stronger latents mend that, and no choice of integers does."""
    vae = LatentCodec(handmade_vae(gain=0.8))
    codec = ImageCodec(vae, prepare_bitstream(vae, [picture(32, index) for index in range(8)], updates=30))
    image = picture(32, 9)
    found = [codec.compress(image, quality=65.0, effort=effort) for effort in (1, 2)]
    errors = [np.square(codec.decompress(each.data).astype(float) - image).mean() for each in found]
    assert errors[1] < 0.8 * errors[0]
    assert found[1].ideal_bits < 1.2 * found[0].ideal_bits
    target = len(found[0].data)
    assert len(codec.compress(image, target_bytes=target, effort=2).data) <= target
    monkeypatch.setattr("latentcodec.bitstream.refine.MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match="use effort 1"):
        codec.compress(image, effort=2)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_target_is_met_from_below(codec: ImageCodec, share: float) -> None:
    image = picture(256)
    target = int(share * len(codec.compress(image, quality=90.0).data))
    assert 0.98 * target <= len(codec.compress(image, target_bytes=target).data) <= target


def test_a_target_that_cannot_be_met_is_an_error(codec: ImageCodec) -> None:
    with pytest.raises(TargetError, match="smallest file of this image"):
        codec.compress(picture(64), target_bytes=30)
    with pytest.raises(ValueError, match="effort"):
        codec.compress(picture(64), effort=7)


def test_every_prefix_is_refused(codec: ImageCodec, golden: bytes) -> None:
    for length in range(len(golden)):
        with pytest.raises(BitstreamError):
            codec.integers(golden[:length])


def test_every_bit_flip_is_refused(codec: ImageCodec, golden: bytes) -> None:
    for bit in range(8 * len(golden)):
        damaged = bytearray(golden)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            codec.integers(bytes(damaged))


def test_twenty_thousand_wrong_files_are_refused(codec: ImageCodec, golden: bytes) -> None:
    random = np.random.default_rng(0)
    tracemalloc.start()
    for number in range(20_000):
        if number % 2:
            data = bytearray(golden)
            for _ in range(random.integers(1, 6)):
                data[random.integers(len(data))] = random.integers(256)
            if bytes(data) == golden:
                continue
        else:
            data = bytearray(MAGIC * (number % 4 == 0) + random.bytes(int(random.integers(0, 300))))
        with pytest.raises(BitstreamError):
            codec.integers(bytes(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20


HOSTILE: dict[str, Callable[[Frame], Frame]] = {
    "words of another image": lambda f: Frame(**(vars(f) | {"words": bytes(range(200)), "bits": b""})),
    "no words": lambda f: Frame(**(vars(f) | {"words": b"", "bits": b""})),
    "too many words": lambda f: Frame(**(vars(f) | {"words": b"\1\2\3\4" * 5000})),
    "too few stored bits": lambda f: Frame(**(vars(f) | {"step_index": 0, "bits": b"\0"})),
    "another step": lambda f: Frame(**(vars(f) | {"step_index": f.step_index + 1})),
    "another size": lambda f: Frame(**(vars(f) | {"width": 90})),
    "a bomb": lambda f: Frame(**(vars(f) | {"width": 9000, "height": 9000})),
    "a line": lambda f: Frame(**(vars(f) | {"width": 32768, "height": 1})),
    "beyond the limits": lambda f: Frame(**(vars(f) | {"width": 40000})),
    "no pixels": lambda f: Frame(**(vars(f) | {"width": 0})),
    "a step out of the grid": lambda f: Frame(**(vars(f) | {"step_index": 1024})),
    "another model": lambda f: Frame(**(vars(f) | {"model": b"\0" * 6})),
    "another checksum": lambda f: Frame(**(vars(f) | {"symbols_crc": f.symbols_crc ^ 1})),
}


@pytest.mark.parametrize("harm", HOSTILE)
def test_a_file_made_to_do_harm_is_refused_in_little_memory(codec: ImageCodec, golden: bytes, harm: str) -> None:
    """Its checksum fits, so only what it says can give it away."""
    data = HOSTILE[harm](parse(golden)).to_bytes()
    tracemalloc.start()
    with pytest.raises(BitstreamError):
        codec.integers(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20


def test_random_words_under_a_right_checksum_are_refused(codec: ImageCodec, golden: bytes) -> None:
    frame, random = parse(golden), np.random.default_rng(1)
    for _ in range(60):
        words = random.bytes(4 * int(random.integers(20, 80)))
        harmed = vars(frame) | {"words": words, "bits": random.bytes(50), "step_index": int(random.integers(1024))}
        with pytest.raises(BitstreamError):
            codec.integers(Frame(**harmed).to_bytes())


def test_what_follows_a_file_is_refused(codec: ImageCodec, golden: bytes) -> None:
    with pytest.raises(BitstreamError, match="payload"):
        codec.integers(golden + b"\0")
    long = golden[:6] + bytes([golden[6] | 0x80, 0]) + golden[7:]
    with pytest.raises(BitstreamError, match="longer than it need be"):
        codec.integers(long)
    with pytest.raises(BitstreamError, match="newer latentcodec"):
        codec.integers(golden[:5] + b"\2" + golden[6:])


def test_limits_can_be_set(codec: ImageCodec, golden: bytes) -> None:
    with pytest.raises(BitstreamError, match="beyond the limits"):
        codec.integers(golden, Limits(pixels=5000))
    assert codec.integers(golden, Limits(pixels=61 * 83)).shape == (4, 8, 11)


def test_the_model_is_checked_against_vae_and_hash(tmp_path: Path, codec: ImageCodec) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    weights, description = model_files(folder)
    with pytest.raises(BitstreamError, match="prepare-bitstream"):
        load_model(folder, codec.codec.fingerprint)
    codec.model.save(folder)
    single = tmp_path / "single.safetensors"
    single.write_bytes(b"")
    codec.model.save(single)
    assert (tmp_path / "single.bitstream.json").is_file()
    assert load_model(single, codec.codec.fingerprint).hash() == codec.model.hash()
    assert load_model(folder, codec.codec.fingerprint).hash() == codec.model.hash()
    with pytest.raises(BitstreamError, match="made for other weights"):
        load_model(folder, "sha256:" + "0" * 64)
    record = json.loads(description.read_text())
    for version, said in (
        (2, "expects, at channel 0, pass 0, first, .*; found first"),
        (3, "expected .* version 1 or 2, found .* 3"),
    ):
        description.write_text(json.dumps(record | {"version": version}))
        with pytest.raises(BitstreamError, match=said):
            load_model(folder, codec.codec.fingerprint)
    description.write_text(json.dumps(record))
    damaged = bytearray(weights.read_bytes())
    damaged[-5] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(BitstreamError, match="its hash is not that of"):
        load_model(folder, codec.codec.fingerprint)
    description.write_text("{")
    with pytest.raises(BitstreamError, match="cannot be read"):
        load_model(folder, codec.codec.fingerprint)
    other = LatentCodec(build_vae("tiny-f8d4", block_out_channels=(4, 4, 8, 8), norm_num_groups=2).eval())
    with pytest.raises(BitstreamError, match="prepare this VAE"):
        ImageCodec(other, codec.model)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"3.6.second": np.full((29, 23), 2**15 - 1, np.int16)}, "sums below 16777216, found .* layer second"),
        (
            {"1.1.first": np.zeros((3, 29), np.int16), "1.1.linear": np.zeros((3, 2), np.int16)},
            "at channel 1, pass 1, .* inputs, found 3",
        ),
        ({"0.0.extra": np.zeros(1, np.int16)}, "channel 0, pass 0, first, .* found .*extra, first"),
    ],
)
def test_a_model_that_could_give_other_integers_elsewhere_is_refused(
    tmp_path: Path, second: ImageCodec, changed: dict[str, np.ndarray], said: str
) -> None:
    """Its own hash fits: it was made wrongly, not damaged later."""
    second.model.save(tmp_path)
    weights, description = model_files(tmp_path)
    arrays = load_file(weights) | {f"network.{name}": value for name, value in changed.items()}
    save_file(arrays, weights)
    record = json.loads(description.read_text())
    found = model_hash(arrays, second.codec.fingerprint)
    description.write_text(json.dumps(record | {"hash": found}))
    with pytest.raises(BitstreamError, match=said):
        load_model(tmp_path, second.codec.fingerprint)


def test_the_decoders_sensitivity_is_that_of_small_errors(codec: ImageCodec) -> None:
    """Against finite differences: e' G e is the squared change of the image, in 8-bit levels."""
    raw = [codec.codec.encode_moments([picture(128, index)]).mean[0].double().numpy() for index in range(4)]
    found = decoder_sensitivity(codec.codec, raw, 0)
    generator = torch.Generator().manual_seed(1)
    error = 1e-3 * torch.randn(4, 4, 16, 16, generator=generator)
    latents = torch.from_numpy(np.stack(raw)).float()
    with torch.no_grad():
        images = [codec.codec.vae.decode(value).sample.double() for value in (latents, latents + error)]
    change = (127.5 * (images[1] - images[0])).square().sum().item()
    predicted = sum(e.double() @ torch.from_numpy(found) @ e.double() for e in error.permute(0, 2, 3, 1).reshape(-1, 4))
    assert 0.6 < change / float(predicted) < 1.7


def test_preparing_is_repeatable(codec: ImageCodec) -> None:
    images = [picture(96, index) for index in range(8)]
    models = [prepare_bitstream(codec.codec, images, updates=30) for _ in range(2)]
    assert models[0].hash() == models[1].hash()
    with pytest.raises(ValueError, match="at least 8"):
        prepare_bitstream(codec.codec, images[:2])
    with pytest.raises(ValueError, match="updates: expected at least 1"):
        prepare_bitstream(codec.codec, images, updates=0)


def test_the_commands(tmp_path: Path, codec: ImageCodec, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(64)).save(tmp_path / "a.png")
    small, decoded = tmp_path / "small", tmp_path / "decoded"
    options = ["--vae", str(VAE), "--dtype", "float32"]
    assert (
        main(["compress", str(tmp_path / "a.png"), "-o", str(small), *options, "--target-bytes", "120", "--json"]) == 0
    )
    (row,) = json.loads(capsys.readouterr().out)["images"]
    assert row["bytes"] == (small / "a.png.lvc").stat().st_size <= 120
    (small / "broken.lvc").write_bytes(b"nothing")
    assert main(["decompress", str(small), "-o", str(decoded), *options]) == 1
    assert "broken.lvc" in capsys.readouterr().err
    assert decode_image(decoded / "a.png.png").shape == (64, 64, 3)
    codec.codec.vae.save_pretrained(tmp_path / "vae")
    assert main(["compress", str(tmp_path / "a.png"), "-o", str(small), "--vae", str(tmp_path / "vae")]) == 1
    assert "prepare-bitstream" in capsys.readouterr().err


def test_prepare_bitstream_writes_beside_the_vae(
    tmp_path: Path, codec: ImageCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(9):
        Image.fromarray(picture(64, index)).save(photos / f"{index}.png")
    (photos / "broken.png").write_bytes(b"nothing")
    codec.codec.vae.save_pretrained(tmp_path / "vae")
    options = ["--images", str(photos), "--updates", "5", "--dtype", "float32"]
    assert main(["prepare-bitstream", str(tmp_path / "vae"), *options]) == 0
    assert "broken.png is left out" in capsys.readouterr().out
    again = ImageCodec.from_pretrained(tmp_path / "vae", dtype=torch.float32, device="cpu")
    data = again.compress(picture(64)).data
    assert again.decompress(data).shape == (64, 64, 3)
    with pytest.raises(BitstreamError, match="name the VAE that made it"):
        codec.decompress(data)
    assert zlib.crc32(data) != zlib.crc32(codec.compress(picture(64)).data)
