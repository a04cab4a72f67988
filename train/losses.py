"""Terms of the autoencoder's loss: pure functions in fp32, whatever autocast is on around them.

One unit for all: **mean over the batch of the per-image mean over channels, rows and columns**. latent-diffusion (LDM)
instead sums over an image's 3*H*W values and takes the mean over the batch: for the pixel term, for LPIPS (one value an
image, added to every pixel) and for the KL alike. Every term here is therefore LDM's divided by 3*H*W, and the weights
of LDM (L1 1, LPIPS 1, KL 1e-6) carry over unchanged.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from latentcodec.vae.divergence import kl_nats
from train.filters import blur, blur_inside

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weight of each scale, finest first (Wang, Simoncelli, Bovik 2003)."""

SSIM_RADIUS = 5
"""Half the side of SSIM's window of 11 pixels, whose sigma is 1.5 (Wang et al. 2004)."""

_LATENT_FLOOR = 1e-4
"""Added to the mean square that an error of latents is relative to, for the grey images whose latents are all but 0."""


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors as float32, with autocast off inside the block."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield tuple(tensor.float() for tensor in tensors)


def l1(
    images: Float[Tensor, "batch 3 height width"], reconstructions: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, ""]:
    """Mean absolute difference, in units of the [-1, 1] range: 0 to 2."""
    with full_precision(images, reconstructions) as (x, r):
        return (x - r).abs().mean()


def mse(
    images: Float[Tensor, "batch 3 height width"], reconstructions: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, ""]:
    """Mean squared difference, in squared units of the [-1, 1] range: 0 to 4."""
    with full_precision(images, reconstructions) as (x, r):
        return (x - r).square().mean()


def charbonnier(
    images: Float[Tensor, "batch 3 height width"],
    reconstructions: Float[Tensor, "batch 3 height width"],
    *,
    eps: float = 1e-3,
) -> Float[Tensor, ""]:
    """Mean of sqrt(d^2 + eps^2): L1 with a smooth foot (Charbonnier et al. 1994). Its least value is `eps`."""
    with full_precision(images, reconstructions) as (x, r):
        return _charbonnier(x - r, eps)


def _charbonnier(difference: Tensor, eps: float) -> Tensor:
    return (difference.square() + eps**2).sqrt().mean()


def high_pass(
    images: Float[Tensor, "batch 3 height width"],
    reconstructions: Float[Tensor, "batch 3 height width"],
    *,
    sigma: float = 1.5,
    eps: float = 1e-3,
) -> Float[Tensor, ""]:
    """Charbonnier distance between what a Gaussian of `sigma` pixels takes away from the two images.

    After the high-frequency term of LiteVAE (arXiv 2405.14477, table 9). The filter x - blur(x) is linear, so the
    difference is filtered once. Units of `charbonnier`; a difference in brightness alone costs nothing.
    """
    with full_precision(images, reconstructions) as (x, r):
        difference = x - r
        return _charbonnier(difference - blur(difference, sigma=sigma, radius=math.ceil(3 * sigma)), eps)


def lpips(
    perceptual: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    reconstructions: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, ""]:
    """Mean LPIPS distance (Zhang et al. 2018): 0 for equal images. The gradient flows to the reconstructions.

    Args:
        perceptual: a `lpips.LPIPS` in eval mode with frozen weights (`eval.perceptual.load_lpips`). Its features of the
            images are then computed without a graph.

    Raises:
        ValueError: `perceptual` is in training mode, where the dropout in its heads makes the distance random.
    """
    if perceptual.training:
        raise ValueError("perceptual: expected LPIPS in eval mode, found training mode. Call `.eval()` on it")
    with full_precision(images, reconstructions) as (x, r):
        return perceptual(x.detach(), r).mean()


def ms_ssim_scales(height: int, width: int) -> int:
    """Number of scales, 1 to 5, such that SSIM's window fits into the coarsest: 2 from 22 px, 3 from 44, 5 from 176."""
    window = 2 * SSIM_RADIUS + 1
    if min(height, width) < window:
        raise ValueError(f"ms_ssim needs sides of at least {window} pixels, found {height}x{width}: use larger crops")
    return min(len(MS_SSIM_WEIGHTS), int(math.log2(min(height, width) // window)) + 1)


def ms_ssim(
    images: Float[Tensor, "batch 3 height width"], reconstructions: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, ""]:
    """Structural difference over several scales: 0 for equal images, at most 2. Needs no weights.

        loss = 1 - sum_j w_j s_j,    s_j = mean(contrast_j * structure_j),    s_M = mean(SSIM_M) at the coarsest scale

    Each scale halves the one before by 2x2 means; contrast, structure and SSIM as in Wang et al. 2004 on pixels in
    [0, 1]. The weights w_j are those of MS-SSIM over as many scales as fit (`ms_ssim_scales`), divided by their sum.
    MS-SSIM proper is the product of s_j ^ w_j, whose gradient is infinite where s_j reaches 0, as it does early in
    training; the weighted mean has a finite gradient everywhere, constant and equal images included.
    """
    scales = ms_ssim_scales(*images.shape[2:])
    weights = MS_SSIM_WEIGHTS[:scales]
    with full_precision(images, reconstructions) as (x, r):
        x, r = (x + 1) / 2, (r + 1) / 2
        similarity = torch.zeros((), device=r.device)
        for scale, weight in enumerate(weights):
            if scale > 0:
                x, r = F.avg_pool2d(x, 2), F.avg_pool2d(r, 2)
            luminance, contrast_structure = _ssim_maps(x, r)
            value = contrast_structure * luminance if scale == scales - 1 else contrast_structure
            similarity = similarity + weight / sum(weights) * value.mean()
        return 1 - similarity


def _ssim_maps(x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's luminance and contrast-structure maps, on pixels in [0, 1], where the window lies inside the image."""
    c1, c2 = 0.01**2, 0.03**2
    maps = blur_inside(torch.cat([x, r, x * x, r * r, x * r]), radius=SSIM_RADIUS)
    mean_x, mean_r, square_x, square_r, product = maps.chunk(5)
    variances = square_x - mean_x**2 + square_r - mean_r**2
    covariance = product - mean_x * mean_r
    luminance = (2 * mean_x * mean_r + c1) / (mean_x**2 + mean_r**2 + c1)
    # Variances are at least 0; rounding makes them negative, by more than c2 only far outside the range of pixels.
    return luminance, (2 * covariance + c2) / (variances + c2).clamp_min(c2 / 2)


def kl_nats_per_image(
    mean: Float[Tensor, "batch channels height width"], logvar: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each image in nats, summed over its latents (Kingma & Welling 2014).

    `logvar` is expected clamped to [-30, 20], as diffusers' DiagonalGaussianDistribution leaves it; the value is then
    that of its `kl()`. LDM's `kl_loss` is the mean of these over the batch.
    """
    with full_precision(mean, logvar) as (mu, log_variance):
        return kl_nats(mu, log_variance).flatten(1).sum(1)


def kl(
    mean: Float[Tensor, "batch channels height width"],
    logvar: Float[Tensor, "batch channels height width"],
    image_values: int,
) -> Float[Tensor, ""]:
    """Mean of `kl_nats_per_image`, divided by `image_values` = 3*H*W: nats per dimension of the image.

    Divided so because the other terms are means over an image's values, where LDM has sums: LDM's weight of 1e-6
    means the same here. (Weighing summed nats by 1e-6 against a mean L1 is a KL some 200,000 times heavier at 256 px.)
    """
    return kl_nats_per_image(mean, logvar).mean() / image_values


def latent_equivariance(
    of_transformed: Float[Tensor, "batch channels height width"],
    transformed: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    """|E(tau(x)) - tau(E(x))|^2 over |tau(E(x))|^2, of each image, then their mean: a scale of the latents changes nothing.

    Per image and not per batch, so that micro-batches and processes add up to the same loss.
    """
    error = (of_transformed - transformed).square().mean(dim=(1, 2, 3))
    return (error / (transformed.square().mean(dim=(1, 2, 3)) + _LATENT_FLOOR)).mean()


@dataclass
class Reconstruction:
    """What the terms look at: a batch, what became of it, and the posterior in between."""

    images: Float[Tensor, "batch 3 height width"]
    """Targets in [-1, 1]."""
    reconstructions: Float[Tensor, "batch 3 height width"]
    """Of the decoder, not clamped."""
    mean: Float[Tensor, "batch channels latent_height latent_width"]
    logvar: Float[Tensor, "batch channels latent_height latent_width"]
    """Clamped to [-30, 20]."""
    perceptual: nn.Module | None = None
    """A frozen `lpips.LPIPS`; needed by the terms of `NEEDS_PERCEPTUAL` alone."""


def _lpips_term(pair: Reconstruction) -> Tensor:
    if pair.perceptual is None:
        raise ValueError(
            "loss term `lpips`: no LPIPS module was given. Load one with eval.perceptual.load_lpips, "
            "or use the term `ms_ssim`, which needs no weights"
        )
    return lpips(pair.perceptual, pair.images, pair.reconstructions)


TERMS: dict[str, Callable[[Reconstruction], Tensor]] = {
    "l1": lambda pair: l1(pair.images, pair.reconstructions),
    "mse": lambda pair: mse(pair.images, pair.reconstructions),
    "charbonnier": lambda pair: charbonnier(pair.images, pair.reconstructions),
    "high_pass": lambda pair: high_pass(pair.images, pair.reconstructions),
    "lpips": _lpips_term,
    "ms_ssim": lambda pair: ms_ssim(pair.images, pair.reconstructions),
    "kl": lambda pair: kl(pair.mean, pair.logvar, pair.images[0].numel()),
}
"""Loss terms by name, each a scalar per batch in the unit of this page."""

NEEDS_PERCEPTUAL = frozenset({"lpips"})
"""Terms that read `Reconstruction.perceptual`."""
