"""Processes that begin at once: forked from one that has imported what takes seconds to import, and has no threads."""

import multiprocessing

SPAWNER = multiprocessing.get_context("forkserver")
SPAWNER.set_forkserver_preload(
    [
        "accelerate", "diffusers.models.unets.unet_2d", "jsonargparse", "latentcodec.cli", "latentcodec.store.loader",
        "latentcodec.store.precompute", "latentcodec.vae.loading", "pytest", "s3fs",
    ]
)  # fmt: skip
