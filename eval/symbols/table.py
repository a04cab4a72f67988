"""The figures as text."""

from collections.abc import Iterator, Sequence

from eval.symbols.measure import METHODS, Row

_CELL = 17
_MILLION = 1e6


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Lines: bits per pixel by each method, what the context model saves against it, and speeds."""
    yield from (f"{method}: {meaning}" for method, meaning in METHODS.items())
    yield "tables of the first three cost nothing here, in their favour; the others are real bytes, headers counted"
    yield ""
    yield "bits per pixel, mean over images; (what the context model saves against it, over all images)"
    yield f"{'quality':>8}" + "".join(f"{method:>{_CELL}}" for method in METHODS)
    for row in rows:
        cells = [_cell(row, method) for method in METHODS]
        yield f"{row.quality:8g}" + "".join(f"{cell:>{_CELL}}" for cell in cells)
    yield ""
    heads = ("over ideal", "encode Msym/s", "add Msym/s", "decode Msym/s", "network share")
    yield "entropy coder alone, contexts known; network share of the time to compress"
    yield f"{'quality':>8}" + "".join(f"{head:>{_CELL}}" for head in heads)
    for row in rows:
        speeds = (row.encode_symbols_per_second, row.add_symbols_per_second, row.decode_symbols_per_second)
        cells = [
            f"{row.coder_overhead:+.2%}",
            *(f"{speed / _MILLION:.2f}" for speed in speeds),
            f"{row.network_share['median']:.1%}",
        ]
        yield f"{row.quality:8g}" + "".join(f"{cell:>{_CELL}}" for cell in cells)


def _cell(row: Row, method: str) -> str:
    mean = f"{row.bpp[method]['mean']:.4f}"
    return mean if method == "context" else f"{mean} ({row.saved[method]:+.1%})"
