"""Named architectures of the VAE, in one table. Importing it costs no torch; `build_vae` imports diffusers."""

import difflib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentcodec.vae.ecosystems import ecosystems

if TYPE_CHECKING:
    import diffusers


@dataclass(frozen=True)
class Preset:
    """One row of the table: what differs between the architectures. `config()` adds what they share."""

    name: str
    block_out_channels: tuple[int, ...]
    """Channels of each level, from the image's side. Every level but the last halves the sides: four levels are f8."""
    latent_channels: int
    norm_num_groups: int
    """Groups of every GroupNorm. One channel a group at the first level would be instance norm right before
    `conv_out`, which takes away the picture's own mean and contrast; so narrow networks have fewer groups."""
    quant_convs: bool
    """1x1 convolutions after the encoder and before the decoder, as in LDM and SD; SD 3 and FLUX.1 dropped them."""
    sample_size: int
    """Side in pixels of the tiles that diffusers cuts when tiling is on."""

    def config(self) -> dict[str, Any]:
        """The whole AutoencoderKL config. `scaling_factor` is 1.0 (raw latents) until `write_scaling` sets it:
        a network with random weights has no scale of its own, least of all that of Stable Diffusion."""
        return {
            "in_channels": 3,
            "out_channels": 3,
            **_block_types(len(self.block_out_channels)),
            "block_out_channels": self.block_out_channels,
            "layers_per_block": 2,
            "act_fn": "silu",
            "latent_channels": self.latent_channels,
            "norm_num_groups": self.norm_num_groups,
            "sample_size": self.sample_size,
            "scaling_factor": 1.0,
            "shift_factor": None,
            "latents_mean": None,
            "latents_std": None,
            "force_upcast": True,  # float16 is not known to be safe before someone has measured it
            "use_quant_conv": self.quant_convs,
            "use_post_quant_conv": self.quant_convs,
            "mid_block_add_attention": True,
        }

    @property
    def loads_in(self) -> tuple[str, ...]:
        """The programs that load this geometry, from `ecosystems`, which also says why the others do not."""
        return tuple(name for name, reason in ecosystems(self.config()).items() if reason is None)


def _block_types(levels: int) -> dict[str, tuple[str, ...]]:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }


# fmt: off
_ROWS = (
    #      name           widths                 latents  groups  quant convs  tile
    Preset("demo-f8d16",  ( 16,  64, 128, 128),  16,       4,     False,        512),
    Preset("tiny-f8d4",   ( 32,  64, 128, 128),   4,       8,     True,         512),
    Preset("tiny-f8d16",  ( 32,  64, 128, 128),  16,       8,     False,        512),
    Preset("small-f8d4",  ( 64, 128, 256, 256),   4,      16,     True,         512),
    Preset("small-f8d16", ( 64, 128, 256, 256),  16,      16,     False,        512),
    Preset("sd-f8d4",     (128, 256, 512, 512),   4,      32,     True,         512),
    Preset("flux-f8d16",  (128, 256, 512, 512),  16,      32,     False,       1024),
)
# fmt: on
PRESETS: dict[str, Preset] = {row.name: row for row in _ROWS}


def build_vae(preset: str, **overrides: Any) -> "diffusers.AutoencoderKL":
    """A new network with random weights from torch's global generator, in float32 on the CPU.

    Args:
        preset: a name in `PRESETS`.
        **overrides: fields of the AutoencoderKL config to change, e.g. `latent_channels=8`. Widths of another number
            of levels bring that number of plain blocks, unless block types are given too.

    Raises:
        ValueError: no such preset, no such field of the config, or norm groups that do not divide a width.
    """
    from diffusers import AutoencoderKL

    if preset not in PRESETS:
        raise ValueError(_unknown("preset", preset, list(PRESETS)))
    fields = [name for name in inspect.signature(AutoencoderKL.__init__).parameters if name != "self"]
    for name in overrides:
        if name not in fields:
            raise ValueError(_unknown("AutoencoderKL config field", name, fields))
    config = PRESETS[preset].config()
    if "block_out_channels" in overrides:
        config |= _block_types(len(overrides["block_out_channels"]))
    config |= overrides
    for width in config["block_out_channels"]:
        if width % config["norm_num_groups"]:
            raise ValueError(
                f"norm_num_groups is {config['norm_num_groups']}, which does not divide the width {width} of "
                f"block_out_channels {tuple(config['block_out_channels'])}; choose a common divisor of the widths"
            )
    return AutoencoderKL(**config)


def _unknown(what: str, name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"unknown {what} {name!r}; the nearest is {nearest!r}, and the choices are {', '.join(known)}"
