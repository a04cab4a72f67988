"""Processes that share a store's folder: each part is taken once, the dead are noticed, strangers are refused."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_store_format import SETTINGS

from latentcodec.store.crew import WRITERS_FOLDER, Announcement, Crew
from latentcodec.store.errors import StoreMismatchError
from latentcodec.store.files import StoreFolder
from latentcodec.store.launch import Launch
from latentcodec.store.manifest import record_name
from latentcodec.store.sealed import seal, unseal
from latentcodec.store.settings import Settings

TEN = replace(SETTINGS, images=100, part_images=10)


@pytest.fixture(params=["disk", "url"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StoreFolder:
    return StoreFolder(tmp_path / "store" if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def announce(folder: StoreFolder, beat: int = 1, **fields: object) -> Announcement:
    """Somebody else, on another machine, says something."""
    plain = Announcement("00009-someone", "elsewhere", 1, TEN.digest, beat, [], 0)
    other = replace(plain, **fields)  # type: ignore[arg-type]
    folder.write(f"{WRITERS_FOLDER}/{other.id}.json", seal(asdict(other)))
    return other


def record(folder: StoreFolder, part: int) -> None:
    folder.write(record_name(part), b"a record")


def all_of(crew: Crew) -> list[int]:
    taken = []
    while (part := crew.take()) is not None:
        taken.append(part)
    return taken


def test_one_process_takes_everything_in_order(folder: StoreFolder) -> None:
    record(folder, 3)
    with Crew(folder, TEN) as crew:
        assert crew.unfinished() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert all_of(crew) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert crew.take() is None
        assert crew.is_first()
    assert folder.list(WRITERS_FOLDER) == []


def test_processes_of_a_launch_begin_apart_and_help_each_other_from_behind(folder: StoreFolder) -> None:
    crews = [Crew(folder, TEN, rank=rank, size=2) for rank in range(2)]
    with crews[0] as even, crews[1] as odd:
        assert [even.take(), odd.take()] == [0, 1]
        record(folder, 0)
        even.finished(0)
        # `odd` holds 1, and 3, which it looked for ahead
        assert all_of(even) == [2, 4, 6, 8, 9, 7, 5]
        assert odd.take() == 3
        assert odd.take() is None
        assert even.is_first()
        assert not odd.is_first()


@pytest.mark.parametrize("processes", [2, 5])
def test_no_part_is_taken_twice_however_they_race(tmp_path: Path, processes: int) -> None:
    many = replace(SETTINGS, images=60, part_images=1)
    folder = StoreFolder(tmp_path)
    crews = [Crew(folder, many) for _ in range(processes)]  # as if started one by one, all beginning with part 0
    taken: list[int] = []

    def work(crew: Crew) -> None:
        with crew:
            while crew.unfinished():
                part = crew.take()
                if part is None:
                    time.sleep(0.001)
                    continue
                taken.append(part)
                record(folder, part)
                crew.finished(part)

    threads = [threading.Thread(target=work, args=(crew,)) for crew in crews]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(60))


def test_what_somebody_alive_holds_is_left_alone_until_it_is_free(folder: StoreFolder) -> None:
    settings = replace(TEN, images=30)
    announce(folder, parts=[0, 2], settings=settings.digest)
    with Crew(folder, settings) as crew:
        assert all_of(crew) == [1]
        announce(folder, beat=2, parts=[2], settings=settings.digest)
        assert all_of(crew) == [0]
        record(folder, 2)
        announce(folder, beat=3, parts=[], settings=settings.digest)
        assert all_of(crew) == []
        assert crew.unfinished() == [0, 1]  # taken, but without record yet


def test_somebody_silent_is_dead_and_somebody_who_beats_is_not(folder: StoreFolder) -> None:
    announce(folder, parts=[0, 1, 2])
    with Crew(folder, TEN, silence_seconds=0.3) as crew:
        assert all_of(crew) == [3, 4, 5, 6, 7, 8, 9]
        for beat in range(2, 8):
            announce(folder, beat=beat, parts=[0, 1, 2])
            time.sleep(0.1)
            assert crew.take() is None
            assert not crew.is_first() or crew.id < "00009"
        time.sleep(0.4)
        assert crew.others() == []
        assert all_of(crew) == [0, 1, 2]
        crew.clear_away_dead()
        assert folder.list(WRITERS_FOLDER) == [f"{crew.id}.json"]


def test_a_process_that_is_gone_from_this_machine_is_dead_at_once(folder: StoreFolder) -> None:
    with Crew(folder, TEN) as mine:
        host = Announcement(**unseal(folder.read(f"{WRITERS_FOLDER}/{mine.id}.json"), "it")).host
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    announce(folder, host=host, pid=child.pid, parts=[0, 1])
    with Crew(folder, TEN) as crew:
        assert all_of(crew) == list(range(2, 10))
        child.kill()
        child.communicate()
        assert all_of(crew) == [0, 1]


def test_whoever_meets_another_at_the_same_part_lets_go(folder: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody names the part between this process's look and its own announcement."""
    crew = Crew(folder, replace(TEN, images=10))
    settings = replace(TEN, images=10).digest
    write: Callable[..., None] = crew.folder.write
    raced = []

    def write_as_somebody_else_does(name: str, data: bytes) -> None:
        write(name, data)
        if not raced and b'"parts": [0]' in data:
            raced.append(announce(StoreFolder(folder.url), parts=[0], settings=settings))

    with crew:
        monkeypatch.setattr(crew.folder, "write", write_as_somebody_else_does)
        assert crew.take() is None
        assert raced
        assert unseal(folder.read(f"{WRITERS_FOLDER}/{crew.id}.json"), "it")["parts"] == []
        announce(folder, beat=2, settings=settings)
        assert crew.take() == 0


def test_two_stores_in_one_folder_are_refused(folder: StoreFolder) -> None:
    announce(folder, settings="f" * 64, pid=4711)
    with (
        Crew(folder, TEN) as crew,
        pytest.raises(StoreMismatchError, match="process 4711 on elsewhere is writing to it"),
    ):
        crew.take()


def test_announcements_are_renewed_and_count_images(folder: StoreFolder) -> None:
    def read(crew: Crew) -> Announcement:
        return Announcement(**unseal(folder.read(f"{WRITERS_FOLDER}/{crew.id}.json"), "it"))

    with Crew(folder, TEN, beat_seconds=0.02) as crew, Crew(folder, TEN) as other:
        first = read(crew)
        crew.take()
        crew.made(7)
        while read(crew).images < 7:
            time.sleep(0.01)
        assert read(crew).beat > first.beat
        assert (first.pid, read(crew).parts[0]) == (os.getpid(), 0)
        other.made(1)
        other.others()
        assert other.images == 8


def test_a_heart_that_cannot_beat_stops_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    with Crew(StoreFolder(tmp_path), TEN, beat_seconds=0.001) as crew:
        crew.take()
        monkeypatch.setattr(crew.folder, "write", fail)
        time.sleep(0.2)
        with pytest.raises(OSError, match="no space left"):
            crew.take()


def test_damaged_and_unfinished_announcements_are_nobody(folder: StoreFolder) -> None:
    folder.write(f"{WRITERS_FOLDER}/00009-x.json", b'{"half": ')
    folder.write(f"{WRITERS_FOLDER}/.00009-y.json.12.partial", b"")
    with Crew(folder, TEN) as crew:
        assert crew.others() == []
        assert len(all_of(crew)) == 10


def test_launch_reads_the_environment() -> None:
    assert Launch.from_environment({}) == Launch(0, 1, 0, 1)
    environment = {"RANK": "11", "WORLD_SIZE": "16", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "8"}
    assert Launch.from_environment(environment) == Launch(11, 16, 3, 8)
    assert Launch(0, 1, 0, 10_000).cores == 1
    assert 1 <= Launch().cores <= 16
    assert isinstance(TEN, Settings)
