"""The model card of a VAE: README.md of a repository on the hub, with what can be told without measuring."""

from collections.abc import Mapping, Sequence
from typing import Any

from latentcodec.vae.cost import vae_cost

FRONT_MATTER = "---\nlibrary_name: diffusers\npipeline_tag: image-to-image\ntags: [autoencoder, vae, latentcodec]\n---"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(config: Mapping[str, Any]) -> str:
    """Heading and first sentences: latents, widths, size and cost."""
    widths, channels, cost = config["block_out_channels"], config["latent_channels"], vae_cost(config, 256, 256)
    factor = 2 ** (len(widths) - 1)
    return (
        f"# f{factor}d{channels} KL autoencoder\n\n"
        f"{channels} latent channels, {factor} times smaller on each side. Block widths {', '.join(map(str, widths))}; "
        f"{cost.parameters / 1e6:.2f} M parameters, {cost.encoder_parameters / 1e6:.2f} M of them the encoder; "
        f"{cost.encode_gmac:.1f} GMAC to encode and {cost.decode_gmac:.1f} GMAC to decode 256x256."
    )


def usage(config: Mapping[str, Any], source: str) -> str:
    """Markdown that encodes and decodes with diffusers alone; `source` is a folder or a name on the hub."""
    scale, shift = config["scaling_factor"], config["shift_factor"]
    latents = f"(moments.mean - {shift:.6g}) * {scale:.6g}" if shift else f"moments.mean * {scale:.6g}"
    if config["latents_mean"] is not None and config["latents_std"] is not None:
        latents = "(moments.mean - mean) / std * vae.config.scaling_factor"
    lines = [
        "import torch",
        "from diffusers import AutoencoderKL",
        "",
        f'vae = AutoencoderKL.from_pretrained("{source}")',
        "images = torch.rand(1, 3, 256, 256) * 2 - 1             # float32 in [-1, 1]",
        "with torch.no_grad():",
        "    moments = vae.encode(images).latent_dist",
        f"    latents = {latents}        # standard deviation 1, for a diffusion model",
        "    again = vae.decode(moments.mean).sample",
    ]
    if "std" in latents:
        lines.insert(
            4,
            "mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))",
        )
    return "\n".join(["```python", *lines, "```"])


def model_card(description: Mapping[str, Any], source: str) -> str:
    """README.md from what `inspect_source` tells of a VAE; `source` is where others will find it."""
    scaling = description["scaling"]
    sections = [
        FRONT_MATTER,
        summary(description["geometry"] | scaling),
        usage(scaling, source),
        "## Latents",
        table(["field", "value"], [[name, str(value)] for name, value in scaling.items()]),
        "## Where it loads",
        table(["program", "loads"], [[name, loads(reason)] for name, reason in description["loads_in"].items()]),
        f"Weights fingerprint `{description['fingerprint']}`.",
    ]
    return "\n\n".join(sections) + "\n"


def loads(reason: str | None) -> str:
    """A cell of the table of programs, from an entry of `ecosystems`."""
    return "yes" if reason is None else f"no: {reason}"
