"""The rate of dense arithmetic that a machine reaches."""

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F

from eval.pairing import timed


def matrix_peak(device: torch.device, dtype: torch.dtype, *, size: int | None = None, rounds: int = 11) -> float:
    """Operations a second, two for a multiply-accumulate: of a square matrix product or of a 3 x 3 convolution,
    whichever is faster.

    Both, since they come from different libraries on a CPU: on AMD's, MKL multiplies float32 at half the rate at which
    oneDNN convolves. Inputs are random, for zeros take less power and run faster; the median of `rounds` counts.

    Args:
        size: of the matrices, and eight times the side of the convolved map. None: 8192 on a GPU, 1536 elsewhere.
    """
    side = size or (8192 if device.type == "cuda" else 1536)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    left, right = random(side, side), random(side, side)
    pixels, channels = max(8, side // 8), 256
    layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
    image = random(1, channels, pixels, pixels).contiguous(memory_format=layout)
    kernel = random(channels, channels, 3, 3).contiguous(memory_format=layout)
    works: list[tuple[Callable[[], object], float]] = [
        (lambda: left @ right, 2.0 * side**3),
        (lambda: F.conv2d(image, kernel, padding=1), 2.0 * 9 * channels**2 * pixels**2),
    ]
    return max(_rate(work, operations, rounds, device) for work, operations in works)


@torch.no_grad()
def _rate(work: Callable[[], object], operations: float, rounds: int, device: torch.device) -> float:
    for _ in range(2):
        work()
    return operations / statistics.median(timed(work, device) for _ in range(rounds))
