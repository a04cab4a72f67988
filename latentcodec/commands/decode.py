"""`latentcodec decode`: files of latents to PNG images."""

from typing import Literal


def decode_latents(
    latents: list[str],
    *,
    output: str,
    vae: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    tiling: Literal["auto", "never", "exact", "fast"] = "auto",
    json: bool = False,
    variant: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
) -> None:
    """Decode files that `latentcodec encode` wrote to PNG images of the original size.

    Latents of another VAE are refused: their fingerprint is compared with that of the VAE given here. Files that cannot
    be used are skipped, listed, and make the exit code 1.

    Example:
        latentcodec decode latents -o decoded --vae out/vae

    Args:
        latents: Files of latents, and folders to search for them.
        output: Folder to write to. photo.jpg.safetensors becomes photo.jpg.png.
        vae: The VAE that encoded them: a diffusers folder, a file of weights or a name on the Hugging Face hub. That of the
            package if not given.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        tiling: When to work in tiles. auto is where memory asks for it; exact and fast say how.
        json: Print one JSON object instead of text.
        variant: Read the weights of this variant of a folder, for example fp16.
        scaling_factor: Scaling factor of the VAE, for a single file that does not say it; latents bring their own.
        shift_factor: Shift factor of the VAE, likewise.
    """
    from pathlib import Path

    from tqdm import tqdm

    from latentcodec.commands.codec import open_codec
    from latentcodec.commands.latents import find_files, raw_of
    from latentcodec.commands.report import Row, as_json, require_none, tiled_notes
    from latentcodec.images.save import save_png
    from latentcodec.images.skipped import SkippedImages
    from latentcodec.latent_file import LatentFileError, read_latent_file
    from latentcodec.memory import freed_memory_kept

    files = find_files(latents, ".safetensors", "write some with `latentcodec encode`")
    scale = {"scaling_factor": scaling_factor, "shift_factor": shift_factor}
    codec = open_codec(vae, dtype, device=device, tiling=tiling, variant=variant, **scale)
    rows: list[Row] = []
    skipped = SkippedImages()
    with freed_memory_kept():
        for name, path in tqdm(files, unit="image", disable=None):
            try:
                raw = raw_of(read_latent_file(path), codec.fingerprint)
            except LatentFileError as error:
                skipped.add(name, str(error))
                continue
            picture = codec.decode(raw)
            target = Path(output) / f"{name.removesuffix('.safetensors')}.png"
            save_png(picture.to_uint8()[0], target)
            rows.append({"image": name, "file": str(target), "size": list(raw.sizes[0]), "method": picture.methods[0]})
    if json:
        print(as_json(codec, rows, skipped))
    else:
        print(f"decoded {len(rows)} images to {output}")
        print(*tiled_notes(rows), sep="\n", end="")
    require_none(skipped, len(files))
