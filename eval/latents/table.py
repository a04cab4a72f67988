"""Several VAEs side by side: a line for each figure, a column for each VAE."""

from collections.abc import Sequence
from typing import Any

from eval.latents.record import Number, Row

Line = tuple[str, tuple[str, ...], str]
"""What a line is called, the keys that lead to its figure in a row, and its format."""

# fmt: off
_FIGURES: tuple[tuple[str, list[Line]], ...] = (
    ("scale", [
        ("mean of all latents",                           ("mean",),                                       ".3f"),
        ("standard deviation of all latents",             ("std",),                                        ".3f"),
        ("scaling factor that this asks for",             ("measured_scaling_factor",),                    ".4f"),
        ("mean once scaled by the config (ideal: 0)",     ("scaled_mean",),                                ".3f"),
        ("deviation once scaled by it (ideal: 1)",        ("scaled_std",),                                 ".3f"),
        ("excess kurtosis, mean of channels (normal: 0)", ("kurtosis",),                                   ".2f"),
    ]),
    ("channels", [
        ("channels",                                      ("channels",),                                   "d"),
        ("active channels (variance above 0.01)",         ("active_channels",),                            "d"),
        ("effective channels, by correlation",            ("channel_correlation", "effective_channels"),   ".2f"),
        ("correlation of two channels, mean",             ("channel_correlation", "mean_absolute"),        ".3f"),
        ("correlation of two channels, largest",          ("channel_correlation", "largest"),              ".3f"),
        ("bits a position told twice",                    ("channel_correlation", "shared_bits"),          ".2f"),
    ]),
    ("posterior", [
        ("KL, nats an image",                             ("kl_nats",),                                    ",.0f"),
        ("KL, bits an image",                             ("kl_bits",),                                    ",.0f"),
        ("KL, bits a pixel",                              ("kl_bits_per_pixel",),                          ".3f"),
        ("posterior deviation / spread of latents",       ("posterior_share",),                            ".2e"),
    ]),
    ("frequencies of the latents", [
        ("slope of the power spectrum (white noise: 0)",  ("spectral_slope",),                             ".2f"),
        ("share of high frequencies (white noise: 80 %)", ("high_frequency_share",),                       ".1%"),
    ]),
)
# fmt: on


def figures(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Titles of groups, in each the labels of its lines, and for each line a figure of every VAE as text."""
    groups = [*_FIGURES, *_decoded_groups(rows[0])]
    return [
        (title, [(label, [shown(_figure(row, keys), form) for row in rows]) for label, keys, form in lines])
        for title, lines in groups
        if lines
    ]


def comparison(rows: Sequence[Row]) -> str:
    """The table of all figures over all channels."""
    groups = figures(rows)
    width = max(len(label) for _, lines in groups for label, _ in lines) + 4
    columns = [max(12, len(row["vae"]) + 2) for row in rows]
    text = [" " * width + "".join(f"{row['vae']:>{column}}" for row, column in zip(rows, columns, strict=True))]
    for title, lines in groups:
        text += ["", title]
        for label, values in lines:
            cells = [f"{value:>{column}}" for value, column in zip(values, columns, strict=True)]
            text.append(f"  {label:{width - 2}}" + "".join(cells))
    return "\n".join(text)


def _figure(row: Row, keys: Sequence[str]) -> Number:
    value: Any = row
    for key in keys:
        value = value[key]
    return value


def _decoded_groups(row: Row) -> list[tuple[str, list[Line]]]:
    """Lines of the second pass, by the transforms and sizes that it was run with."""
    latent = [(name, ("equivariance", name, "latent_error"), ".3f") for name in row["equivariance"]]
    paths = {f"noise of {size} deviations": ("noise", size) for size in row["noise"]}
    paths |= {f"frequencies above {float(keep):.0%} of Nyquist cut": ("cut", keep) for keep in row["cut"]}
    turned = {f"latents instead of image: {name}": ("equivariance", name, "decoded") for name in row["equivariance"]}
    plain = [("undisturbed: PSNR in dB", (*path, "undisturbed_psnr"), ".2f") for path in paths.values()]
    losses, changes = (
        [(label, (*path, key), ".2f") for label, path in (paths | turned).items()] for key in ("loss", "change")
    )
    return [
        ("equivariance error of the latents, in units of their spread", latent),
        ("PSNR of decoded pictures lost by disturbing the latents, in dB", [*plain[:1], *losses]),
        ("change of decoded pictures by it, root mean square in levels of 255", changes),
    ]


_COLUMNS = (
    ("mean", "mean", ".3f"),
    ("std", "std", ".3f"),
    ("skewness", "skew", ".2f"),
    ("kurtosis", "kurtosis", ".2f"),
    ("kl_nats", "KL nats", ",.0f"),
    ("posterior_share", "post/std", ".1e"),
    ("spectral_slope", "slope", ".2f"),
    ("high_frequency_share", "high", ".1%"),
)


def channel_table(row: Row) -> str:
    """One VAE's channels."""
    lines = [row["vae"], "  channel  " + "".join(f"{title:>10}" for _, title, _ in _COLUMNS)]
    for index, channel in enumerate(row["per_channel"]):
        cells = "".join(f"{shown(channel[key], form):>10}" for key, _, form in _COLUMNS)
        lines.append(f"  {index:<9}{cells}" + ("" if channel["active"] else "  not active"))
    return "\n".join(lines)


def shown(value: Number, form: str) -> str:
    """A figure of the table; "-" where it is undefined."""
    if value is None:
        return "-"
    exact = float(value) if isinstance(value, str) else value
    return format(exact, form if form == "d" else f"z{form}")  # z: never "-0.00"
