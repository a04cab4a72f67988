"""Several VAEs side by side: a line for each figure, a column for each VAE."""

from collections.abc import Callable, Sequence
from typing import Any

from eval.latents.record import Number, Row

Line = tuple[str, Callable[[Row], Any], str]
"""What a line is called, how its figure is found in a row, and its format."""

_FIGURES: tuple[tuple[str, tuple[Line, ...]], ...] = (
    (
        "scale",
        (
            ("mean of all latents", lambda row: row["mean"], ".3f"),
            ("standard deviation of all latents", lambda row: row["std"], ".3f"),
            ("scaling factor that this asks for", lambda row: row["measured_scaling_factor"], ".4f"),
            ("scaling factor in the config", lambda row: row["scaling_factor"], ".4f"),
            ("excess kurtosis, mean of channels (normal: 0)", lambda row: row["kurtosis"], ".2f"),
        ),
    ),
    (
        "channels",
        (
            ("channels", lambda row: row["channels"], "d"),
            ("active channels (variance above 0.01)", lambda row: row["active_channels"], "d"),
            ("effective channels, by correlation", lambda row: row["channel_correlation"]["effective_channels"], ".2f"),
            ("correlation of two channels, mean", lambda row: row["channel_correlation"]["mean_absolute"], ".3f"),
            ("correlation of two channels, largest", lambda row: row["channel_correlation"]["largest"], ".3f"),
            ("bits a position told twice", lambda row: row["channel_correlation"]["shared_bits"], ".2f"),
        ),
    ),
    (
        "posterior",
        (
            ("KL, nats an image", lambda row: row["kl_nats"], ",.0f"),
            ("KL, bits an image", lambda row: row["kl_bits"], ",.0f"),
            ("KL, bits a pixel", lambda row: row["kl_bits_per_pixel"], ".3f"),
            ("posterior deviation / spread of latents", lambda row: row["posterior_share"], ".2e"),
        ),
    ),
    (
        "frequencies of the latents",
        (
            ("slope of the power spectrum (white noise: 0)", lambda row: row["spectral_slope"], ".2f"),
            ("share of high frequencies (white noise: 80 %)", lambda row: row["high_frequency_share"], ".1%"),
        ),
    ),
)


def comparison(rows: Sequence[Row]) -> str:
    """The table of all figures over all channels."""
    groups = [*_FIGURES, *_decoded_groups(rows[0])]
    width = max(len(label) for _, lines in groups for label, _, _ in lines) + 4
    columns = [max(12, len(row["vae"]) + 2) for row in rows]
    text = [" " * width + "".join(f"{row['vae']:>{column}}" for row, column in zip(rows, columns, strict=True))]
    for title, lines in groups:
        text += ["", title] if lines else []
        for label, value, form in lines:
            cells = [f"{shown(value(row), form):>{column}}" for row, column in zip(rows, columns, strict=True)]
            text.append(f"  {label:{width - 2}}" + "".join(cells))
    return "\n".join(text)


def _decoded_groups(row: Row) -> list[tuple[str, list[Line]]]:
    """Lines of the second pass, by the transforms and sizes that it was run with."""
    latent: list[Line] = [(name, _finder("equivariance", name, "latent_error"), ".3f") for name in row["equivariance"]]
    paths = {f"noise of {size} deviations": ("noise", size) for size in row["noise"]}
    paths |= {f"frequencies above {float(keep):.0%} of Nyquist cut": ("cut", keep) for keep in row["cut"]}
    plain: list[Line] = [
        ("undisturbed: PSNR in dB", _finder(*path, "undisturbed_psnr"), ".2f") for path in paths.values()
    ]
    turned = {f"latents instead of image: {name}": ("equivariance", name, "decoded") for name in row["equivariance"]}
    losses, changes = (
        [(label, _finder(*path, key), ".2f") for label, path in (paths | turned).items()] for key in ("loss", "change")
    )
    return [
        ("equivariance error of the latents, in units of their spread", latent),
        ("PSNR of decoded pictures lost by disturbing the latents, in dB", [*plain[:1], *losses]),
        ("change of decoded pictures by it, root mean square in levels of 255", changes),
    ]


def _finder(*path: str) -> Callable[[Row], Any]:
    def find(row: Row) -> Any:
        value: Any = row
        for key in path:
            value = value[key]
        return value

    return find


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
    lines = [f"{row['vae']:<10} " + "".join(f"{title:>10}" for _, title, _ in _COLUMNS)]
    for index, channel in enumerate(row["per_channel"]):
        cells = "".join(f"{shown(channel[key], form):>10}" for key, _, form in _COLUMNS)
        lines.append(f"  {index:<9}{cells}" + ("" if channel["active"] else "  not active"))
    return "\n".join(lines)


def shown(value: Number, form: str) -> str:
    """A figure of the table; "-" where it is undefined."""
    if value is None:
        return "-"
    return format(
        float(value) if isinstance(value, str) else value, form if form == "d" else f"z{form}"
    )  # z: no "-0.00"
