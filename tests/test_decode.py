"""Decoding of ordinary, awkward and broken image files."""

import io
import os
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from latentcodec.images import decode
from latentcodec.images.decode import IMAGE_EXTENSIONS, BrokenImageError, OpenImage, decode_image, read_file

XYZ_D50_TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
)
# columns: XYZ under D50 of the red, green and blue of Display P3
P3_TO_XYZ_D50 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])


def photo(height: int = 48, width: int = 64, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth colours, different in every corner, so that lossy formats change them little."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    rng = np.random.default_rng(seed)
    planes = [rng.uniform(40, 90) * x + rng.uniform(40, 90) * y + rng.uniform(10, 60) * x * y for _ in range(channels)]
    return np.stack(planes, axis=-1).round().astype(np.uint8)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand, for what Pillow cannot write. ``rows`` without filter bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    step = max(1, len(rows) // height)
    filtered = b"".join(b"\0" + rows[at : at + step] for at in range(0, len(rows), step))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    middle = b"".join(chunk(kind, content) for kind, content in chunks)
    ends = chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + ends


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def icc(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A version 2 ICC profile."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249), **tags}
    position = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", position + len(body), len(content))
        body += content
    header = struct.pack(">I4xI4s4s4s", position + len(body), 0x02400000, kind, space, pcs).ljust(36, b"\0") + b"acsp"
    header = header.ljust(68, b"\0") + fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + table + body


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(matrix: np.ndarray = P3_TO_XYZ_D50, gamma: float = 2.2) -> bytes:
    colours = {name: b"XYZ \0\0\0\0" + fixed(*matrix[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return icc(b"mntr", b"RGB ", b"XYZ ", {**colours, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma))})


def cmyk_profile(cyan_lab: tuple[float, float, float]) -> bytes:
    """Paper is white, black ink takes L to 0, cyan ink alone has the colour given; other inks do nothing."""
    grid = []
    for corner in range(16):
        cyan, black = corner >> 3 & 1, corner & 1
        lab = (0.0, 0.0, 0.0) if black else cyan_lab if cyan else (100.0, 0.0, 0.0)
        grid += [round(lab[0] * 255 / 100), round(lab[1]) + 128, round(lab[2]) + 128]
    identity = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return icc(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut + identity * 4 + bytes(grid) + identity * 3})


def srgb_of_xyz(xyz: np.ndarray) -> np.ndarray:
    """Reference: XYZ under D50 to sRGB 0 ... 255 (IEC 61966-2-1)."""
    linear = np.clip(xyz @ XYZ_D50_TO_SRGB.T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


# --- ordinary files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "QOI", "TGA"])
def test_lossless_formats_give_the_same_pixels(format: str) -> None:
    pixels = photo()
    decoded = decode_image(encode(Image.fromarray(pixels), format))
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_lossy_formats_give_nearly_the_same_pixels(format: str) -> None:
    pixels = photo()
    decoded = decode_image(encode(Image.fromarray(pixels), format, quality=95))
    assert decoded.shape == pixels.shape
    assert np.abs(decoded.astype(int) - pixels).mean() < 4


def test_jpeg_xl_where_the_plugin_is_installed() -> None:
    pytest.importorskip("pillow_jxl")
    pixels = photo()
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(pixels), "JXL", lossless=True)), pixels)


def test_a_path_is_read_and_names_the_error(tmp_path: Path) -> None:
    pixels = photo()
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(decode_image(tmp_path / "a.png"), pixels)
    np.testing.assert_array_equal(decode_image(str(tmp_path / "a.png")), pixels)
    with pytest.raises(BrokenImageError, match=r"cannot be opened: No such file") as caught:
        decode_image(tmp_path / "b.png")
    assert caught.value.id == str(tmp_path / "b.png")
    with pytest.raises(BrokenImageError, match=r"cannot be opened: Is a directory"):
        decode_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")  # reading it would block for ever
    with pytest.raises(BrokenImageError, match="cannot be opened: a pipe"):
        read_file(tmp_path / "pipe.png", "pipe.png")


# --- orientation ------------------------------------------------------------------------------------------------

# EXIF 2.3, tag 274: where the stored row 0 and column 0 belong, such as 6: right-hand side and top
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "AVIF": {"quality": 95}}.get(format, {})
    decoded = decode_image(encode(Image.fromarray(photo()), format, exif=exif, **exact))
    expected = UPRIGHT[orientation](photo())
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 4


def test_jpeg_xl_orientation_is_the_decoders_matter() -> None:
    """The JPEG XL codestream has its own orientation; the one in its EXIF is to be ignored (ISO 18181-2)."""
    pytest.importorskip("pillow_jxl")
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode_image(encode(Image.fromarray(photo()), "JXL", lossless=True, exif=exif.tobytes()))
    np.testing.assert_array_equal(decoded, photo())


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff"])
def test_unreadable_exif_does_not_lose_the_image(exif: bytes) -> None:
    assert decode_image(encode(Image.fromarray(photo()), "JPEG", exif=exif)).shape == (48, 64, 3)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(photo()), "PNG", exif=exif)), photo())


# --- colour profiles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_rgb_profile_is_converted_as_the_formula_says(format: str, options: dict) -> None:
    pixels = photo()
    expected = srgb_of_xyz((pixels / 255) ** 2.2 @ P3_TO_XYZ_D50.T)
    decoded = decode_image(encode(Image.fromarray(pixels), format, icc_profile=rgb_profile(), **options))
    assert np.abs(decoded - expected).max() < 2.5  # white of the rounded primaries, and 8-bit steps
    assert np.abs(decoded.astype(int) - pixels).max() > 8  # so the profile did matter


def test_profiles_of_srgb_itself_change_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(noise), "PNG", icc_profile=profile)), noise)


def test_grey_profile() -> None:
    profile = icc(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve(1.0)})  # linear light
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    decoded = decode_image(encode(Image.fromarray(grey), "PNG", icc_profile=profile))
    linear = grey[..., None] / 255
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(decoded - expected).max() < 1.5


def test_grey_profile_with_transparency_is_converted_before_compositing() -> None:
    profile = icc(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve(1.0)})
    pixels = np.full((4, 4, 2), (55, 128), dtype=np.uint8)
    decoded = decode_image(encode(Image.fromarray(pixels), "PNG", icc_profile=profile), background=(0, 0, 0))
    grey = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)
    assert np.abs(decoded - grey * 128 / 255).max() < 1.5


def test_grey_image_with_an_rgb_profile_is_converted() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with_profile = decode_image(encode(Image.fromarray(grey), "PNG", icc_profile=rgb_profile(gamma=1.0)))
    linear = grey / 255
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(with_profile.mean(axis=-1) - expected).max() < 2


@pytest.mark.parametrize(
    "profile",
    [
        b"not a profile",
        rgb_profile()[:200],
        rgb_profile()[:128] + b"\xff" * 200,
        icc(b"mntr", b"RGB ", b"XYZ ", {}),  # no curves, no colours
        icc(b"mntr", b"HSV ", b"XYZ ", {}),
        cmyk_profile((60, -40, -40)),  # for other samples than RGB
        icc(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve(1.0)}),
    ],
)
def test_a_profile_that_cannot_be_used_is_logged_and_ignored(profile: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pixels = photo()
    decoded = decode_image(encode(Image.fromarray(pixels), "PNG", icc_profile=profile), id="photo-7")
    np.testing.assert_array_equal(decoded, pixels)
    assert "photo-7: colour profile ignored" in caplog.text


# --- CMYK -------------------------------------------------------------------------------------------------------


def cmyk_inks() -> np.ndarray:
    inks = photo(channels=4)
    inks[:8, :8] = 0
    inks[:8, 8:16] = (255, 0, 0, 0)
    inks[:8, 16:24] = (0, 0, 0, 255)
    return inks


def test_cmyk_without_profile_is_the_product_of_what_the_inks_leave() -> None:
    inks = cmyk_inks()
    decoded = decode_image(encode(Image.frombytes("CMYK", (64, 48), inks.tobytes()), "TIFF"))
    left = 255 - inks.astype(float)
    assert np.abs(decoded - left[..., :3] * left[..., 3:] / 255).max() <= 1
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[0, 10].tolist() == [0, 255, 255]


def test_cmyk_jpeg_is_stored_inverted_as_adobe_does() -> None:
    image = Image.frombytes("CMYK", (64, 48), cmyk_inks().tobytes())
    data = encode(image, "JPEG", quality=97, subsampling=0)
    assert b"Adobe" in data
    from_tiff = decode_image(encode(image, "TIFF"))
    assert np.abs(decode_image(data).astype(int) - from_tiff).mean() < 3


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_profile_decides_the_colour_of_the_inks(format: str) -> None:
    lab = (60, -40, -40)
    inks = np.zeros((16, 48, 4), dtype=np.uint8)
    inks[:, 16:32, 0] = 255
    inks[:, 32:, 3] = 255
    image = Image.frombytes("CMYK", (48, 16), inks.tobytes())
    decoded = decode_image(encode(image, format, icc_profile=cmyk_profile(lab)))
    fy = (round(lab[0] * 255 / 100) * 100 / 255 + 16) / 116
    f = np.array([fy + lab[1] / 500, fy, fy - lab[2] / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    assert np.abs(decoded[8, 8].astype(int) - 255).max() <= 2
    assert np.abs(decoded[8, 24] - srgb_of_xyz(xyz)).max() <= 3
    assert decoded[8, 40].max() <= 3


# --- deep samples -----------------------------------------------------------------------------------------------

DEEP = np.array([[0, 1, 128, 129, 257], [1000, 32767, 32768, 65406, 65535]], dtype=np.uint16)
DEEP_8 = np.floor(DEEP / 257 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_rounded_to_nearest(format: str) -> None:
    decoded = decode_image(encode(Image.fromarray(DEEP), format))
    np.testing.assert_array_equal(decoded, np.repeat(DEEP_8[..., None], 3, axis=-1))


def test_16_bit_grey_of_the_other_byte_order() -> None:
    decoded = decode_image(encode(Image.fromarray(DEEP.astype(">u2")), "TIFF"))
    np.testing.assert_array_equal(decoded[..., 0], DEEP_8)


def test_16_bit_pgm() -> None:
    decoded = decode_image(b"P5 5 2 65535\n" + DEEP.astype(">u2").tobytes())
    np.testing.assert_array_equal(decoded[..., 0], DEEP_8)


def tiff(samples: np.ndarray, bits: int, *, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A little-endian, uncompressed, one-channel TIFF by hand."""
    height, width = samples.shape
    data = samples.tobytes()
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    entries += [(278, height), (279, len(data)), (339, sample_format)]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + b"\0\0\0\0"


def test_16_bit_tiff_where_white_is_zero() -> None:
    decoded = decode_image(tiff(DEEP, 16, photometric=0))
    np.testing.assert_array_equal(decoded[..., 0], 255 - DEEP_8)


def test_12_bit_tiff_has_its_own_white() -> None:
    packed = np.frombuffer(bytes([0xFF, 0xF8, 0x00]), np.uint8)[None]  # two samples: 4095, 2048
    decoded = decode_image(
        tiff(packed, 12).replace(struct.pack("<HHII", 256, 4, 1, 3), struct.pack("<HHII", 256, 4, 1, 2))
    )
    assert decoded[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("colour", [2, 6])
def test_16_bit_rgb_png_keeps_the_high_byte(colour: int) -> None:
    """Pillow reduces 16-bit colour itself, to the upper 8 bits."""
    samples = np.random.default_rng(0).integers(0, 65536, (4, 5, 3 if colour == 2 else 4), dtype=np.uint16)
    samples[..., 3:] = 65535
    decoded = decode_image(png(5, 4, 16, colour, samples.astype(">u2").tobytes()))
    np.testing.assert_array_equal(decoded, samples[..., :3] >> 8)


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_tiff_has_the_smallest_white_that_holds_it(white: float) -> None:
    grey = np.linspace(0, white, 60, dtype=np.float32).reshape(6, 10)
    decoded = decode_image(encode(Image.fromarray(grey), "TIFF"))
    np.testing.assert_array_equal(decoded[..., 1], np.floor(grey.astype(np.float64) * (255 / white) + 0.5))


def test_negative_samples_are_black() -> None:
    assert decode_image(encode(Image.fromarray(np.float32([[-3, 0, 1]])), "TIFF"))[0, :, 0].tolist() == [0, 0, 255]
    assert decode_image(encode(Image.fromarray(np.int32([[-3, 0, 65535]])), "TIFF"))[0, :, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_float_samples_without_a_known_white_are_refused(bad: float) -> None:
    with pytest.raises(BrokenImageError, match=r"samples"):
        decode_image(encode(Image.fromarray(np.float32([[0.5, bad]])), "TIFF"))
    with pytest.raises(BrokenImageError, match=r"samples reach 2000000"):
        decode_image(encode(Image.fromarray(np.int32([[0, 2_000_000]])), "TIFF"))


# --- transparency, palettes, few bits ---------------------------------------------------------------------------


@given(background=st.tuples(*[st.integers(0, 255)] * 3), seed=st.integers(0, 99))
def test_rgba_is_laid_over_the_background_once(background: tuple[int, int, int], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    decoded = decode_image(encode(Image.fromarray(pixels), "PNG"), background=background)
    alpha = pixels[..., 3:] / 255
    assert np.abs(decoded - (pixels[..., :3] * alpha + np.array(background) * (1 - alpha))).max() <= 0.5 + 1e-9


def test_grey_with_alpha_is_laid_over_white_by_default() -> None:
    pixels = np.array([[[10, 0], [10, 255], [10, 51]]], dtype=np.uint8)
    assert decode_image(encode(Image.fromarray(pixels), "PNG"))[0, :, 0].tolist() == [255, 10, 206]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    decoded = decode_image(encode(image, "PNG", transparency=transparency), background=(1, 2, 3))
    assert decoded[0].tolist() == [[10, 20, 30], [1, 2, 3], [70, 80, 90]]


def test_gif_with_transparency() -> None:
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    decoded = decode_image(encode(image, "GIF", transparency=2), background=(1, 2, 3))
    assert decoded[0].tolist() == [[10, 20, 30], [40, 50, 60], [1, 2, 3]]


def test_one_transparent_colour_in_grey_rgb_and_16_bit() -> None:
    grey = png(3, 1, 8, 0, bytes([5, 6, 7]), (b"tRNS", struct.pack(">H", 6)))
    assert decode_image(grey)[0, :, 0].tolist() == [5, 255, 7]
    rgb = png(2, 1, 8, 2, bytes([1, 2, 3, 4, 5, 6]), (b"tRNS", struct.pack(">HHH", 4, 5, 6)))
    assert decode_image(rgb, background=(0, 9, 0))[0].tolist() == [[1, 2, 3], [0, 9, 0]]
    deep = png(2, 1, 16, 0, struct.pack(">HH", 257, 514), (b"tRNS", struct.pack(">H", 514)))
    assert decode_image(deep, background=(9, 9, 9))[0, :, 0].tolist() == [1, 9]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "GIF", "BMP"])
def test_one_bit(format: str) -> None:
    bits = np.array([[True, False, True], [False, False, True]])
    decoded = decode_image(encode(Image.fromarray(bits), format))
    np.testing.assert_array_equal(decoded[..., 0], bits * 255)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (9, 5), colour) for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]]
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = decode_image(encode(frames[0], format, save_all=True, append_images=frames[1:], **options))
    np.testing.assert_array_equal(decoded, np.full((5, 9, 3), (255, 0, 0)))


def test_stereo_jpeg_mpo_gives_its_first_picture() -> None:
    frames = [Image.fromarray(photo(seed=seed)) for seed in (0, 1)]
    decoded = decode_image(encode(frames[0], "MPO", save_all=True, append_images=frames[1:]), draft_size=24)
    assert decoded.shape == (24, 32, 3)


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_colour_models_of_tiff(mode: str) -> None:
    image = Image.fromarray(photo())
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.buildTransform(*profiles, "RGB", "LAB").apply(image)
    else:
        converted = image.convert(mode)
    options = {"compression": "jpeg", "quality": 97} if mode == "YCbCr" else {}
    assert np.abs(decode_image(encode(converted, "TIFF", **options)).astype(int) - photo()).mean() <= 3


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"]),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    format=st.sampled_from(["PNG", "TIFF", "WEBP", "JPEG", "GIF", "BMP"]),
    draft_size=st.none() | st.integers(1, 50),
)
def test_any_mode_and_size_gives_rgb_of_that_size(
    mode: str, width: int, height: int, format: str, draft_size: int | None
) -> None:
    image = Image.new(mode, (width, height), 1)
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    try:
        data = encode(image, format)
    except (OSError, KeyError, ValueError):  # Pillow cannot write this mode in this format
        assume(False)
    decoded = decode_image(data, draft_size=draft_size)
    assert decoded.shape[2] == 3
    if format != "JPEG":
        assert decoded.shape == (height, width, 3)


# --- reduced decoding of JPEG -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), size=st.integers(1, 300), turned=st.booleans())
def test_draft_is_a_power_of_two_and_never_below_the_size(width: int, height: int, size: int, turned: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    decoded = decode_image(encode(Image.new("RGB", (width, height)), "JPEG", exif=exif), draft_size=size)
    rows, columns = (decoded.shape[1], decoded.shape[0]) if turned else decoded.shape[:2]
    scale = next(s for s in (8, 4, 2, 1) if s <= max(1, min(width, height) // size))
    assert (columns, rows) == (-(-width // scale), -(-height // scale))
    assert min(rows, columns) >= min(size, width, height)


def test_draft_looks_like_the_whole_image_reduced() -> None:
    data = encode(Image.fromarray(photo(480, 640)), "JPEG", quality=95)
    draft = decode_image(data, draft_size=100)
    assert draft.shape == (120, 160, 3)
    whole = decode_image(data).reshape(120, 4, 160, 4, 3).mean(axis=(1, 3))
    assert np.abs(draft - whole).mean() < 2


def test_draft_leaves_other_formats_alone_and_checks_its_value() -> None:
    assert decode_image(encode(Image.fromarray(photo()), "PNG"), draft_size=4).shape == (48, 64, 3)
    with pytest.raises(ValueError, match="draft_size: expected a positive number of pixels, found 0"):
        decode_image(b"", draft_size=0)


# --- what is not an image ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (bytes(4096), "unknown format: 4096 zero bytes"),
        (b"<!DOCTYPE html><html>404", "unknown format: text, starting '<!DOCTYPE html><html>404'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown format: text"),
        (b"\0\0\0 ftypavif\0\0\0\0", "damaged or truncated"),
        (b"\x89PNG\r\n\x1a\n", "damaged or truncated: it begins as PNG"),
        (b"P", "unknown format: text"),
        (bytes(range(128, 250)), "unknown format: starts with bytes 80 81"),
    ],
)
def test_what_is_not_an_image_says_what_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenImageError, match=reason) as caught:
        decode_image(data, id="shard/3.jpg")
    assert caught.value.id == "shard/3.jpg"
    assert str(caught.value).startswith("shard/3.jpg: ")


def test_formats_that_this_pillow_cannot_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "FORMATS", tuple(name for name in decode.FORMATS if name != "JXL"))
    with pytest.raises(BrokenImageError, match="JPEG XL, which needs `pip install pillow-jxl-plugin`"):
        decode_image(b"\xff\x0a\x05\x06")
    monkeypatch.setattr(decode.AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(BrokenImageError, match=r"unknown format: .*AVIF"):
        decode_image(SAMPLES["AVIF"])


def test_too_many_pixels_are_refused_from_the_header() -> None:
    bomb = png(9000, 9000, 8, 2, b"\0")
    with pytest.raises(BrokenImageError, match=r"too large: 9000 x 9000 = 81000000 pixels, max_pixels is 1000000"):
        decode_image(bomb, max_pixels=1_000_000)
    with pytest.raises(BrokenImageError, match="damaged or truncated"):  # allowed, but its data are missing
        decode_image(bomb)
    between = png(12000, 10000, 8, 2, b"\0")  # Pillow warns of this one, and raises for the next
    with pytest.raises(BrokenImageError, match="too large: 12000 x 10000"):
        decode_image(between)
    with pytest.raises(BrokenImageError, match=r"too large: .*MAX_IMAGE_PIXELS"):
        decode_image(png(60000, 60000, 8, 2, b"\0"))
    with pytest.raises(BrokenImageError, match="damaged or truncated"):
        decode_image(between, max_pixels=150_000_000)


SAMPLES = {
    "JPEG": encode(Image.fromarray(photo()), "JPEG"),
    "PNG": encode(Image.fromarray(photo()), "PNG", icc_profile=rgb_profile()),
    "WEBP": encode(Image.fromarray(photo()), "WEBP"),
    "AVIF": encode(Image.fromarray(photo()), "AVIF"),
    "GIF": encode(Image.fromarray(photo()), "GIF"),
    "TIFF": encode(Image.fromarray(photo()), "TIFF", compression="tiff_lzw"),
    "BMP": encode(Image.fromarray(photo()), "BMP"),
    "JPEG2000": encode(Image.fromarray(photo()), "JPEG2000"),
    "QOI": encode(Image.fromarray(photo()), "QOI"),
    "TGA": encode(Image.fromarray(photo()), "TGA"),
}


@pytest.mark.parametrize("format", sorted(set(SAMPLES) - {"QOI"}))  # Pillow fills a QOI that ends early with black
def test_half_a_file_is_broken(format: str) -> None:
    with pytest.raises(BrokenImageError) as caught:
        decode_image(SAMPLES[format][: len(SAMPLES[format]) // 2])
    assert caught.value.reason


@settings(max_examples=150, deadline=None)
@given(format=st.sampled_from(sorted(SAMPLES)), data=st.data())
def test_damage_gives_pixels_or_a_broken_image_error_and_nothing_else(format: str, data: st.DataObject) -> None:
    damaged = bytearray(SAMPLES[format])
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(len(damaged) // 4, len(damaged)))]
    with suppress(BrokenImageError):
        assert decode_image(bytes(damaged), max_pixels=1_000_000).shape[2] == 3


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    with suppress(BrokenImageError):
        assert decode_image(data, max_pixels=1_000_000).shape[2] == 3  # a tiny image by chance


def test_running_out_of_file_handles_is_not_the_images_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def read_bytes(path: Path) -> bytes:
        raise OSError(24, "Too many open files")

    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(OSError, match="Too many open files"):
        decode_image(tmp_path / "a.png")


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BrokenImageError("a/b.jpg", "empty file")))
    assert (error.id, error.reason, str(error)) == ("a/b.jpg", "empty file", "a/b.jpg: empty file")


# --- threads and global state -----------------------------------------------------------------------------------


def test_threads_give_the_same_pixels_and_leave_no_trace() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        encode(
            Image.fromarray(photo(90, 70, seed=seed)), format, icc_profile=rgb_profile(gamma=1.8 + seed / 10), exif=exif
        )
        for seed in range(6)
        for format in ("PNG", "JPEG", "TIFF", "WEBP")
    ] * 8
    limits, filters = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES), list(warnings.filters)
    alone = [decode_image(data) for data in files[:24]] * 8
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(decode_image, files))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert limits == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert list(warnings.filters) == filters


def test_pillows_warnings_do_not_leak() -> None:
    data = bytearray(SAMPLES["TIFF"])
    table = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, table)[0]
    struct.pack_into("<HHII", data, table + 2 + 12 * (count - 1), 60000, 2, 10_000_000, 0)  # a tag beyond the file
    with pytest.warns(UserWarning, match=r"Tag data larger|Truncated"), Image.open(io.BytesIO(data)) as image:
        image.load()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(decode_image(bytes(data)), photo())
    assert caught == []


def test_extensions_are_lower_case_with_dot() -> None:
    assert all(extension.startswith(".") and extension.islower() for extension in IMAGE_EXTENSIONS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_open_image_knows_its_upright_size(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(photo(40, 64)), format, exif=exif)
    opened = OpenImage(data)
    assert (opened.height, opened.width) == ((64, 40) if orientation >= 5 else (40, 64))
    pixels = opened.pixels(draft_size=20)
    scale = 2 if format == "JPEG" else 1
    assert pixels.shape[:2] == (opened.height // scale, opened.width // scale)


def test_an_open_image_is_refused_as_early_as_its_format_allows() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    with pytest.raises(BrokenImageError, match=r"^cut\.png: damaged or truncated"):
        OpenImage(encode(noise, "PNG")[:2000], id="cut.png")
    opened = OpenImage(encode(noise, "JPEG")[:1500], id="cut.jpg")
    with pytest.raises(BrokenImageError, match=r"^cut\.jpg: damaged or truncated"):
        opened.pixels()
