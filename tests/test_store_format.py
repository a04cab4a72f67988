"""The store's format: sealed objects, settings, records and manifests, shards and their index, on disk and behind a URL."""

import hashlib
import json
import pickle
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentcodec.store.errors import StoreDamagedError, StoreError, StoreMismatchError
from latentcodec.store.files import StoreFolder
from latentcodec.store.index import INDEX_SCHEMA, IndexRow, read_index
from latentcodec.store.manifest import (
    MANIFEST_NAME,
    Manifest,
    PartRecord,
    ShardEntry,
    Statistics,
    read_manifest,
    record_name,
)
from latentcodec.store.sealed import seal, unseal
from latentcodec.store.settings import Settings, plain_config, read_settings, write_settings
from latentcodec.store.shards import DTYPES, Shard, ShardContent, write_shard
from latentcodec.vae.presets import build_vae

SETTINGS = Settings(
    fingerprint="sha256:" + "a" * 64,
    config={"block_out_channels": [32, 64, 128, 128], "latent_channels": 4, "scaling_factor": 0.18215,
            "shift_factor": None, "latents_mean": None, "latents_std": None},
    preprocessing={"policy": "crop", "height": 64, "width": 64},
    values="moments",
    dtype="float32",
    flipped=False,
    compute_dtype="float32",
    source="photos",
    images=25,
    listing="sha256:" + "b" * 64,
    part_images=10,
    caption_key="caption",
    label_key="label",
)  # fmt: skip


def row(number: int, **fields: Any) -> IndexRow:
    plain = IndexRow(
        id=f"{number}.jpg", item=number, source_sha256="c" * 64, height=100, width=120, resized_height=64,
        resized_width=77, crop_top=0, crop_left=6, crop_height=64, crop_width=64, method="whole", caption=None,
        label=None, metadata=None,
    )  # fmt: skip
    return replace(plain, **fields)


@pytest.fixture(params=["disk", "url"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StoreFolder:
    return StoreFolder(tmp_path / "store" if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


# ---- objects


def test_objects_are_written_read_listed_and_deleted(folder: StoreFolder) -> None:
    assert folder.list("parts") == []
    assert not folder.exists("parts/1.json")
    folder.write("parts/2.json", b"two")
    folder.write("parts/1.json", [b"o", memoryview(b"ne")])
    folder.write("parts/deeper/3.json", b"three")
    assert folder.list("parts") == ["1.json", "2.json"]
    assert folder.exists("parts/1.json")
    assert (folder.read("parts/1.json"), folder.read("parts/2.json", 1, 3)) == (b"one", b"wo")
    assert folder.size("parts/1.json") == 3
    folder.write("parts/1.json", b"other")
    assert pickle.loads(pickle.dumps(folder)).read("parts/1.json") == b"other"
    folder.delete("parts/1.json")
    folder.delete("parts/1.json")
    assert folder.list("parts") == ["2.json"]
    for look in (folder.read, folder.size):
        with pytest.raises(StoreDamagedError, match=r"parts/1\.json: expected an object of the store, found none"):
            look("parts/1.json")


def test_an_interrupted_write_leaves_the_old_object(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path)
    folder.write("a.json", b"old")
    with pytest.raises(TypeError):
        folder.write("a.json", [b"new", "no bytes"])  # type: ignore[list-item]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert folder.read("a.json") == b"old"


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text().filter(lambda key: key not in ("format", "version", "sha256")),
                       st.recursive(st.none() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
                                    st.lists, max_leaves=10)))  # fmt: skip
def test_sealed_objects_come_back(fields: dict[str, Any]) -> None:
    data = seal(fields)
    assert unseal(data, "it") == fields
    assert json.loads(data).keys() == {"format", "version", "sha256", *fields}


def test_every_changed_byte_breaks_the_seal() -> None:
    data = seal({"rows": 12, "shards": [[1, "a"], [2, "b"]]})
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            with pytest.raises(StoreDamagedError, match="it: expected"):
                unseal(bytes(changed), "it")
    for length in range(len(data)):
        with pytest.raises(StoreDamagedError, match="cut off"):
            unseal(data[:length], "it")


def test_another_version_is_refused_by_name() -> None:
    body = b'{\n"format": "latentcodec store",\n"version": 2,\n'
    data = body + b'"sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'
    with pytest.raises(StoreDamagedError, match="expected latentcodec store 1, found latentcodec store 2"):
        unseal(data, "it")


# ---- settings


def test_settings_come_back(folder: StoreFolder) -> None:
    write_settings(folder, SETTINGS)
    assert read_settings(folder) == SETTINGS
    assert SETTINGS.parts == 3
    assert [list(SETTINGS.part_range(part))[::9] for part in range(3)] == [[0, 9], [10, 19], [20]]
    assert (SETTINGS.factor, SETTINGS.channels, SETTINGS.scaling.factor) == (8, 4, 0.18215)


def test_other_settings_are_refused_with_both_values() -> None:
    wanted = replace(
        SETTINGS, fingerprint="sha256:other", preprocessing={"policy": "native"}, source="elsewhere", flipped=True
    )
    with pytest.raises(StoreMismatchError) as error:
        SETTINGS.require_same(wanted, "my-store")
    told = str(error.value).splitlines()
    assert told[0].startswith("my-store was made with other settings")
    assert told[1:-1] == [
        f'  fingerprint: "{SETTINGS.fingerprint}" there, "sha256:other" here',
        "  flipped: false there, true here",
        "  preprocessing.height: 64 there, nothing here",
        '  preprocessing.policy: "crop" there, "native" here',
        "  preprocessing.width: 64 there, nothing here",
    ]
    SETTINGS.require_same(replace(SETTINGS, source="moved"), "my-store")


OTHER: dict[str, Any] = {
    "values": "mean", "dtype": "float16", "compute_dtype": "bfloat16", "flipped": True, "images": 26, "part_images": 5,
    "config": {**SETTINGS.config, "scaling_factor": 1.0}, "preprocessing": {"policy": "native"},
    "fingerprint": "x", "listing": "x", "caption_key": "text", "label_key": "class",
}  # fmt: skip


@pytest.mark.parametrize("field", [name for name in SETTINGS.to_json() if name != "source"])
def test_each_field_is_part_of_the_identity(field: str) -> None:
    changed = replace(SETTINGS, **{field: OTHER[field]})
    assert changed.digest != SETTINGS.digest
    with pytest.raises(StoreMismatchError, match=field):
        SETTINGS.require_same(changed, "store")


def test_config_of_a_network_is_plain() -> None:
    config = plain_config(build_vae("tiny-f8d4").config)
    assert json.loads(json.dumps(config)) == config
    assert config["latent_channels"] == 4
    assert not [key for key in config if key.startswith("_")]


# ---- manifest

HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
COUNTS = st.integers(0, 2**40)
NUMBERS = st.lists(st.floats(0, allow_nan=False, allow_infinity=False), min_size=4, max_size=4)
# Plain values: the type checks draw random numbers when an object is made, which Hypothesis forbids inside strategies.
ENTRIES = st.lists(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, HASHES, HASHES), max_size=4)
STATISTICS = st.none() | st.tuples(COUNTS, NUMBERS, NUMBERS, st.none() | NUMBERS)
VERSIONS = st.dictionaries(st.text(), st.text(), max_size=3)


@settings(max_examples=30, deadline=None)
@given(COUNTS, HASHES, VERSIONS, ENTRIES, STATISTICS, st.lists(st.tuples(st.text(), st.text())))
def test_records_come_back(
    part: int, hash: str, versions: dict[str, str], entries: Any, numbers: Any, skipped: list[tuple[str, str]]
) -> None:
    shards = tuple(ShardEntry(*entry) for entry in entries)
    statistics = None if numbers is None else Statistics(*numbers)
    record = PartRecord(part, hash, versions, shards, statistics, tuple(skipped))
    assert PartRecord.from_bytes(record.to_bytes(), "it") == record


@settings(max_examples=30, deadline=None)
@given(st.lists(VERSIONS), ENTRIES, STATISTICS, st.dictionaries(st.text(), COUNTS, max_size=3), HASHES)
def test_manifests_come_back(
    versions: Any, entries: Any, numbers: Any, skipped: dict[str, int], skipped_hash: str
) -> None:
    shards = tuple(ShardEntry(*entry) for entry in entries)
    statistics = None if numbers is None else Statistics(*numbers)
    manifest = Manifest(SETTINGS, tuple(versions), shards, statistics, skipped, skipped_hash)
    data = manifest.to_bytes()
    assert Manifest.from_bytes(data, "it") == manifest
    assert manifest.rows == sum(entry.rows for entry in shards)
    assert manifest.ends == [sum(entry.rows for entry in shards[: i + 1]) for i in range(len(shards))]


def test_a_million_rows_make_a_small_manifest() -> None:
    entry = ShardEntry(99_999, 64, 64, 10_000, 123_456_789, "a" * 64, "b" * 64)
    manifest = Manifest(SETTINGS, (), (entry,) * 1000, None, {}, "c" * 64)
    assert len(manifest.to_bytes()) < 200_000 + 2_000


def test_names_follow_from_the_content() -> None:
    entry = ShardEntry(12, 32, 24, 10, 1, "a" * 64, "b" * 64)
    assert entry.path == f"shards/000012-32x24-{entry.digest[:8]}.safetensors"
    assert entry.index_path == f"index/000012-32x24-{entry.digest[:8]}.parquet"
    assert replace(entry, index_sha256="d" * 64).name != entry.name
    assert replace(entry, part=1_234_567, height=0, width=0).name.startswith("1234567-native-")
    assert record_name(12) == "parts/000012.json"


def test_reading_what_is_no_complete_store(folder: StoreFolder) -> None:
    with pytest.raises(StoreDamagedError, match=r"expected a latent store, found no manifest\.json"):
        read_manifest(folder)
    write_settings(folder, SETTINGS)
    folder.write(record_name(1), b"{}")
    with pytest.raises(StoreError, match="is not complete: 1 of 3 parts are; run `latentcodec precompute` again"):
        read_manifest(folder)
    manifest = Manifest(SETTINGS, ({"torch": "2"},), (), None, {"empty file": 3}, "c" * 64)
    folder.write(MANIFEST_NAME, manifest.to_bytes())
    assert read_manifest(folder) == manifest
    folder.write(MANIFEST_NAME, manifest.to_bytes()[:-20])
    with pytest.raises(StoreDamagedError, match=r"manifest\.json: expected the SHA-256"):
        read_manifest(folder)


# ---- shards


def values(*shape: int, dtype: str = "float32") -> Tensor:
    return torch.randn(shape).to(DTYPES[dtype][0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flipped", [False, True])
def test_shards_come_back_row_by_row(folder: StoreFolder, dtype: str, flipped: bool) -> None:
    whole = {False: values(5, 8, 3, 4, dtype=dtype), True: values(5, 8, 3, 4, dtype=dtype)}
    pieces = {twin: [tensor[:2].clone(), tensor[2:].clone()] for twin, tensor in whole.items()}
    rows = [row(i) for i in range(5)]
    content = ShardContent(7, "moments", 3, 4, rows, pieces[False], pieces[True] if flipped else None)
    entry = write_shard(folder, content)
    assert (entry.part, entry.height, entry.width, entry.rows) == (7, 3, 4, 5)
    data = folder.read(entry.path)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)
    assert hashlib.sha256(folder.read(entry.index_path)).hexdigest() == entry.index_sha256
    shard = Shard(folder, entry, "moments")
    assert (len(shard), shard.flipped) == (5, flipped)
    for twin in {False, flipped}:
        for number in range(5):
            assert torch.equal(shard.row(number, flipped=twin), whole[twin][number])
        assert torch.equal(shard.rows(1, 4, flipped=twin), whole[twin][1:4])
        assert torch.equal(shard.view(3, flipped=twin), whole[twin][3])
        for order in ([4, 0, 0, 2], [1]):
            assert torch.equal(shard.gather(order, flipped=twin), whole[twin][order])
            assert torch.equal(shard.gather(order, flipped=twin, means=True), whole[twin][order, :4])
    if not flipped:
        with pytest.raises(KeyError, match="written without mirrored images"):
            shard.row(0, flipped=True)
    for bad in (-1, 5):
        with pytest.raises(IndexError, match=r"expected 0 \.\.\. 4"):
            shard.row(bad)
        with pytest.raises(IndexError):
            shard.view(bad)
    with pytest.raises(IndexError, match="expected a range inside"):
        shard.rows(3, 6)
    kept = shard.row(0)
    shard.close()
    assert torch.equal(kept, whole[False][0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_programs_read_shards(tmp_path: Path, dtype: str) -> None:
    folder, tensor = StoreFolder(tmp_path), values(3, 4, 2, 2, dtype=dtype)
    content = ShardContent(0, "mean", 2, 2, [row(i) for i in range(3)], [tensor], [tensor.flip(3).contiguous()])
    entry = write_shard(folder, content)
    loaded = safetensors.torch.load_file(tmp_path / entry.path)
    assert loaded.keys() == {"mean", "mean_flipped"}
    assert torch.equal(loaded["mean"], tensor)
    with safetensors.safe_open(tmp_path / entry.path, framework="pt") as file:
        assert file.metadata() == {"format": "latentcodec store", "version": "1", "part": "0"}
        assert torch.equal(file.get_slice("mean_flipped")[1:2], tensor[1:2].flip(3))
    assert pq.read_table(tmp_path / "index").column("id").to_pylist() == ["0.jpg", "1.jpg", "2.jpg"]


def test_rows_of_different_shapes(folder: StoreFolder) -> None:
    tensors = [values(1, 8, height, 5) for height in range(1, 120)]  # a header of more than one first read
    content = ShardContent(3, "moments", 0, 0, [row(i) for i in range(119)], tensors, None)
    shard = Shard(folder, write_shard(folder, content), "moments")
    assert shard.entry.native
    for number in (0, 57, 118):
        assert torch.equal(shard.row(number), tensors[number][0])
    with pytest.raises(ValueError, match="differ in shape"):
        shard.rows(0, 2)


def test_values_start_where_processors_like_them(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path)
    for rows in (1, 7, 1000):
        content = ShardContent(0, "mean", 1, 1, [row(i) for i in range(rows)], [values(rows, 4, 1, 1)], None)
        data = folder.read(write_shard(folder, content).path)
        assert (8 + int.from_bytes(data[:8], "little")) % 64 == 0


def test_damaged_shards_are_refused(folder: StoreFolder) -> None:
    content = ShardContent(0, "mean", 2, 2, [row(i) for i in range(3)], [values(3, 4, 2, 2)], None)
    entry = write_shard(folder, content)
    data = folder.read(entry.path)
    folder.write(entry.path, data[:-1])
    with pytest.raises(StoreDamagedError, match=rf"expected {entry.bytes} bytes, found {entry.bytes - 1}"):
        Shard(folder, entry, "mean")
    folder.write(entry.path, b"\xff" * 8 + data[8:])
    with pytest.raises(StoreDamagedError, match="expected the length of a safetensors header"):
        Shard(folder, entry, "mean")
    folder.write(entry.path, data.replace(b'{"__meta', b'["__meta'))
    with pytest.raises(StoreDamagedError, match="expected a safetensors header"):
        Shard(folder, entry, "mean")
    folder.write(entry.path, data.replace(b"[3,4,2,2]", b"[3,4,4,1]"))
    with pytest.raises(StoreDamagedError, match="expected 3 rows of mean as its entry says"):
        Shard(folder, entry, "mean")
    folder.delete(entry.path)
    with pytest.raises(StoreDamagedError, match="found none"):
        Shard(folder, entry, "mean")


def test_the_index_comes_back(folder: StoreFolder) -> None:
    rows = [row(0, caption="a cat", label=3, metadata='{"k": 1}'), row(1, caption="", method="tiles"), row(2)]
    entry = write_shard(folder, ShardContent(0, "mean", 2, 2, rows, [values(3, 4, 2, 2)], None))
    table = read_index(folder, entry)
    assert table.schema.equals(INDEX_SCHEMA)
    assert [IndexRow(**fields) for fields in table.to_pylist()] == rows
    with pytest.raises(StoreDamagedError, match="expected 4 rows"):
        read_index(folder, replace(entry, rows=4))


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    folder = StoreFolder(tmp_path)
    entry = write_shard(folder, ShardContent(0, "mean", 2, 2, [row(0)], [values(1, 4, 2, 2)], None))
    (tmp_path / entry.index_path).write_bytes(b"no parquet")
    with pytest.raises(StoreDamagedError, match="expected a parquet file"):
        read_index(folder, entry)


def test_memory_urls_do_not_touch_the_disk() -> None:
    folder = StoreFolder(f"memory://{uuid.uuid4().hex}")
    folder.write("a", b"1")
    assert folder.local_path("a") is None
    assert fsspec.filesystem("memory").cat(folder.url + "/a") == b"1"
