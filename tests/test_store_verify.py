"""`verify`: every byte counts, what a store says of itself is compared, and rows are encoded once more."""

import json
import random
import re
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_stores import SmallStore, write_store
from store_helpers import encode, small_codec, small_vae

from latentcodec.cli import main
from latentcodec.codec import LatentCodec
from latentcodec.images.items import ListedSource
from latentcodec.images.sources import open_source
from latentcodec.store.dataset import LatentDataset
from latentcodec.store.errors import StoreDamagedError, StoreError, StoreMismatchError
from latentcodec.store.files import StoreFolder
from latentcodec.store.manifest import MANIFEST_NAME, PartRecord, record_name
from latentcodec.store.plan import require_listed
from latentcodec.store.preprocessing import Buckets, Crop, Native, Preprocessing
from latentcodec.store.reencode import reencode
from latentcodec.store.settings import SETTINGS_NAME
from latentcodec.store.shards import ShardContent, write_shard
from latentcodec.store.verify import Verified, verify
from latentcodec.vae.loading import save_vae


def check(folder: StoreFolder) -> Verified:
    return verify(folder, progress=lambda done, total: None)


def found_in(folder: StoreFolder) -> list[str]:
    return [problem.object for problem in check(folder).problems]


def objects(folder: StoreFolder) -> list[str]:
    inside = [f"{place}/{name}" for place in ("parts", "shards", "index") for name in folder.list(place)]
    return [MANIFEST_NAME, SETTINGS_NAME, "skipped.jsonl", *inside]


# ---- damage


@pytest.mark.parametrize(
    "options",
    [
        {"skipped": 2, "flipped": True},
        {"values": "mean", "dtype": "bfloat16"},
        {"preprocessing": {"policy": "native"}, "dtype": "float16", "flipped": True, "skipped": 1},
    ],
)
@pytest.mark.parametrize("where", ["disk", "url"])
def test_a_whole_store_has_no_problems(tmp_path: Path, where: str, options: dict[str, Any]) -> None:
    store = write_store(tmp_path if where == "disk" else f"memory://{uuid.uuid4().hex}", **options)
    shown = []
    verified = verify(store.folder, progress=lambda *progress: shown.append(progress))
    assert (verified.problems, verified.leftovers) == ((), ())
    assert verified.manifest == store.manifest
    total = sum(entry.bytes for entry in store.manifest.shards)
    assert shown[-1] == (total, total)


def test_every_flipped_bit_is_found_and_named(tmp_path: Path) -> None:
    """In each object at both ends and at random places, one bit at a time."""
    store = write_store(tmp_path, parts=2, rows=4, skipped=1)
    drawn = random.Random(0)
    for name in objects(store.folder):
        path = tmp_path / name
        data = path.read_bytes()
        for position in {0, len(data) - 1, *(drawn.randrange(len(data)) for _ in range(4))}:
            changed = bytearray(data)
            changed[position] ^= 1 << drawn.randrange(8)
            path.write_bytes(changed)
            assert name in found_in(store.folder), f"{name}, byte {position}"
        path.write_bytes(data[:-1])
        assert name in found_in(store.folder)
        path.unlink()
        if name == MANIFEST_NAME:
            with pytest.raises(StoreError, match="is not complete: 2 of 2 parts are"):
                check(store.folder)
        else:
            assert name in found_in(store.folder)
        path.write_bytes(data)
    assert found_in(store.folder) == []


def test_what_belongs_to_nobody_is_told_but_no_problem(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    for name in ("shards/000000-9x9-01234567.safetensors", "index/x.parquet", "parts/000099.json", "writers/me.json"):
        store.folder.write(name, b"half a shard")
    verified = check(store.folder)
    assert verified.problems == ()
    assert set(verified.leftovers) == {
        "shards/000000-9x9-01234567.safetensors", "index/x.parquet", "parts/000099.json", "writers/me.json",
    }  # fmt: skip


def test_what_is_no_store_or_not_complete_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreDamagedError, match="expected a latent store"):
        check(StoreFolder(tmp_path / "nowhere"))


# ---- what was written wrong, with every hash right


def rewritten(store: SmallStore, part: int, change: Callable[[ShardContent], ShardContent]) -> None:
    """Write the first shard of a part anew, and all that lists it."""
    folder, manifest = store.folder, store.manifest
    old = next(entry for entry in manifest.shards if entry.part == part)
    first = manifest.shards.index(old) * old.rows
    rows = range(first, first + old.rows)
    values = torch.stack([store.values[row] for row in rows])
    content = ShardContent(part, "moments", old.height, old.width, [store.index[row] for row in rows], [values], None)
    new = write_shard(folder, change(content))
    record = PartRecord.from_bytes(folder.read(record_name(part)), "it")
    shards = tuple(new if entry == old else entry for entry in record.shards)
    folder.write(record_name(part), replace(record, shards=shards).to_bytes())
    everywhere = tuple(new if entry == old else entry for entry in manifest.shards)
    folder.write(MANIFEST_NAME, replace(manifest, shards=everywhere).to_bytes())


def with_value(value: float) -> Callable[[ShardContent], ShardContent]:
    def change(content: ShardContent) -> ShardContent:
        values = content.values[0].clone()
        values[3, 2, 1, 1] = value
        return replace(content, values=[values])

    return change


def with_rows(**fields: Any) -> Callable[[ShardContent], ShardContent]:
    return lambda content: replace(content, rows=[replace(content.rows[0], **fields), *content.rows[1:]])


WRONG: dict[str, tuple[Callable[[ShardContent], ShardContent], str]] = {
    "nan": (with_value(float("nan")), "row 3: expected finite values, found NaN or infinity"),
    "infinity": (with_value(float("inf")), "row 3: expected finite values"),
    "type": (
        lambda content: replace(content, values=[content.values[0].bfloat16()]),
        r"expected torch.float32 of \[8, 4, 4\], found torch.bfloat16",
    ),
    "channels": (
        lambda content: replace(content, values=[content.values[0][:, :6].contiguous()]),
        r"expected torch.float32 of \[8, 4, 4\], found torch.float32 of \[6, 4, 4\]",
    ),
    "mirrored": (lambda content: replace(content, flipped=content.values), "expected False, found True"),
    "name": (lambda content: replace(content, kind="mean"), "expected 10 rows of moments"),
    "box": (with_rows(crop_height=64), "expected boxes that give latents of 4 x 4, found 1 others"),
    "same id": (with_rows(id="21.jpg"), "expected ids that differ"),
    "same image": (with_rows(item=21), "images 21 are in more than one row"),
    "other part": (with_rows(item=5), "images 5 are of another part"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_was_written_wrong_is_found(tmp_path: Path, wrong: str) -> None:
    store = write_store(tmp_path)
    change, message = WRONG[wrong]
    rewritten(store, 1, lambda content: content)
    assert check(store.folder).problems == ()
    rewritten(store, 1, change)
    found = "\n".join(problem.found for problem in check(store.folder).problems)
    assert re.search(message, found), found


def test_settings_and_records_of_another_store_are_found(tmp_path: Path) -> None:
    store, other = write_store(tmp_path / "one"), write_store(tmp_path / "other", fingerprint="sha256:" + "e" * 64)
    for name, message in ((SETTINGS_NAME, "fingerprint: .* there, .* here"), (record_name(1), "expected part 1 with")):
        own = store.folder.read(name)
        store.folder.write(name, other.folder.read(name))
        problems = check(store.folder).problems
        assert [problem.object for problem in problems] == [name]
        assert re.search(message, problems[0].found)
        store.folder.write(name, own)


def test_a_manifest_that_tells_other_things_than_its_records_is_found(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    for field, value in {"captions": 3, "skipped": {"empty file": 1}, "shards": store.manifest.shards[:-1]}.items():
        store.folder.write(MANIFEST_NAME, replace(store.manifest, **{field: value}).to_bytes())
        assert f"its {field} are others than those of the records in parts/" in [
            problem.found for problem in check(store.folder).problems
        ]


# ---- encoding again


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images that are not alike, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(5):
        small = np.random.default_rng(number).integers(0, 255, (5, 6, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((48 + number, 40), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
        (folder / f"{number}.txt").write_text(f"noise {number}")
    (folder / "5.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    save_vae(small_vae(), folder)
    return folder


def codec_of(vae: Path, dtype: torch.dtype = torch.float32) -> LatentCodec:
    return LatentCodec.from_pretrained(vae, dtype=dtype, device="cpu")


def source_of(photos: Path) -> ListedSource:
    return require_listed(open_source(photos), "photos")


@pytest.mark.parametrize(
    ("policy", "compute", "options"),
    [
        (Crop(32, 32), torch.float32, {"flipped": True}),
        (Buckets(40 * 40, 8), torch.float32, {"values": "mean", "part_images": 2}),
        (Native(), torch.bfloat16, {"flipped": True, "dtype": "bfloat16"}),
    ],
    ids=["crop", "buckets", "native"],
)
def test_rows_encoded_again_are_the_same(
    photos: Path, vae: Path, tmp_path: Path, policy: Any, compute: torch.dtype, options: dict[str, Any]
) -> None:
    codec = codec_of(vae, compute)
    encode(photos, tmp_path, codec, Preprocessing(policy), **options)
    assert check(StoreFolder(tmp_path)).problems == ()
    dataset = LatentDataset(tmp_path)
    assert len(dataset) == 5
    assert [dataset[row]["caption"] for row in range(5)] == [f"noise {dataset.index_row(row).item}" for row in range(5)]
    again = list(reencode(dataset, source_of(photos), codec, range(5)))
    assert [(row.row, row.equal, row.difference, row.problem) for row in again] == [
        (i, True, 0.0, None) for i in range(5)
    ]


def test_rounding_is_no_problem_but_another_picture_is(photos: Path, vae: Path, tmp_path: Path) -> None:
    encode(photos, tmp_path, codec_of(vae, torch.bfloat16), dtype="bfloat16")
    codec, source = codec_of(vae), source_of(photos)
    dataset = LatentDataset(tmp_path)
    for row in reencode(dataset, source, codec, range(5)):
        assert row.problem is None
        assert not row.equal
        assert 0 < row.difference < 0.05
    folder, entry = dataset.folder, dataset.manifest.shards[0]
    shard = dataset.stored
    swapped = torch.stack([shard(row) for row in (1, 0, 2, 3, 4)])
    rows = [dataset.index_row(row) for row in range(5)]
    new = write_shard(folder, ShardContent(0, "moments", 4, 4, rows, [swapped], None))
    assert new.rows == entry.rows
    record = PartRecord.from_bytes(folder.read(record_name(0)), "it")
    folder.write(record_name(0), replace(record, shards=(new,)).to_bytes())
    folder.write(MANIFEST_NAME, replace(dataset.manifest, shards=(new,)).to_bytes())
    assert check(folder).problems == ()
    found = list(reencode(LatentDataset(tmp_path), source, codec, range(5)))
    assert [row.problem is None for row in found] == [False, False, True, True, True]
    assert "encoded again it is off by" in str(found[0].problem)


def test_images_that_have_changed_are_named(photos: Path, vae: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for path in photos.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    codec = codec_of(vae)
    encode(own, tmp_path / "store", codec, name="photos")
    (own / "0.png").write_bytes(b"")
    Image.open(own / "2.png").rotate(90, expand=True).save(own / "2.png")
    (own / "3.txt").write_text("another caption")
    dataset = LatentDataset(tmp_path / "store")
    problems = [str(row.problem) for row in reencode(dataset, source_of(own), codec, range(5))]
    assert problems[1] == problems[4] == "None"
    assert problems[0].startswith("cannot be read any more: empty file")
    assert "height: 40 in the store, 50 now" in problems[2]
    assert "caption: 'noise 3' in the store, 'another caption' now" in problems[3]
    (own / "6.png").write_bytes(b"")
    with pytest.raises(StoreMismatchError, match="name the source that it was made of, photos"):
        list(reencode(dataset, source_of(own), codec, [0]))
    with pytest.raises(StoreMismatchError, match=r"fingerprint: .* there, .* here"):
        list(reencode(dataset, source_of(own), small_codec(seed=2), [0]))


# ---- the command


def test_the_command_reports_and_exits_with_what_it_found(
    photos: Path, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    encode(photos, store, codec_of(vae), name="photos")
    assert main(["verify", str(store)]) == 0
    assert re.search(r"store: 5 rows in 1 shards, \S+ MiB, read in \S+ s: nothing is wrong", capsys.readouterr().out)
    arguments = ["verify", str(store), "--vae", str(vae), "--rows", "3", "--device", "cpu"]
    assert main([*arguments, "--source", str(photos), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["encoded_again"] == {"rows": 3, "equal": 3, "largest_difference": 0.0}
    assert (report["rows"], report["problems"], report["leftovers"]) == (5, [], [])
    assert main(arguments) == 1
    assert "say where that is with --source" in capsys.readouterr().err
    monkeypatch.chdir(photos.parent)
    (photos.parent / "photos").symlink_to(photos)
    assert main(arguments) == 0
    assert "3 rows encoded again: 3 bit for bit the same" in capsys.readouterr().out
    shard = next((store / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert main([*arguments, "--json"]) == 1
    out, err = capsys.readouterr()
    assert [problem["object"] for problem in json.loads(out)["problems"]] == [f"shards/{shard.name}"]
    assert json.loads(out)["encoded_again"] is None
    assert "is damaged: 1 found, listed above" in err
    (store / MANIFEST_NAME).write_bytes(b"{}")
    assert main(["verify", str(store)]) == 1
    assert "expected the SHA-256 of the content at its end" in capsys.readouterr().out
