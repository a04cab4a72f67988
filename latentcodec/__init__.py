"""latentcodec: a Stable-Diffusion-style latent image codec.

The public names below are imported when they are first used, so that `import latentcodec` does not import torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that defines it. A new public name is one line here.
_PUBLIC = {
    "BucketBatchSampler": "latentcodec.store.sampler",
    "LatentCodec": "latentcodec.codec",
    "LatentDataset": "latentcodec.store.dataset",
    "LatentLoader": "latentcodec.store.loader",
    "build_vae": "latentcodec.vae.presets",
    "load_vae": "latentcodec.vae.loading",
    "save_vae": "latentcodec.vae.loading",
    "swap_vae": "latentcodec.pipelines",
    "weights_fingerprint": "latentcodec.vae.fingerprint",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'latentcodec' has no attribute {name!r}; its public names are {', '.join(__all__)}"
        )
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
