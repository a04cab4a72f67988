"""One side of a VAE, encoder or decoder, over any number of maps of any sizes: batches by shape, tiles, memory."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from latentcodec.memory import MemoryFallbackWarning, attempt
from latentcodec.tiling.boxes import Size
from latentcodec.tiling.layers import Layer
from latentcodec.tiling.sweep import TiledNetwork, Tiling

TilingMode = Literal["auto", "never", "exact", "fast"]

EXACT_POSITIONS = 2**18
"""Most positions (4096 x 4096 pixels at a factor of 8) over which `auto` computes attention exactly: its cost grows with
their square, and beyond them it would be most of the work."""
FAST_KEYS = 2**14
"""Positions that attention looks at in fast tiles: as many as a 1024 x 1024 image has."""

_LEAST_BUDGET = 2**20
"""Bytes; below it no map that matters could be kept."""


@dataclass(frozen=True)
class Execution:
    """Where and how networks run."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    mode: TilingMode
    tiling: Tiling
    """Its side and budget; what is approximated follows from `mode`."""
    batch_pixels: int
    """A batch holds as many images as have this many pixels together, at least one."""
    static_batches: bool
    """Fill up the last batch of a shape, so that a compiled network sees each shape at one batch size only."""

    @property
    def whole_pixels(self) -> int | float:
        """Images of more pixels are tiled by `auto`, however much memory there is. On a CPU torch sums the statistics of
        GroupNorm in float32 without care if the layout is channels_last: their error, 3e-4 of the deviation for maps of
        512 x 512, is 3e-3 for 1024 x 1024 and 2e-2 for 2048 x 2048. Tiles sum with care."""
        careless = self.device.type == "cpu" and self.memory_format == torch.channels_last
        return 1024 * 1024 if careless else float("inf")


class Engine:
    """Runs one network.

    Args:
        forward: the network on a batch `[batch, channels, height, width]`.
        layers: the same network as a list of layers, for tiles.
        channels: of its input.
        pixels_per_side: side in pixels of the image area of one input position: 1 for the encoder.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        layers: Sequence[Layer],
        *,
        channels: int,
        pixels_per_side: int,
        execution: Execution,
    ) -> None:
        self.forward = forward
        self.tiled = TiledNetwork(layers, channels)
        self.pixels_per_side = pixels_per_side
        self.execution = execution
        self.batch_limits: dict[Size, int] = {}
        """Batch sizes that memory was found to allow, by size of the input."""

    @torch.no_grad()  # not inference_mode, whose tensors could not be used in training afterwards
    def run(self, sizes: Sequence[Size], load: Callable[[int], Tensor]) -> list[tuple[Tensor, str]]:
        """The output for each input, `float32 [channels, height, width]`, with how it was computed.

        Args:
            sizes: height and width of each input.
            load: gives the input of an index, `[channels, height, width]` on the device. Called when its turn comes, so
                that inputs need not all be in memory.
        """
        by_size: dict[Size, list[int]] = {}
        for index, size in enumerate(sizes):
            by_size.setdefault(Size(*size), []).append(index)
        results: dict[int, tuple[Tensor, str]] = {}
        with torch.autocast(self.execution.device.type, enabled=False):  # it would round float32 networks
            for size, indices in by_size.items():
                for done, output, method in self._run_size(size, indices, load):
                    results.update((index, (output[row], method)) for row, index in enumerate(done))
        return [results[index] for index in range(len(sizes))]

    def _run_size(
        self, size: Size, indices: list[int], load: Callable[[int], Tensor]
    ) -> Iterator[tuple[list[int], Float[Tensor, "batch _ _ _"], str]]:
        """Yields parts of `indices` with their output."""
        while indices:
            limit = self.batch_limit(size)
            batch = indices[:limit]
            output = None if limit == 0 else self._try_batch(torch.stack([load(index) for index in batch]), limit)
            if output is not None:
                yield batch, output, "whole"
                indices = indices[len(batch) :]
            elif limit == 0:
                tiled, approximations = self._run_tiles(load(indices[0]))
                yield indices[:1], tiled, f"tiles: {approximations}" if approximations else "tiles"
                indices = indices[1:]
            else:
                self._lower_limit(size, len(batch))

    def batch_limit(self, size: Size) -> int:
        """How many inputs of this size go into a batch; 0 means tiles. It goes down when memory runs out."""
        if size not in self.batch_limits:
            pixels = size.height * size.width * self.pixels_per_side**2
            tiles = self._needs_tiles(size)
            self.batch_limits[size] = 0 if tiles else max(1, self.execution.batch_pixels // pixels)
        return self.batch_limits[size]

    def _needs_tiles(self, size: Size) -> bool:
        """Whether tiles are the plan, before any memory has run out."""
        tiling = self.execution.tiling
        match self.execution.mode:
            case "never":
                return False
            case "auto":
                pixels = size.height * size.width * self.pixels_per_side**2
                largest = self.tiled.largest_map(size, self.execution.dtype.itemsize)
                return largest > tiling.budget or pixels > self.execution.whole_pixels
            case "exact" | "fast":
                return max(size) * self.pixels_per_side > tiling.side

    def _try_batch(self, batch: Float[Tensor, "batch _ _ _"], limit: int) -> Float[Tensor, "batch _ _ _"] | None:
        """The whole network on a batch; None if memory runs out."""
        count = len(batch)
        if self.execution.static_batches and count < limit:
            batch = torch.cat([batch, batch[-1:].expand(limit - count, -1, -1, -1)])
        inputs = batch.to(self.execution.dtype).contiguous(memory_format=self.execution.memory_format)
        output = attempt(lambda: self.forward(inputs)[:count], self.execution.device)
        return None if output is None else output.to(torch.float32, memory_format=torch.contiguous_format)

    def _lower_limit(self, size: Size, tried: int) -> None:
        """Remember that a batch of `tried` inputs was too much, and say what comes instead."""
        height, width = (side * self.pixels_per_side for side in size)
        if tried == 1 and self.execution.mode == "never":
            raise torch.OutOfMemoryError(
                f"memory does not suffice for one image of {height} x {width} pixels in one piece; "
                "allow tiles: tiling='auto'"
            )
        self.batch_limits[size] = tried // 2
        instead = f"in batches of {tried // 2}" if tried > 1 else "in tiles"
        _warn(f"memory ran out with {tried} of {height} x {width} pixels at once; going on {instead}")

    def _run_tiles(self, source: Float[Tensor, "_ _ _"]) -> tuple[Float[Tensor, "1 _ _ _"], str]:
        tiling, mode, execution = self.execution.tiling, self.execution.mode, self.execution
        size = Size(*source.shape[1:])
        if mode == "fast" or (mode == "auto" and self.tiled.attention_positions(size) > EXACT_POSITIONS):
            tiling = replace(tiling, sample=True, max_keys=FAST_KEYS)
        while True:
            run = partial(self.tiled, source[None], tiling, execution.dtype, execution.memory_format)
            result = attempt(run, execution.device) if tiling.budget else run()
            if result is not None:
                return result
            budget = min(tiling.budget, self.tiled.largest_map(size, execution.dtype.itemsize)) // 4
            budget = budget if budget > _LEAST_BUDGET else 0
            tiling = replace(tiling, budget=budget)
            _warn(f"memory ran out with tiles of {tiling.side} pixels; going on with {budget >> 20} MiB for kept maps")


def _warn(message: str) -> None:
    warnings.warn(message, MemoryFallbackWarning, stacklevel=2)
