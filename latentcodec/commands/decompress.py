"""`latentcodec decompress`: .lvc files to PNG images."""

from typing import Literal


def decompress_files(
    files: list[str],
    *,
    output: str,
    vae: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    max_pixels: int = 89_478_485,
    json: bool = False,
    norm_num_groups: int | None = None,
) -> None:
    """Decompress .lvc files to PNG images.

    Needs the VAE that they were made with, and its bitstream model; another is refused. Files that cannot be used are
    skipped, listed, and make the exit code 1.

    Example:
        latentcodec decompress small -o decoded --vae out/vae

    Args:
        files: .lvc files, and folders to search for them.
        output: Folder to write to. photo.jpg.lvc becomes photo.jpg.png.
        vae: A VAE that `latentcodec prepare-bitstream` has prepared. That of the package if not given.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        max_pixels: Refuse larger images.
        json: Print one JSON object instead of text.
        norm_num_groups: Groups of every GroupNorm, for a single file that does not say it; 32 if not given.
    """
    from pathlib import Path

    from tqdm import tqdm

    from latentcodec.bitstream.container import Limits
    from latentcodec.bitstream.errors import BitstreamError
    from latentcodec.commands.codec import open_image_codec
    from latentcodec.commands.latents import find_files
    from latentcodec.commands.report import Row, as_json, require_none
    from latentcodec.images.save import save_png
    from latentcodec.images.skipped import SkippedImages

    found = find_files(files, ".lvc", "write some with `latentcodec compress`")
    codec = open_image_codec(vae, dtype, device=device, norm_num_groups=norm_num_groups)
    rows: list[Row] = []
    skipped = SkippedImages()
    for name, path in tqdm(found, unit="image", disable=None):
        try:
            pixels = codec.decompress(path.read_bytes(), Limits(pixels=max_pixels))
        except BitstreamError as error:
            skipped.add(name, str(error))
            continue
        target = Path(output) / f"{name.removesuffix('.lvc')}.png"
        save_png(pixels, target)
        rows.append({"image": name, "file": str(target), "size": list(pixels.shape[:2])})
    if json:
        print(as_json(codec.codec, rows, skipped))
    else:
        print(f"decompressed {len(rows)} images to {output}")
    require_none(skipped, len(found))
