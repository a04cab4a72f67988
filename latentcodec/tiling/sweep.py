"""Run a list of layers over a map of any size, tile by tile."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latentcodec.tiling.boxes import Box, Size, grid, whole
from latentcodec.tiling.layers import Attention, Layer, Maps, Normalization, Survey

_SAMPLED_ROWS = (
    128  # an estimate takes the middle eighth of every so many rows: many thin bands tell more than a few tiles
)


@dataclass(frozen=True)
class Tiling:
    """How to tile."""

    side: int = 512
    """Of a tile, in pixels of the image; fewer positions in deeper maps."""
    budget: int = 2**31
    """Bytes of a map, with the one beside it in residual blocks, up to which it is kept. The peak is about twice this."""
    sample: bool = False
    """Estimate the statistics of maps that are not kept from 16 rows of every 128 (of the image)."""
    max_keys: int | None = None
    """Positions that attention looks at, on an even grid; None: all."""


class TiledNetwork:
    """A list of layers, for maps of any size."""

    def __init__(self, layers: Sequence[Layer], channels: int) -> None:
        self.layers = layers
        self.channels: list[tuple[int, ...]] = [(channels,)]
        """Of the maps before each layer, and after the last."""
        for layer in layers:
            self.channels.append(layer.output_channels(self.channels[-1]))

    def sizes(self, size: Size) -> list[Size]:
        """Of the whole map before each layer, and after the last."""
        sizes = [size]
        for layer in self.layers:
            sizes.append(layer.output_size(sizes[-1]))
        return sizes

    def largest_map(self, size: Size, itemsize: int) -> int:
        """Bytes of the largest map (with the one beside it) between two layers: what `Tiling.budget` is held against."""
        counts = [sum(c) * s.height * s.width for c, s in zip(self.channels, self.sizes(size), strict=True)]
        return max(counts) * itemsize

    def attention_positions(self, size: Size) -> int:
        """Positions of the largest map that attention works on; 0 without attention."""
        sizes = self.sizes(size)
        found = [sizes[index] for index, layer in enumerate(self.layers) if isinstance(layer, Attention)]
        return max((height * width for height, width in found), default=0)

    @torch.no_grad()
    def __call__(
        self, source: Float[Tensor, "1 _ _ _"], tiling: Tiling, dtype: torch.dtype, memory_format: torch.memory_format
    ) -> tuple[Float[Tensor, "1 _ _ _"], str]:
        """The output in float32 for the whole map `source`, and in words what was approximated ("" if nothing)."""
        run = _Run(self, source, tiling, dtype, memory_format)
        return run.finish(), run.approximations()


class _Run:
    """The sweeps over one map: what is kept of it, and what is known of it."""

    def __init__(
        self,
        network: TiledNetwork,
        source: Tensor,
        tiling: Tiling,
        dtype: torch.dtype,
        memory_format: torch.memory_format,
    ) -> None:
        self.network = network
        self.tiling = tiling
        self.dtype = dtype
        self.memory_format = memory_format
        self.sizes = network.sizes(Size(*source.shape[2:]))
        self.pixels = max(self.sizes[0], self.sizes[-1])
        self.kept: Maps = (source,)
        self.kept_at = 0
        self.facts: dict[int, Any] = {}
        self.sampled = 0
        """GroupNorms whose statistics are estimates."""

    def finish(self) -> Float[Tensor, "1 _ _ _"]:
        for index, layer in enumerate(self.network.layers):
            survey = layer.survey(self.sizes[index], self.tiling.max_keys)
            if survey is not None:
                self._survey(index, survey)
                self.facts[index] = survey.facts()
        end = len(self.network.layers)
        output = self._empty(end, torch.float32)
        self._sweep(end, self._tiles(end), into=output)
        return output[0]

    def approximations(self) -> str:
        """What `finish` approximated, in words; "" if nothing."""
        told = []
        if self.sampled:
            norms = sum(isinstance(layer, Normalization) for layer in self.network.layers)
            told.append(f"statistics of {self.sampled} of {norms} GroupNorms from an eighth of the rows")
        for index, layer in enumerate(self.network.layers):
            keys = self.facts[index][0].shape[2] if isinstance(layer, Attention) else 0
            positions = self.sizes[index].height * self.sizes[index].width
            if keys and keys < positions:
                told.append(f"attention to {keys} of {positions} positions")
        return "; ".join(told)

    def _survey(self, index: int, survey: Survey) -> None:
        """Sweep up to layer `index`. What comes there is kept if it fits."""
        keep = self._bytes(index) <= self.tiling.budget
        tiles = self._tiles(index)
        if self.tiling.sample and not keep and not survey.everything:
            tiles = (box.middle_rows() for box in self._tiles(index, _SAMPLED_ROWS))
            self.sampled += 1
        into = self._empty(index, self.dtype) if keep else ()
        self._sweep(index, tiles, survey, into)
        if keep:
            self.kept, self.kept_at = into, index

    def _sweep(self, end: int, tiles: Iterable[Box], survey: Survey | None = None, into: Maps = ()) -> None:
        """Compute the maps before layer `end` in each tile, show them to `survey`, and write them into `into`."""
        for tile in tiles:
            maps = self._compute(end, tile)
            if survey is not None:
                survey.add(maps, tile)
            for target, features in zip(into, maps, strict=False):
                target[..., *tile.within(whole(self.sizes[end]))] = features

    def _compute(self, end: int, tile: Box) -> Maps:
        """The maps before layer `end` in `tile`, from those that are kept."""
        boxes = [tile]
        for index in range(end - 1, self.kept_at - 1, -1):
            boxes.append(self.network.layers[index].needs(boxes[-1], self.sizes[index]))
        boxes.reverse()
        area = boxes[0].within(whole(self.sizes[self.kept_at]))
        maps = tuple(kept[..., *area].to(self.dtype).contiguous(memory_format=self.memory_format) for kept in self.kept)
        for index, have, want in zip(range(self.kept_at, end), boxes, boxes[1:], strict=False):
            maps = self.network.layers[index](maps, have, want, self.sizes[index], self.facts.get(index))
        return maps

    def _tiles(self, index: int, height: int | None = None) -> Iterator[Box]:
        """Boxes of the map before layer `index`; tiles, or as wide as tiles and `height` pixels of the image high."""
        size = self.sizes[index]
        factor = self.pixels.height // size.height
        return grid(size, max(1, (height or self.tiling.side) // factor), max(1, self.tiling.side // factor))

    def _bytes(self, index: int) -> int:
        size = self.sizes[index]
        return sum(self.network.channels[index]) * size.height * size.width * self.dtype.itemsize

    def _empty(self, index: int, dtype: torch.dtype) -> Maps:
        """Room for the maps before layer `index`."""
        device, size = self.kept[0].device, self.sizes[index]
        return tuple(
            torch.empty(1, channels, *size, dtype=dtype, device=device, memory_format=self.memory_format)
            for channels in self.network.channels[index]
        )
