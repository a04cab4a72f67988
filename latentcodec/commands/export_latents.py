"""`latentcodec export-latents`: a store of latents for other libraries."""

from json import dumps
from typing import Literal


def export_latents(
    store: str,
    out: str,
    *,
    to: str,
    values: Literal["stored", "latents"] = "stored",
    dtype: Literal["auto", "float32", "float16"] = "auto",
    json: bool = False,
) -> None:
    """Write a store of latents as webdataset tars, as parquet for `datasets`, or as .npz for numpy.

    One file for each shard, beside export.json, which says what the values are, how they are scaled and which VAE they are
    of. The same command again goes on where it was interrupted; several processes, started by `accelerate launch` or
    `torchrun`, share the files. Native resolution and mirrored images are exported too.

    Example:
        latentcodec export-latents latents for-webdataset --to webdataset
        latentcodec export-latents latents for-datasets --to parquet --values latents --dtype float16

    Args:
        store: Folder or URL of the store.
        out: Folder or URL to write to: new, or from an interrupted run.
        to: webdataset, parquet or npz.
        values: What the store holds, raw moments or means; or latents: the mean, scaled for a diffusion model.
        dtype: Type of the values. auto is float16 if the store holds that and it is kept, else float32.
        json: Print one JSON object instead of text.
    """
    from tqdm import tqdm

    from latentcodec.store.export import ExportOptions, export
    from latentcodec.store.files import StoreFolder
    from latentcodec.store.launch import Launch
    from latentcodec.store.manifest import read_manifest

    options, folder = ExportOptions(to, values, dtype), StoreFolder(store)
    launch = Launch.from_environment()
    with tqdm(total=read_manifest(folder).rows, unit="row", disable=None if launch.rank == 0 else True) as progress:
        description = export(folder, StoreFolder(out), options, launch=launch, progress=progress.update)
    if json:
        print(dumps(description, indent=2))
    else:
        print(
            f"{out}: {description['rows']:,} rows of {description['values']} in {description['dtype']}, "
            f"{description['files']:,} {to} files; {'scaled' if description['scaled'] else 'raw: export.json has the scaling'}"
        )
