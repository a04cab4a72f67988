"""`latentcodec encode`: image files to files of latents."""

from functools import partial
from typing import Literal


def encode_images(
    images: list[str],
    *,
    output: str,
    vae: str | None = None,
    moments: bool = False,
    sample: bool = False,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    tiling: Literal["auto", "never", "exact", "fast"] = "auto",
    json: bool = False,
    variant: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
) -> None:
    """Encode images of any sizes to latents, one .safetensors file each.

    A file is named after its image, extension and all: photo.jpg.safetensors. It holds `latents`, scaled for a diffusion
    model, or with --moments the raw `mean` and `logvar`; in its header are the VAE's fingerprint, the scaling and the
    image's size, which `latentcodec decode` checks and needs. Broken images are skipped, listed, and make the exit code 1.

    Example:
        latentcodec encode photos -o latents --vae out/vae
        latentcodec encode a.jpg b.png -o latents --vae out/vae --moments --dtype float32

    Args:
        images: Image files, and folders to search for them.
        output: Folder to write to.
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub. That of the package if not given.
        moments: Store the posterior instead of latents.
        sample: Store a draw from the posterior instead of its mean.
        seed: Seed of the draws. Image i of those that can be read is drawn with this plus i.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        tiling: When to work in tiles. auto is where memory asks for it; exact and fast say how.
        json: Print one JSON object instead of text.
        variant: Read the weights of this variant of a folder, for example fp16.
        scaling_factor: Scaling factor of the latents, for a single file that does not say it.
        shift_factor: Shift factor of the latents, likewise.
    """
    from pathlib import Path

    from tqdm import tqdm

    from latentcodec.commands import CommandError
    from latentcodec.commands.codec import open_codec
    from latentcodec.commands.images import find_images, read_chunks
    from latentcodec.commands.report import Row, as_json, require_none, tiled_notes
    from latentcodec.images.skipped import SkippedImages
    from latentcodec.latent_file import LatentFile, write_latent_file
    from latentcodec.memory import freed_memory_kept

    if moments and sample:
        raise CommandError("--moments and --sample: choose one; moments hold the whole posterior, to draw from later")
    readers = find_images(images)
    scale = {"scaling_factor": scaling_factor, "shift_factor": shift_factor}
    codec = open_codec(vae, dtype, device=device, tiling=tiling, variant=variant, **scale)
    rows: list[Row] = []
    skipped = SkippedImages()
    with freed_memory_kept(), tqdm(total=len(readers), unit="image", disable=None) as progress:
        for chunk in read_chunks(readers, skipped):
            pixels = [image for _, image in chunk]
            encode = codec.encode_moments if moments else partial(codec.encode, sample=sample, seed=seed + len(rows))
            encoded = encode(pixels)
            for index, (name, _) in enumerate(chunk):
                one = encoded[index : index + 1]
                path = Path(output) / f"{name}.safetensors"
                write_latent_file(LatentFile(one, codec.fingerprint, codec.scaling, name), path)
                rows.append({"image": name, "file": str(path), "size": list(one.sizes[0]), "method": one.methods[0]})
            progress.update(len(rows) + len(skipped) - progress.n)
    if json:
        print(as_json(codec, rows, skipped))
    else:
        print(f"wrote the {'moments' if moments else 'latents'} of {len(rows)} images to {output}")
        print(*tiled_notes(rows), sep="\n", end="")
    require_none(skipped, len(readers))
