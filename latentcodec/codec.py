"""Images to latents and back, with any VAE."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from latentcodec.engine import Engine, Execution, TilingMode
from latentcodec.images.pixels import normalize
from latentcodec.inputs import Images, read_images, size_of, to_network
from latentcodec.latents import LOGVAR_RANGE, Latents, Moments, Pictures
from latentcodec.memory import freed_memory_kept
from latentcodec.padding import crop_back, padded_side, reflect_pad
from latentcodec.precision import SUPPORTED, fastest_dtype
from latentcodec.scaling import Scaling
from latentcodec.tiling.boxes import Size
from latentcodec.tiling.network import decoder_layers, encoder_layers
from latentcodec.tiling.sweep import Tiling
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.loading import load_vae
from latentcodec.vae.sources import default_source

_BATCH_PIXELS = {"cpu": 1}
"""One image at a time on a CPU, which gains nothing from larger ones; and so no image's result depends, in its last bits,
on what it came with."""
_BATCH_PIXELS_ACCELERATOR = 16 * 512 * 512


class LatentCodec:
    """A VAE that takes images of any kind, size and number.

    `encode` gives scaled latents, `encode_moments` the raw posterior, `decode` images. Each takes one image or many of
    mixed sizes, works through them in batches of one shape, and gives results in the order of what it was given.

    In float32 with the default layout, moments and decoded images are those of `vae.encode(x).latent_dist` and
    `vae.decode(z).sample`, bit for bit: for the same batches (on a CPU single images) on the same device and number of
    threads, where no tiles are needed.

    Args:
        vae: the network, in float32, bfloat16 or float16, in evaluation mode. It is used as it is, on its device.
        channels_last: lay its weights out as NHWC, in place. Faster in 16 bits, on CPUs and GPUs.
        compile: run encoder and decoder through `torch.compile`, one compilation for each shape of images.
        tiling: when to compute in tiles, see `latentcodec.tiling`. "auto": where a map of features is larger than
            `memory_budget`, or memory runs out; exactly up to 4096 x 4096 pixels (for a factor of 8), fast beyond.
            "never"; "exact" and "fast": every image larger than a tile.
        tile: side of a tile in pixels.
        memory_budget: bytes that one map of features may take; the peak is a few times that. None: 2 GiB on a CPU, an
            eighth of the device's memory on a GPU.
        batch_pixels: pixels of a batch. None: one image at a time on a CPU, 16 of 512 x 512 elsewhere.
        fingerprint: the identity of the weights, if known; else it is computed when first asked for.

    Raises:
        ValueError: a network of another type, or settings out of range.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        *,
        channels_last: bool = False,
        compile: bool = False,
        tiling: TilingMode = "auto",
        tile: int = 512,
        memory_budget: int | None = None,
        batch_pixels: int | None = None,
        fingerprint: str | None = None,
    ) -> None:
        if vae.dtype not in SUPPORTED:
            raise ValueError(f"vae: expected float32, bfloat16 or float16, found {vae.dtype}; load it in one of them")
        self.vae = vae
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        """Pixels to a latent position, along each side."""
        self.scaling = Scaling.of(vae.config)
        self._fingerprint = fingerprint
        if tile < self.factor:
            raise ValueError(f"tile: expected at least {self.factor} pixels, the VAE's factor, found {tile}")
        if channels_last:
            nn.Module.to(vae, memory_format=torch.channels_last)
        device = vae.device
        execution = Execution(
            device=device,
            dtype=vae.dtype,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
            mode=tiling,
            tiling=Tiling(side=tile, budget=_default_budget(device) if memory_budget is None else memory_budget),
            batch_pixels=batch_pixels or _BATCH_PIXELS.get(device.type, _BATCH_PIXELS_ACCELERATOR),
            static_batches=compile,
        )
        encoder, decoder = vae.encoder, vae.decoder
        if compile:  # the modules, not `vae.encode`: its hook breaks the graph
            encoder, decoder = (torch.compile(module, dynamic=False) for module in (encoder, decoder))
        self._encoder = Engine(
            lambda images: encoder(images) if vae.quant_conv is None else vae.quant_conv(encoder(images)),
            encoder_layers(vae),
            channels=vae.config.in_channels,
            pixels_per_side=1,
            execution=execution,
        )
        self._decoder = Engine(
            lambda raw: decoder(raw if vae.post_quant_conv is None else vae.post_quant_conv(raw)),
            decoder_layers(vae),
            channels=vae.config.latent_channels,
            pixels_per_side=self.factor,
            execution=execution,
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        channels_last: bool | None = None,
        compile: bool = False,
        tiling: TilingMode = "auto",
        tile: int = 512,
        memory_budget: int | None = None,
        batch_pixels: int | None = None,
        **options: Any,
    ) -> "LatentCodec":
        """Load a VAE and prepare it for speed on this machine.

        Args:
            source: whatever `load_vae` takes; None: the weights that come with the package.
            dtype: to compute in. None: bfloat16 where the device has it in hardware, else float32.
            device: None: a CUDA GPU if there is one, else the CPU.
            channels_last: None: where it is faster, which is in 16 bits.
            compile, tiling, tile, memory_budget, batch_pixels: see `LatentCodec`.
            **options: variant, revision, scaling_factor, shift_factor, norm_num_groups: see `load_vae`.

        Raises:
            VAELoadError: see `load_vae`; or no source where no weights came with the package.
        """
        vae = load_vae(default_source() if source is None else source, **options)
        return cls.for_machine(
            vae, dtype=dtype, device=device, channels_last=channels_last, compile=compile, tiling=tiling, tile=tile,
            memory_budget=memory_budget, batch_pixels=batch_pixels,
        )  # fmt: skip

    @classmethod
    def for_machine(
        cls,
        vae: AutoencoderKL,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        channels_last: bool | None = None,
        **settings: Any,
    ) -> "LatentCodec":
        """Move a network, in place, to where and how this machine is fastest; see `from_pretrained`.

        Args:
            **settings: of `LatentCodec`.
        """
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = fastest_dtype(place) if dtype is None else dtype
        identity = weights_fingerprint(vae)  # before rounding: that of the file, whatever this machine computes in
        nn.Module.to(vae, device=place, dtype=dtype)
        channels_last = dtype != torch.float32 if channels_last is None else channels_last
        return cls(vae, channels_last=channels_last, fingerprint=identity, **settings)

    @property
    def fingerprint(self) -> str:
        """The identity of the weights: of those that were loaded, before they were rounded to `dtype`."""
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self.vae)
        return self._fingerprint

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; results are float32 always."""
        return self.vae.dtype

    @property
    def device(self) -> torch.device:
        """Where the network is, and results are."""
        return self.vae.device

    def encode_moments(self, images: Images) -> Moments:
        """The raw, unscaled posterior of each image.

        Args:
            images: one image or a list: paths, Pillow images, `uint8 HWC` arrays, `float [3, height, width]` tensors in
                [-1, 1]; or a `float [batch, 3, height, width]` tensor. Sizes may differ and be anything from 1 x 1;
                what is no multiple of the factor is padded by reflection, below and to the right.

        Raises:
            BrokenImageError: a file that cannot be read.
            ValueError: values out of range; or moments that are not finite, which float16 may cause.
        """
        pixels = read_images(images)
        sizes = [size_of(image) for image in pixels]

        def load(index: int) -> Tensor:
            return reflect_pad(to_network(pixels[index], self.device)[None], self.factor)[0]

        with freed_memory_kept():
            results = self._encoder.run([self._padded(size) for size in sizes], load)
        for index, (moments, _) in enumerate(results):
            if not torch.isfinite(moments).all():
                raise ValueError(
                    f"images[{index}]: its moments are not finite in {self.dtype}; compute in bfloat16 or float32"
                )
        means, logvars = zip(*(moments.chunk(2) for moments, _ in results), strict=True) if results else ((), ())
        return Moments(
            means,
            tuple(value.clamp(*LOGVAR_RANGE) for value in logvars),
            tuple(sizes),
            tuple(how for _, how in results),
        )

    def batch_size(self, height: int, width: int) -> int:
        """How many images of this size make a full batch; 1 where they are computed in tiles."""
        return max(1, self._encoder.batch_limit(self._padded((height, width))))

    def encode_batch(
        self, pixels: UInt8[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch moments latent_height latent_width"], tuple[str, ...]]:
        """What `encode_moments` computes, for images of one size, mean and logvar in one tensor on the codec's device: for
        loops that keep a GPU busy. Nothing waits for it, so values that are not finite come back as they are.

        Returns:
            float32 moments, and how each was computed, as in `Moments`.
        """
        images = reflect_pad(normalize(pixels), self.factor)
        results = self._encoder.run([Size(*images.shape[2:])] * len(images), images.__getitem__)
        mean, logvar = torch.stack([moments for moments, _ in results]).chunk(2, dim=1)
        return torch.cat([mean, logvar.clamp(*LOGVAR_RANGE)], dim=1), tuple(how for _, how in results)

    def encode(self, images: Images, *, sample: bool = False, seed: int = 0) -> Latents:
        """Scaled latents of each image, ready for a diffusion model: the posterior's mean, or a draw from it.

        Args:
            images: as for `encode_moments`.
            sample: draw from the posterior.
            seed: of the draws. Image i is drawn with `seed + i`, whatever comes before it.

        Raises:
            BrokenImageError, ValueError: as for `encode_moments`.
        """
        moments = self.encode_moments(images)
        raw = moments.sample(seed) if sample else moments.mean
        return Latents(tuple(self.scaling.apply(value) for value in raw), moments.sizes, moments.methods)

    def decode(self, latents: Latents | Moments | Float[Tensor, "batch channels height width"]) -> Pictures:
        """Images from latents.

        Args:
            latents: what `encode` gave, or a batch of scaled latents from elsewhere; images are cropped to the size that
                `encode` noted, or have the factor times the latents' sides. Of what `encode_moments` gave, the mean is
                decoded.

        Raises:
            ValueError: another number of channels than the VAE's.
        """
        raw, sizes = self._raw(latents)
        for index, value in enumerate(raw):
            if value.shape[0] != self.vae.config.latent_channels:
                raise ValueError(
                    f"latents[{index}]: expected {self.vae.config.latent_channels} channels, found {value.shape[0]}; "
                    "they were made by another VAE"
                )
        with freed_memory_kept():
            results = self._decoder.run(
                [Size(*value.shape[1:]) for value in raw], lambda index: raw[index].to(self.device)
            )
        pictures = [crop_back(picture, size) for (picture, _), size in zip(results, sizes, strict=True)]
        return Pictures(tuple(pictures), tuple(how for _, how in results))

    def reconstruct(self, images: Images) -> Pictures:
        """What the VAE makes of images: the posterior's mean, decoded. Scaling plays no part."""
        return self.decode(self.encode_moments(images))

    def _padded(self, size: tuple[int, int]) -> Size:
        return Size(*(padded_side(side, self.factor) for side in size))

    def _raw(self, latents: Latents | Moments | Tensor) -> tuple[Sequence[Tensor], Sequence[tuple[int, int]]]:
        """Raw float32 latents, and the sizes of their images."""
        if isinstance(latents, Moments):
            return latents.mean, latents.sizes
        if isinstance(latents, Latents):
            return [self.scaling.invert(value) for value in latents.tensors], latents.sizes
        if latents.ndim != 4:
            raise ValueError(f"latents: expected [batch, channels, height, width], found {list(latents.shape)}")
        height, width = latents.shape[2:]
        raw = self.scaling.invert(latents.to(torch.float32))
        return list(raw), [(height * self.factor, width * self.factor)] * len(raw)


def _default_budget(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory // 8 if device.type == "cuda" else 2**31
