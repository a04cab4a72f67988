"""What the posterior of a VAE tells about its image, in nats."""

from jaxtyping import Float
from torch import Tensor


def kl_nats(
    mean: Float[Tensor, "*shape"],
    logvar: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each value in nats, at least 0 (Kingma & Welling 2014, appendix B).

    In the type of its arguments. `logvar` is expected clamped to [-30, 20], as diffusers leaves it.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
