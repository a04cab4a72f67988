"""A latent store as a torch dataset: rows by number, ready for a diffusion model."""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from latentcodec.augmentation import Augmentation
from latentcodec.images.items import checked_index
from latentcodec.images.process import PerProcess
from latentcodec.scaling import Scaling
from latentcodec.store.buckets import Bucket, find_buckets
from latentcodec.store.describe import FIELDS, describe, describe_batch
from latentcodec.store.draws import Draw, augmentation_seed, is_mirrored, noises
from latentcodec.store.errors import StoreError
from latentcodec.store.expected import require_expected
from latentcodec.store.files import StoreFolder
from latentcodec.store.index import IndexRow, read_index
from latentcodec.store.manifest import read_manifest
from latentcodec.store.opened import OpenShards
from latentcodec.store.samples import LatentBatch, LatentSample

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from latentcodec.codec import LatentCodec


class LatentDataset(Dataset[LatentSample]):
    """The rows of a store by number, in the order of its manifest. Opening it reads the manifest and nothing else.

    The latents of a row are a draw from the posterior, or its mean, scaled as the VAE's config says: what diffusers'
    training scripts compute with `vae.encode(image).latent_dist.sample()` and `vae.config.scaling_factor`. The draw is a
    function of `seed`, the row and the epoch. The epoch is told by `BucketBatchSampler`, or else by `set_epoch`.

    It can be pickled, and used in DataLoader workers (fork and spawn) and from several threads. Each process opens the
    shards that it reads, keeps those it used last, and maps them into memory where the store is on a disk.

    Args:
        store: folder or URL.
        vae: refuse a store of other weights: a network, a `LatentCodec`, whatever `load_vae` takes, or a fingerprint.
        expected: refuse a store of other settings: `{"dtype": "bfloat16", "preprocessing": {"height": 512}}`.
        sample: draw from the posterior (True) or take its mean. None: draw, if the store holds variances.
        flip: probability of taking the mirrored image. None: 0.5 if the store holds mirrored images, else 0.
        seed: of draws and flips.
        scaling: in place of that of the VAE's config.
        augmentation: moves the latents at random, besides drawing them; each row anew in each epoch.
        fields: which of "id", "original_size", "crop_top_left", "target_size", "caption" and "label" to give besides the
            latents. None: all that the store has. With none of them, `()`, the indices are not read, which takes less
            time and memory.

    Raises:
        StoreDamagedError: no store, or its manifest is damaged. Shards are looked at when they are read.
        StoreMismatchError: another VAE or other settings than expected; it names both.
        StoreError: the store is not complete, or does not hold what `sample`, `flip` or `fields` ask for.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        vae: "AutoencoderKL | LatentCodec | str | Path | None" = None,
        expected: Mapping[str, Any] | None = None,
        sample: bool | None = None,
        flip: float | None = None,
        seed: int = 0,
        scaling: Scaling | None = None,
        augmentation: Augmentation | None = None,
        fields: Collection[str] | None = None,
    ) -> None:
        self.folder = StoreFolder(store)
        self.manifest = read_manifest(self.folder)
        settings = self.manifest.settings
        require_expected(settings, str(self.folder), vae, expected or {})
        self.sample = settings.values == "moments" if sample is None else sample
        self.flip = (0.5 if settings.flipped else 0.0) if flip is None else flip
        self.seed = seed
        self.scaling = scaling or settings.scaling
        self.augmentation = augmentation
        self.epoch = 0
        self.fields = frozenset(self._held_fields if fields is None else fields)
        self._require_held()
        # whether the latents of a row are more than its mean, scaled; and whether that takes its variances
        self._random = self.sample or augmentation is not None
        self._draws = self.sample or (augmentation is not None and augmentation.needs_deviation)
        self._ends = self.manifest.ends
        self._starts = [0, *self._ends]
        self._length = self._starts[-1]
        self._channels = settings.channels
        self._opened = PerProcess(partial(OpenShards, self.folder, self.manifest.shards, settings.values))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | Draw) -> LatentSample:
        """One row; a negative number counts from the end.

        Raises:
            IndexError: outside the store.
            StoreDamagedError: its shard is missing or damaged.
        """
        pick, opened = self._pick(index), self._opened.get()
        draw, shard, place, mirrored = pick
        stored = opened.view(shard, place, mirrored, means=not self._draws)
        latents = self._latents(stored[None], [pick])[0] if self._random else self._scaled(stored)
        sample: LatentSample = {"latents": latents, "row": draw.row, "mirrored": mirrored}
        if self.fields:
            describe(sample, opened.facts(shard), place, mirrored, self.fields)
        return sample

    def batch(self, rows: Sequence[int | Draw]) -> LatentBatch:
        """Several rows of one shape at once, which takes less time than one by one.

        Raises:
            ValueError: none, or rows of different shapes.
            IndexError, StoreDamagedError: as for one row.
        """
        picks, opened = [self._pick(index) for index in rows], self._opened.get()
        stored = opened.stacked([(pick.shard, pick.place, pick.mirrored) for pick in picks], means=not self._draws)
        batch: LatentBatch = {
            "latents": self._latents(stored, picks),
            "row": torch.tensor([pick.draw.row for pick in picks]),
            "mirrored": torch.tensor([pick.mirrored for pick in picks]),
        }
        if self.fields:
            facts = {shard: opened.facts(shard) for shard in {pick.shard for pick in picks}}
            chosen = [(facts[shard], place, mirrored) for _, shard, place, mirrored in picks]
            describe_batch(batch, chosen, self.fields, all_labelled=self.manifest.labels == len(self))
        return batch

    def set_epoch(self, epoch: int) -> None:
        """Of rows that are asked for by their number alone. Workers that are running already keep the old one."""
        self.epoch = epoch

    def stored(self, row: int, *, mirrored: bool = False) -> Float[Tensor, "stored height width"]:
        """A row as it is stored: mean and logvar, or the mean alone; raw, in the store's type.

        Raises:
            KeyError: mirrored, where the store holds no mirrored images.
            IndexError, StoreDamagedError: as for `dataset[row]`.
        """
        pick = self._pick(row)
        return self._opened.get().values(pick.shard, pick.place, mirrored)

    def index_row(self, row: int) -> IndexRow:
        """Everything that the index says of a row. Reads the index of its shard each time."""
        pick = self._pick(row)
        table = read_index(self.folder, self.manifest.shards[pick.shard])
        return IndexRow(**table.slice(pick.place, 1).to_pylist()[0])

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The rows by shape. With native resolution the index of the whole store is read for it."""
        return find_buckets(self.manifest.shards, self.manifest.settings.factor, lambda n: self._opened.get().facts(n))

    @property
    def _held_fields(self) -> list[str]:
        """What the index has of at least one row."""
        absent = {"caption": not self.manifest.captions, "label": not self.manifest.labels}
        return [field for field in FIELDS if not absent.get(field, False)]

    def _require_held(self) -> None:
        settings = self.manifest.settings
        if unknown := self.fields - set(self._held_fields):
            raise StoreError(
                f"fields: {self.folder} has {', '.join(self._held_fields)}, not {', '.join(sorted(unknown))}; leave it out"
            )
        if self.sample and settings.values != "moments":
            raise StoreError(
                f"sample: {self.folder} holds means without variances, so nothing can be drawn; pass sample=False"
            )
        if self.augmentation is not None and self.augmentation.needs_deviation and settings.values != "moments":
            raise StoreError(
                f"augmentation: {self.folder} holds means without variances, which {self.augmentation.kind} needs; "
                "take another kind"
            )
        if not 0 <= self.flip <= 1:
            raise StoreError(f"flip: expected a probability from 0 to 1, found {self.flip}")
        if self.flip and not settings.flipped:
            raise StoreError(
                f"flip: {self.folder} holds no mirrored images; pass flip=0.0, or write it with `latentcodec precompute --flip`"
            )

    def _pick(self, index: int | Draw) -> "_Pick":
        row, epoch = index if isinstance(index, Draw) else (index, self.epoch)
        draw = Draw(checked_index(int(row), self._length), epoch)
        shard = bisect_right(self._ends, draw.row)
        mirrored = self.flip > 0 and is_mirrored(self.seed, draw, self.flip)
        return _Pick(draw, shard, draw.row - self._starts[shard], mirrored)

    def _scaled(
        self, mean: Float[Tensor, "*rows channels height width"]
    ) -> Float[Tensor, "*rows channels height width"]:
        # what is stored must stay as it is, so float32 is copied too; `to(copy=True)` would do both, in more time
        return self.scaling.apply_(mean.clone() if mean.dtype == torch.float32 else mean.float())

    def _latents(
        self, stored: Float[Tensor, "rows stored height width"], picks: Sequence["_Pick"]
    ) -> Float[Tensor, "rows channels height width"]:
        mean, logvar = stored[:, : self._channels], stored[:, self._channels :]
        if self.sample:
            drawn = noises(self.seed, [pick.draw for pick in picks], mean.shape[1:])
            deviation = torch.exp_(logvar.to(torch.float32, copy=True).mul_(0.5))
            latents = self.scaling.apply_(drawn.mul_(deviation).add_(mean))
        else:
            latents = self._scaled(mean)
        return latents if self.augmentation is None else latents + self._displacements(self.augmentation, stored, picks)

    def _displacements(
        self,
        augmentation: Augmentation,
        stored: Float[Tensor, "rows stored height width"],
        picks: Sequence["_Pick"],
    ) -> Float[Tensor, "rows channels height width"]:
        channels = self._channels
        logvar = stored[:, channels:] if augmentation.needs_deviation else torch.zeros_like(stored[:, :channels])
        deviations = self.scaling.apply_to_deviation(torch.exp(0.5 * logvar.to(torch.float32)))
        seeds = [augmentation_seed(self.seed, pick.draw) for pick in picks]
        return torch.stack([
            augmentation.displacement(deviation, seed) for deviation, seed in zip(deviations, seeds, strict=True)
        ])  # fmt: skip


class _Pick(NamedTuple):
    """Where a row is, and which of the two images."""

    draw: Draw
    shard: int
    place: int
    """Row of the shard."""
    mirrored: bool
