"""`latentcodec interpolate`: pictures on the way from one image to another."""

from typing import Literal


def interpolate_images(
    start: str,
    end: str,
    *,
    output: str,
    vae: str | None = None,
    frames: int = 9,
    method: Literal["linear", "spherical"] = "spherical",
    back: bool = False,
    milliseconds: int = 80,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    json: bool = False,
    variant: str | None = None,
) -> None:
    """Go from one image to another through latents, as a strip of pictures or an animation.

    The file's name says which: .png and .jpg are a strip, .gif and .webp are animated, a name without ending is a folder of
    numbered PNG files. The first picture is the reconstruction of the first image, the last that of the second, which is
    resized and cut to the size of the first.

    Example:
        latentcodec interpolate day.jpg night.jpg -o strip.png
        latentcodec interpolate day.jpg night.jpg -o there_and_back.webp --frames 24 --back

    Args:
        start: An image file.
        end: Another.
        output: File or folder to write.
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub. That of the package if not given.
        frames: How many pictures, both ends included.
        method: linear is the straight line through latents, spherical the arc, which keeps their norm and is more even.
        back: Go back again, so that an animation has no jump.
        milliseconds: For each picture of an animation.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        json: Print one JSON object instead of text.
        variant: Read the weights of this variant of a folder, for example fp16.
    """
    from json import dumps
    from pathlib import Path

    from latentcodec.commands import CommandError
    from latentcodec.commands.codec import open_codec
    from latentcodec.commands.strips import write_frames
    from latentcodec.images.decode import decode_image
    from latentcodec.interpolation import fit, interpolate

    if frames < 2:
        raise CommandError(f"--frames: expected at least 2, found {frames}")
    first = decode_image(start)
    last = decode_image(end)
    fitted = fit(last, *first.shape[:2])
    codec = open_codec(vae, dtype, device=device, variant=variant)
    pictures = interpolate(codec, first, fitted, frames=frames, method=method).to_uint8()
    if back:
        pictures += pictures[-2:0:-1]
    kind = write_frames(pictures, Path(output), milliseconds)
    resized = fitted.shape != last.shape
    height, width = first.shape[:2]
    if json:
        told = {
            "output": output,
            "kind": kind,
            "pictures": len(pictures),
            "size": [height, width],
            "end_resized": resized,
        }
        print(dumps(told))
    else:
        note = f"; {Path(end).name} was cut and resized to fit" if resized else ""
        print(f"{output}: {kind} of {len(pictures)} pictures, {width} x {height}{note}")
