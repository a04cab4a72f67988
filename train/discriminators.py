"""Discriminators: images in [-1, 1] -> logits, one for each patch or each pixel; above 0 means real.

Neither holds running state. BatchNorm would make DDP's two forwards of one step an in-place error, tie the images of a
batch to each other and count wrongly under gradient accumulation; GroupNorm has none of this.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def _norm(channels: int) -> nn.GroupNorm:
    """16 channels a group (Wu & He 2018), or one group where they do not divide: never instance norm."""
    return nn.GroupNorm(channels // 16 if channels % 16 == 0 else 1, channels)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, *, norm: bool = True) -> nn.Sequential:
    """Convolution, norm, LeakyReLU; padding 1."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, padding=1)]
    if norm:
        layers.append(_norm(outputs))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2))


def _initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02), biases 0, as pix2pix."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(width: int, layers: int) -> None:
    if width < 8 or width % 8:
        raise ValueError(f"width: expected a positive multiple of 8, found {width}")
    if layers < 1:
        raise ValueError(f"layers: expected 1 or more, found {layers}")


def _check_side(images: Tensor, least: int, layers: int) -> None:
    if min(images.shape[2:]) < least:
        raise ValueError(
            f"images of {images.shape[2]}x{images.shape[3]} pixels: a discriminator of {layers} layers needs sides of "
            f"at least {least}. Use larger crops or fewer layers"
        )


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv 1611.07004) with GroupNorm. Three layers see patches of 70x70 pixels.

    `layers` convolutions halve the image, two more follow; channels double from `width` to 8 * `width` at most. For
    sides H, W the logits have sides H // 2**layers - 2, likewise W. Sides of at least 3 * 2**layers (24 by default).
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        _check(width, layers)
        self.least_side = 3 * 2**layers
        self.layers = layers
        widths = [width * min(2**index, 8) for index in range(layers + 1)]
        blocks = [_conv(3, width, 4, 2, norm=False)]
        blocks += [_conv(widths[index - 1], widths[index], 4, 2) for index in range(1, layers)]
        blocks.append(_conv(widths[-2], widths[-1], 4))
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.apply(_initialise)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 rows columns"]:
        """Logits in float32, also under autocast."""
        _check_side(images, self.least_side, self.layers)
        return self.blocks(images).float()


class UNetDiscriminator(nn.Module):
    """U-Net discriminator: one logit a pixel (Schoenfeld et al. 2020, arXiv 2002.12655; Real-ESRGAN, 2107.10833).

    In Real-ESRGAN's shape: `layers` convolutions halve the image and double the channels (to 8 * `width` at most), as
    many steps go back up with the skips added, three convolutions end it. GroupNorm stands for spectral norm, whose
    power iteration is running state. Upsampling is nearest, whose gradient is repeatable on CUDA. Sides of at least
    2**layers, odd ones included.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        _check(width, layers)
        self.least_side = 2**layers
        self.layers = layers
        widths = [width * min(2**index, 8) for index in range(layers + 1)]
        self.first = _conv(3, width, 3, norm=False)
        self.down = nn.ModuleList(_conv(widths[index], widths[index + 1], 4, 2) for index in range(layers))
        self.up = nn.ModuleList(_conv(widths[index + 1], widths[index], 3) for index in reversed(range(layers)))
        self.last = nn.Sequential(
            _conv(width, width, 3, norm=False), _conv(width, width, 3, norm=False), nn.Conv2d(width, 1, 3, padding=1)
        )
        self.apply(_initialise)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """Logits in float32, also under autocast."""
        _check_side(images, self.least_side, self.layers)
        features: Tensor = self.first(images)
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(features)
            features = down(features)
        for up in self.up:
            skip = skips.pop()
            features = up(F.interpolate(features, size=skip.shape[2:], mode="nearest")) + skip
        return self.last(features).float()


DISCRIMINATORS: dict[str, type[PatchDiscriminator] | type[UNetDiscriminator]] = {
    "patch": PatchDiscriminator,
    "unet": UNetDiscriminator,
}
