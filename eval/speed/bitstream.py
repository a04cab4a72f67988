"""Images to files and back, and what the parts of that cost.

The plain way makes files of the same integers as one would without a context model: float32, one image at a time, latents
in the same steps to the nearest integer, and zstd. Ours chooses its integers by rate and distortion and codes them with
predicted tables; how much smaller its files are is in the table beside the time that this takes.
"""

import statistics
from pathlib import Path

import numpy as np
import torch
import zstandard

from eval.pairing import Paired, paired
from eval.speed.workloads import Task, Work, network, plain_pixels
from eval.symbols.speed import coder_seconds, coding_order
from latentcodec.bitstream.codec import DEFAULT_QUALITY, ImageCodec
from latentcodec.bitstream.container import parse
from latentcodec.bitstream.model import load_model
from latentcodec.bitstream.quality import index_of_quality
from latentcodec.images.decode import decode_image
from latentcodec.vae.fingerprint import weights_fingerprint


def image_codec(task: Task) -> ImageCodec:
    """The library's.

    Raises:
        BitstreamError: the VAE was not prepared for it.
    """
    codec = task.codec()
    return ImageCodec(codec, load_model(task.vae, codec.fingerprint))


def compress_files(task: Task) -> Work:
    """Files to .lvc bytes through the library."""
    codec = image_codec(task)
    return lambda: len([codec.compress(file).data for file in task.files])


def decompress_files(task: Task) -> Work:
    """.lvc bytes to uint8 pixels through the library."""
    codec = image_codec(task)
    files = [codec.compress(file).data for file in task.files]
    return lambda: len([codec.decompress(data) for data in files])


class PlainFiles:
    """What one would write by hand: rounded latents of a VAE as int16, in the library's steps, through zstd."""

    def __init__(self, task: Task) -> None:
        self.vae = network(task.vae).to(task.device)
        model = load_model(task.vae, weights_fingerprint(self.vae))
        self.transform = model.transform
        self.step = float(model.context.steps[index_of_quality(DEFAULT_QUALITY)])
        self.side = task.side // 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.device = task.device

    @torch.no_grad()
    def compress(self, file: Path) -> bytes:
        """A PNG file to bytes."""
        mean = self.vae.encode(plain_pixels(file, self.device)).latent_dist.mean[0]
        integers = np.rint(self.transform.coefficients(mean) / self.step).astype(np.int16)
        return zstandard.ZstdCompressor().compress(integers.tobytes())

    @torch.no_grad()
    def decompress(self, data: bytes) -> np.ndarray:
        """Bytes to uint8 [height, width, 3]."""
        integers = np.frombuffer(zstandard.ZstdDecompressor().decompress(data), np.int16)
        coefficients = integers.reshape(-1, self.side, self.side) * self.step
        image = self.vae.decode(self.transform.latents(coefficients).to(self.device)[None]).sample[0]
        return ((image / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def compress_plainly(task: Task) -> Work:
    """Files to bytes, see `PlainFiles`."""
    plain = PlainFiles(task)
    return lambda: len([plain.compress(file) for file in task.files])


def decompress_plainly(task: Task) -> Work:
    """Bytes to uint8 pixels, see `PlainFiles`."""
    plain = PlainFiles(task)
    files = [plain.compress(file) for file in task.files]
    return lambda: len([plain.decompress(data) for data in files])


def parts_of_compressing(task: Task, rounds: int) -> dict[str, float]:
    """Shares of the time of one image, symbols a second of the entropy coder, and bytes over the plain way's."""
    codec, plain = image_codec(task), PlainFiles(task)
    file = task.files[0]
    pixels = decode_image(file)
    whole = codec.compress(pixels)
    times = paired(
        lambda: codec.codec.encode_moments([pixels]),
        lambda: codec.compress(pixels),
        rounds=rounds,
        device=codec.codec.device,
        warm_up=1,
    )
    coder = coder_seconds(codec, coding_order(codec, codec.integers(whole.data), whole.step_index), rounds)
    seconds = coder.add + coder.finish
    return _parts(times, seconds, coder.symbols) | {"bytes_ratio": len(whole.data) / len(plain.compress(file))}


def parts_of_decompressing(task: Task, rounds: int) -> dict[str, float]:
    """Shares of the time of one image, and symbols a second of the entropy decoder."""
    codec = image_codec(task)
    pixels = decode_image(task.files[0])
    moments = codec.codec.encode_moments([pixels])
    data = codec.compress(pixels).data
    times = paired(
        lambda: codec.codec.decode(moments).to_uint8(),
        lambda: codec.decompress(data),
        rounds=rounds,
        device=codec.codec.device,
        warm_up=1,
    )
    coded = coding_order(codec, codec.integers(data), parse(data).step_index)
    coder = coder_seconds(codec, coded, rounds)
    return _parts(times, coder.take, coder.symbols)


def _parts(times: Paired, coder: float, symbols: int) -> dict[str, float]:
    """From the network's times beside the whole's, and the entropy coder's seconds."""
    return {
        "network_share": times.ratio().median,
        "coder_share": coder / statistics.median(times.other),
        "symbols_per_second": symbols / coder,
    }
