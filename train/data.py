"""Training crops as a pure function of (seed, number of images seen): no worker, process or restart changes them."""

import itertools
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from latentcodec.images.decode import BrokenImageError
from latentcodec.images.geometry import crop, resize_short_side
from latentcodec.images.sources import ImageItem, ImageSource, ImageStream, MixedSource, open_source
from train.config import DataConfig, TrainConfig
from train.run_config import ConfigError

# Distinct streams of random numbers for one sample, so that a change in one leaves the others alone.
_ORDER, _CROP, _NOISE, _REPLACEMENT = range(4)
_MOST_BROKEN_IN_A_ROW = 100
_ENDLESS = 2**31 - 1


def generator(seed: int, stream: int, index: int) -> np.random.Generator:
    """numpy's Philox, whose output is the same on every machine, keyed by run seed, purpose and index."""
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, 0, stream]))


def _too_many_broken(broken: list[tuple[str, str]]) -> ConfigError:
    id, reason = broken[-1]
    return ConfigError(f"data.source: {len(broken)} images in a row could not be decoded, the last: {id} ({reason})")


@dataclass
class Sample:
    """One training crop."""

    image: UInt8[np.ndarray, "height width 3"]
    noise: Float[np.ndarray, "channels latent_height latent_width"]
    id: str
    broken: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of images that could not be decoded and were passed over for this one."""


@dataclass
class Batch:
    """Micro-batch of one process."""

    images: UInt8[Tensor, "batch 3 height width"]
    noise: Float[Tensor, "batch channels latent_height latent_width"]
    """Normal noise of the posterior sample, in its standard deviations: a function of the image's place in the data."""
    ids: list[str]
    broken: list[tuple[str, str]]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on `device`, copied without blocking where the memory is pinned."""
        images, noise = self.images.to(device, non_blocking=True), self.noise.to(device, non_blocking=True)
        return Batch(images, noise, self.ids, self.broken)

    def pin_memory(self) -> "Batch":
        """Called by DataLoader."""
        return Batch(self.images.pin_memory(), self.noise.pin_memory(), self.ids, self.broken)


def collate(samples: list[Sample]) -> Batch:
    """Stack samples; the only place where HWC turns into CHW."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2).contiguous()
    noise = torch.from_numpy(np.stack([sample.noise for sample in samples]))
    broken = [entry for sample in samples for entry in sample.broken]
    return Batch(images, noise, [sample.id for sample in samples], broken)


def cut_crop(
    image: UInt8[np.ndarray, "h w 3"], config: DataConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "c c 3"]:
    """Resize, crop and flip as `config` says. Images smaller than the crop are enlarged to fit it."""
    size = config.crop
    short = min(image.shape[:2])
    target = config.short_side or short
    if config.max_downscale > 1:
        target = round(target / config.max_downscale ** rng.random())
    target = max(size, target)
    if target != short:
        image = resize_short_side(image, target)
    top = int(rng.integers(0, image.shape[0] - size + 1))
    left = int(rng.integers(0, image.shape[1] - size + 1))
    piece = crop(image, top, left, size, size)
    if config.flip and rng.random() < 0.5:
        piece = piece[:, ::-1]
    return np.ascontiguousarray(piece)


class _SampleMaker:
    """What random access and streaming share: from an image and its place in the data to a Sample."""

    def __init__(self, config: TrainConfig, latent_channels: int) -> None:
        self.config = config.data
        self.seed = config.seed
        self.log_scales = np.log(config.model.noise_scale)
        self.noise_shape = (latent_channels, config.data.crop // 8, config.data.crop // 8)
        self._cache: dict[str, UInt8[np.ndarray, "h w 3"]] = {}

    def decode(self, item: ImageItem) -> UInt8[np.ndarray, "h w 3"]:
        """The item's pixels, from the cache where it holds them."""
        if item.id in self._cache:
            return self._cache[item.id]
        # A JPEG may be decoded at 1/2, 1/4 or 1/8 when it is going to be reduced to `short_side` anyway.
        image = item.decode(max_pixels=self.config.max_pixels, draft_size=self.config.short_side)
        if len(self._cache) < self.config.cache:
            self._cache[item.id] = image
        return image

    def make(self, place: int, image: UInt8[np.ndarray, "h w 3"], id: str, broken: list[tuple[str, str]]) -> Sample:
        rng = generator(self.seed, _NOISE, place)
        noise = rng.standard_normal(self.noise_shape, dtype=np.float32)
        noise *= np.float32(np.exp(rng.uniform(*self.log_scales)))
        piece = cut_crop(image, self.config, generator(self.seed, _CROP, place))
        return Sample(piece, noise, id, broken)


class ShuffledSource:
    """An endless source: epoch e visits a finite one in the order of a permutation drawn from (seed, e).

    An endless source is its own order: a permutation of it would not fit in memory.
    """

    def __init__(self, source: ImageSource, seed: int) -> None:
        self.source, self._seed = source, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> ImageItem:
        length = len(self.source)
        if length >= _ENDLESS // 2:
            return self.source[index]
        epoch, position = divmod(index, length)
        if epoch != self._epoch:
            self._order, self._epoch = generator(self._seed, _ORDER, epoch).permutation(length), epoch
        return self.source[int(self._order[position])]


class TrainingImages(Dataset[Sample]):
    """Endless random access: item k is the k-th training crop of the run.

    An image that cannot be decoded is passed over for another one drawn from (seed, k); both the id and the reason
    travel with the sample and are listed.
    """

    def __init__(self, source: ImageSource, config: TrainConfig, latent_channels: int) -> None:
        self.source = source
        self._maker = _SampleMaker(config, latent_channels)
        self._seed = config.seed

    def __getitem__(self, place: int) -> Sample:
        broken: list[tuple[str, str]] = []
        replacements = generator(self._seed, _REPLACEMENT, place)
        index = place
        for _ in range(_MOST_BROKEN_IN_A_ROW):
            try:
                item = self.source[index]
                return self._maker.make(place, self._maker.decode(item), item.id, broken)
            except BrokenImageError as error:
                broken.append((error.id, error.reason))
                index = int(replacements.integers(0, _ENDLESS))
        raise _too_many_broken(broken)


class MicroBatches:
    """Places in the data of every micro-batch of one process, from update `start_step` to the last.

    Update s takes places [s * batch_size, (s + 1) * batch_size); micro-batch a of process r takes its slice of them.
    """

    def __init__(self, config: TrainConfig, processes: int, rank: int, start_step: int) -> None:
        self.size = config.microbatch(processes)
        self.config, self.processes, self.rank, self.start_step = config, processes, rank, start_step

    def __len__(self) -> int:
        return max(0, self.config.steps - self.start_step) * self.config.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.config.steps):
            for part in range(self.config.accumulate):
                first = step * self.config.batch_size + (part * self.processes + self.rank) * self.size
                yield list(range(first, first + self.size))


class StreamedImages(IterableDataset[Batch]):
    """Micro-batches from a stream that has no random access, for `hf:` sources with `data.streaming`.

    Items are numbered in stream order, which gives them their place in the data. Each worker of each
    process reads the whole stream but decodes only its own items; resuming reads on to the place. A broken image is
    passed over for the next good one, and listed.
    """

    def __init__(self, stream: ImageStream, batches: MicroBatches, latent_channels: int) -> None:
        self.stream, self.batches = stream, batches
        self._maker = _SampleMaker(batches.config, latent_channels)

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        items = itertools.chain.from_iterable(itertools.repeat(self.stream))
        ahead: deque[ImageItem | BrokenImageError] = deque()
        place = 0
        for number, places in enumerate(self.batches):
            # DataLoader takes batches from its workers in turn, so worker w owns batches w, w + workers, ...
            if number % workers != worker:
                continue
            samples = []
            for wanted in places:
                for _ in range(wanted - place):
                    ahead.popleft() if ahead else next(items)
                place = wanted
                samples.append(self._first_good(wanted, ahead, items))
            yield collate(samples)

    def _first_good(
        self, place: int, ahead: deque[ImageItem | BrokenImageError], items: Iterator[ImageItem | BrokenImageError]
    ) -> Sample:
        broken: list[tuple[str, str]] = []
        for offset in range(_MOST_BROKEN_IN_A_ROW):
            if offset == len(ahead):
                ahead.append(next(items))
            try:
                item = ahead[offset]
                if isinstance(item, BrokenImageError):
                    raise item
                return self._maker.make(place, self._maker.decode(item), item.id, broken)
            except BrokenImageError as error:
                broken.append((error.id, error.reason))
        raise _too_many_broken(broken)


def open_training_source(config: TrainConfig) -> ImageSource | ImageStream:
    """The source, or the mix of sources, that `config.data.source` names, in training order and without an end."""
    shares = config.data.weighted_sources()
    if config.data.streaming:
        if len(shares) > 1:
            raise ConfigError("data.streaming: expected one source; found several. Open them without streaming")
        stream = open_source(next(iter(shares)), streaming=True, shuffle_buffer=1000, seed=config.seed, endless=True)
        assert isinstance(stream, ImageStream)
        return stream
    shuffled = [(ShuffledSource(open_indexed(spec), config.seed), share) for spec, share in shares.items()]
    return shuffled[0][0] if len(shuffled) == 1 else MixedSource(shuffled)


def open_indexed(spec: str) -> ImageSource:
    """A source with random access. Raises ConfigError for one that only streams."""
    source = open_source(spec)
    if not isinstance(source, ImageSource):
        raise ConfigError(f"{spec}: expected images by index, found a stream. Use a folder, .tar or .parquet files")
    return source


def leave_sigterm_to_the_trainer(worker: int) -> None:
    """For workers: clusters send SIGTERM to every process of a job, and the trainer still needs batches to end its step
    and write a checkpoint. Workers end with their trainer, whatever becomes of it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def training_loader(
    config: TrainConfig, latent_channels: int, *, processes: int, rank: int, start_step: int, pin: bool
) -> DataLoader[Batch]:
    """Loader of `accumulate` micro-batches a step for one process, from `start_step` on."""
    source = open_training_source(config)
    batches = MicroBatches(config, processes, rank, start_step)
    workers = config.data.workers
    prefetch = 4 if workers else None
    if isinstance(source, ImageSource):
        images: Dataset[Any] = TrainingImages(source, config, latent_channels)
        return DataLoader(
            images,
            batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of lists of indices
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=prefetch,
            pin_memory=pin,
            worker_init_fn=leave_sigterm_to_the_trainer,
        )
    stream = StreamedImages(source, batches, latent_channels)
    return DataLoader(
        stream, batch_size=None, num_workers=workers, prefetch_factor=prefetch, pin_memory=pin,
        worker_init_fn=leave_sigterm_to_the_trainer,
    )  # fmt: skip
