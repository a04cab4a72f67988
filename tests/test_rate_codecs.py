"""eval/rate: every codec writes the bytes of a real file and gives the image back; how a command line names codecs."""

import io
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eval.labels import LabelError
from eval.metrics import psnr
from eval.rate.codec import CodecOptions, RateCodec, RateError, setting_name, stored_bytes
from eval.rate.compressai_codec import CompressAI, pack, unpack
from eval.rate.measure import Bench, BenchOptions
from eval.rate.registry import CODECS, CodecSpec, parse_codecs, parse_qualities
from eval.reconstruct.modes import reconstruct
from latentcodec.bitstream.codec import ImageCodec
from latentcodec.codec import LatentCodec
from latentcodec.vae.loading import load_vae

VAE = str(Path(__file__).parent / "expected" / "bitstream" / "vae")
PHOTO = np.ascontiguousarray(skimage.data.astronaut()[40:101, 150:233])  # 61 x 83: odd, and no multiple of 8
FILES = {
    "jpeg": ("jpg", {}),
    "jpeg-444": ("jpg", {"subsampling": 0}),
    "webp": ("webp", {}),
    "avif": ("avif", {}),
    "avif-444": ("avif", {"subsampling": "4:4:4"}),
    "jxl": ("jxl", {}),
}
OPTIONS = CodecOptions()


def opened(kind: str, source: str = "") -> RateCodec:
    return CodecSpec(kind, kind, source, OPTIONS).open()


@pytest.mark.parametrize("kind", FILES)
def test_bytes_are_those_that_pillow_writes_to_disk(kind: str, tmp_path: Path) -> None:
    codec = opened(kind)
    ending, options = FILES[kind]
    for quality in (20, 75):
        path = tmp_path / f"photo.{ending}"
        Image.fromarray(PHOTO).save(path, quality=quality, **options)
        stored = codec.encode(PHOTO, quality)
        assert stored == path.read_bytes()
        assert stored_bytes(stored) == path.stat().st_size
        with Image.open(path) as picture:
            np.testing.assert_array_equal(codec.decode(stored), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind", FILES)
def test_every_quality_gives_the_size_back_and_more_costs_more(kind: str) -> None:
    codec = opened(kind)
    sizes, scores = [], []
    for quality in (codec.qualities[0], 50, codec.qualities[-1]):
        stored = codec.encode(PHOTO, quality)
        picture = codec.decode(stored)
        assert picture.shape == PHOTO.shape
        assert picture.dtype == np.uint8
        sizes.append(stored_bytes(stored))
        scores.append(psnr(PHOTO, picture))
    assert sizes == sorted(set(sizes))
    assert scores == sorted(set(scores))
    assert codec.qualities == tuple(sorted(codec.qualities))


@pytest.mark.parametrize("kind", ["jpeg", "avif"])
def test_whole_colour_planes_keep_colours_better(kind: str) -> None:
    """Red and blue stripes one pixel wide, which 4:2:0 mixes."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255
    usual, whole = (opened(name) for name in (kind, f"{kind}-444"))
    assert (
        psnr(stripes, whole.decode(whole.encode(stripes, 90)))
        > psnr(stripes, usual.decode(usual.encode(stripes, 90))) + 6
    )


def test_jpeg_xl_does_not_repack_a_jpeg() -> None:
    """An image that was a JPEG is coded anew, smaller at a lower quality, without what its file held besides."""
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "JPEG", quality=95, comment=b"secret")
    pixels = np.array(Image.open(file))
    stored = opened("jxl").encode(pixels, 30)
    assert stored_bytes(stored) < len(file.getvalue()) / 4
    assert b"secret" not in stored


def test_latent_bytes_are_an_lvc_file() -> None:
    codec = opened("latentcodec", VAE)
    ours = ImageCodec.from_pretrained(VAE, dtype=torch.float32, device="cpu")
    stored = codec.encode(PHOTO, 35)
    assert stored == ours.compress(PHOTO, quality=35.0).data
    np.testing.assert_array_equal(codec.decode(stored), ours.decompress(stored))
    nearest = CodecSpec("n", "latentcodec", VAE, CodecOptions(effort=0)).open()
    assert nearest.encode(PHOTO, 35) == ours.compress(PHOTO, quality=35.0, effort=0).data
    assert nearest.identity()["effort"] == 0
    assert codec.identity()["fingerprint"] == ours.codec.fingerprint


def test_the_ceiling_is_the_vae() -> None:
    codec = opened("vae", VAE)
    moments = codec.encode(PHOTO, None)
    assert stored_bytes(moments) is None
    np.testing.assert_array_equal(codec.decode(moments), reconstruct(load_vae(VAE, scaling_factor=1.0), PHOTO))
    assert codec.qualities == (None,)
    assert [setting_name(quality) for quality in (None, 35.0, 0.5)] == ["mean", "35", "0.5"]
    assert codec.identity()["fingerprint"] == LatentCodec.from_pretrained(VAE).fingerprint


@pytest.mark.parametrize(
    ("kind", "quality"), [("jpeg", 101), ("webp", -1), ("avif", 50.5), ("jxl", None), ("latentcodec", 0), ("vae", 50.0)]
)
def test_qualities_that_a_codec_lacks_are_refused(kind: str, quality: float | None) -> None:
    codec = opened(kind, VAE if kind in ("latentcodec", "vae") else "")
    with pytest.raises(RateError, match=r"expected a (whole )?quality|has no qualities"):
        codec.encode(PHOTO, quality)


def test_identities_name_versions_and_no_path() -> None:
    assert opened("jpeg").identity()["library"].startswith("libjpeg_turbo ")
    assert opened("jxl").identity()["library"] == f"pillow-jxl-plugin {version('pillow-jxl-plugin')}"
    assert opened("avif-444").identity()["options"] == {"subsampling": "4:4:4"}
    assert "/" not in str(opened("latentcodec", VAE).identity())


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pillow_jxl", "compressai", "compressai.zoo"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RateError, match="jxl: needs pillow-jxl-plugin; pip install"):
        opened("jxl")
    with pytest.raises(RateError, match="compressai: it is not installed; pip install compressai"):
        opened("compressai", "bmshj2018-hyperprior")


class _Halves:
    """In the place of a model with CompressAI's interface: keeps the upper 4 bits of red in one string, the rest in another."""

    def eval(self) -> "_Halves":
        return self

    def to(self, device: torch.device) -> "_Halves":
        return self

    def compress(self, images: torch.Tensor) -> dict[str, object]:
        assert images.shape[2] % 64 == images.shape[3] % 64 == 0
        values = (255 * images[0]).round().to(torch.uint8).numpy()
        return {"strings": [[(values[:1] >> 4).tobytes()], [values.tobytes()]], "shape": torch.Size(values.shape[1:])}

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        values = np.frombuffer(strings[1][0], np.uint8).reshape(3, *shape)
        assert strings[0][0] == (values[:1] >> 4).tobytes()
        return {"x_hat": torch.from_numpy(values.astype(np.float32) / 255)[None]}


def test_compressai_models_give_the_size_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding to 64 and back, and every string of the model in the file."""
    zoo = type(sys)("compressai.zoo")
    zoo.image_models = {"some-model": lambda quality, metric, pretrained: _Halves(), "some-model-vbr": None}
    monkeypatch.setitem(sys.modules, "compressai", type(sys)("compressai"))
    monkeypatch.setitem(sys.modules, "compressai.zoo", zoo)
    codec = CompressAI("some-model", OPTIONS)
    stored = codec.encode(PHOTO, 3)
    assert len(stored) == 10 + 2 * 4 + 4 * 64 * 128
    np.testing.assert_array_equal(codec.decode(stored), PHOTO)
    assert codec.qualities == (1, 2, 3, 4, 5, 6, 7, 8)
    with pytest.raises(RateError, match=r"expected one of some-model$"):
        CompressAI("some-model-vbr", OPTIONS)


@given(
    st.integers(0, 255), st.tuples(*[st.integers(1, 65535)] * 2), st.tuples(*[st.integers(0, 65535)] * 2),
    st.lists(st.binary(max_size=40), max_size=4),
)  # fmt: skip
def test_packed_strings_come_back(
    quality: int, size: tuple[int, int], shape: tuple[int, int], strings: list[bytes]
) -> None:
    assert unpack(pack(quality, size, shape, strings)) == (quality, size, shape, strings)


def names(text: str, **options: object) -> list[str]:
    return [spec.name for spec in parse_codecs(text, OPTIONS, **options)]


def test_codecs_are_named_shortly(tmp_path: Path) -> None:
    a, b = tmp_path / "a" / "vae", tmp_path / "b" / "vae"
    for folder in (a, b):
        folder.mkdir(parents=True)
    assert names("jpeg, webp,avif-444") == ["jpeg", "webp", "avif-444"]
    assert names(f"jpeg,latentcodec:{a}") == ["jpeg", "latentcodec:vae", "vae:vae"]
    assert names(f"latentcodec:{a},latentcodec:{b},vae:{b}") == [
        "latentcodec:a/vae", "vae:a/vae", "latentcodec:b/vae", "vae:b/vae",
    ]  # fmt: skip
    assert names(f"mine=latentcodec:{a}") == ["mine", "mine ceiling"]
    assert names("compressai:cheng2020-attn") == ["compressai:cheng2020-attn"]
    two = parse_codecs(f"latentcodec:{a},jpeg", OPTIONS, (0, 1))
    assert [spec.name for spec in two] == ["latentcodec:vae effort 0", "latentcodec:vae effort 1", "vae:vae", "jpeg"]
    assert [spec.options.effort for spec in two[:2]] == [0, 1]
    assert {spec.source for spec in two[:3]} == {str(a)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jpg", r"expected one of jpeg, jpeg-444, .* found jpg"),
        ("webp-444", "WebP is 4:2:0 always"),
        ("vae", "expected vae:SOURCE, found vae"),
        ("jpeg:90", "expected jpeg, found jpeg:90"),
        ("jpeg,jpeg", "found jpeg twice"),
        (" , ", "found none"),
    ],
)
def test_wrong_codecs_are_explained(text: str, message: str) -> None:
    with pytest.raises(RateError, match=message):
        parse_codecs(text, OPTIONS)
    with pytest.raises(LabelError):
        names(f"latentcodec:{VAE},x=vae:{VAE},latentcodec:{VAE}/../vae,latentcodec:{VAE}/.")


def test_qualities_belong_to_names_or_kinds() -> None:
    specs = parse_codecs(f"jpeg,mine=latentcodec:{VAE},webp", OPTIONS)
    asked = parse_qualities("jpeg=90/10/50, latentcodec=20/30.5", specs)
    assert asked == {"jpeg": (10.0, 50.0, 90.0), "mine": (20.0, 30.5)}
    assert parse_qualities("mine=1", specs) == {"mine": (1.0,)}
    assert parse_qualities(None, specs) == {}
    for text in ("avif=10", "90", "jpeg=low", "jpeg="):
        with pytest.raises(RateError, match="qualities: expected"):
            parse_qualities(text, specs)


def test_the_registry_opens_every_kind() -> None:
    assert {*FILES, "latentcodec", "vae", "compressai"} == set(CODECS)


class _Cut:
    """A codec that loses a row."""

    qualities = (1.0,)

    def encode(self, image: np.ndarray, quality: float | None) -> bytes:
        return b"cut"

    def decode(self, stored: object) -> np.ndarray:
        return PHOTO[1:]

    def identity(self) -> dict[str, object]:
        return {}


def test_a_codec_that_loses_a_row_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from eval.images import NamedImage

    monkeypatch.setitem(CODECS, "cut", lambda source, options: _Cut())
    bench = Bench(BenchOptions(("psnr",)))
    with pytest.raises(RateError, match=r"cut at 1, image a: expected \(61, 83, 3\) pixels, found \(60, 83, 3\)"):
        bench.measure(NamedImage("a", PHOTO), CodecSpec("cut", "cut", "", OPTIONS), 1.0)
    wide = NamedImage("wide", np.zeros((2, 16384, 3), np.uint8))
    with pytest.raises(RateError, match=r"webp at 50, image wide: .*; leave one of them out"):
        bench.measure(wide, CodecSpec("webp", "webp", "", OPTIONS), 50)
