"""What a store is: everything that decides what is in its shards, and the refusal to mix two of them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from latentcodec.scaling import Scaling
from latentcodec.store.errors import StoreMismatchError
from latentcodec.store.files import StoreFolder
from latentcodec.store.sealed import seal, unseal

SETTINGS_NAME = "settings.json"

ValuesKind = Literal["moments", "mean"]
ValueType = Literal["float32", "bfloat16", "float16"]

_FREE = ("source",)
"""Fields that may differ between runs on one store: the source's folder may have another name."""


@dataclass(frozen=True)
class Settings:
    """The identity of a store. All of it but the source's name must agree between everything that writes to it."""

    fingerprint: str
    """Of the VAE's weights, see `weights_fingerprint`."""
    config: dict[str, Any]
    """Of the AutoencoderKL, without keys that start with an underscore; its scaling is applied when reading."""
    preprocessing: dict[str, Any]
    """What happens between the source's image and the network, see `Preprocessing.to_json`."""
    values: ValuesKind
    """Mean and logvar of the posterior, or its mean alone."""
    dtype: ValueType
    """Type of the stored values."""
    flipped: bool
    """Whether the mirrored image of each row is stored too."""
    compute_dtype: ValueType
    """Type that the network computed in."""
    source: str
    """Name of the source, without the folders above it."""
    images: int
    """Images of the source, those that turn out to be broken included."""
    listing: str
    """Hash of the ids of all these images, in order: "sha256:" and 64 hexadecimal digits."""
    part_images: int
    """Images to a part."""
    caption_key: str
    """Which field of an image's metadata is its caption."""
    label_key: str
    """Which is its label."""

    @property
    def parts(self) -> int:
        """How many parts the store has."""
        return -(-self.images // self.part_images)

    @property
    def factor(self) -> int:
        """Pixels to a latent position, along each side."""
        return int(2 ** (len(self.config["block_out_channels"]) - 1))

    @property
    def channels(self) -> int:
        """Channels of the latents; moments have twice as many."""
        return int(self.config["latent_channels"])

    @property
    def scaling(self) -> Scaling:
        """From raw latents to those that a diffusion model works on."""
        return Scaling.of(self.config)

    def part_range(self, part: int) -> range:
        """The source's images that belong to a part."""
        return range(part * self.part_images, min((part + 1) * self.part_images, self.images))

    @property
    def digest(self) -> str:
        """SHA-256 over everything that must agree, in hexadecimal; part records carry it."""
        same = {key: value for key, value in self.to_json().items() if key not in _FREE}
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Members of `settings.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> "Settings":
        """What `to_json` gave; other members are left alone."""
        return cls(**{field.name: members[field.name] for field in fields(cls)})

    def require_same(self, wanted: "Settings", store: str) -> None:
        """Check that `wanted`, what is asked for now, are these settings, those of the store.

        Raises:
            StoreMismatchError: naming each field that differs, with both values.
        """
        there, here = dict(_flat(self.to_json())), dict(_flat(wanted.to_json()))
        differing = [key for key in sorted(there | here) if there.get(key) != here.get(key) and key not in _FREE]
        if differing:
            lines = "".join(f"\n  {key}: {_shown(there, key)} there, {_shown(here, key)} here" for key in differing)
            raise StoreMismatchError(
                f"{store} was made with other settings than are asked for now:{lines}\n"
                "ask for the same, or name another store"
            )


def read_settings(folder: StoreFolder) -> Settings:
    """The settings of a store, complete or not.

    Raises:
        StoreDamagedError: there is no store, or its settings are damaged.
    """
    return Settings.from_json(unseal(folder.read(SETTINGS_NAME), f"{folder}/{SETTINGS_NAME}"))


def write_settings(folder: StoreFolder, settings: Settings) -> None:
    """Begin a store."""
    folder.write(SETTINGS_NAME, seal(settings.to_json()))


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """An AutoencoderKL's config with JSON types, sorted, without keys of diffusers' own (`_diffusers_version`)."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    return dict(json.loads(json.dumps(public, sort_keys=True)))


def _flat(members: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in members.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _shown(members: Mapping[str, Any], key: str) -> str:
    return json.dumps(members[key]) if key in members else "nothing"
