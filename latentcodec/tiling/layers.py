"""The layers of a VAE, each able to compute a rectangle of its output from the rectangle of input that it needs.

Between two layers travel one or two maps over the same box: the features, and inside a residual block also the input
that its shortcut will add.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention as DiffusersAttention
from jaxtyping import Float
from torch import Tensor, nn

from latentcodec.tiling.boxes import Box, Reach, Size, reach
from latentcodec.vae.calibration import RunningStatistics

Maps = tuple[Tensor, ...]
"""One or two `Float[Tensor, "1 channels height width"]` of the same box: features, and what the shortcut keeps."""


@runtime_checkable
class Survey(Protocol):
    """Collects from tiles what a layer must know of the whole map."""

    everything: bool
    """Whether the tiles must cover the map; else a sample of them gives an estimate."""

    def add(self, maps: Maps, box: Box) -> None:
        """Look at the layer's input in `box`. Boxes must not overlap."""

    def facts(self) -> Any:
        """What the layer is called with."""


@runtime_checkable
class Layer(Protocol):
    """One step of a network."""

    def output_channels(self, channels: tuple[int, ...]) -> tuple[int, ...]:
        """Channels of each map that comes out, from those that go in."""

    def output_size(self, size: Size) -> Size:
        """Size of the whole map that comes out."""

    def needs(self, box: Box, size: Size) -> Box:
        """The input that the output in `box` depends on; `size` is that of the whole input."""

    def survey(self, size: Size, max_keys: int | None) -> Survey | None:
        """What must be known of the whole input first; None if nothing."""

    def __call__(self, maps: Maps, have: Box, want: Box, size: Size, facts: Any) -> Maps:
        """Output in `want` from input in `have`, which is what `needs` told, in a whole input of `size`."""


@dataclass(frozen=True)
class _Pointwise:
    """A layer whose output at a position depends on no other position, except through the facts."""

    def output_channels(self, channels: tuple[int, ...]) -> tuple[int, ...]:
        return channels

    def output_size(self, size: Size) -> Size:
        return size

    def needs(self, box: Box, size: Size) -> Box:
        return box

    def survey(self, size: Size, max_keys: int | None) -> Survey | None:
        return None


@dataclass(frozen=True)
class Convolution(_Pointwise):
    """A convolution, its zero padding only where the image ends. A kept second map is cut to the box that comes out."""

    conv: nn.Conv2d
    before: int
    """Rows and columns of zeros above and left of the whole map."""
    after: int
    """Below and right of it. (Downsampling in LDM pads there only.)"""

    def output_channels(self, channels: tuple[int, ...]) -> tuple[int, ...]:
        return (self.conv.out_channels, *channels[1:])

    def output_size(self, size: Size) -> Size:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        return Size(*((side + self.before + self.after - kernel) // stride + 1 for side in size))

    def _reach(self, box: Box, size: Size) -> tuple[Reach, Reach]:
        options = {"kernel": self.conv.kernel_size[0], "stride": self.conv.stride[0], "before": self.before}
        return (
            reach(box.top, box.bottom, size.height, **options),
            reach(box.left, box.right, size.width, **options),
        )

    def needs(self, box: Box, size: Size) -> Box:
        rows, columns = self._reach(box, size)
        return Box(rows.start, columns.start, rows.stop, columns.stop)

    def __call__(self, maps: Maps, have: Box, want: Box, size: Size, facts: Any) -> Maps:
        rows, columns = self._reach(want, size)
        zeros = (columns.zeros_before, columns.zeros_after, rows.zeros_before, rows.zeros_after)
        padded = F.pad(maps[0], zeros) if any(zeros) else maps[0]
        convolved = F.conv2d(padded, self.conv.weight, self.conv.bias, self.conv.stride)
        return (convolved, *(kept[..., *want.within(have)] for kept in maps[1:]))


@dataclass(frozen=True)
class Upsampling(_Pointwise):
    """Each position becomes 2 x 2 equal ones."""

    def output_size(self, size: Size) -> Size:
        return Size(2 * size.height, 2 * size.width)

    def needs(self, box: Box, size: Size) -> Box:
        return Box(box.top // 2, box.left // 2, -(-box.bottom // 2), -(-box.right // 2))

    def __call__(self, maps: Maps, have: Box, want: Box, size: Size, facts: Any) -> Maps:
        doubled = F.interpolate(maps[0], scale_factor=2.0, mode="nearest")
        return (doubled[..., *want.within(Box(*(2 * side for side in have)))],)


@dataclass(frozen=True)
class Normalization(_Pointwise):
    """GroupNorm and what follows it. Its facts: mean and variance of each channel's group, over the whole map."""

    norm: nn.GroupNorm
    activation: nn.Module | None
    keep: bool
    """Whether a residual block begins here: the input goes on beside the output."""

    def output_channels(self, channels: tuple[int, ...]) -> tuple[int, ...]:
        return (channels[0], channels[0]) if self.keep else channels

    def survey(self, size: Size, max_keys: int | None) -> Survey:
        return GroupStatistics(self.norm.num_groups)

    def __call__(self, maps: Maps, have: Box, want: Box, size: Size, facts: tuple[Tensor, Tensor]) -> Maps:
        # With the statistics given, GroupNorm is what batch norm does in evaluation: an affine map of each channel.
        mean, variance = facts
        weight, bias = self.norm.weight, self.norm.bias
        dtype = torch.promote_types(weight.dtype, torch.float32)
        normed = F.batch_norm(maps[0], mean, variance, weight.to(dtype), bias.to(dtype), eps=self.norm.eps)
        activated = normed if self.activation is None else self.activation(normed)
        return (activated, maps[0]) if self.keep else (activated, *maps[1:])


class GroupStatistics:
    """Mean and variance of groups of channels, merged from tiles in float64 (Chan et al. 1979)."""

    everything = False

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.total: RunningStatistics | None = None
        self.device = torch.device("cpu")

    def add(self, maps: Maps, box: Box) -> None:
        features = maps[0]
        self.device = features.device
        # Within a tile float32 does; torch sums in a cascade.
        variance, mean = torch.var_mean(features.float(), dim=(0, 2, 3), correction=0)
        count = box.height * box.width
        part = RunningStatistics(count, mean.cpu().double(), variance.cpu().double() * count)
        self.total = part if self.total is None else self.total.merge(part)

    def facts(self) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """Mean and variance for each channel: those of its group, float32."""
        assert self.total is not None, "no tile was surveyed"
        means = self.total.mean.view(self.groups, -1)
        squares = self.total.squares.view(self.groups, -1)
        mean = means.mean(1, keepdim=True)
        variance = squares.mean(1, keepdim=True) / self.total.count + (means - mean).square().mean(1, keepdim=True)
        each = means.shape[1]
        return tuple(value.repeat(1, each).flatten().float().to(self.device) for value in (mean, variance))  # type: ignore[return-value]


@dataclass(frozen=True)
class Attention(_Pointwise):
    """Self-attention over all positions, on normalised features. Its facts: the keys and values of the whole map."""

    attention: DiffusersAttention

    def survey(self, size: Size, max_keys: int | None) -> Survey:
        return KeysAndValues(self.attention, size, max_keys)

    def __call__(self, maps: Maps, have: Box, want: Box, size: Size, facts: tuple[Tensor, Tensor]) -> Maps:
        keys, values = facts
        channels, height, width = maps[0].shape[1:]
        queries = _heads(self.attention.to_q(_tokens(maps[0])), self.attention.heads)
        attended = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        projected = self.attention.to_out[0](attended)
        return (projected.transpose(1, 2).reshape(1, channels, height, width), *maps[1:])


class KeysAndValues:
    """Keys and values of all positions, or of an even grid of them where they are more than `max_keys`."""

    everything = True

    def __init__(self, attention: DiffusersAttention, size: Size, max_keys: int | None) -> None:
        self.attention = attention
        self.step = grid_step(size, max_keys)
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, maps: Maps, box: Box) -> None:
        # The grid starts in the middle of the first step. Positions of it that lie in this box:
        rows, columns = (slice((self.step // 2 - start) % self.step, None, self.step) for start in (box.top, box.left))
        tokens = _tokens(maps[0][..., rows, columns])
        self.parts.append((self.attention.to_k(tokens), self.attention.to_v(tokens)))

    def facts(self) -> tuple[Float[Tensor, "1 heads keys width"], Float[Tensor, "1 heads keys width"]]:
        """Keys and values. Their order is that of the tiles, which attention does not mind."""
        keys = _heads(torch.cat([part[0] for part in self.parts], 1), self.attention.heads)
        values = _heads(torch.cat([part[1] for part in self.parts], 1), self.attention.heads)
        return keys, values


def grid_step(size: Size, max_keys: int | None) -> int:
    """The smallest step whose grid has at most `max_keys` positions; 1 if None."""
    step = 1
    while (
        max_keys is not None
        and len(range(step // 2, size.height, step)) * len(range(step // 2, size.width, step)) > max_keys
    ):
        step += 1
    return step


@dataclass(frozen=True)
class Join(_Pointwise):
    """The end of a residual block: adds the map that was kept, through a 1 x 1 convolution if the channels differ."""

    shortcut: nn.Conv2d | None

    def output_channels(self, channels: tuple[int, ...]) -> tuple[int, ...]:
        return channels[:1]

    def __call__(self, maps: Maps, have: Box, want: Box, size: Size, facts: Any) -> Maps:
        features, kept = maps
        return (features + (kept if self.shortcut is None else self.shortcut(kept)),)


def _tokens(features: Float[Tensor, "1 channels height width"]) -> Float[Tensor, "1 positions channels"]:
    return features.flatten(2).transpose(1, 2)


def _heads(tokens: Float[Tensor, "1 positions channels"], heads: int) -> Float[Tensor, "1 heads positions width"]:
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)
