"""The list of what is in a store: entries of shards, records of parts, and the manifest of them all."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from itertools import accumulate
from typing import Any

from latentcodec.store.errors import StoreDamagedError, StoreError
from latentcodec.store.files import StoreFolder
from latentcodec.store.sealed import seal, unseal
from latentcodec.store.settings import SETTINGS_NAME, Settings, read_settings

MANIFEST_NAME = "manifest.json"
SKIPPED_NAME = "skipped.jsonl"
PARTS_FOLDER = "parts"


@dataclass(frozen=True)
class ShardEntry:
    """One shard in a manifest or record: which files, and their hashes."""

    part: int
    height: int
    """Of the latents; 0 where each row has a shape of its own (native resolution)."""
    width: int
    rows: int
    bytes: int
    """Of the .safetensors file."""
    sha256: str
    """Of the .safetensors file, in hexadecimal."""
    index_sha256: str
    """Of the .parquet file."""

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the two hashes as text, one after the other."""
        return hashlib.sha256((self.sha256 + self.index_sha256).encode("ascii")).hexdigest()

    @property
    def native(self) -> bool:
        """Whether each row has a shape of its own."""
        return self.height == 0

    @property
    def name(self) -> str:
        """What both files are called, without their endings."""
        shape = "native" if self.native else f"{self.height}x{self.width}"
        return f"{self.part:06d}-{shape}-{self.digest[:8]}"

    @property
    def path(self) -> str:
        """Of the .safetensors file in the store."""
        return f"shards/{self.name}.safetensors"

    @property
    def index_path(self) -> str:
        """Of the .parquet file in the store."""
        return f"index/{self.name}.parquet"

    def to_json(self) -> list[Any]:
        """The fields in their order."""
        return list(astuple(self))


@dataclass(frozen=True)
class Statistics:
    """Running statistics of the raw mean latents as stored, per channel, of the rows that are not mirrored."""

    count: int
    """Values in each channel."""
    mean: list[float]
    squares: list[float]
    """Sum of squared deviations from the channel's mean."""
    variance: list[float] | None
    """Mean over the values of the posterior's variance, exp(logvar); None where only means are stored."""

    @property
    def std(self) -> list[float]:
        """Standard deviation of the mean latents in each channel; 0 for fewer than two values."""
        return [(squares / max(self.count - 1, 1)) ** 0.5 for squares in self.squares]

    @property
    def sample_std(self) -> list[float] | None:
        """Standard deviation of draws from the posterior; None where only means are stored."""
        if self.variance is None:
            return None
        return [(std**2 + more) ** 0.5 for std, more in zip(self.std, self.variance, strict=True)]


@dataclass(frozen=True)
class PartRecord:
    """One part that is complete. Written after its shards, so what it lists is there."""

    part: int
    settings: str
    """`Settings.digest` of those it was made with."""
    versions: dict[str, str]
    """Of the packages that took part in making it."""
    shards: tuple[ShardEntry, ...]
    """By height and width; none if every image was skipped."""
    statistics: Statistics | None
    """None if every image was skipped."""
    skipped: tuple[tuple[str, str], ...]
    """(id, reason), in the source's order."""
    captions: int = 0
    """Rows that have a caption."""
    labels: int = 0
    """Rows that have a label."""

    @property
    def rows(self) -> int:
        """Rows of all its shards."""
        return sum(shard.rows for shard in self.shards)

    def to_bytes(self) -> bytes:
        """The sealed record."""
        return seal(
            {
                **asdict(self),
                "shards": [shard.to_json() for shard in self.shards],
                "skipped": [list(pair) for pair in self.skipped],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, label: str) -> "PartRecord":
        """What `to_bytes` gave.

        Raises:
            StoreDamagedError: it is damaged.
        """
        members = unseal(data, label)
        return cls(
            **{
                **members,
                "shards": tuple(ShardEntry(*entry) for entry in members["shards"]),
                "statistics": None if members["statistics"] is None else Statistics(**members["statistics"]),
                "skipped": tuple((id, reason) for id, reason in members["skipped"]),
            }
        )


@dataclass(frozen=True)
class Manifest:
    """A complete store."""

    settings: Settings
    versions: tuple[dict[str, str], ...]
    """Each set of versions that made a part of it."""
    shards: tuple[ShardEntry, ...]
    """By part, height and width."""
    statistics: Statistics | None
    """Of all parts; None for a store without rows."""
    skipped: dict[str, int]
    """Images that were skipped, by the kind of reason. Which they are is in `skipped.jsonl`."""
    skipped_sha256: str
    """Of `skipped.jsonl`, in hexadecimal."""
    captions: int = 0
    """Rows that have a caption."""
    labels: int = 0
    """Rows that have a label."""

    @property
    def rows(self) -> int:
        """Images in the store."""
        return sum(shard.rows for shard in self.shards)

    @property
    def ends(self) -> list[int]:
        """For each shard the number of rows up to and with it, if rows are numbered through all shards."""
        return list(accumulate(shard.rows for shard in self.shards))

    def to_bytes(self) -> bytes:
        """The sealed manifest. Standard deviations are told besides what they follow from."""
        statistics = self.statistics
        return seal(
            {
                **self.settings.to_json(),
                "versions": list(self.versions),
                "rows": self.rows,
                "captions": self.captions,
                "labels": self.labels,
                "statistics": None if statistics is None else {**asdict(statistics), **_deviations(statistics)},
                "skipped": self.skipped,
                "skipped_sha256": self.skipped_sha256,
                "shards": [shard.to_json() for shard in self.shards],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, label: str) -> "Manifest":
        """What `to_bytes` gave.

        Raises:
            StoreDamagedError: it is damaged.
        """
        members = unseal(data, label)
        statistics = members["statistics"]
        return cls(
            settings=Settings.from_json(members),
            versions=tuple(members["versions"]),
            shards=tuple(ShardEntry(*entry) for entry in members["shards"]),
            statistics=None if statistics is None else _without_deviations(statistics),
            skipped=members["skipped"],
            skipped_sha256=members["skipped_sha256"],
            captions=members["captions"],
            labels=members["labels"],
        )


def record_name(part: int) -> str:
    """Where the record of a part is."""
    return f"{PARTS_FOLDER}/{part:06d}.json"


def read_manifest(folder: StoreFolder) -> Manifest:
    """The manifest of a complete store.

    Raises:
        StoreDamagedError: it is damaged, or there is no store.
        StoreError: the store is not complete yet.
    """
    if folder.exists(MANIFEST_NAME):
        return Manifest.from_bytes(folder.read(MANIFEST_NAME), f"{folder}/{MANIFEST_NAME}")
    if not folder.exists(SETTINGS_NAME):
        raise StoreDamagedError(
            f"{folder}: expected a latent store, found no {MANIFEST_NAME}; check the path, or write one with "
            "`latentcodec precompute`"
        )
    done = len(folder.list(PARTS_FOLDER))
    raise StoreError(
        f"{folder} is not complete: {done} of {read_settings(folder).parts} parts are; "
        "run `latentcodec precompute` again with the same arguments, it makes what is missing"
    )


def _deviations(statistics: Statistics) -> dict[str, Any]:
    return {"std": statistics.std, "sample_std": statistics.sample_std}


def _without_deviations(members: Mapping[str, Any]) -> Statistics:
    return Statistics(**{key: value for key, value in members.items() if key not in ("std", "sample_std")})
