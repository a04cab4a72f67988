"""`latentcodec reconstruct`: what a VAE makes of images, beside the originals."""

from typing import Literal


def reconstruct_images(
    images: list[str],
    *,
    output: str,
    vae: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    tiling: Literal["auto", "never", "exact", "fast"] = "auto",
    json: bool = False,
    variant: str | None = None,
    norm_num_groups: int | None = None,
) -> None:
    """Encode and decode images, and show what the VAE changed: pictures side by side, and PSNR.

    Writes photo.jpg.png, the reconstruction, and photo.jpg.pair.png, the original on the left and the reconstruction on
    the right. PSNR is 10 log10(255^2 / mean squared error) in dB, over the 8-bit RGB values. `python -m eval` has other
    metrics. Broken images are skipped, listed, and make the exit code 1.

    Example:
        latentcodec reconstruct photos -o seen --vae out/vae

    Args:
        images: Image files, and folders to search for them.
        output: Folder to write to.
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub. That of the package if not given.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        tiling: When to work in tiles. auto is where memory asks for it; exact and fast say how.
        json: Print one JSON object instead of text.
        variant: Read the weights of this variant of a folder, for example fp16.
        norm_num_groups: Groups of every GroupNorm, for a single file that does not say it; 32 if not given.
    """
    from pathlib import Path

    import numpy as np
    from tqdm import tqdm

    from latentcodec.commands.codec import open_codec
    from latentcodec.commands.images import find_images, psnr, read_chunks
    from latentcodec.commands.report import Row, as_json, require_none, tiled_notes
    from latentcodec.images.save import save_png
    from latentcodec.images.skipped import SkippedImages
    from latentcodec.memory import freed_memory_kept

    readers = find_images(images)
    # Scaling plays no part on the way there and back, so a file that does not say it is as good.
    options = {"variant": variant, "scaling_factor": 1.0, "norm_num_groups": norm_num_groups}
    codec = open_codec(vae, dtype, device=device, tiling=tiling, **options)
    rows: list[Row] = []
    skipped = SkippedImages()
    with freed_memory_kept(), tqdm(total=len(readers), unit="image", disable=None) as progress:
        for chunk in read_chunks(readers, skipped):
            pictures = codec.reconstruct([image for _, image in chunk])
            for (name, original), pixels, method in zip(chunk, pictures.to_uint8(), pictures.methods, strict=True):
                save_png(pixels, Path(output) / f"{name}.png")
                save_png(np.concatenate([original, pixels], axis=1), Path(output) / f"{name}.pair.png")
                size = list(original.shape[:2])
                rows.append({"image": name, "size": size, "psnr": psnr(original, pixels), "method": method})
            progress.update(len(rows) + len(skipped) - progress.n)
    finite = [row["psnr"] for row in rows if row["psnr"] is not None]
    mean = float(np.mean(finite)) if finite else None
    if json:
        print(as_json(codec, rows, skipped, mean_psnr=mean))
    else:
        for row in rows:
            decibels = "equal" if row["psnr"] is None else f"{row['psnr']:6.2f} dB"
            print(f"{decibels:>9}  {row['image']}  {row['size'][1]} x {row['size'][0]}")
        print(*tiled_notes(rows), sep="\n", end="")
        if mean is not None:
            print(f"{mean:6.2f} dB  mean; pictures of {len(rows)} images are in {output}")
    require_none(skipped, len(readers))
