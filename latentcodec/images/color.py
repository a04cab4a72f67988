"""Pixels of any Pillow mode to sRGB: sample depth, transparency, ICC profiles.

The order matters: samples to 8 bits, transparency set aside, colours converted with the profile, and only then laid
over the background, which is sRGB already.
"""

import logging
from functools import lru_cache
from io import BytesIO

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageCms

logger = logging.getLogger(__name__)

# Kind of samples in an ICC profile (its header's data colour space) -> the Pillow mode it is for.
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO, _TIFF_BITS = 262, 0, 258


def to_srgb(image: Image.Image, background: tuple[int, int, int], name: str) -> Image.Image:
    """Converts a loaded image of any mode to opaque 8-bit sRGB (mode ``RGB``), same size.

    Args:
        background: sRGB colour that transparent pixels are laid over.
        name: for the log. A profile that cannot be used is logged (INFO) and ignored: the samples count as sRGB,
            CMYK without a usable profile becomes R = (255-C)(255-K)/255 and so on.
    """
    profile = image.info.get("icc_profile")
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bit(image)
    alpha = None
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB").convert("L") if grey else image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")  # P, YCbCr, LAB, HSV, RGBX
    rgb = _apply_profile(image, profile, name) if profile else image
    rgb = rgb if rgb.mode == "RGB" else rgb.convert("RGB")
    if alpha is None:
        return rgb
    canvas = Image.new("RGB", rgb.size, background)
    canvas.paste(rgb, mask=alpha)
    return canvas


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey to ``L``, or to ``LA`` when one value means transparent; nearest rounding.

    White is the full range of the samples: 65535 for 16 bits, 4095 for 12. Float samples have no fixed white, so it is
    the smallest of 1, 255 and 65535 that holds them. Negative samples are black.

    Raises:
        ValueError: samples above 65535, or not finite: there is no telling what white is.
    """
    samples = np.asarray(image)
    highest = samples.max()
    if not highest <= 65535:  # NaN is not
        raise ValueError(f"samples reach {highest}; expected at most 65535, so that white is known")
    white = _white_level(image, float(highest))
    scaled = np.clip(samples.astype(np.float64) * (255 / white), 0, 255)
    grey = (scaled + 0.5).astype(np.uint8)
    if image.format == "TIFF" and _tiff_tag(image, _TIFF_PHOTOMETRIC, 1) == _TIFF_WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow inverts such TIFFs itself only up to 8 bits
    transparent = image.info.get("transparency")  # PNG: the one sample value that is transparent
    if not isinstance(transparent, int):
        return Image.fromarray(grey)
    alpha = np.where(samples == transparent, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha)))


def _white_level(image: Image.Image, highest: float) -> float:
    if image.mode == "F":
        return 1.0 if highest <= 1 else 255.0 if highest <= 255 else 65535.0
    bits = _tiff_tag(image, _TIFF_BITS, 16) if image.format == "TIFF" else 16
    return 4095.0 if bits == 12 else 65535.0


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value[0] if isinstance(value, tuple) else value


def _apply_profile(image: Image.Image, profile: bytes, name: str) -> Image.Image:
    """Colours through the profile to sRGB; the image as it came where the profile is broken or for other samples."""
    try:
        mode, transform = _srgb_transform(profile)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        logger.info("%s: colour profile ignored, it cannot be used: %s", name, error)
        return image
    if mode == "RGB" and image.mode == "L":
        image = image.convert("RGB")  # common: a grey file that kept the RGB profile of its editor
    if image.mode != mode:
        logger.info("%s: colour profile ignored, it is for %s and the samples are %s", name, mode, image.mode)
        return image
    return image if transform is None else transform.apply(image)


@lru_cache(maxsize=32)
def _srgb_transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The Pillow mode a profile is for, and the transform of such samples to sRGB; None where that changes nothing.

    Relative colorimetric with black point compensation, Photoshop's default. The many profiles that describe sRGB
    itself would move samples by rounding alone; they are recognised by what they do, and skipped.
    """
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    mode = _PROFILE_MODES.get(space)
    if mode is None:
        raise ValueError(f"it describes {space or 'unnamed'} samples; expected one of {', '.join(_PROFILE_MODES)}")
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if mode == "L":
        flags |= ImageCms.Flags.NOOPTIMIZE  # else a 33-point table, up to 10 levels off in the shadows of linear grey
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=flags,
    )
    if mode == "CMYK":
        return mode, transform
    probe = Image.fromarray(_probe(mode))
    change = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return mode, None if np.abs(change).max() <= 1 else transform


def _probe(mode: str) -> UInt8[np.ndarray, "..."]:
    """Every grey, and for RGB a 9 x 9 x 9 lattice of colours besides, as one row of pixels."""
    greys: Shaped[np.ndarray, "1 256"] = np.arange(256, dtype=np.uint8)[None]
    if mode == "L":
        return greys
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    return np.concatenate([np.repeat(greys[..., None], 3, axis=-1), lattice], axis=1)
