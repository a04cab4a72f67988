"""`latentcodec verify`: whether a store of latents is whole, and what its VAE makes of its images."""

from json import dumps
from typing import TYPE_CHECKING, Any

from latentcodec.commands import CommandError

if TYPE_CHECKING:
    from latentcodec.store.files import StoreFolder
    from latentcodec.store.manifest import Manifest
    from latentcodec.store.reencode import ReencodedRow


def verify_store(
    store: str,
    vae: str | None = None,
    source: str | None = None,
    rows: int = 16,
    seed: int = 0,
    device: str | None = None,
    column: str | None = None,
    json: bool = False,
    variant: str | None = None,
) -> None:
    """Check a store of latents: every byte against its hash, and with --vae some rows against their images.

    Looks at the hashes of all objects, at the manifest against the records of its parts, at the index of each shard against
    its tensors, at every value (none may be NaN or infinite), and at every image of the source: each must be in one row, or
    be listed as skipped. With --vae, random rows are encoded once more, with the type and the preprocessing that the store
    was made with, and compared. Whatever is wrong is listed, and makes the exit code 1.

    Example:
        latentcodec verify latents
        latentcodec verify latents --vae out/vae --source photos --rows 100

    Args:
        store: Folder or URL of the store.
        vae: The VAE that it was made with: a diffusers folder, a file of weights or a name on the Hugging Face hub.
        source: The images that it was made of. If not given, what the store says, in the current folder.
        rows: How many rows to encode once more.
        seed: Which ones: others for another number.
        device: cpu or cuda, for encoding. A GPU if there is one, if not given.
        column: The column with the images of parquet files, where it is not clear.
        json: Print one JSON object instead of text.
        variant: Read the weights of this variant of a folder, for example fp16.
    """
    import time

    from tqdm import tqdm

    from latentcodec.store.files import StoreFolder
    from latentcodec.store.manifest import MANIFEST_NAME
    from latentcodec.store.verify import verify

    if rows < 1:
        raise CommandError(f"--rows: expected at least 1, found {rows}")
    folder = StoreFolder(store)
    began = time.monotonic()
    with tqdm(unit="B", unit_scale=True, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        verified = verify(folder, progress=show)
    seconds = time.monotonic() - began
    problems = [(problem.object, problem.found) for problem in verified.problems]
    encoded: list[ReencodedRow] = []
    if vae is not None and not problems:
        encoded = _reencode(folder, vae, source, rows, seed, device=device, column=column, variant=variant)
        problems += [(f"row {row.row}, {row.id}", row.problem) for row in encoded if row.problem is not None]
    report: dict[str, Any] = {
        **_contents(verified.manifest),
        "problems": [{"object": name, "found": found} for name, found in problems],
        "leftovers": list(verified.leftovers),
        "encoded_again": _encoded(encoded) if vae is not None and not verified.problems else None,
        "seconds": seconds,
    }
    print(dumps(report, indent=2, ensure_ascii=False) if json else _as_text(folder, report))
    if verified.problems:
        raise CommandError(
            f"{folder} is damaged: {len(problems)} found, listed above; fetch these objects again, or delete them, the records "
            f"of their parts and {MANIFEST_NAME}, and run `latentcodec precompute` again: it makes what is missing"
        )
    if problems:
        raise CommandError(
            f"{folder}: {len(problems)} of {len(encoded)} rows are not what this VAE makes of these images; if the images have "
            "changed, encode them into a new store"
        )


def _reencode(
    folder: "StoreFolder",
    vae: str,
    source: str | None,
    rows: int,
    seed: int,
    *,
    device: str | None,
    column: str | None,
    variant: str | None,
) -> "list[ReencodedRow]":
    import random

    from tqdm import tqdm

    from latentcodec.commands.codec import open_codec
    from latentcodec.images.sources import SourceError, open_source
    from latentcodec.store.dataset import LatentDataset
    from latentcodec.store.plan import require_listed
    from latentcodec.store.reencode import reencode

    dataset = LatentDataset(folder.url)
    settings = dataset.manifest.settings
    spec = settings.source if source is None else source
    try:
        images = require_listed(open_source(spec, **({} if column is None else {"column": column})), spec)
    except SourceError as error:
        if source is None:
            raise CommandError(f"{error}; the store was made of {spec}: say where that is with --source") from error
        raise
    # weights and moments do not depend on the scaling, which a single file need not say
    codec = open_codec(vae, settings.compute_dtype, device=device, variant=variant, scaling_factor=1.0)
    chosen = sorted(random.Random(seed).sample(range(len(dataset)), min(rows, len(dataset))))
    return list(tqdm(reencode(dataset, images, codec, chosen), total=len(chosen), unit="row", disable=None))


def _contents(manifest: "Manifest | None") -> dict[str, Any]:
    if manifest is None:
        return {"rows": None, "shards": None, "bytes": None, "fingerprint": None}
    return {
        "rows": manifest.rows,
        "shards": len(manifest.shards),
        "bytes": sum(entry.bytes for entry in manifest.shards),
        "fingerprint": manifest.settings.fingerprint,
    }


def _encoded(rows: "list[ReencodedRow]") -> dict[str, Any]:
    finite = [row.difference for row in rows if row.difference != float("inf")]
    return {
        "rows": len(rows),
        "equal": sum(row.equal for row in rows),
        "largest_difference": max(finite, default=None),
    }


def _as_text(folder: "StoreFolder", report: dict[str, Any]) -> str:
    lines = [f"{problem['object']}: {problem['found']}" for problem in report["problems"]]
    if report["rows"] is not None:
        lines.append(
            f"{folder}: {report['rows']:,} rows in {report['shards']:,} shards, {report['bytes'] / 2**20:,.1f} MiB, "
            f"read in {report['seconds']:.1f} s: {'' if report['problems'] else 'nothing is '}wrong"
        )
    if report["leftovers"]:
        lines.append(
            f"{len(report['leftovers'])} objects belong to no part of it, such as {report['leftovers'][0]}; they are left "
            "from interrupted runs and can be deleted"
        )
    encoded = report["encoded_again"]
    if encoded is not None:
        lines.append(
            f"{encoded['rows']} rows encoded again: {encoded['equal']} bit for bit the same"
            + (f", the others off by up to {encoded['largest_difference']:.2g} standard deviations"
               if encoded["largest_difference"] else "")
        )  # fmt: skip
    return "\n".join(lines)
