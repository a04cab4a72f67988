"""`latentcodec anomaly fit` and `score`: which images are not like the normal ones, and where."""

from typing import Literal


def fit_anomaly(
    normal: list[str],
    *,
    output: str,
    vae: str | None = None,
    size: int = 256,
    rate: float = 0.05,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    json: bool = False,
    variant: str | None = None,
) -> None:
    """Learn from normal images what is normal, and write a detector.

    Two of three images are fitted on; the third ones tell how strange a normal image may be, and with that where the threshold
    lies. So a rate of 0.01 needs at least 300 images; with fewer nothing would ever be called anomalous, and it says so.
    Broken images are skipped, listed, and make the exit code 1.

    Example:
        latentcodec anomaly fit good_parts -o parts.safetensors --rate 0.02
        latentcodec anomaly score new_parts --detector parts.safetensors --output seen

    Args:
        normal: Image files, and folders to search for them.
        output: File to write, .safetensors.
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub. That of the package if not given.
        size: Short side that images are resized to, in pixels. Defects should then be 8 pixels at least.
        rate: Share of normal images that may be called anomalous.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        json: Print one JSON object instead of text.
        variant: Read the weights of this variant of a folder, for example fp16.
    """
    from collections.abc import Iterator
    from json import dumps
    from math import ceil, isfinite
    from pathlib import Path

    import numpy as np
    from tqdm import tqdm

    from latentcodec.anomaly.detector import fit
    from latentcodec.anomaly.files import write_detector
    from latentcodec.commands.codec import open_codec
    from latentcodec.commands.images import find_images, read_chunks
    from latentcodec.commands.report import require_none
    from latentcodec.images.skipped import SkippedImages
    from latentcodec.memory import freed_memory_kept

    readers = find_images(normal)
    skipped = SkippedImages()
    codec = open_codec(vae, dtype, device=device, variant=variant)

    def images() -> Iterator[np.ndarray]:
        with tqdm(total=len(readers), unit="image", disable=None) as progress:
            for chunk in read_chunks(readers, skipped):
                for _, pixels in chunk:
                    yield pixels
                    progress.update()

    with freed_memory_kept():
        detector = fit(codec, images(), size=size, rate=rate)
    write_detector(detector, Path(output))
    if json:
        threshold = detector.threshold if isfinite(detector.threshold) else None
        told = {"output": output, "fitted": detector.images, "calibrated": len(detector.scores), "threshold": threshold,
                "rate": rate, "fingerprint": detector.fingerprint, "skipped": len(skipped)}  # fmt: skip
        print(dumps(told, indent=2))
    else:
        print(f"{output}: fitted on {detector.images} images, calibrated on {len(detector.scores)}")
        if isfinite(detector.threshold):
            print(f"scores above {detector.threshold:.2f} are anomalous: at most {rate:.2%} of normal images")
        else:
            need = 3 * ceil(1 / rate - 1)
            print(
                f"no threshold: a rate of {rate:.2%} needs {need} normal images; scores and p-values hold all the same"
            )
    require_none(skipped, len(readers))


def score_anomaly(
    images: list[str],
    *,
    detector: str,
    output: str | None = None,
    vae: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    json: bool = False,
    variant: str | None = None,
) -> None:
    """Score images against a detector. The exit code is 3 if one is anomalous, 0 if none is.

    The score is 0 for a usual normal image, and 1 more is one deviation of normal images stranger. The p-value is the share of
    normal images that are at least as strange. With --output, photo.jpg.heat.png shows where, and photo.jpg.json tells what is
    printed. Broken images are skipped, listed, and make the exit code 1.

    Example:
        latentcodec anomaly score new_parts --detector parts.safetensors --output seen --json

    Args:
        images: Image files, and folders to search for them.
        detector: A file that `latentcodec anomaly fit` wrote.
        output: Folder for heat maps and verdicts.
        vae: The VAE that the detector was fitted with; another one is refused. That of the package if not given.
        dtype: Type to compute in. auto is bfloat16 where the machine has it in hardware, else float32.
        device: cpu or cuda. A GPU if there is one, if not given.
        json: Print one JSON object instead of text.
        variant: Read the weights of this variant of a folder, for example fp16.
    """
    from json import dumps
    from pathlib import Path

    from tqdm import tqdm

    from latentcodec.anomaly.files import read_detector
    from latentcodec.commands import Finding
    from latentcodec.commands.codec import open_codec
    from latentcodec.commands.images import find_images, read_chunks
    from latentcodec.commands.report import require_none
    from latentcodec.commands.verdicts import as_row, write_verdict
    from latentcodec.images.skipped import SkippedImages
    from latentcodec.memory import freed_memory_kept

    fitted = read_detector(Path(detector))
    readers = find_images(images)
    codec = open_codec(vae, dtype, device=device, variant=variant)
    skipped = SkippedImages()
    rows = []
    with freed_memory_kept(), tqdm(total=len(readers), unit="image", disable=None) as progress:
        for chunk in read_chunks(readers, skipped):
            for name, pixels in chunk:
                verdict = fitted.score(codec, pixels)
                row = as_row(name, pixels, verdict)
                rows.append(row)
                if output is not None:
                    write_verdict(row, pixels, verdict, Path(output))
                progress.update()
    anomalous = [row["image"] for row in rows if row["anomalous"]]
    if json:
        listed = [{"image": name, "reason": reason} for name, reason in skipped.rows]
        print(dumps({"images": rows, "skipped": listed, "anomalous": len(anomalous), "rate": fitted.rate}, indent=2))
    else:
        for row in sorted(rows, key=lambda row: -row["score"]):
            box = row["box"]
            where = "" if box is None else f"  around {box[1]}, {box[0]}: {box[3]} x {box[2]} pixels"
            mark = "ANOMALOUS" if row["anomalous"] else "normal"
            print(f"{row['score']:9.2f}  p {row['p_value']:.3f}  {mark:9}  {row['image']}{where}")
    require_none(skipped, len(readers))
    if anomalous:
        raise Finding(f"{len(anomalous)} of {len(rows)} images are anomalous")
