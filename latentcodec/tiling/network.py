"""An AutoencoderKL's encoder and decoder as flat lists of layers."""

from collections.abc import Iterator
from typing import Any

from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention as DiffusersAttention
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from latentcodec.tiling.layers import Attention, Convolution, Join, Layer, Normalization, Upsampling


def encoder_layers(vae: AutoencoderKL) -> list[Layer]:
    """From images in [-1, 1] to raw moments (mean and logvar, stacked)."""
    encoder: Any = vae.encoder  # nn.Module to mypy, which knows nothing of its parts
    layers: list[Layer] = [_conv(encoder.conv_in)]
    for block in encoder.down_blocks:
        layers += _residuals(block)
        for sampler in block.downsamplers or ():
            layers.append(Convolution(sampler.conv, before=sampler.padding, after=max(sampler.padding, 1)))
    layers += _middle(encoder.mid_block)
    layers += [Normalization(encoder.conv_norm_out, encoder.conv_act, keep=False), _conv(encoder.conv_out)]
    return layers if vae.quant_conv is None else [*layers, _conv(vae.quant_conv)]


def decoder_layers(vae: AutoencoderKL) -> list[Layer]:
    """From raw latents to images."""
    decoder: Any = vae.decoder
    layers: list[Layer] = [] if vae.post_quant_conv is None else [_conv(vae.post_quant_conv)]
    layers += [_conv(decoder.conv_in), *_middle(decoder.mid_block)]
    for block in decoder.up_blocks:
        layers += _residuals(block)
        for sampler in block.upsamplers or ():
            layers += [Upsampling(), _conv(sampler.conv)]
    return [*layers, Normalization(decoder.conv_norm_out, decoder.conv_act, keep=False), _conv(decoder.conv_out)]


def _conv(conv: nn.Conv2d) -> Convolution:
    return Convolution(conv, before=int(conv.padding[0]), after=int(conv.padding[0]))


def _residual(block: ResnetBlock2D) -> Iterator[Layer]:
    yield Normalization(block.norm1, block.nonlinearity, keep=True)
    yield _conv(block.conv1)
    yield Normalization(block.norm2, block.nonlinearity, keep=False)
    yield _conv(block.conv2)
    yield Join(block.conv_shortcut)


def _attention(block: DiffusersAttention) -> Iterator[Layer]:
    yield Normalization(block.group_norm, None, keep=True)
    yield Attention(block)
    yield Join(None)


def _residuals(block: Any) -> Iterator[Layer]:
    """Residual blocks of a level, each followed by attention in the Attn...Block2D of f16 and f32 networks."""
    attentions = list(getattr(block, "attentions", ()))
    for index, residual in enumerate(block.resnets):
        yield from _residual(residual)
        if attentions:
            yield from _attention(attentions[index])


def _middle(block: Any) -> Iterator[Layer]:
    yield from _residual(block.resnets[0])
    for attention, residual in zip(block.attentions, block.resnets[1:], strict=True):
        if attention is not None:
            yield from _attention(attention)
        yield from _residual(residual)
