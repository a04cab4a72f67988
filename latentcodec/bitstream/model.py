"""A byte codec's model: transform, context model and tables of one VAE, as two files beside it."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float32, Float64, Int64
from safetensors import SafetensorError

from latentcodec.aside import written_aside
from latentcodec.bitstream.container import MODEL_BYTES
from latentcodec.bitstream.context import ContextModel
from latentcodec.bitstream.entropy import probabilities
from latentcodec.bitstream.errors import BitstreamError
from latentcodec.bitstream.lattice import passes
from latentcodec.bitstream.network import Network
from latentcodec.bitstream.transform import LatentTransform
from latentcodec.bitstream.view import VIEWS
from latentcodec.vae.sources import find_beside

NAME = "bitstream"
_FORMAT = "latentcodec bitstream model"


@dataclass(frozen=True, eq=False)
class BitstreamModel:
    """Everything that files of one VAE are coded with."""

    transform: LatentTransform
    context: ContextModel
    frequencies: Int64[np.ndarray, "rows symbols"]
    """The bank of probability tables."""
    offsets: Float64[np.ndarray, "rows symbols"]
    """Where in its cell a symbol is reconstructed, in steps from the middle."""
    vae_fingerprint: str
    about: dict[str, Any]
    """How it was made: images, figures. Not part of the hash."""

    def bank(self) -> Float32[np.ndarray, "rows symbols"]:
        """The tables as probabilities."""
        return probabilities(self.frequencies)

    def arrays(self) -> dict[str, np.ndarray]:
        """All numbers, by name, as they are stored."""
        found: dict[str, np.ndarray] = {
            "mean": self.transform.mean, "forward": self.transform.forward, "inverse": self.transform.inverse,
            "scales": self.context.scales, "steps": self.context.steps, "log2_steps": self.context.log2_steps,
            "log2": self.context.log2, "frequencies": self.frequencies.astype(np.int32),
            "offsets": self.offsets.astype(np.float16),
        }  # fmt: skip
        for (channel, index), network in self.context.networks.items():
            for name in network.stored(network.precision):
                found[f"network.{channel}.{index}.{name}"] = getattr(network, name)
        return {name: np.ascontiguousarray(found[name]) for name in sorted(found)}

    def hash(self) -> str:
        """sha256 over the VAE's fingerprint and every array's name, type, shape and little-endian bytes."""
        return model_hash(self.arrays(), self.vae_fingerprint)

    def short_hash(self) -> bytes:
        """What a file says."""
        return bytes.fromhex(self.hash())[:MODEL_BYTES]

    def save(self, vae: Path) -> None:
        """Write the two files of `model_files(vae)`."""
        weights, description = model_files(vae)
        record = {
            "format": _FORMAT, "version": self.context.version, "vae_fingerprint": self.vae_fingerprint, "hash": self.hash(),
            "about": self.about,
        }  # fmt: skip
        with written_aside(weights) as aside:
            safetensors.numpy.save_file(self.arrays(), aside, {"format": _FORMAT})
        with written_aside(description) as aside:
            Path(aside).write_text(json.dumps(record, indent=1) + "\n")


def model_files(vae: Path) -> tuple[Path, Path]:
    """bitstream.safetensors and bitstream.json in a VAE's folder; NAME.bitstream.* beside a file NAME.safetensors."""
    stem = vae / NAME if vae.is_dir() else vae.with_suffix(f".{NAME}")
    return stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")


def has_model(vae: str | Path) -> bool:
    """Whether a VAE, named as for `load_vae`, was prepared.

    Raises:
        VAELoadError: there is no such VAE.
    """
    return find_beside(vae, f"{NAME}.json") is not None


def load_model(vae: str | Path, vae_fingerprint: str) -> BitstreamModel:
    """Read the model that belongs to a VAE, named as for `load_vae`, and check it.

    Raises:
        VAELoadError: there is no such VAE.
        BitstreamError: the model is not there, damaged, or made for other weights than those with `vae_fingerprint`.
    """
    weights, description = (find_beside(vae, f"{NAME}.{kind}") for kind in ("safetensors", "json"))
    if weights is None or description is None:
        raise BitstreamError(
            f"{vae}: it has no {NAME}.{'safetensors' if weights is None else 'json'}; prepare this VAE with "
            f"`latentcodec prepare-bitstream {vae} --images DIR`"
        )
    try:
        record = json.loads(description.read_text())
        arrays = safetensors.numpy.load_file(weights)
    except (OSError, ValueError, SafetensorError) as error:
        raise BitstreamError(f"{description}: cannot be read ({error}); prepare the VAE again") from error
    if record.get("format") != _FORMAT or record.get("version") not in VIEWS:
        raise BitstreamError(
            f"{description}: expected {_FORMAT} of version {' or '.join(map(str, VIEWS))}, found {record.get('format')} "
            f"{record.get('version')}; prepare the VAE again, or update latentcodec"
        )
    if record["vae_fingerprint"] != vae_fingerprint:
        raise BitstreamError(
            f"{description}: made for other weights: {record['vae_fingerprint']}, not {vae_fingerprint}; prepare the VAE again"
        )
    if model_hash(arrays, vae_fingerprint) != record["hash"]:
        raise BitstreamError(f"{weights}: its hash is not that of {description}; one of them is damaged")
    networks = _networks(arrays, record["version"], len(arrays["scales"]), description)
    return _from_arrays(arrays, networks, record)


def _networks(
    arrays: Mapping[str, np.ndarray], version: int, channels: int, description: Path
) -> dict[tuple[int, int], Network]:
    """By channel and pass. The version is not in the hash, but no two have networks with the same arrays and inputs.

    Raises:
        BitstreamError: they do not fit the version, or floating point would not hold their sums.
    """
    view = VIEWS[version]
    names = Network.stored(view.precision)
    places: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, array in arrays.items():
        place, _, part = name.rpartition(".")
        places[place][part] = array
    found = {}
    for channel in range(channels):
        for each in passes():
            parts = places[f"network.{channel}.{each.index}"]
            where = f"{description}: version {version} expects, at channel {channel}, pass {each.index},"
            if set(parts) != set(names):
                raise BitstreamError(f"{where} {', '.join(names)}; found {', '.join(parts)}; the file is damaged")
            network = Network.from_stored(parts, view.precision)
            inputs = view.input_count(channel, each)
            if len(network.first) != inputs:
                raise BitstreamError(f"{where} {inputs} inputs, found {len(network.first)}; the file is damaged")
            for layer, largest in network.largest_sums().items():
                if largest >= view.precision.exact:
                    raise BitstreamError(
                        f"{where} sums below {view.precision.exact}, found {largest} possible in its layer {layer}; "
                        "the file is damaged"
                    )
            found[channel, each.index] = network
    return found


def _from_arrays(
    arrays: dict[str, np.ndarray], networks: dict[tuple[int, int], Network], record: dict[str, Any]
) -> BitstreamModel:
    return BitstreamModel(
        LatentTransform(arrays["mean"], arrays["forward"], arrays["inverse"]),
        ContextModel(
            networks, arrays["scales"], arrays["steps"], arrays["log2_steps"], arrays["log2"], record["version"]
        ),
        arrays["frequencies"].astype(np.int64), arrays["offsets"].astype(np.float64), record["vae_fingerprint"],
        record["about"],
    )  # fmt: skip


def model_hash(arrays: Mapping[str, np.ndarray], vae_fingerprint: str) -> str:
    """See `BitstreamModel.hash`."""
    found = hashlib.sha256(vae_fingerprint.encode())
    for name, value in sorted(arrays.items()):
        found.update(f"{name} {value.dtype.str.lstrip('<|=')} {value.shape}".encode())
        found.update(value.astype(value.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()
