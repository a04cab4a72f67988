"""AutoencoderKLs whose weights are set by hand, so that what they do to a picture is known beforehand.

One level, so a factor of 1. Residual branches are zero; GroupNorm is made affine by two constant channels of +100 and -100,
which decide its mean and variance; SiLU is the identity to float32 for inputs of about 15. What is left is linear: the
encoder copies red, green and blue into the first three latent channels, the decoder scales, mixes or blurs them.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latentcodec.vae.presets import build_vae

WIDTH = 8
LARGE = 100.0
SHIFT = 15.0
"""Of the norm's output, where SiLU does nothing."""
STD = LARGE / 2
"""Of eight channels of which two are +-LARGE and the others small."""

SHARP = torch.zeros(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(1.0))
BLUR = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])) / 16
BOX = torch.full((3, 3), 1 / 9)


@torch.no_grad()
def handmade_vae(
    *, gain: float = 1.0, order: tuple[int, int, int] = (0, 1, 2), kernel: Tensor = SHARP, logvar: float = -30.0
) -> AutoencoderKL:
    """`out[c] = kernel * (gain image[order[c]])`, up to float32's rounding.

    Args:
        gain: of the contrast around grey.
        order: which colour the decoder gives as red, green and blue.
        kernel: of the decoder's last convolution, [3, 3].
        logvar: of the posterior, everywhere.
    """
    vae = build_vae(
        "tiny-f8d4", block_out_channels=(WIDTH,), layers_per_block=1, norm_num_groups=1,
        use_quant_conv=False, use_post_quant_conv=False,
        mid_block_add_attention=False,
    )  # fmt: skip
    for name, parameter in vae.named_parameters():
        if ".conv2." in name:
            parameter.zero_()
    for half, copied in ((vae.encoder, (0, 1, 2)), (vae.decoder, order)):
        _copy_in(half.conv_in)
        half.conv_norm_out.weight.fill_(1.0)
        half.conv_norm_out.bias.fill_(SHIFT)
        half.conv_out.weight.zero_()
        half.conv_out.bias.zero_()
        for out, channel in enumerate(copied):
            weight = STD * (SHARP if half is vae.encoder else gain * kernel)
            half.conv_out.weight[out, channel] = weight
            for constant in (WIDTH - 2, WIDTH - 1):
                half.conv_out.weight[out, constant] = -weight / 2
    vae.encoder.conv_out.bias[vae.config.latent_channels :] = logvar
    return vae.eval()


def _copy_in(conv: torch.nn.Conv2d) -> None:
    conv.weight.zero_()
    conv.bias.zero_()
    for channel in range(3):
        conv.weight[channel, channel, 1, 1] = 1.0
    conv.bias[WIDTH - 2], conv.bias[WIDTH - 1] = LARGE, -LARGE
