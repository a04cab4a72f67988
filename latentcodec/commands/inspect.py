"""`latentcodec inspect`: what a VAE is."""

from json import dumps
from typing import Any


def inspect_vae(
    vae: str,
    json: bool = False,
    ranges: bool = False,
    images: str | None = None,
    variant: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    norm_num_groups: int | None = None,
) -> None:
    """Print what a VAE is: geometry, cost, scaling, fingerprint, and which programs can load it.

    Example:
        latentcodec inspect out/vae --json
        latentcodec inspect vae.safetensors --scaling-factor 0.13025 --ranges

    Args:
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub.
        json: Print one JSON object instead of text.
        ranges: Also encode and decode images, and tell what overflows in float16 and what 16 bits cost. Takes longer.
        images: Images for that: the first eight of a folder, or of another source. A synthetic one if not given.
        variant: Read the weights of this variant of a folder, for example fp16.
        scaling_factor: Scaling factor of the latents, for a single file that does not say it.
        shift_factor: Shift factor of the latents, likewise.
        norm_num_groups: Groups of every GroupNorm, likewise; 32 if not given.
    """
    from latentcodec.vae.inspection import format_description, inspect_source

    options: dict[str, Any] = {
        "variant": variant,
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
        "norm_num_groups": norm_num_groups,
    }
    description = inspect_source(vae, **options)
    if ranges or images is not None:
        from latentcodec.vae.loading import load_vae
        from latentcodec.vae.ranges import measure_ranges, probe_images

        probe = probe_images("procedural") if images is None else probe_images(images, count=8)
        if description["scaling"]["scaling_factor"] is None:
            options["scaling_factor"] = 1.0  # on which the activations do not depend
        description["ranges"] = measure_ranges(load_vae(vae, **options), probe).to_json()
    print(dumps(description, indent=2, ensure_ascii=False) if json else format_description(description))
