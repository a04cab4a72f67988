"""`latentcodec compress`: images to .lvc files."""

from typing import Literal


def compress_images(
    images: list[str],
    *,
    output: str,
    vae: str | None = None,
    quality: float = 50.0,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    effort: int = 1,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    json: bool = False,
    norm_num_groups: int | None = None,
) -> None:
    """Compress images of any sizes to .lvc files.

    A file is named after its image: photo.jpg.lvc. Broken images are skipped, listed, and make the exit code 1.

    Example:
        latentcodec compress photos -o small --vae out/vae --quality 40
        latentcodec compress a.png -o small --vae out/vae --target-bytes 10000

    Args:
        images: Image files, and folders to search for them.
        output: Folder to write to.
        vae: A VAE that `latentcodec prepare-bitstream` has prepared. That of the package if not given.
        quality: 1 to 100; more makes larger files.
        target_bytes: Make the largest file of at most so many bytes instead.
        target_bpp: The same, in bits for each pixel.
        effort: 0 is fastest, 1 chooses what is stored by what it costs, 2 also takes gradient steps through the decoder.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        json: Print one JSON object instead of text.
        norm_num_groups: Groups of every GroupNorm, for a single file that does not say it; 32 if not given.
    """
    from pathlib import Path

    from tqdm import tqdm

    from latentcodec.aside import written_aside
    from latentcodec.bitstream.quality import quality_of_index
    from latentcodec.commands import CommandError
    from latentcodec.commands.codec import open_image_codec
    from latentcodec.commands.images import find_images, read_chunks
    from latentcodec.commands.report import Row, as_json, require_none
    from latentcodec.images.skipped import SkippedImages

    if target_bytes is not None and target_bpp is not None:
        raise CommandError("--target-bytes and --target-bpp: choose one")
    readers = find_images(images)
    codec = open_image_codec(vae, dtype, device=device, norm_num_groups=norm_num_groups)
    rows: list[Row] = []
    skipped = SkippedImages()
    with tqdm(total=len(readers), unit="image", disable=None) as progress:
        for chunk in read_chunks(readers, skipped):
            for name, pixels in chunk:
                budget = target_bytes if target_bpp is None else int(target_bpp * pixels[..., 0].size / 8)
                found = codec.compress(pixels, quality=quality, target_bytes=budget, effort=effort)
                path = Path(output) / f"{name}.lvc"
                with written_aside(path) as aside:
                    aside.write_bytes(found.data)
                rows.append(
                    {
                        "image": name, "file": str(path), "size": [found.height, found.width], "bytes": len(found.data),
                        "bpp": found.bits_per_pixel, "quality": quality_of_index(found.step_index),
                    }
                )  # fmt: skip
            progress.update(len(rows) + len(skipped) - progress.n)
    if json:
        print(as_json(codec.codec, rows, skipped))
    else:
        for row in rows:
            print(f"{row['bytes']:9} bytes {row['bpp']:7.4f} bpp  {row['file']}")
    require_none(skipped, len(readers))
