"""`latentcodec prepare-bitstream`: make a VAE ready to compress images to bytes."""

from typing import Literal


def prepare_bitstream_command(
    vae: str,
    *,
    images: str,
    count: int = 256,
    updates: int = 1000,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    norm_num_groups: int | None = None,
) -> None:
    """Measure a VAE's latents and its decoder, and train the model that files are coded with.

    Writes bitstream.safetensors and bitstream.json into the VAE's folder, or beside its file. `latentcodec compress` and
    `decompress` need them. Files made with another model than the one at hand are refused, so keep it with the VAE.

    Example:
        latentcodec prepare-bitstream out/vae --images photos

    Args:
        vae: A diffusers folder or a file of weights.
        images: Photographs, as a folder or another source; none that the codec is measured on later.
        count: How many of them are used, evenly over the source.
        updates: Of each network of the context model. More, and more images, make smaller files.
        seed: Seed of everything random.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        norm_num_groups: Groups of every GroupNorm, for a single file that does not say it; 32 if not given.
    """
    from pathlib import Path

    from tqdm import tqdm

    from latentcodec.bitstream.model import model_files
    from latentcodec.bitstream.prepare import from_all_over, prepare_bitstream
    from latentcodec.commands import CommandError
    from latentcodec.commands.codec import open_codec
    from latentcodec.images.decode import BrokenImageError
    from latentcodec.images.sources import ImageSource, open_source

    if not Path(vae).exists():
        raise CommandError(f"{vae}: expected a folder or file on this machine, where the model is written to")
    source = open_source(images)
    if not isinstance(source, ImageSource):
        raise CommandError(f"{images}: expected a source with a length, such as a folder")
    codec = open_codec(vae, dtype, device=device, scaling_factor=1.0, norm_num_groups=norm_num_groups)
    pixels = []
    for index in tqdm(from_all_over(len(source), count), unit="image", desc="reading", disable=None):
        try:
            pixels.append(source[index].decode())
        except BrokenImageError as error:
            print(f"note: {error.id} is left out: {error.reason}")
    with tqdm(total=None, unit="part", desc="training", disable=None) as bar:

        def progress(done: int, parts: int) -> None:
            bar.total = parts
            bar.update(done - bar.n)

        model = prepare_bitstream(codec, pixels, seed=seed, updates=updates, progress=progress)
    model.save(Path(vae))
    print(
        f"wrote {' and '.join(map(str, model_files(Path(vae))))}; model {model.hash()[:16]}, from {len(pixels)} images"
    )
