"""What a VAE is, for people and for programs: geometry, cost, scaling, identity, and who can load it. No torch."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentcodec.vae.blueprint import full_config, require_fit, tensor_shapes
from latentcodec.vae.cost import vae_cost
from latentcodec.vae.ecosystems import ecosystems
from latentcodec.vae.families import guess_family
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.presets import PRESETS
from latentcodec.vae.sources import named, read_source
from latentcodec.vae.stored import PICKLE_SUFFIXES, StoredTensor, WeightsFile, read_stored, require_finite

COST_SIDE = 512
"""Side in pixels of the square image whose multiply-accumulates are counted."""

_GEOMETRY = (
    "in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block", "norm_num_groups",
    "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention", "down_block_types", "up_block_types",
)  # fmt: skip
_SCALING = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast", "sample_size")


def inspect_source(source: str | Path, **options: Any) -> dict[str, Any]:
    """A description with JSON types of the VAE in a folder, file or repository, without building the network.

    Keys: `source`, `preset` (the one of the same geometry, or None), `family` (a guess from channels, scale and
    shift), `geometry`, `parameters`, `gmac` of one 512 x 512 image, `scaling`, `stored` (type -> number of tensors),
    `fingerprint`, and `loads_in`: for each program None where it loads the VAE, else why it does not. A scaling factor
    that a single file does not say is None.

    Args:
        source: as in `load_vae`.
        **options: variant, revision, scaling_factor, shift_factor and norm_num_groups of `load_vae`.

    Raises:
        VAELoadError: whatever would keep `load_vae` from loading it, but for an unknown scaling factor.
    """
    found = read_source(source, _read, require_scale=False, **options)
    with named(found.label):
        config = full_config(found.config)
        require_fit(found.state, tensor_shapes(config))
        require_finite(found.state)
        fingerprint = found.fingerprint or weights_fingerprint(found.state)
    stored = Counter(value.dtype for value in found.state.values())
    return {"source": found.label} | describe(config, fingerprint) | {"stored": dict(stored)}


def describe(config: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """What `inspect_source` tells of a full config and the fingerprint of weights that fit it."""
    cost = vae_cost(config, COST_SIDE, COST_SIDE)
    geometry = {name: _plain(config[name]) for name in _GEOMETRY}
    return {
        "preset": _same_geometry(geometry),
        "family": guess_family(config),
        "geometry": {"downsampling": 2 ** (len(config["block_out_channels"]) - 1)} | geometry,
        "parameters": {"encoder": cost.encoder_parameters, "decoder": cost.parameters - cost.encoder_parameters},
        "gmac": {"image": [COST_SIDE, COST_SIDE], "encode": cost.encode_gmac, "decode": cost.decode_gmac},
        "scaling": {name: _plain(config[name]) for name in _SCALING},
        "fingerprint": fingerprint,
        "loads_in": ecosystems(config),
    }


def format_description(description: Mapping[str, Any]) -> str:
    """`inspect_source`'s result as lines of text."""
    geometry, parameters, gmac = description["geometry"], description["parameters"], description["gmac"]
    scaling = description["scaling"]
    widths = " ".join(str(width) for width in geometry["block_out_channels"])
    quant_convs = {(True, True): "yes", (False, False): "no"}.get(
        (geometry["use_quant_conv"], geometry["use_post_quant_conv"]), "on one side only"
    )
    attention = "yes" if geometry["mid_block_add_attention"] else "no"
    channel_statistics = (
        "no" if scaling["latents_mean"] is None else f"{len(scaling['latents_mean'])} means and deviations"
    )
    scale = "not said by the file" if scaling["scaling_factor"] is None else f"{scaling['scaling_factor']:g}"
    scale_note = "  (raw latents, or not measured yet)" if scaling["scaling_factor"] == 1 else ""
    rows = [
        ("geometry", f"f{geometry['downsampling']}, {geometry['latent_channels']} latent channels"),
        ("like preset", description["preset"] or "none"),
        ("widths", f"{widths}, {geometry['layers_per_block']} residual blocks a level"),
        ("norm groups", str(geometry["norm_num_groups"])),
        ("mid attention", attention),
        ("quant convs", quant_convs),
        ("parameters", f"encoder {parameters['encoder'] / 1e6:.2f} M, decoder {parameters['decoder'] / 1e6:.2f} M"),
        ("cost", f"encode {gmac['encode']:.1f} GMAC, decode {gmac['decode']:.1f} GMAC for {COST_SIDE} x {COST_SIDE}"),
        ("scaling factor", f"{scale}{scale_note}"),
        ("shift factor", "none" if scaling["shift_factor"] is None else f"{scaling['shift_factor']:g}"),
        ("per channel", channel_statistics),
        (
            "family",
            f"{description['family']}  (a guess from channels and scaling)" if description["family"] else "unknown",
        ),
        ("tile side", str(scaling["sample_size"])),
        ("stored as", ", ".join(f"{count} tensors {dtype}" for dtype, count in description["stored"].items())),
        ("fingerprint", description["fingerprint"]),
        *_range_rows(description.get("ranges")),
    ]
    for program, reason in description["loads_in"].items():
        rows.append((program, "loads it" if reason is None else f"cannot load it: {reason}"))
    return "\n".join(f"{name:<15} {value}" for name, value in rows)


def _range_rows(ranges: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Lines about `ActivationRanges.to_json`."""
    if ranges is None:
        return []
    rows = [
        (f"{side} peak", f"{ranges[side]['value']:.4g} in {ranges[side]['module']}  (float32)")
        for side in ("encoder", "decoder")
    ]
    for name in ("float16", "bfloat16"):
        limit, levels = ranges[name]["limit"], ranges[name]["rms_levels"]
        range_of = f"{'within' if ranges[name]['fits'] else 'OUT OF'} its range of {limit:.6g}"
        picture = "no picture" if levels is None else f"pixels {levels:.3f} levels of 255 from float32's (rms)"
        rows.append((name, f"{range_of}; {picture}"))
    return rows


def _read(path: Path) -> WeightsFile[StoredTensor]:
    """`read_stored`, and pickles by way of torch, which alone can open them."""
    if path.suffix not in PICKLE_SUFFIXES:
        return read_stored(path)
    from latentcodec.vae.weights import as_stored, read_weights

    return WeightsFile({name: as_stored(value) for name, value in read_weights(path).state.items()}, {})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _same_geometry(geometry: dict[str, Any]) -> str | None:
    for name, preset in PRESETS.items():
        config = preset.config()
        if all(_plain(config[key]) == value for key, value in geometry.items()):
            return name
    return None
