"""One image through one codec at one quality, measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from eval.images import NamedImage
from eval.metrics import Metric, make_metrics
from eval.pairing import timed_result
from eval.perceptual import LpipsNet
from eval.pictures import PictureFolder
from eval.rate.codec import Picture, Quality, RateCodec, RateError, setting_name, stored_bytes
from eval.rate.registry import CodecSpec
from eval.reconstruct.evaluate import score
from eval.rows import ImageRow

_WARM_UP_SIDE = 64


@dataclass(frozen=True)
class BenchOptions:
    """How rows are made; travels to other processes."""

    metrics: tuple[str, ...]
    backbones: Mapping[LpipsNet, str | None] = field(default_factory=dict)
    device: str = "cpu"
    pictures: str | None = None
    """Folder of the reconstructions; None: none are kept."""
    rows_folder: str | None = None
    """Of the file of rows, to which names of pictures are relative."""


class Bench:
    """Opens codecs when they are first needed, and measures.

    Raises:
        BackboneUnavailableError, BackboneFormatError: see `make_metrics`.
    """

    def __init__(self, options: BenchOptions) -> None:
        self.metrics: dict[str, Metric] = make_metrics(
            options.metrics, backbones=options.backbones, device=options.device
        )
        self.device = torch.device(options.device)
        self.pictures = None if options.pictures is None else PictureFolder(options.pictures, options.rows_folder)
        self._codecs: dict[str, RateCodec] = {}

    def codec(self, spec: CodecSpec) -> RateCodec:
        """Opened, and used once, for what a codec loads or tunes the first time belongs to no image.

        Raises:
            RateError, VAELoadError, BitstreamError: see `CodecSpec.open`.
        """
        if spec.name not in self._codecs:
            codec = spec.open()
            codec.decode(codec.encode(_gradient(_WARM_UP_SIDE), codec.qualities[0]))
            self._codecs[spec.name] = codec
        return self._codecs[spec.name]

    def save_original(self, image: NamedImage) -> None:
        """Beside the reconstructions, if they are kept."""
        if self.pictures is not None:
            self.pictures.save_original(image.id, image.pixels)

    def measure(self, image: NamedImage, spec: CodecSpec, quality: Quality) -> ImageRow:
        """Encode, decode, compare.

        Raises:
            RateError: the codec cannot take the image, or does not give it back.
        """
        codec, setting = self.codec(spec), setting_name(quality)
        try:
            stored, encode_seconds = timed_result(lambda: codec.encode(image.pixels, quality), self.device)
            pixels, decode_seconds = timed_result(lambda: codec.decode(stored), self.device)
        except (OSError, ValueError) as error:  # what Pillow raises, and what this project does
            raise RateError(f"{spec.name} at {setting}, image {image.id}: {error}; leave one of them out") from error
        if pixels.shape != image.pixels.shape:
            raise RateError(
                f"{spec.name} at {setting}, image {image.id}: expected {image.pixels.shape} pixels, found {pixels.shape}"
            )
        scores, _ = score(image.pixels, pixels, self.metrics)
        height, width = image.pixels.shape[:2]
        picture = None if self.pictures is None else self.pictures.save(spec.name, setting, image.id, pixels)
        return ImageRow(
            image=image.id, codec=spec.name, setting=setting, width=width, height=height, bytes=stored_bytes(stored),
            encode_seconds=encode_seconds, decode_seconds=decode_seconds, metrics=scores, picture=picture,
        )  # fmt: skip


def _gradient(side: int) -> Picture:
    ramp = np.arange(side, dtype=np.uint8) * (256 // side)
    return np.stack(
        [np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.full((side, side), 128, np.uint8)], 2
    )
