"""Who is at work on a store: any number of processes, on any machines, that share nothing but the store's folder.

Each process keeps one small object, `writers/ID.json`, in which it names the parts that it has taken, and which it renews
every few seconds. A process takes a part by naming it and then looking at the others' objects: whoever sees a living
process that names the same part lets go of it again. No locks and no renames are needed, only that what was written can
be read, and a process that dies leaves nothing behind that somebody would have to clean up: its object is not renewed,
so after a while its parts are free. Should that go wrong (a machine that hung for a minute comes back, a file system
that shows other machines' files late), a part is made twice and the store is whole all the same, because shards are
named after their content and one record says whose count.
"""

import logging
import os
import secrets
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType

from latentcodec.store.errors import StoreDamagedError, StoreMismatchError
from latentcodec.store.files import StoreFolder
from latentcodec.store.manifest import PARTS_FOLDER, record_name
from latentcodec.store.sealed import seal, unseal
from latentcodec.store.settings import Settings

logger = logging.getLogger(__name__)

WRITERS_FOLDER = "writers"

_FAILURES = 6
"""Failures in a row after which an announcement counts as impossible."""


@dataclass(frozen=True)
class Announcement:
    """What a process says of itself."""

    id: str
    host: str
    pid: int
    settings: str
    """`Settings.digest` of those that it works with."""
    beat: int
    """Counts up."""
    parts: list[int]
    """That it has taken and not finished."""
    images: int
    """That it has done with so far, skipped ones included."""


class Crew:
    """This process among those that work on a store. A context manager: inside it, the process is announced.

    Args:
        folder: the store.
        settings: what it works with.
        rank, size: this process's number among those that were started together; they begin at different parts.
        beat_seconds: how often to renew the announcement.
        silence_seconds: a process that has not renewed its own for so long is dead. On the same machine it is dead as
            soon as its process is gone.
    """

    def __init__(
        self,
        folder: StoreFolder,
        settings: Settings,
        *,
        rank: int = 0,
        size: int = 1,
        beat_seconds: float = 10.0,
        silence_seconds: float = 60.0,
    ) -> None:
        self.folder = folder
        self._settings = settings
        self._beat_seconds, self._silence = beat_seconds, silence_seconds
        self._host = _this_host()
        self.id = f"{rank:05d}-{os.getpid()}-{secrets.token_hex(4)}"
        self._parts: set[int] = set()
        self._images = 0
        self._images_of_others: dict[str, int] = {}
        self._beat = 0
        self._lock = threading.RLock()  # around the fields above and the writing of the announcement
        self._seen: dict[str, tuple[int, float]] = {}  # id -> its last beat, and when this process saw it first
        self._share, self._rest = _order(self.unfinished(), rank, size)
        self._stopped = threading.Event()
        self._heart = ThreadPoolExecutor(1, thread_name_prefix="store heart")
        self._beating: Future[None] | None = None
        self._taker = ThreadPoolExecutor(1, thread_name_prefix="store taker")
        self._next: Future[int | None] | None = None

    def __enter__(self) -> "Crew":
        self._announce()
        self._beating = self._heart.submit(self._keep_beating)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._taker.shutdown(cancel_futures=True)
        self._heart.shutdown()
        self.folder.delete(_name(self.id))

    def unfinished(self) -> list[int]:
        """Parts without a record, in order."""
        done = set(self.folder.list(PARTS_FOLDER))
        return [part for part in range(self._settings.parts) if os.path.basename(record_name(part)) not in done]

    def take(self) -> int | None:
        """A part for this process alone; None if there is none, or others have taken all that are left.

        The one after it is looked for meanwhile, so that no time is lost over slow storage.

        Raises:
            StoreMismatchError: somebody works on the store with other settings.
            OSError: its announcement could not be renewed, for other reasons than of the moment.
        """
        if self._beating is not None and self._beating.done():
            self._beating.result()  # it never ends but by an error
        part = (self._next or self._taker.submit(self._take)).result()
        self._next = self._taker.submit(self._take) if part is not None else None
        return part

    def finished(self, part: int) -> None:
        """A part that was taken has its record now."""
        with self._lock:
            self._parts.discard(part)

    def made(self, images: int) -> None:
        """So many images more are done with."""
        with self._lock:
            self._images += images

    @property
    def images(self) -> int:
        """Images that this process and those it has heard of are done with."""
        with self._lock:
            return self._images + sum(self._images_of_others.values())

    def others(self) -> list[Announcement]:
        """The other processes that are alive.

        Raises:
            StoreMismatchError: one of them works with other settings.
        """
        found = []
        for name in self.folder.list(WRITERS_FOLDER):
            if name.startswith(".") or name == f"{self.id}.json":
                continue
            with suppress(StoreDamagedError):  # it has just gone; or a kind of storage shows it half written
                path = f"{WRITERS_FOLDER}/{name}"
                found.append(Announcement(**unseal(self.folder.read(path), path)))
        with self._lock:
            self._images_of_others.update({other.id: other.images for other in found})
        living = [other for other in found if self._is_alive(other)]
        for other in living:
            if other.settings != self._settings.digest:
                raise StoreMismatchError(
                    f"{self.folder}: process {other.pid} on {other.host} is writing to it with other settings; "
                    "stop one of the two, or name another store for it"
                )
        return living

    def is_first(self) -> bool:
        """Whether this process is the first of those that are alive, by id: it does what only one should."""
        return all(self.id < other.id for other in self.others())

    def clear_away_dead(self) -> None:
        """Delete the announcements of processes that are dead, half-written ones too."""
        living = [self.id, *(writer.id for writer in self.others())]
        for name in self.folder.list(WRITERS_FOLDER):
            if not any(name.lstrip(".").startswith(id) for id in living):
                self.folder.delete(f"{WRITERS_FOLDER}/{name}")

    def _take(self) -> int | None:
        """Looks for a part among those of this process's share, then among the others', theirs from behind."""
        part = self._take_from(self._share)
        if part is None:
            if self._rest:
                unfinished = set(self.unfinished())
                self._rest = [part for part in self._rest if part in unfinished]
            self._share, self._rest = self._share + self._rest, []
            part = self._take_from(self._share)
        return part

    def _take_from(self, candidates: list[int]) -> int | None:
        held = {part for other in self.others() for part in other.parts} if candidates else set()
        for part in [part for part in candidates if part not in held]:
            if self.folder.exists(record_name(part)):
                candidates.remove(part)
            elif self._take_this(part):
                candidates.remove(part)
                return part
        return None

    def _take_this(self, part: int) -> bool:
        with self._lock:
            self._parts.add(part)
            self._announce()
        # The record again: whoever held the part may have finished it before the announcement.
        alone = not any(part in other.parts for other in self.others()) and not self.folder.exists(record_name(part))
        if not alone:
            with self._lock:
                self._parts.discard(part)
                self._announce()
        return alone

    def _is_alive(self, other: Announcement) -> bool:
        if other.host == self._host and not _process_exists(other.pid):
            return False
        with self._lock:
            beat, since = self._seen.get(other.id, (-1, 0.0))
            now = time.monotonic()
            if beat != other.beat:
                self._seen[other.id] = (other.beat, now)
                return True
            return now - since < self._silence

    def _announce(self) -> None:
        with self._lock:
            self._beat += 1
            announcement = Announcement(
                self.id, self._host, os.getpid(), self._settings.digest, self._beat, sorted(self._parts), self._images
            )
            self.folder.write(_name(self.id), seal(asdict(announcement)))

    def _keep_beating(self) -> None:
        failures = 0
        while not self._stopped.wait(self._beat_seconds):
            try:
                self._announce()
                failures = 0
            except OSError as error:
                failures += 1
                if failures == _FAILURES:
                    raise
                logger.warning("%s: the announcement could not be renewed, trying again: %s", self.folder, error)


def _order(parts: list[int], rank: int, size: int) -> tuple[list[int], list[int]]:
    """This process's share of the parts, and the others', theirs in reverse, because they begin in front."""
    share = parts[rank::size]
    mine = set(share)
    return share, [part for part in reversed(parts) if part not in mine]


def _name(id: str) -> str:
    return f"{WRITERS_FOLDER}/{id}.json"


def _this_host() -> str:
    """A name for this machine and its numbering of processes: containers on one machine may each have their own."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        numbering = ""
    return f"{socket.gethostname()} {numbering}".strip()


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
