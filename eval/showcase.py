"""`python -m eval showcase IMAGES... -o picture.png`: originals, what a VAE makes of them, its file, and JPEG of as many bytes.

One row for each image: the original; the reconstruction without quantisation; the .lvc file of the wanted rate; and the
best JPEG that is not larger than that file, with its header and optimised Huffman tables.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from eval.metrics import psnr
from eval.rate.codec import RateError
from eval.rate.pillow_codecs import Jpeg
from latentcodec.arguments import Parser
from latentcodec.bitstream.codec import ImageCodec
from latentcodec.images.decode import decode_image
from latentcodec.images.geometry import center_crop

Picture = UInt8[np.ndarray, "height width 3"]

_MARGIN, _LINE = 4, 22


def largest_jpeg(image: Picture, most: int) -> tuple[Picture, int]:
    """The JPEG of the highest quality with at most so many bytes: its pixels, and how many it has.

    Raises:
        RateError: even the lowest quality needs more.
    """
    codec = Jpeg()
    for quality in range(95, 0, -1):
        data = codec.encode(image, quality)
        if isinstance(data, bytes) and len(data) <= most:
            return codec.decode(data), len(data)
    raise RateError(f"no JPEG of {most} bytes: even quality 1 needs more; raise --bpp")


def row(codec: ImageCodec, image: Picture, bits_per_pixel: float) -> list[tuple[str, Picture]]:
    """Pictures of one image with what is to be written above them."""
    pixels = image.shape[0] * image.shape[1]
    file = codec.compress(image, target_bytes=int(bits_per_pixel * pixels / 8))
    ours = codec.decompress(file.data)
    whole = codec.codec.reconstruct(image).to_uint8()[0]
    jpeg, size = largest_jpeg(image, len(file.data))
    return [
        ("original", image),
        (f"latents, {psnr(image, whole):.1f} dB", whole),
        (f"{len(file.data):,} bytes, {psnr(image, ours):.1f} dB", ours),
        (f"JPEG, {size:,} bytes, {psnr(image, jpeg):.1f} dB", jpeg),
    ]


def draw(rows: list[list[tuple[str, Picture]]]) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """All of them on one sheet."""
    height, width = rows[0][0][1].shape[:2]
    block = height + _LINE + _MARGIN
    sheet = Image.new("RGB", (len(rows[0]) * (width + _MARGIN) - _MARGIN, len(rows) * block - _MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, pictures in enumerate(rows):
        for column, (title, picture) in enumerate(pictures):
            left, top = column * (width + _MARGIN), number * block
            pen.text((left + 2, top + 2), title, fill="black", font=font)
            sheet.paste(Image.fromarray(picture), (left, top + _LINE))
    return np.asarray(sheet)


def main(arguments: list[str]) -> None:
    """Write the sheet.

    Raises:
        BrokenImageError, BitstreamError, RateError, VAELoadError: an image, the VAE, or a rate that cannot be had.
    """
    parser = Parser(prog="eval showcase", description=__doc__)
    parser.add_argument("images", type=str, nargs="+", help="image files")
    parser.add_argument("-o", "--output", type=str, required=True, help="PNG or JPEG file to write")
    parser.add_argument(
        "--vae", type=str | None, default=None, help="a VAE with its bitstream model; None: the shipped one"
    )
    parser.add_argument("--bpp", type=float, default=0.4, help="bits per pixel of the file")
    parser.add_argument("--size", type=int, default=256, help="a square of so many pixels is cut from the centre")
    options = parser.parse(arguments)
    codec = ImageCodec.from_pretrained(options.vae)
    pictures = [center_crop(decode_image(image), options.size, options.size) for image in options.images]
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw([row(codec, picture, options.bpp) for picture in pictures])).save(path, quality=92)
    print(f"{options.output}: {len(pictures)} images at {options.bpp:g} bits per pixel")
