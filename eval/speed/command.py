"""`python -m eval speed`: the table and the JSON."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from eval.images import ImageSet, source_name
from eval.results import write_results
from eval.speed import table
from eval.speed.matrix import matrix_peak
from eval.speed.rows import ROWS, rows_for
from eval.speed.sides import compare
from eval.speed.workloads import Task, network
from latentcodec.arguments import Parser
from latentcodec.precision import fastest_dtype


def write_squares(source: str, folder: Path, side: int, count: int) -> tuple[Path, ...]:
    """The first `count` images of a source as PNG files, scaled to `side` at their short side and cropped; repeated where
    the source has fewer.

    Raises:
        SourceError, BrokenImageError: the source or an image cannot be read.
    """
    images = [image.pixels for image in ImageSet(source, limit=count, size=side)]
    paths = []
    for index in range(count):
        paths.append(folder / f"{index:05d}.png")
        Image.fromarray(images[index % len(images)]).save(paths[-1])
    return tuple(paths)


def measure(options: Any, device: torch.device, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
    """One record for each row, size and type; `peaks` gets the matrix rates."""
    config = network(options.vae).config
    with tempfile.TemporaryDirectory() as scratch:
        for side in options.sizes:
            folder = Path(scratch) / str(side)
            folder.mkdir()
            files = write_squares(options.data, folder, side, options.images)
            for name in options.dtypes:
                dtype = getattr(torch, name)
                if name not in peaks:
                    peaks[name] = matrix_peak(device, dtype)
                for row in options.rows:
                    task = Task(options.vae, files, side, str(device), dtype, options.compile)
                    found = compare(*ROWS[row].sides(task), rounds=options.rounds, device=device)
                    record = table.record(
                        row, side, dtype, len(files), found, ROWS[row].operations(config, side), peaks[name],
                        ROWS[row].parts(task, options.rounds),
                    )  # fmt: skip
                    print(table.line(record), flush=True)
                    yield record


def main(arguments: list[str]) -> None:
    """Measure, print a table and, with --json FILE, save it."""
    parser = Parser(prog="eval speed", description="Speed against the plain way, both in turns; medians and quartiles.")
    parser.add_argument("--vae", type=str, default="sd-f8d4", help="a preset (random weights), or any VAE that loads")
    parser.add_argument("--data", type=str, default="procedural", help="source of the images")
    parser.add_argument("--rows", type=list[str] | None, default=None, help=f"which of {', '.join(ROWS)}")
    parser.add_argument("--sizes", type=list[int], default=[512], help="sides in pixels")
    parser.add_argument("--images", type=int, default=4, help="images in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtypes", type=list[str] | None, default=None, help="of our side; the machine's fastest and float32"
    )
    parser.add_argument("--compile", type=bool, default=False, help="torch.compile on our side")
    parser.add_argument("--json", type=str | None, default=None, help="file to write")
    options = parser.parse(arguments)
    device = torch.device(options.device)
    if options.dtypes is None:
        options.dtypes = list(
            dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in (fastest_dtype(device), torch.float32))
        )
    if options.rows is None:
        options.rows = rows_for(options.vae)
    if unknown := [row for row in options.rows if row not in ROWS]:
        parser.error(f"--rows: expected {', '.join(ROWS)}, found {', '.join(unknown)}")
    print(table.HEADINGS)
    peaks: dict[str, float] = {}
    rows = list(measure(options, device, peaks))
    print(table.machine(device, peaks))
    if options.json is not None:
        settings = {key: value for key, value in options.as_dict().items() if key not in ("json", "vae", "data")}
        settings |= {"vae": Path(options.vae).name, "data": source_name(options.data), "matrix_peak": peaks}
        write_results(options.json, "speed", settings, rows, device)
