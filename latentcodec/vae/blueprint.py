"""The layers of an AutoencoderKL, from its config alone: names, shapes, and the resolution that each works at.

Parameters, tensor shapes and arithmetic can be told from it without torch and without building the network. The tests
hold it against diffusers' own network, tensor by tensor and multiply-accumulate by multiply-accumulate.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from latentcodec.vae.stored import Shaped, VAELoadError, some

DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
"""What diffusers takes for a key that a config.json leaves out."""

_DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}  # block type -> attention after each resnet
_UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


@dataclass(frozen=True)
class Layer:
    """A convolution, projection or norm with its parameters, or the product of queries, keys and values, without."""

    name: str
    kind: Literal["conv", "linear", "norm", "attention"]
    inputs: int
    """Channels that come in."""
    outputs: int
    """Channels that go out."""
    level: int
    """Its output has 1 / 2^level of the image's height and width."""
    kernel: int = 1
    """Side of a convolution's kernel."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of its tensors."""
        weight: tuple[int, ...]
        match self.kind:
            case "conv":
                weight = (self.outputs, self.inputs, self.kernel, self.kernel)
            case "linear":
                weight = (self.outputs, self.inputs)
            case "norm":
                weight = (self.outputs,)
            case "attention":
                return {}
        return {f"{self.name}.weight": weight, f"{self.name}.bias": (self.outputs,)}

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for one image of these sides in pixels; those of norms are not counted."""
        positions = (height >> self.level) * (width >> self.level)
        match self.kind:
            case "conv" | "linear":
                return positions * self.outputs * self.inputs * self.kernel**2
            case "attention":  # queries times keys, then weights times values
                return 2 * positions**2 * self.outputs
            case "norm":
                return 0


def full_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with diffusers' defaults for what it leaves out.

    Raises:
        VAELoadError: block types that AutoencoderKL does not have, or of another number than the widths, or groups
            that do not divide a width.
    """
    full = DEFAULTS | {key: value for key, value in config.items() if key in DEFAULTS}
    for key, known in (("down_block_types", _DOWN), ("up_block_types", _UP)):
        if unknown := sorted(set(full[key]) - set(known)):
            raise VAELoadError(
                f"the config describes no AutoencoderKL: {key} knows {', '.join(known)}, found {', '.join(unknown)}"
            )
        if len(full[key]) != len(full["block_out_channels"]):
            raise VAELoadError(
                f"the config describes no AutoencoderKL: {len(full['block_out_channels'])} block_out_channels, but "
                f"{len(full[key])} {key}"
            )
    for width in full["block_out_channels"]:
        if width % full["norm_num_groups"]:
            raise VAELoadError(
                f"the config describes no AutoencoderKL: norm_num_groups {full['norm_num_groups']} does not divide "
                f"the width {width} of block_out_channels {tuple(full['block_out_channels'])}"
            )
    return full


def encoder_layers(config: Mapping[str, Any]) -> Iterator[Layer]:
    """The layers from an image to its moments, in the order of computation. `config` is a full one."""
    widths, last = config["block_out_channels"], len(config["block_out_channels"]) - 1
    yield Layer("encoder.conv_in", "conv", config["in_channels"], widths[0], 0, kernel=3)
    width = widths[0]
    for level, kind in enumerate(config["down_block_types"]):
        block = f"encoder.down_blocks.{level}"
        yield from _resnets(block, width, widths[level], config["layers_per_block"], level, _DOWN[kind])
        width = widths[level]
        if level < last:
            yield Layer(f"{block}.downsamplers.0.conv", "conv", width, width, level + 1, kernel=3)
    yield from _middle("encoder", width, last, config["mid_block_add_attention"])
    yield Layer("encoder.conv_norm_out", "norm", width, width, last)
    moments = 2 * config["latent_channels"]
    yield Layer("encoder.conv_out", "conv", width, moments, last, kernel=3)
    if config["use_quant_conv"]:
        yield Layer("quant_conv", "conv", moments, moments, last)


def decoder_layers(config: Mapping[str, Any]) -> Iterator[Layer]:
    """The layers from latents to an image, in the order of computation. `config` is a full one."""
    widths, last = config["block_out_channels"], len(config["block_out_channels"]) - 1
    latents, width = config["latent_channels"], widths[-1]
    if config["use_post_quant_conv"]:
        yield Layer("post_quant_conv", "conv", latents, latents, last)
    yield Layer("decoder.conv_in", "conv", latents, width, last, kernel=3)
    yield from _middle("decoder", width, last, config["mid_block_add_attention"])
    for i, kind in enumerate(config["up_block_types"]):
        block, level = f"decoder.up_blocks.{i}", last - i
        yield from _resnets(block, width, widths[level], config["layers_per_block"] + 1, level, _UP[kind])
        width = widths[level]
        if level > 0:
            yield Layer(f"{block}.upsamplers.0.conv", "conv", width, width, level - 1, kernel=3)
    yield Layer("decoder.conv_norm_out", "norm", width, width, 0)
    yield Layer("decoder.conv_out", "conv", width, config["out_channels"], 0, kernel=3)


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the network of a full config."""
    layers = (*encoder_layers(config), *decoder_layers(config))
    return {name: shape for layer in layers for name, shape in layer.shapes().items()}


def require_fit(state: Mapping[str, Shaped], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise VAELoadError, with the names, unless `state` has exactly the tensors of `shapes`."""
    wrong = [
        f"{key} {tuple(state[key].shape)} where the config asks for {shape}"
        for key, shape in shapes.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    problems = {
        "missing tensors": [key for key in shapes if key not in state],
        "unexpected tensors": [key for key in state if key not in shapes],
        "wrong shapes": wrong,
    }
    if any(problems.values()):
        told = "; ".join(f"{len(keys)} {what}: {some(keys)}" for what, keys in problems.items() if keys)
        raise VAELoadError(f"the weights do not fit the network of the config: {told}")


def _resnets(block: str, width: int, wider: int, count: int, level: int, attend: bool) -> Iterator[Layer]:
    """The residual blocks of a level, each followed by attention if `attend`."""
    for i in range(count):
        yield from _resnet(f"{block}.resnets.{i}", width if i == 0 else wider, wider, level)
        if attend:
            yield from _attention(f"{block}.attentions.{i}", wider, level)


def _middle(side: str, width: int, level: int, attend: bool) -> Iterator[Layer]:
    yield from _resnet(f"{side}.mid_block.resnets.0", width, width, level)
    if attend:
        yield from _attention(f"{side}.mid_block.attentions.0", width, level)
    yield from _resnet(f"{side}.mid_block.resnets.1", width, width, level)


def _resnet(name: str, inputs: int, outputs: int, level: int) -> Iterator[Layer]:
    yield Layer(f"{name}.norm1", "norm", inputs, inputs, level)
    yield Layer(f"{name}.conv1", "conv", inputs, outputs, level, kernel=3)
    yield Layer(f"{name}.norm2", "norm", outputs, outputs, level)
    yield Layer(f"{name}.conv2", "conv", outputs, outputs, level, kernel=3)
    if inputs != outputs:
        yield Layer(f"{name}.conv_shortcut", "conv", inputs, outputs, level)


def _attention(name: str, width: int, level: int) -> Iterator[Layer]:
    yield Layer(f"{name}.group_norm", "norm", width, width, level)
    for projection in ("to_q", "to_k", "to_v"):
        yield Layer(f"{name}.{projection}", "linear", width, width, level)
    yield Layer(name, "attention", width, width, level)
    yield Layer(f"{name}.to_out.0", "linear", width, width, level)
