"""Real processes on one store: killed at any moment, hung, started twice, on disk and on object storage."""

import hashlib
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import s3fs
import torch
from store_helpers import encode, objects, rows_of, small_codec, small_vae, write_images
from warm_process import SPAWNER

from latentcodec import cli
from latentcodec.store import precompute as loop
from latentcodec.store.crew import Crew
from latentcodec.store.files import StoreFolder
from latentcodec.store.finish import read_record
from latentcodec.store.launch import Launch
from latentcodec.store.manifest import PARTS_FOLDER, read_manifest
from latentcodec.store.prepare import leave_with_parent
from latentcodec.store.preprocessing import Buckets, Preprocessing
from latentcodec.vae.saving import save_vae

IMAGES = 40
POLICY = Preprocessing(Buckets(1024, 8))
KILLS = 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_images(tmp_path_factory.mktemp("source") / "photos", IMAGES)
    (folder / "013.png").write_bytes(b"")  # a part with something to skip
    return folder


@pytest.fixture(scope="module")
def reference(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of one process that nobody interrupted."""
    store = tmp_path_factory.mktemp("reference")
    process = start(source, store)
    process.join()
    assert process.exitcode == 0
    return objects(store)


@dataclass(frozen=True)
class Task:
    """What one process does."""

    source: str
    store: str
    launch: Launch
    workers: int
    slow: float
    """Seconds that encoding takes longer."""
    patience: dict[str, float]
    """Of the Crew."""
    environment: dict[str, str]


def work(task: Task) -> None:
    os.environ |= task.environment
    torch.set_num_threads(1)
    codec = small_codec()
    encode_batch = codec.encode_batch

    def encode_slowly(pixels: Any) -> Any:
        time.sleep(task.slow)
        return encode_batch(pixels)

    codec.encode_batch = encode_slowly  # type: ignore[method-assign]
    loop.Crew = partial(Crew, **task.patience)  # type: ignore[misc, assignment]
    outcome = encode(
        task.source, task.store, codec, POLICY,
        workers=task.workers, launch=task.launch, flipped=True, part_images=4,
    )  # fmt: skip
    if "REPORT" in task.environment:
        Path(task.environment["REPORT"], f"{os.getpid()}.json").write_text(json.dumps(outcome.images))


def start(
    source: str | Path,
    store: str | Path,
    *,
    launch: Launch | None = None,
    workers: int = 0,
    slow: float = 0.0,
    environment: dict[str, str] | None = None,
    **patience: float,
) -> BaseProcess:
    task = Task(str(source), str(store), launch or Launch(), workers, slow, patience, environment or {})
    process = SPAWNER.Process(target=work, args=(task,))
    process.start()
    return process


def launch(source: str | Path, store: str | Path, count: int, **more: Any) -> list[BaseProcess]:
    return [start(source, store, launch=Launch(rank, count), **more) for rank in range(count)]


def end(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.join()
        assert process.exitcode == 0


def kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def require_whole(folder: StoreFolder) -> int:
    """Everything that a record promises is there; gives the number of records."""
    names = [name for name in folder.list(PARTS_FOLDER) if not name.startswith(".")]
    for name in names:
        for entry in read_record(folder, int(name.removesuffix(".json"))).shards:
            assert hashlib.sha256(folder.read(entry.path)).hexdigest() == entry.sha256
            assert hashlib.sha256(folder.read(entry.index_path)).hexdigest() == entry.index_sha256
    return len(names)


def test_killed_at_random_moments_by_any_number_of_processes(
    tmp_path: Path, source: Path, reference: dict[str, bytes]
) -> None:
    store, folder = tmp_path / "store", StoreFolder(tmp_path / "store")
    dice = random.Random()
    kills, most_parts = 0, 0
    while kills < KILLS:
        count = 1 + kills % 3
        processes = launch(source, store, count, workers=kills % 2, slow=0.01)
        time.sleep(dice.uniform(0, 0.7))
        if not any(process.is_alive() for process in processes):  # done before the kill: from the beginning again
            assert objects(store) == reference
            store.rename(tmp_path / f"done-{kills}")
        kill(processes)
        kills += 1
        parts = require_whole(folder)
        assert parts >= most_parts or not store.exists(), "a complete part was lost"
        most_parts = parts
    end(launch(source, store, 2))
    assert objects(store) == reference
    manifest = read_manifest(folder)
    items = sorted(row.item for row, _, _ in rows_of(store, manifest))
    assert items == [number for number in range(IMAGES) if number != 13]


@pytest.mark.parametrize("count", [2, 3])
def test_the_store_does_not_depend_on_the_number_of_processes(
    tmp_path: Path, source: Path, reference: dict[str, bytes], count: int
) -> None:
    end(launch(source, tmp_path, count))
    assert objects(tmp_path) == reference


def test_two_that_were_started_by_mistake_share_the_work(
    tmp_path: Path, source: Path, reference: dict[str, bytes]
) -> None:
    report = tmp_path / "report"
    report.mkdir()
    environment = {"REPORT": str(report)}
    end([start(source, tmp_path / "store", slow=0.02, environment=environment) for _ in range(2)])
    assert objects(tmp_path / "store") == reference
    images = [json.loads(path.read_text()) for path in report.iterdir()]
    assert len(images) == 2
    assert sum(images) == IMAGES, "something was made twice"
    assert min(images) > 0, "one of them did all of it"


def test_when_one_dies_the_others_finish_within_the_same_run(
    tmp_path: Path, source: Path, reference: dict[str, bytes]
) -> None:
    processes = launch(source, tmp_path, 2, slow=0.02)
    while not StoreFolder(tmp_path).list(PARTS_FOLDER):
        time.sleep(0.01)
    kill(processes[:1])
    end(processes[1:])
    assert objects(tmp_path) == reference


def test_one_that_hung_and_was_given_up_comes_back_and_does_no_harm(
    tmp_path: Path, source: Path, reference: dict[str, bytes]
) -> None:
    patience = {"beat_seconds": 0.05, "silence_seconds": 0.5}
    hung = start(source, tmp_path, slow=0.05, **patience)
    while not StoreFolder(tmp_path).list(PARTS_FOLDER):
        time.sleep(0.01)
    assert hung.pid is not None
    os.kill(hung.pid, signal.SIGSTOP)
    end([start(source, tmp_path, **patience)])
    complete = objects(tmp_path)
    assert "manifest.json" in complete
    os.kill(hung.pid, signal.SIGCONT)
    end([hung])
    assert objects(tmp_path) == reference


def hold_workers(pids: Any) -> None:
    """Two workers that begin, and would work for ever, because who kept them does not end in order."""
    workers = [
        multiprocessing.get_context("fork").Process(target=lambda: (leave_with_parent(0), time.sleep(600)))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    pids.put([worker.pid for worker in workers])
    time.sleep(600)


def test_decoding_processes_end_with_the_process_they_work_for() -> None:
    pids = SPAWNER.SimpleQueue()
    process = SPAWNER.Process(target=hold_workers, args=(pids,))
    process.start()
    workers = pids.get()
    kill([process])
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = (
            Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] if Path("/proc/self/stat").exists() else ""
        )
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"  # ended, but nobody has asked how


# ---- object storage


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An S3 server on this machine with a bucket named `bucket`; the environment that leads there."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield environment
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_from_object_storage_to_object_storage_through_a_kill(s3: dict[str, str], source: Path, tmp_path: Path) -> None:
    photos, folder = StoreFolder("s3://bucket/photos"), StoreFolder("s3://bucket/store")
    few = sorted(source.iterdir())[:16]
    for path in few:
        photos.write(path.name, path.read_bytes())
    (tmp_path / "photos").mkdir()
    for path in few:
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    end([start(tmp_path / "photos", tmp_path / "store")])
    processes = launch(photos.url, folder.url, 2, environment=s3, slow=0.1)
    while len(folder.list(PARTS_FOLDER)) < 2:
        time.sleep(0.1)
    kill(processes)
    assert 2 <= require_whole(folder) < 4
    end([start(photos.url, folder.url, workers=1, environment=s3)])
    places = ("", "shards", "index", PARTS_FOLDER)
    names = [f"{place}/{name}".lstrip("/") for place in places for name in folder.list(place)]
    assert {name: folder.read(name) for name in names} == objects(tmp_path / "store")
    row, values, flipped = next(rows_of(folder.url, read_manifest(folder)))
    assert row.id == "000.png"
    assert flipped is not None
    assert values.shape == flipped.shape


# ---- the command


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae") / "vae"
    save_vae(small_vae(), folder)
    return folder


def command(environment: dict[str, str], arguments: list[str], output: str) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    with open(output, "w") as file:
        sys.stdout = file
        code = cli.main(["precompute", *arguments])
    os._exit(code)


def test_the_command_under_a_launcher(tmp_path: Path, source: Path, vae: Path) -> None:
    """With the environment that `accelerate launch` gives to two processes."""
    store = tmp_path / "store"
    arguments = [
        str(source), str(store), "--vae", str(vae), "--size", "32", "--dtype", "float32", "--part-images", "4", "--json",
    ]  # fmt: skip
    environments = [
        {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"} for rank in range(2)
    ]
    outputs = [tmp_path / f"output-{rank}" for rank in range(2)]
    processes = [
        SPAWNER.Process(target=command, args=(environment, arguments, str(output)))
        for environment, output in zip(environments, outputs, strict=True)
    ]
    for process in processes:
        process.start()
    end(processes)
    told = json.loads(outputs[0].read_text())
    assert outputs[1].read_text() == ""
    assert (told["rows"], told["skipped"]) == (IMAGES - 1, {"empty file": 1})
    manifest = read_manifest(StoreFolder(store))
    assert (manifest.settings.source, manifest.settings.dtype, told["fingerprint"]) == (
        "photos", "float16", manifest.settings.fingerprint,
    )  # fmt: skip


def test_what_the_command_prints_and_refuses(
    tmp_path: Path, source: Path, vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str, images: str = str(source)) -> tuple[int, str, str]:
        fixed = [images, str(tmp_path / "latents"), "--vae", str(vae), "--workers", "0", "--dtype", "float32"]
        code = cli.main(["precompute", *fixed, *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    small = ("--size", "32", "--resolution", "buckets", "--bucket-step", "8", "--flip", "--limit", "15")
    code, out, _ = run(*small)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].endswith("latents: 14 images as moments in float16, and mirrored; 3 shards, 0.0 MiB")
    assert lines[1] == "height x width: 24 x 40 (4), 32 x 32 (6), 40 x 24 (4)"
    assert lines[2].startswith("raw latents, by channel: mean ")
    assert lines[3] == "1 of 15 images were skipped: empty file (1); see skipped.jsonl there"
    assert lines[4].startswith("15 images by this process in ")
    assert run(*small)[1].splitlines()[-1] == "it was complete already"
    for arguments, message in (
        (("--size", "0"), "--size: expected pixels such as 512, or height x width such as 512x768, found '0'"),
        (("--size", "32x"), "found '32x'"),
        (("--resolution", "native", "--compile"), "--compile: the encoder would be compiled for each size"),
        (("--size", "30"), "expected multiples of the VAE's factor, 8, found 30 x 30; for example 32 x 32"),
        (("--size", "32x64", "--limit", "15"), "was made with other settings than are asked for now:"),
        (("--column", "image"), "a folder source has no option column"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert message in err
    code, _, err = run(images="procedural:3")
    assert (code, "--limit: procedural images have no end" in err) == (1, True)
