"""A detector as one safetensors file: numbers as tensors, the rest as JSON in the header."""

import json
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError

from latentcodec.anomaly.detector import TERMS, VECTORS, AnomalyError, Calibration, Detector
from latentcodec.anomaly.gaussian import Gaussian
from latentcodec.aside import written_aside

_FORMAT = "latentcodec anomaly detector 1"


def write_detector(detector: Detector, path: Path) -> None:
    """Write a detector, whole or not at all."""
    about = {
        "fingerprint": detector.fingerprint, "size": detector.size, "rate": detector.rate, "images": detector.images,
        "calibrations": {name: asdict(of_term) for name, of_term in detector.calibrations.items()},
    }  # fmt: skip
    tensors = {"scores": torch.from_numpy(detector.scores)}
    for name, normal in detector.normals.items():
        tensors |= {f"{name}.mean": normal.mean, f"{name}.whitening": normal.whitening.contiguous()}
    with written_aside(path) as aside:
        safetensors.torch.save_file(tensors, aside, {"format": _FORMAT, "detector": json.dumps(about)})


def read_detector(path: Path) -> Detector:
    """Read what `write_detector` wrote.

    Raises:
        AnomalyError: missing, damaged, another kind of file, or of a later version.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise AnomalyError(f"{path}: expected a detector, found a file of another kind; fit one")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
        about = json.loads(metadata["detector"])
        calibrations = {name: Calibration(**of_term) for name, of_term in about["calibrations"].items()}
        normals = {
            name: Gaussian(tensors[f"{name}.mean"], tensors[f"{name}.whitening"])
            for name in calibrations if name in VECTORS
        }  # fmt: skip
        scores = tensors["scores"].numpy()
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise AnomalyError(f"{path}: cannot be read as a detector ({error}); fit it again") from error
    if unknown := [name for name in calibrations if name not in TERMS]:
        raise AnomalyError(f"{path}: has the terms {', '.join(unknown)}, which this version does not know; update it")
    return Detector(about["fingerprint"], about["size"], about["rate"], normals, calibrations, scores, about["images"])
