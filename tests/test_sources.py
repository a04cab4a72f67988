"""Sources of images: what they find, in which order, and what they say when there is nothing to find."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from latentcodec.images import hub
from latentcodec.images.decode import BrokenImageError
from latentcodec.images.folder import FolderSource
from latentcodec.images.items import ListedSource
from latentcodec.images.packed import PackedStrings
from latentcodec.images.parquet import ParquetSource
from latentcodec.images.paths import expand_braces, relative_names
from latentcodec.images.procedural import ProceduralSource
from latentcodec.images.sources import (
    SOURCES,
    ImageItem,
    ImageSource,
    ImageStream,
    MixedSource,
    SkippedImages,
    SourceError,
    open_source,
)
from latentcodec.images.stream import shuffled
from latentcodec.images.tar_index import TarMember, read_members
from latentcodec.images.webdataset import WebDatasetSource


def colour(number: int) -> tuple[int, int, int]:
    return (number % 256, 255 - number % 256, number * 7 % 256)


def png(number: int) -> bytes:
    """A small PNG whose colour is the number."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour(number)).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(item: ImageItem) -> int:
    pixels = item.decode()
    assert pixels.shape == (4, 6, 3)
    assert tuple(pixels[0, 0]) == colour(int(pixels[0, 0, 0]))
    return int(pixels[0, 0, 0])


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def ids(source: ImageSource) -> list[str]:
    return [source[index].id for index in range(len(source))]


# --- folder -----------------------------------------------------------------------------------------------------


def test_folder_is_recursive_sorted_and_keeps_extensions_apart(tmp_path: Path) -> None:
    names = ["b.PNG", "a.png", "a.jpg", "deep/er/z.WebP", "deep/a.Jpeg", "notes.md", ".hidden.png", ".cache/x.png"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(number))  # the content decides the format, not the name
    source = open_source(tmp_path)
    assert isinstance(source, ImageSource)
    assert ids(source) == ["a.jpg", "a.png", "b.PNG", "deep/a.Jpeg", "deep/er/z.WebP"]
    assert [number_of(source[index]) for index in range(5)] == [2, 1, 0, 4, 3]
    assert source[-1].id == "deep/er/z.WebP"
    with pytest.raises(IndexError, match=r"index: expected -5 ... 4, found 5"):
        source[5]
    assert ids(open_source(str(tmp_path), extensions=["webp", ".PNG"])) == ["a.png", "b.PNG", "deep/er/z.WebP"]


def test_folder_reads_captions_and_json_beside_an_image(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png", "c.png"):
        (tmp_path / name).write_bytes(png(1))
    (tmp_path / "a.txt").write_text("\ufeffein Löwe\n", encoding="utf-8")
    (tmp_path / "a.json").write_text('{"source": "zoo", "caption": "overruled"}')
    (tmp_path / "b.json").write_text("[1, 2]")
    (tmp_path / "b.cls").write_text("17\n")
    source = FolderSource(tmp_path)
    both = {"source": "zoo", "caption": "ein Löwe"}
    assert [source[index].metadata for index in range(4)] == [both, both, {"json": [1, 2], "label": 17}, {}]
    assert FolderSource(tmp_path, metadata=False)[0].metadata == {}


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", b"{broken"), ("a.cls", b"seven"), ("a.txt", b"caf\xe9"), ("a.json", b"\xff")]
)
def test_unreadable_metadata_is_reported_not_dropped(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BrokenImageError, match=f"a.png: unreadable metadata: its .{name[2:]} holds"):
        FolderSource(tmp_path)[0]


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    try:
        with open(name, "wb") as file:
            file.write(png(9))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    with open(name.replace(b".png", b".txt"), "w") as file:
        file.write("coffee")
    (item,) = pickle.loads(pickle.dumps(FolderSource(tmp_path)))
    assert item.id == r"caf\xe9.png"
    assert item.id.encode()
    assert item.metadata == {"caption": "coffee"}
    assert number_of(item) == 9


def test_folder_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "data" / "real").mkdir(parents=True)
    (tmp_path / "data" / "real" / "a.png").write_bytes(png(1))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").write_bytes(png(2))
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "real" / "up").symlink_to(tmp_path / "data")
    assert ids(FolderSource(tmp_path / "data")) == ["linked/b.png", "real/a.png"]


def test_folder_errors_say_what_was_looked_for_and_found(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere: expected a folder of images, found nothing; check the path"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"no images; looked below it for \.jpg .*found no files at all"):
        open_source(tmp_path)
    for name in ("a.txt", "b.txt", "c.mp4", "d"):
        (tmp_path / name).write_text("x")
    with pytest.raises(SourceError, match=r"found 4 other files \(2 \.txt, 1 \.mp4, 1 without extension\)"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match=r"a\.txt: expected a folder of images, found a file"):
        open_source(tmp_path / "a.txt")


def test_an_image_that_vanishes_or_is_broken_is_one_broken_item(tmp_path: Path) -> None:
    for name, content in (("a.png", png(1)), ("b.png", b""), ("c.png", png(3))):
        (tmp_path / name).write_bytes(content)
    source = FolderSource(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(BrokenImageError, match=r"^a.png: cannot be opened: No such file"):
        source[0]
    with pytest.raises(BrokenImageError, match=r"^b.png: empty file$"):
        source[1].decode()
    assert number_of(source[2]) == 3


# --- remote files -----------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[str]:
    """A remote place: fsspec's file system in memory."""
    fsspec = pytest.importorskip("fsspec")
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield "memory://bucket"
    filesystem.store.clear()


def test_remote_folder_tar_and_parquet(memory: str, tmp_path: Path) -> None:
    import fsspec

    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({"/bucket/photos/b/2.png": png(2), "/bucket/photos/1.PNG": png(1), "/bucket/photos/1.txt": b"one"})
    source = open_source(f"{memory}/photos")
    assert ids(source) == ["1.PNG", "b/2.png"]
    assert source[0].metadata == {"caption": "one"}
    assert number_of(source[1]) == 2

    for shard in (0, 1):
        tar = write_tar(tmp_path / "t.tar", {f"{i}.png": png(10 * shard + i) for i in range(3)})
        filesystem.pipe(f"/bucket/shards/s-{shard}.tar", tar.read_bytes())
    for spec in (f"{memory}/shards/s-{{0..1}}.tar", f"{memory}/shards/*.tar", f"webdataset:{memory}/shards"):
        source = open_source(spec)
        assert ids(source)[2:4] == ["s-0.tar/2.png", "s-1.tar/0.png"]
        assert [number_of(item) for item in source] == [0, 1, 2, 10, 11, 12]

    write_parquet(tmp_path / "t.parquet", [png(5)])
    filesystem.pipe("/bucket/t.parquet", (tmp_path / "t.parquet").read_bytes())
    assert number_of(open_source(f"{memory}/t.parquet")[0]) == 5

    for missing in ("nothing", "x-{0..9}.tar", "*.parquet.tar"):
        with pytest.raises(SourceError, match=r"no such folder|no \.tar file at"):
            open_source(f"{memory}/{missing}")


# --- webdataset -------------------------------------------------------------------------------------------------


def test_webdataset_groups_members_and_reads_metadata(tmp_path: Path) -> None:
    members = {
        "./00000.png": png(0),
        "./00000.json": b'{"source": "x"}',
        "./00000.txt": b"a caption",
        "sub.dir/00001.seg.png": png(99),  # extension "seg.png" is not the image
        "sub.dir/00001.PNG": png(1),
        "sub.dir/00001.cls": b"3",
        "lonely.json": b"{}",
        "._00000.png": b"junk of another system",
        "00002.png": png(2),
    }
    source = WebDatasetSource(write_tar(tmp_path / "train-0.tar", members))
    assert ids(source) == ["train-0.tar/00000.png", "train-0.tar/sub.dir/00001.PNG", "train-0.tar/00002.png"]
    assert [item.metadata for item in source] == [{"source": "x", "caption": "a caption"}, {"label": 3}, {}]
    assert [number_of(item) for item in source] == [0, 1, 2]
    by_name = WebDatasetSource(tmp_path / "train-0.tar", image="seg.png", metadata=False)
    assert [number_of(item) for item in by_name] == [99]
    assert by_name[0].metadata == {}


def shards(folder: Path, count: int = 3, each: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    for shard in range(count):
        members = {}
        for i in range(each):
            number = shard * each + i
            members |= {f"{i:04d}.png": png(number), f"{i:04d}.json": json.dumps({"number": number}).encode()}
        write_tar(folder / f"s-{shard:03d}.tar", members)
    return folder


@pytest.mark.parametrize("pattern", ["", "*.tar", "s-{000..002}.tar", "s-00[0-2].tar", "{s-000,s-001,s-002}.tar"])
def test_webdataset_shards_by_folder_glob_and_braces(tmp_path: Path, pattern: str) -> None:
    source = open_source(str(shards(tmp_path / "w") / pattern))
    assert len(source) == 12
    assert ids(source)[3:5] == ["s-000.tar/0003.png", "s-001.tar/0000.png"]
    assert [number_of(item) for item in source] == list(range(12))
    assert [item.metadata["number"] for item in source] == list(range(12))


def test_shards_of_the_same_name_in_two_folders_keep_their_ids_apart(tmp_path: Path) -> None:
    shards(tmp_path / "a", 1, 1)
    shards(tmp_path / "b", 1, 1)
    assert ids(open_source(str(tmp_path / "{a,b}" / "*.tar"))) == ["a/s-000.tar/0000.png", "b/s-000.tar/0000.png"]
    assert relative_names(["x/y/1.tar"]) == ["1.tar"]


def test_a_member_written_twice_counts_once_the_later_one(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", {"a.png": png(1), "b.png": png(2)})
    with tarfile.open(tmp_path / "t.tar", "a") as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(png(7))
        tar.addfile(info, io.BytesIO(png(7)))
    assert [number_of(item) for item in open_source(tmp_path / "t.tar")] == [7, 2]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_index_equals_tarfile(tmp_path: Path, format: int) -> None:
    rng = np.random.default_rng(0)
    sizes = [0, 1, 511, 512, 513, *rng.integers(0, 4000, 20).tolist()]
    names = [f"{'d' * int(rng.integers(1, 90))}/{i}.bin" for i in range(len(sizes))]
    if format != tarfile.USTAR_FORMAT:
        names += ["long/" * 60 + "x.png", "ünï/cödé.png"]
        sizes += [700, 9]
    write_tar(tmp_path / "t.tar", {name: rng.bytes(size) for name, size in zip(names, sizes, strict=True)}, format)
    with tarfile.open(tmp_path / "t.tar", "a", format=format) as tar:
        folder, link = tarfile.TarInfo("folder"), tarfile.TarInfo("link")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, names[0]
        tar.addfile(folder)
        tar.addfile(link)
    with tarfile.open(tmp_path / "t.tar") as tar:
        expected = [TarMember(member.name, member.offset_data, member.size) for member in tar if member.isreg()]
    with open(tmp_path / "t.tar", "rb") as file:
        assert list(read_members(file, "t.tar")) == expected
    assert len(expected) == len(names)


def test_tar_index_reads_sizes_beyond_octal() -> None:
    header = bytearray(tarfile.TarInfo("huge.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (2**35).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (member,) = read_members(io.BytesIO(bytes(header)), "t.tar")
    assert member == TarMember("huge.png", 512, 2**35)


def test_webdataset_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "gz.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    (tmp_path / "text.tar").write_text("hello" * 200)
    (tmp_path / "none.tar").write_bytes(b"")
    write_tar(tmp_path / "empty.tar", {})
    write_tar(tmp_path / "json.tar", {"a.json": b"{}", "b.mp4": b"x"})
    for name, words in {
        "gz.tar": r"gz\.tar: a compressed tar has no random access; unpack it",
        "text.tar": r"text\.tar: not a tar: no valid tar header at byte 0",
        "none.tar": r"none\.tar: expected a tar, found a file of 0 bytes",
        "empty.tar": r"empty\.tar: no images in 1 shard\(s\); .*found no members",
        "json.tar": r"json\.tar: no images in 1 shard\(s\); .*found json mp4; name it with `image`",
        "gone.tar": r"gone\.tar: no \.tar file at .*gone\.tar; check the path",
        "s-{0..8}.tar": r"no \.tar file at .*s-0\.tar, .*s-2\.tar and 6 more",
    }.items():
        with pytest.raises(SourceError, match=words):
            open_source(str(tmp_path / name))


def test_damage_in_the_middle_of_a_tar_is_an_error(tmp_path: Path) -> None:
    path = shards(tmp_path / "w", 1) / "s-000.tar"
    data = bytearray(path.read_bytes())
    data[1024 + 148] ^= 1  # the second header's checksum
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"damaged or cut off: no valid tar header at byte 1024"):
        open_source(path)


def test_a_cut_off_shard_keeps_what_it_holds(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", {"a.png": png(1), "b.png": bytes(3000)})
    path.write_bytes(path.read_bytes()[: 512 + 512 + 512 + 1000])
    source = open_source(path)
    assert number_of(source[0]) == 1
    with pytest.raises(BrokenImageError, match=r"t.tar/b.png: cut-off shard: .*t\.tar ends 2000 bytes early"):
        source[1]
    path.unlink()
    with pytest.raises(BrokenImageError, match=r"cannot be opened: shard .* is gone"):
        pickle.loads(pickle.dumps(source))[0]


def test_more_shards_than_handles_are_kept(tmp_path: Path) -> None:
    source = open_source(shards(tmp_path / "w", 80, 1))
    for _ in range(2):
        assert [number_of(item) for item in source] == list(range(80))
    assert len(source._files.get()._open) == 64


@pytest.mark.shared
def test_the_photographs_beside_the_checkout(shared: Path) -> None:
    source = open_source(shared / "photos" / "train")
    with tarfile.open(shared / "photos" / "train" / "train-00.tar") as tar:
        members = [member for member in tar if member.name.endswith(".jpg")]
        content = tar.extractfile(members[500]).read()
    assert source[500].data == content
    assert source[500].id == f"train-00.tar/{members[500].name}"
    assert len(source) == 1520
    assert "source" in source[0].metadata
    assert min(source[700].decode().shape[:2]) <= 360


# --- parquet ----------------------------------------------------------------------------------------------------


def write_parquet(
    path: Path, images: list[bytes | None], *, group: int = 3, name: str = "image", **columns: list
) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [None if image is None else {"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    pq.write_table(pa.table({name: pa.array(cells, kind), **columns}), path, row_group_size=group)


def test_parquet_rows_by_index_across_files_and_row_groups(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [png(i) for i in range(7)], caption=[f"c{i}" for i in range(7)])
    write_parquet(tmp_path / "b.parquet", [png(i) for i in range(7, 11)], caption=[f"c{i}" for i in range(7, 11)])
    source = open_source(tmp_path)
    assert isinstance(source, ParquetSource)
    assert len(source) == 11
    assert ids(source)[5:9] == ["a.parquet:5", "a.parquet:6", "b.parquet:0", "b.parquet:1"]
    order = np.random.default_rng(0).permutation(11).tolist()
    assert [number_of(source[index]) for index in order] == order
    assert source[8].metadata == {"caption": "c8"}
    assert open_source(tmp_path, metadata=False)[8].metadata == {}


def test_parquet_columns_are_found_or_named(tmp_path: Path) -> None:
    binary = pa.array([png(1)])
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"photo": binary, "label": [3]}), path)
    assert number_of(open_source(path)[0]) == 1
    pq.write_table(pa.table({"mask": pa.array([png(2)], pa.large_binary()), "jpg": binary}), path)
    assert number_of(open_source(path)[0]) == 1  # a usual name
    assert number_of(open_source(path, column="mask")[0]) == 2
    pq.write_table(pa.table({"x": binary, "y": binary, "label": [3]}), path)
    with pytest.raises(SourceError, match=r"several may hold images: x, y; name one with `column`"):
        open_source(path)
    with pytest.raises(
        SourceError, match=r"column 'label' holds no images\. Its columns: x \(binary\), .*label \(int64\)"
    ):
        open_source(path, column="label")
    pq.write_table(pa.table({"label": [3], "url": ["u"]}), path)
    with pytest.raises(SourceError, match=r"none holds images .*Its columns: label \(int64\), url \(string\)"):
        open_source(path)


def test_parquet_rows_without_image_are_broken_items(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (tmp_path / "beside.png").write_bytes(png(4))
    cells = [
        None,
        {"bytes": None, "path": None},
        {"bytes": None, "path": "beside.png"},
        {"bytes": None, "path": "gone"},
    ]
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    for index in (0, 1):
        with pytest.raises(BrokenImageError, match=f"t.parquet:{index}: no image in the row"):
            source[index]
    assert number_of(source[2]) == 4
    with pytest.raises(
        BrokenImageError, match=r"t.parquet:3: cannot be opened: gone is not in the row but named by it"
    ):
        source[3]


def test_parquet_that_is_none_or_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("hello")
    with pytest.raises(SourceError, match=r"t\.parquet: expected a parquet file, found:"):
        open_source(tmp_path / "t.parquet")
    write_parquet(tmp_path / "t.parquet", [])
    with pytest.raises(SourceError, match=r"expected images, found no rows in 1 file\(s\)"):
        open_source(tmp_path / "t.parquet")


def test_parquet_keeps_only_the_last_row_groups(tmp_path: Path) -> None:
    write_parquet(tmp_path / "t.parquet", [png(i) for i in range(30)], group=2)
    source = open_source(tmp_path / "t.parquet")
    assert [number_of(item) for item in source] == list(range(30))
    assert len(source._cache.get()._tables) == 4


# --- hub --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with two splits on disk, as `datasets` writes it."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("hub") / "animals"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})

    def split(first: int, count: int) -> object:
        rows = {"image": [{"bytes": png(first + i), "path": None} for i in range(count)], "label": list(range(count))}
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict({"train": split(0, 40), "test": split(100, 3)}).save_to_disk(folder)
    return folder


def test_hub_reads_what_save_to_disk_wrote(saved_dataset: Path) -> None:
    source = open_source(f"hf:{saved_dataset}")
    assert ids(source)[:2] == ["animals:train/0", "animals:train/1"]
    assert [number_of(item) for item in source] == list(range(40))
    assert source[7].metadata == {"label": 7}
    assert number_of(pickle.loads(pickle.dumps(source))[39]) == 39
    assert ids(open_source(f"hf:{saved_dataset}:test")) == ["animals:test/0", "animals:test/1", "animals:test/2"]
    assert len(open_source(saved_dataset)) == 40  # recognised without the prefix
    assert open_source(saved_dataset, metadata=False)[0].metadata == {}
    with pytest.raises(SourceError, match=r"no split 'dev'; it has train, test; name one as hf:folder:split"):
        open_source(f"hf:{saved_dataset}:dev")


def test_hub_names_the_columns_where_none_is_an_image(saved_dataset: Path, tmp_path: Path) -> None:
    import datasets

    with pytest.raises(SourceError, match=r"column 'label' holds no images; .*Its columns: image \(.*label \(int64\)"):
        open_source(saved_dataset, column="label")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(SourceError, match=r"hf:texts:train: no columns hold images; .*Its columns: text \(string\)"):
        open_source(tmp_path / "texts")


def numbers(stream: ImageStream, count: int | None = None) -> list[int]:
    found = []
    for item in stream:
        found.append(number_of(item))
        if len(found) == count:
            break
    return found


def test_stream_in_order_shuffled_skipped_and_endless(saved_dataset: Path) -> None:
    stream = open_source(saved_dataset, streaming=True)
    assert isinstance(stream, ImageStream)
    assert not isinstance(stream, ImageSource)
    assert numbers(stream) == numbers(stream) == list(range(40))
    assert next(iter(stream.skip(3))).id == "animals:train/3"

    mixed = open_source(saved_dataset, streaming=True, shuffle_buffer=8, seed=1)
    order = numbers(mixed)
    assert sorted(order) == list(range(40))
    assert order != list(range(40))
    assert order == numbers(open_source(saved_dataset, streaming=True, shuffle_buffer=8, seed=1))
    assert order != numbers(open_source(saved_dataset, streaming=True, shuffle_buffer=8, seed=2))
    for skipped in (0, 5, 39, 40):
        assert numbers(mixed.skip(skipped)) == order[skipped:]
    assert numbers(mixed.skip(5).skip(6)) == order[11:]

    endless = open_source(saved_dataset, streaming=True, shuffle_buffer=8, seed=1, endless=True)
    twice = numbers(endless, 80)
    assert twice[:40] == order
    assert sorted(twice[40:]) == list(range(40))
    assert twice[40:] != order
    assert numbers(endless.skip(50), 30) == twice[50:]
    with pytest.raises(ValueError, match=r"skip: expected a count of at least 0, found -1"):
        stream.skip(-1)
    with pytest.raises(SourceError, match="are for streams; add streaming=True"):
        open_source(saved_dataset, endless=True)


def test_stream_hands_out_broken_rows_as_errors() -> None:
    datasets = pytest.importorskip("datasets")
    cells = [{"bytes": png(1), "path": None}, None, {"bytes": png(3), "path": None}]
    features = datasets.Features({"image": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"image": cells}, features=features).to_iterable_dataset()
    first, broken, last = hub.HubStream(dataset, label="x")
    assert isinstance(broken, BrokenImageError)
    assert str(broken) == "x/1: no image in the row"
    assert (number_of(first), number_of(last)) == (1, 3)


def test_stream_without_declared_types() -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.IterableDataset.from_generator(lambda: ({"jpg": png(i), "key": str(i)} for i in range(3)))
    assert dataset.features is None
    stream = hub.HubStream(dataset, label="x")
    assert numbers(stream) == [0, 1, 2]
    assert [item.metadata for item in stream] == [{"key": "0"}, {"key": "1"}, {"key": "2"}]


def test_hub_reads_a_folder_in_the_imagefolder_form(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for number, name in enumerate(("train/cat/0.png", "train/dog/1.png")):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(png(number))
    source = open_source(f"hf:{tmp_path / 'data'}", cache_dir=str(tmp_path / "cache"))
    assert [(number_of(item), item.metadata["label"]) for item in source] == [(0, 0), (1, 1)]


def test_hub_offline_names_the_local_alternatives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        SourceError, match=r"hf:no-one/nothing:train: cannot be loaded: .*folder of images, \.tar shards"
    ):
        open_source("hf:no-one/nothing:train", cache_dir=str(tmp_path))


def test_hub_without_the_datasets_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SourceError, match=r"needs the datasets library: pip install 'latentcodec\[hub\]'"):
        open_source("hf:owner/name")


# --- safety in workers ------------------------------------------------------------------------------------------


KINDS = ("folder", "webdataset", "parquet", "mixed")


def make_source(kind: str, folder: Path) -> ImageSource:
    if kind == "folder":
        for i in range(12):
            (folder / f"{i:02d}.png").write_bytes(png(i))
    elif kind == "webdataset":
        shards(folder)
    elif kind == "parquet":
        write_parquet(folder / "t.parquet", [png(i) for i in range(12)])
    else:
        folders = [folder / name for name in "ab"]
        for number, sub in enumerate(folders):
            sub.mkdir()
            for i in range(6):
                (sub / f"{i}.png").write_bytes(png(2 * i + number))
        return MixedSource([(FolderSource(sub), 1) for sub in folders])
    return open_source(folder)


def first(batch: list) -> object:
    return batch[0]


class Numbers(Dataset):
    """A torch dataset of (id, number) that reads in the worker."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[str, int]:
        item = self.source[index]
        return item.id, number_of(item)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_listing_changes_with_the_ids_alone(tmp_path: Path, kind: str) -> None:
    listings = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        source = make_source(kind, tmp_path / str(number))
        assert isinstance(source, ListedSource)
        listings.append(source.listing())
    assert listings[0] == listings[1] == open_source(tmp_path / "1").listing()
    assert listings[0].startswith("sha256:")
    file = min((tmp_path / "1").iterdir())
    file.rename(file.with_stem(file.stem + "-renamed"))
    assert open_source(tmp_path / "1").listing() != listings[0]


def test_listings_of_made_and_hub_sources(saved_dataset: Path) -> None:
    assert ProceduralSource(1).listing() != ProceduralSource(2).listing() == ProceduralSource(2).listing()
    source = open_source(saved_dataset)
    assert isinstance(source, ListedSource)
    assert source.listing() == open_source(saved_dataset).listing()


def test_forked_workers_read_what_the_process_reads(tmp_path: Path) -> None:
    datasets = []
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        datasets.append(Numbers(make_source(kind, tmp_path / kind)))
    dataset = ConcatDataset(datasets)
    here = [dataset[index] for index in range(len(dataset))]  # opens handles before the workers start
    assert [number for _, number in here] == [*range(12)] * len(KINDS)
    assert list(DataLoader(dataset, num_workers=2, collate_fn=first, multiprocessing_context="fork")) == here


def test_a_new_process_reads_what_this_one_reads(tmp_path: Path) -> None:
    """As spawned workers do: the source arrives pickled, after it has been used."""
    sources = []
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        sources.append(make_source(kind, tmp_path / kind))
    here = [[item.id, int(item.decode()[0, 0, 0])] for source in sources for item in source]
    code = "import json, pickle, sys; sources = pickle.load(sys.stdin.buffer); " + (
        "print(json.dumps([[item.id, int(item.decode()[0, 0, 0])] for source in sources for item in source]))"
    )
    root = Path(__file__).resolve().parents[1]
    child = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(sources), capture_output=True, cwd=root)
    assert json.loads(child.stdout) == here, child.stderr.decode()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_read_what_one_thread_reads(tmp_path: Path, kind: str) -> None:
    dataset = Numbers(make_source(kind, tmp_path))
    order = np.random.default_rng(0).integers(0, len(dataset), 300).tolist()
    with ThreadPoolExecutor(8) as threads:
        assert [number for _, number in threads.map(dataset.__getitem__, order)] == order


# --- mixed ------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_mix_is_arithmetic_even_and_without_gaps(weights: list[int]) -> None:
    mix = MixedSource([(ProceduralSource(seed), weight) for seed, weight in enumerate(weights)])
    places = [mix.locate(k) for k in range(1500)]
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        assert [position for source, position in places if source == number] == list(
            range(sum(source == number for source, _ in places))
        )
        before = np.cumsum([source == number for source, _ in places])
        assert np.abs(before - share * np.arange(1, 1501)).max() <= len(weights) + 1.5
        assert sum(source == number for source, _ in places[:1000]) == pytest.approx(1000 * share, abs=1)
    far = 10**12
    assert mix.locate(far + 1000)[0] == mix.locate(far)[0]


def test_mix_ends_before_a_source_would_repeat(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    mix = MixedSource([(FolderSource(tmp_path), 0.25), (ProceduralSource(3, size=16), 0.75)])
    items = [mix[index] for index in range(len(mix))]
    assert [item.id for item in items if item.id.startswith("0:")] == [f"0:{i}.png" for i in range(7)]
    assert mix.locate(len(mix)) == (0, 7)
    assert {item.id for item in items} >= {"1:procedural:3/0", "1:procedural:3/19"}
    assert len({item.id for item in items}) == len(items)
    assert MixedSource([(ProceduralSource(), 1)]).locate(5) == (0, 5)
    with pytest.raises(IndexError, match=r"index: expected at least 0, found -1"):
        mix.locate(-1)


@pytest.mark.parametrize("weights", [[], [0.5, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_mix_refuses_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(SourceError, match=r"mix: expected sources with positive, finite weights, found weights \["):
        MixedSource([(ProceduralSource(), weight) for weight in weights])


def test_mix_refuses_a_weight_too_small_to_appear() -> None:
    with pytest.raises(SourceError, match=r"mix: weight 0\.0001 of source 1 is less than 1/1000 of all"):
        MixedSource([(ProceduralSource(), 1), (ProceduralSource(1), 0.0001)])


# --- names of files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        *("a", "{a,b}", "x{000..003}.tar", "{3..1}", "{-2..2}", "{08..11}", "{1..3}{a,b}", "{a,{b,c}{1..2}}x", "{a,}"),
        *("{}", "{a}", "x{a}y{1..2}", "{x{1..2}}", "{,a}", "a{b", "a}b", "{a,b}}", "{{a,b}", "{1..x}", "{-01..1}"),
    ],
)
def test_braces_expand_as_in_bash(pattern: str) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash to compare with")
    printed = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    expected = [line for line in printed.stdout.split("\n")[:-1] if line]
    assert [name for name in expand_braces(pattern) if name] == expected


@given(st.integers(0, 300), st.integers(0, 40), st.integers(1, 5))
def test_brace_ranges(first_number: int, count: int, width: int) -> None:
    last = first_number + count
    names = expand_braces(f"s-{{{first_number:0{width}d}..{last:0{width}d}}}.tar")
    pad = (
        max(len(f"{first_number:0{width}d}"), len(f"{last:0{width}d}")) if f"{first_number:0{width}d}"[0] == "0" else 0
    )
    pad = pad if len(f"{first_number:0{width}d}") > 1 else 0
    assert names == [f"s-{number:0{pad}d}.tar" for number in range(first_number, last + 1)]


@given(st.text(alphabet="ab{},.01/", max_size=12))
def test_braces_never_fail_and_never_lose_everything(pattern: str) -> None:
    assert expand_braces(pattern)
    if "{" not in pattern:
        assert expand_braces(pattern) == [pattern]


@given(st.lists(st.binary(max_size=9)))
def test_packed_strings(strings: list[bytes]) -> None:
    packed = pickle.loads(pickle.dumps(PackedStrings(strings)))
    assert [packed[index] for index in range(len(packed))] == strings
    with pytest.raises(IndexError):
        packed[len(strings)]


# --- shuffling in a buffer --------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 20), st.integers(0, 2**63))
def test_shuffle_keeps_every_item_and_bounds_how_early_it_comes(count: int, size: int, seed: int) -> None:
    order = list(shuffled(range(count), size, seed=seed))
    assert sorted(order) == list(range(count))
    assert all(item - place <= max(0, size - 1) for place, item in enumerate(order))
    assert order == list(shuffled(iter(range(count)), size, seed=seed))
    if size <= 1:
        assert order == list(range(count))


def test_shuffle_order_is_pinned() -> None:
    """Literal, so that no release of numpy or of this project changes the order of a run that resumes."""
    assert list(shuffled(range(12), 4, seed=7, epoch=1)) == [1, 2, 3, 0, 7, 5, 9, 8, 4, 11, 10, 6]
    with pytest.raises(ValueError, match="shuffle: expected size and seed of at least 0, found size -1, seed 0"):
        next(shuffled([1], -1, seed=0))


# --- skipped images ---------------------------------------------------------------------------------------------


def test_skipped_images_are_counted_written_and_summed_up(tmp_path: Path) -> None:
    skipped = SkippedImages()
    assert skipped.summary() == "No image was skipped."
    rows = [("a.jpg", "damaged or truncated: 3 bytes"), ("b\udce9.jpg", "empty file"), ("c", "damaged or truncated: 9")]
    for id, reason in rows:
        skipped.add(id, reason)
    assert len(skipped) == 3
    assert skipped.counts == {"damaged or truncated": 2, "empty file": 1}
    assert skipped.summary(total=1520) == (
        "3 of 1,520 images were skipped: damaged or truncated (2), empty file (1). "
        "The first was a.jpg (damaged or truncated: 3 bytes)."
    )
    skipped.write(tmp_path / "skipped.jsonl")
    lines = (tmp_path / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == rows
    both = SkippedImages()
    both.extend(pickle.loads(pickle.dumps(skipped)))
    both.extend(both)
    assert both.rows == rows * 2
    one = SkippedImages()
    one.add("x", "empty file")
    assert one.summary() == "1 image was skipped: empty file (1). The first was x (empty file)."


def test_skipped_images_from_many_threads() -> None:
    skipped = SkippedImages()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: skipped.add(str(number), "empty file"), range(2000)))
    assert skipped.counts == {"empty file": 2000}
    assert {id for id, _ in skipped.rows} == {str(number) for number in range(2000)}


# --- opening by name --------------------------------------------------------------------------------------------


def test_registry_is_the_extension_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(rest: str, *, size: int = 16) -> ProceduralSource:
        return ProceduralSource(int(rest) * 2, size=size)

    monkeypatch.setitem(SOURCES, "twice", two)
    source = open_source("twice:21", size=32)
    assert (source.seed, source.size) == (42, 32)
    assert list(SOURCES)[:5] == ["folder", "webdataset", "parquet", "hf", "procedural"]


def test_the_form_of_the_name_decides_the_kind(tmp_path: Path) -> None:
    assert isinstance(open_source("procedural"), ProceduralSource)
    assert open_source("procedural:5", size=32).seed == 5
    shards(tmp_path / "w")
    assert isinstance(open_source(tmp_path / "w"), WebDatasetSource)
    (tmp_path / "w" / "a.png").write_bytes(png(1))
    assert ids(open_source(tmp_path / "w")) == ["a.png"]  # images at the top: a folder of images
    assert len(open_source(f"webdataset:{tmp_path / 'w'}")) == 12
    write_parquet(tmp_path / "w" / "t.parquet", [png(3)])
    assert isinstance(open_source(f"parquet:{tmp_path / 'w'}"), ParquetSource)


def test_an_unknown_option_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a folder source has no option colum; it has extensions, metadata"):
        open_source(tmp_path, colum="x")
    with pytest.raises(SourceError, match=r"procedural:1: a procedural source has no option seed; it has size"):
        open_source("procedural:1", seed=3)
