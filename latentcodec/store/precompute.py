"""Encode a source into a store: the loop that everything else is for.

    decoding processes --> this process's main thread --> collector --> committer
    read, decode, resize   batches through the encoder    checks, sums   hashes, writes

A process takes parts one after another (`Crew`), whichever others are at work, until every part has its record; one of
them then writes the manifest. Killed at any moment, a process leaves nothing but parts that others make.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch.utils.data import DataLoader

from latentcodec.codec import LatentCodec
from latentcodec.images.items import ImageSource
from latentcodec.memory import freed_memory_kept
from latentcodec.store.crew import Crew
from latentcodec.store.encoding import BatchEncoder, Encoded
from latentcodec.store.files import StoreFolder
from latentcodec.store.finish import finish
from latentcodec.store.launch import Launch
from latentcodec.store.manifest import MANIFEST_NAME, Manifest, read_manifest
from latentcodec.store.part import PartBuilder
from latentcodec.store.plan import begin
from latentcodec.store.prepare import Job, JobReader, JobResult, Prepared, Skipped, leave_with_parent
from latentcodec.store.preprocessing import Native, Preprocessing
from latentcodec.store.progress import Progress
from latentcodec.store.settings import Settings

_JOB_PIXELS = 2**20
"""Of the images that a decoding process hands over at once."""
_MOST_IN_JOB = 16
_BATCHES_BEHIND = 64
"""Batches that the collector may be behind; their values are small."""
_PARTS_BEHIND = 1
"""Parts that the committer may be behind; they are large."""
_PAUSE = 0.05
"""Between looks at whether the others are done, as a share of the time that the run has taken."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 10.0
"""Seconds."""


@dataclass(frozen=True)
class Outcome:
    """What a run has done."""

    manifest: Manifest
    """Of the store, which is complete."""
    images: int
    """That this process has encoded or skipped; the rest was there already, or others did it."""
    seconds: float


def precompute(
    source: ImageSource,
    folder: StoreFolder,
    codec: LatentCodec,
    settings: Settings,
    *,
    workers: int = 1,
    launch: Launch | None = None,
    progress: bool = True,
) -> Outcome:
    """Write a store, or what is missing of it. Several processes may do that at once, started together or not.

    Args:
        source: the images.
        folder: where to.
        codec: the network. Its batch sizes are kept to; on a CPU it is called from this thread.
        settings: from `plan_settings`, with the same source and codec.
        workers: processes that decode; 0: this thread does it.
        launch: this process among those started together.
        progress: show it, on stderr.

    Raises:
        StoreMismatchError: the store was made with other settings, or somebody is writing to it with others.
        NonFiniteLatentsError: an image's latents are not finite.
        StoreError: the folder holds other things.
    """
    began = time.monotonic()
    launch = launch or Launch()
    begin(folder, settings)
    if folder.exists(MANIFEST_NAME):
        return Outcome(read_manifest(folder), 0, time.monotonic() - began)
    with Crew(folder, settings, rank=launch.rank, size=launch.size) as crew, freed_memory_kept():
        missing = sum(len(settings.part_range(part)) for part in crew.unfinished())
        with Progress(missing, shown=progress) as bar:
            writer = _Writer(source, codec, settings, crew, bar, workers)
            while True:
                part = crew.take()
                if part is not None:
                    writer.run(part)
                elif crew.unfinished():
                    bar.show(crew.images)
                    _pause(began)
                else:
                    break
        _finish_once(folder, settings, crew, began)
    return Outcome(read_manifest(folder), writer.images, time.monotonic() - began)


class _Writer:
    """Makes parts."""

    def __init__(
        self, source: ImageSource, codec: LatentCodec, settings: Settings, crew: Crew, bar: Progress, workers: int
    ) -> None:
        self._settings, self._crew, self._bar, self._workers = settings, crew, bar, workers
        self._preprocessing = Preprocessing.from_json(settings.preprocessing)
        self._native = isinstance(self._preprocessing.policy, Native)
        self._reader = JobReader(source, self._preprocessing, settings.caption_key, settings.label_key)
        self._encoder = BatchEncoder(codec, settings)
        self.images = 0

    def run(self, first: int) -> None:
        """Make a part that was taken, and then others as long as there are any to be taken."""
        loader: DataLoader[JobResult] = DataLoader(
            self._reader,  # type: ignore[arg-type]  # a map-style dataset, though its keys are no integers
            batch_size=None,
            sampler=_Jobs(self._settings, self._preprocessing, first, self._crew),
            num_workers=self._workers,
            worker_init_fn=leave_with_parent,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batches it gets what the dataset gave, no list
        )
        with ThreadPoolExecutor(1, "collector") as collector, ThreadPoolExecutor(1, "committer") as committer:
            collected: deque[Future[None]] = deque()
            committed: deque[Future[None]] = deque()
            for part, results in itertools.groupby(loader, key=lambda result: result.job.part):
                builder = PartBuilder(part, self._settings, native=self._native)
                batches = []
                for encoded in self._encode(builder, results):
                    batches.append(collector.submit(self._collect, builder, encoded))
                    collected.append(batches[-1])
                    _settle(collected, _BATCHES_BEHIND)
                committed.append(committer.submit(self._commit, builder, batches))
                _settle(committed, _PARTS_BEHIND)
            _settle(collected, 0)
            _settle(committed, 0)

    def _encode(self, builder: PartBuilder, results: Iterator[JobResult]) -> Iterator[Encoded]:
        """The images of one part, in batches of one shape that are full but for the last of each shape."""
        waiting: dict[tuple[int, ...], list[Prepared]] = {}
        for result in results:
            for image in result.images:
                self.images += 1
                if isinstance(image, Skipped):
                    builder.skip(image)
                    self._crew.made(1)
                    continue
                batch = waiting.setdefault(image.pixels.shape, [])
                batch.append(image)
                # of native sizes there are too many to wait for others of the same
                if self._native or len(batch) >= self._encoder.batch_size(image):
                    yield self._encoder(waiting.pop(image.pixels.shape))
        for batch in waiting.values():
            yield self._encoder(batch)

    def _collect(self, builder: PartBuilder, encoded: Encoded) -> None:
        values, flipped = encoded.fetch()
        builder.add(encoded.rows, values, flipped)
        self._crew.made(len(encoded.rows))
        self._bar.show(self._crew.images)

    def _commit(self, builder: PartBuilder, batches: list[Future[None]]) -> None:
        for batch in batches:
            batch.result()  # waits for it, and raises what it raised
        builder.write(self._crew.folder)
        self._crew.finished(builder.part)


class _Jobs:
    """The jobs of one part after another; a part is taken when a decoding process is free to begin with it."""

    def __init__(self, settings: Settings, preprocessing: Preprocessing, first: int, crew: Crew) -> None:
        self._settings, self._first, self._crew = settings, first, crew
        pixels = max((height * width for height, width in preprocessing.policy.shapes), default=_JOB_PIXELS)
        self._images = min(max(_JOB_PIXELS // pixels, 1), _MOST_IN_JOB)

    def __iter__(self) -> Iterator[Job]:
        part: int | None = self._first
        while part is not None:
            items = self._settings.part_range(part)
            for start in range(0, len(items), self._images):
                yield Job(part, items[start : start + self._images])
            part = self._crew.take()


def _finish_once(folder: StoreFolder, settings: Settings, crew: Crew, began: float) -> None:
    """All parts are there. The first of the living processes writes the manifest, the others wait for it."""
    while not folder.exists(MANIFEST_NAME):
        if not crew.is_first():
            _pause(began)
            continue
        crew.clear_away_dead()
        finish(folder, settings, tidy=not any(other.parts for other in crew.others()))


def _pause(began: float) -> None:
    time.sleep(min(max((time.monotonic() - began) * _PAUSE, _SHORTEST_PAUSE), _LONGEST_PAUSE))


def _settle(futures: "deque[Future[None]]", left: int) -> None:
    """Wait until at most `left` are not done, and raise what one of them raised."""
    while len(futures) > left:
        futures.popleft().result()


def _as_it_is(result: JobResult) -> JobResult:
    return result
