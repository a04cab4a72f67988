"""A source becomes a store: what is in it, what is left out, what is refused."""

import hashlib
import io
import json
import os
import tarfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from store_helpers import SMALL, encode, objects, rows_of, small_codec, small_vae, write_images

from latentcodec.codec import LatentCodec
from latentcodec.images.hub import HubStream
from latentcodec.images.procedural import ProceduralSource
from latentcodec.images.sources import open_source
from latentcodec.store import progress
from latentcodec.store.errors import StoreDamagedError, StoreError, StoreMismatchError
from latentcodec.store.files import StoreFolder
from latentcodec.store.finish import finish, read_record
from latentcodec.store.manifest import Statistics, read_manifest, record_name
from latentcodec.store.part import NonFiniteLatentsError, PartBuilder
from latentcodec.store.plan import begin, plan_settings, require_listed, stored_part_images
from latentcodec.store.precompute import Outcome
from latentcodec.store.prepare import Skipped
from latentcodec.store.preprocessing import Buckets, Crop, Native, Preprocessing
from latentcodec.store.shards import DTYPES
from latentcodec.store.statistics import measured, merged


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return small_codec()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("source") / "photos", 14)


def expected(codec: LatentCodec, source: Path, name: str, preprocessing: Preprocessing) -> list[torch.Tensor]:
    """Moments of an image and of its mirror image, computed the plain way."""
    item = next(item for item in map(open_source(source).__getitem__, range(10**6)) if item.id == name)
    pixels = preprocessing.apply(item)[0]
    moments = codec.encode_moments([pixels, np.ascontiguousarray(pixels[:, ::-1])])
    return [torch.cat([mean, logvar]) for mean, logvar in zip(moments.mean, moments.logvar, strict=True)]


# ---- what is in a store


@pytest.mark.parametrize("policy", [Crop(32, 32), Buckets(1024, 8), Native()], ids=["crop", "buckets", "native"])
def test_every_image_is_there_once_with_its_moments(
    tmp_path: Path, photos: Path, codec: LatentCodec, policy: Any
) -> None:
    preprocessing = Preprocessing(policy)
    outcome = encode(photos, tmp_path, codec, preprocessing, flipped=True, part_images=5)
    manifest = outcome.manifest
    assert (outcome.images, manifest.rows, manifest.skipped) == (14, 14, {})
    seen = list(rows_of(tmp_path, manifest))
    assert sorted(row.item for row, _, _ in seen) == list(range(14))
    for row, values, flipped in seen:
        plain, mirrored = expected(codec, photos, row.id, preprocessing)
        assert torch.equal(values, plain)
        assert torch.equal(flipped, mirrored)
        assert values.shape == (8, -(-row.crop_height // 8), -(-row.crop_width // 8))
        assert row.method == "whole"
        data = (photos / row.id).read_bytes()
        assert row.source_sha256 == hashlib.sha256(data).hexdigest()
        assert (row.width, row.height) == Image.open(io.BytesIO(data)).size
    for entry in manifest.shards:
        items = [row.item for row, _, _ in seen if row.item // 5 == entry.part]
        assert set(items) <= set(manifest.settings.part_range(entry.part))
    if isinstance(policy, Buckets):
        assert len({(entry.height, entry.width) for entry in manifest.shards}) == 3
    else:
        assert [entry.rows for entry in manifest.shards] == [5, 5, 4]
        assert [row.item for row, _, _ in seen] == list(range(14))
        assert {entry.native for entry in manifest.shards} == {isinstance(policy, Native)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", ["moments", "mean"])
def test_types_and_kinds_of_values(tmp_path: Path, photos: Path, codec: LatentCodec, dtype: str, values: str) -> None:
    manifest = encode(photos, tmp_path, codec, limit=3, dtype=dtype, values=values).manifest
    for row, stored, _ in rows_of(tmp_path, manifest):
        plain = expected(codec, photos, row.id, SMALL)[0]
        kept = plain if values == "moments" else plain[:4]
        assert stored.dtype == DTYPES[dtype][0]  # type: ignore[index]
        assert torch.equal(stored, kept.to(stored.dtype))


def test_an_unnamed_type_loses_nothing_of_bfloat16(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    assert encode(photos, tmp_path / "a", codec, limit=1, dtype=None).manifest.settings.dtype == "float16"
    bfloat16 = LatentCodec(small_vae().to(torch.bfloat16), channels_last=True)
    settings = encode(photos, tmp_path / "b", bfloat16, limit=1, dtype=None).manifest.settings
    assert (settings.dtype, settings.compute_dtype) == ("bfloat16", "bfloat16")


def test_decoding_processes_change_nothing(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    preprocessing = Preprocessing(Buckets(1024, 8))
    for workers in range(3):
        encode(photos, tmp_path / str(workers), codec, preprocessing, workers=workers, part_images=4, flipped=True)
    assert objects(tmp_path / "0") == objects(tmp_path / "1") == objects(tmp_path / "2")


def test_shapes_of_batches_never_change(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    seen: dict[bool, list[tuple[int, ...]]] = {True: [], False: []}
    for static in (True, False):
        other = small_codec(batch_pixels=4 * 1024, compile=static)
        other.vae.encoder.register_forward_pre_hook(
            lambda _, inputs, static=static: seen[static].append(tuple(inputs[0].shape))
        )
        with torch.compiler.set_stance("force_eager"):
            encode(photos, tmp_path / str(static), other, Preprocessing(Buckets(1024, 8)), part_images=7)
    assert len(set(seen[True])) == len({shape[2:] for shape in seen[True]}) == 3
    assert {shape[0] for shape in seen[True]} == {4}
    assert len(seen[False]) == len(seen[True])
    assert sum(shape[0] for shape in seen[False]) == 14
    one_by_one = encode(photos, tmp_path / "one", codec, Preprocessing(Buckets(1024, 8)), part_images=7).manifest
    wanted = {row.id: values for row, values, _ in rows_of(tmp_path / "one", one_by_one)}
    for static in ("True", "False"):
        for row, values, _ in rows_of(tmp_path / static, read_manifest(StoreFolder(tmp_path / static))):
            torch.testing.assert_close(values, wanted[row.id], rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_all_values(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    stores = [encode(photos, tmp_path / str(n), codec, part_images=n, flipped=True).manifest for n in (3, 14)]
    rows = torch.stack([values for _, values, _ in rows_of(tmp_path / "3", stores[0])]).double()
    mean, logvar = rows.chunk(2, dim=1)
    for manifest in stores:
        found = manifest.statistics
        assert found is not None
        assert found.count == 14 * 16
        for value, wanted in (
            (found.mean, mean.mean((0, 2, 3))),
            (found.std, mean.transpose(0, 1).flatten(1).std(1)),
            (found.sample_std, (mean.transpose(0, 1).flatten(1).var(1) + logvar.exp().mean((0, 2, 3))).sqrt()),
        ):
            torch.testing.assert_close(torch.tensor(value, dtype=torch.float64), wanted, rtol=1e-12, atol=1e-14)


def test_statistics_of_parts_merge_in_any_split() -> None:
    values = torch.randn(12, 8, 3, 3)
    whole = measured(values, "moments")
    for sizes in ([1] * 12, [5, 7], [12]):
        total = merged([None, *(measured(part, "moments") for part in values.split(sizes)), None])
        assert total is not None
        assert total.count == whole.count
        for one, other in ((total.mean, whole.mean), (total.squares, whole.squares), (total.variance, whole.variance)):
            assert one == pytest.approx(other, rel=1e-12)
    assert measured(values, "mean").variance is None
    assert merged([measured(values, "mean")]) == measured(values, "mean")
    assert merged([None]) is None
    assert Statistics(1, [0.0], [0.0], None).std == [0.0]


# ---- captions and labels


def image_bytes(number: int = 0, format: str = "PNG", size: tuple[int, int] = (40, 40), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format)
    return buffer.getvalue() + bytes(number)  # trailing bytes make it another file


def without_size(jpeg: bytes) -> bytes:
    """A JPEG file whose header says 0 x 0 pixels."""
    start = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:start] + bytes(4) + jpeg[start + 4 :]


def captions(store: Path, outcome: Outcome) -> dict[str, tuple[str | None, int | None, Any]]:
    rows = [row for row, _, _ in rows_of(store, outcome.manifest)]
    return {row.id: (row.caption, row.label, json.loads(row.metadata or "null")) for row in rows}


def test_captions_and_labels_beside_files(tmp_path: Path, codec: LatentCodec) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / f"{name}.png").write_bytes(image_bytes())
    (source / "a.txt").write_text("eine Möwe\n", encoding="utf-8")
    (source / "a.cls").write_text("7")
    (source / "b.json").write_text('{"caption": "from JSON", "score": 0.5}')
    outcome = encode(source, tmp_path / "store", codec)
    assert captions(tmp_path / "store", outcome) == {
        "a.png": ("eine Möwe", 7, None),
        "b.png": ("from JSON", None, {"score": 0.5}),
        "c.png": (None, None, None),
    }
    assert (outcome.manifest.captions, outcome.manifest.labels) == (2, 1)


def test_captions_in_webdataset_shards(tmp_path: Path, codec: LatentCodec) -> None:
    members = {"0.png": image_bytes(), "0.txt": b"zero", "1.png": image_bytes(), "1.cls": b"1", "1.json": b'{"k": [1]}'}
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    outcome = encode(tmp_path / "x.tar", tmp_path / "store", codec)
    assert captions(tmp_path / "store", outcome) == {
        "x.tar/0.png": ("zero", None, None),
        "x.tar/1.png": (None, 1, {"k": [1]}),
    }


def test_captions_in_columns_of_a_dataset(tmp_path: Path, codec: LatentCodec) -> None:
    table = {
        "image": [image_bytes(i) for i in range(3)],
        "text": ["a", None, "c"],
        "class": [0, 1, 2],
        "n": [1.5, 2, 3],
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    outcome = encode(tmp_path / "x.parquet", tmp_path / "store", codec, caption_key="text", label_key="class")
    assert captions(tmp_path / "store", outcome) == {
        "x.parquet:0": ("a", 0, {"n": 1.5}),
        "x.parquet:1": (None, 1, {"text": None, "n": 2.0}),
        "x.parquet:2": ("c", 2, {"n": 3.0}),
    }


# ---- what is left out


@pytest.mark.parametrize("workers", [0, 1])
def test_every_kind_of_bad_image_is_skipped_or_encoded_and_listed(
    tmp_path: Path, codec: LatentCodec, workers: int
) -> None:
    """In this process, and in one that decodes for it."""
    source = tmp_path / "source"
    source.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    files: dict[str | bytes, bytes] = {
        "corrupt.jpg": without_size(buffer.getvalue()),
        "cut.jpg": buffer.getvalue()[: len(buffer.getvalue()) // 2],
        "empty.jpg": b"",
        "text.jpg": b"this is not an image",
        "one.png": image_bytes(size=(1, 1)),
        "cmyk.jpg": image_bytes(format="JPEG", mode="CMYK"),
        "deep.png": image_bytes(mode="I;16"),
        "bomb.png": image_bytes(size=(12_000, 12_000), mode="1"),
        "same.jpg": image_bytes(format="JPEG"),
        "same.png": image_bytes(),
        b"caf\xe9.png": image_bytes(),
    }
    for name, data in files.items():
        (source / os.fsdecode(name)).write_bytes(data)
    (source / "gone.png").symlink_to(source / "nowhere")
    (source / "locked.png").write_bytes(image_bytes())
    (source / "locked.png").chmod(0)
    locked = not os.access(source / "locked.png", os.R_OK)  # an administrator may read it all the same
    outcome = encode(source, tmp_path / "store", codec, part_images=3, workers=workers)
    listed = [json.loads(line) for line in (tmp_path / "store" / "skipped.jsonl").read_text().splitlines()]
    reasons = {line["id"]: line["reason"].partition(": ")[0] for line in listed}
    assert reasons == {
        "bomb.png": "too large",
        "corrupt.jpg": "damaged or truncated",
        "cut.jpg": "damaged or truncated",
        "empty.jpg": "empty file",
        "gone.png": "cannot be opened",
        **({"locked.png": "cannot be opened"} if locked else {}),
        "text.jpg": "unknown format",
    }
    assert list(reasons) == sorted(reasons)  # the source's order
    rows = {row.id: values for row, values, _ in rows_of(tmp_path / "store", outcome.manifest)}
    encoded = {"one.png", "cmyk.jpg", "deep.png", "same.jpg", "same.png", r"caf\xe9.png"}
    assert rows.keys() == (encoded if locked else {*encoded, "locked.png"})
    assert all(values.isfinite().all() for values in rows.values())
    assert outcome.manifest.skipped == {
        "cannot be opened": 1 + locked, "damaged or truncated": 2, "empty file": 1, "too large": 1, "unknown format": 1,
    }  # fmt: skip
    data = (tmp_path / "store" / "skipped.jsonl").read_bytes()
    assert outcome.manifest.skipped_sha256 == hashlib.sha256(data).hexdigest()


def test_a_source_without_one_good_image_is_an_empty_store(tmp_path: Path, codec: LatentCodec) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.jpg").write_bytes(b"")
    manifest = encode(source, tmp_path / "store", codec).manifest
    assert (manifest.rows, manifest.shards, manifest.statistics, manifest.skipped) == (0, (), None, {"empty file": 1})


def test_nan_is_an_error_that_names_the_image(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = small_codec(batch_pixels=3 * 1024)
    right = codec.encode_batch
    poisoned = SMALL.apply(open_source(photos)[7])[0]

    def wrong(pixels: torch.Tensor) -> Any:
        moments, methods = right(pixels)
        where = (pixels.permute(0, 2, 3, 1) == torch.from_numpy(poisoned)).flatten(1).all(1)
        moments[where, 2, 1, 1] = torch.nan
        return moments, methods

    monkeypatch.setattr(codec, "encode_batch", wrong)
    with pytest.raises(NonFiniteLatentsError, match=r"007\.png: 1 of 128 latent values are NaN or infinite"):
        encode(photos, tmp_path, codec, part_images=5)
    names = objects(tmp_path)
    assert "manifest.json" not in names
    assert record_name(0) in names
    assert record_name(1) not in names
    monkeypatch.setattr(codec, "encode_batch", right)
    assert encode(photos, tmp_path, codec, part_images=5).manifest.rows == 14


def test_a_part_with_an_image_missing_is_not_written(tmp_path: Path, codec: LatentCodec) -> None:
    settings = plan_settings(ProceduralSource(), codec, SMALL, name="p", limit=5)
    builder = PartBuilder(0, settings, native=False)
    builder.skip(Skipped("a", "empty file"))
    with pytest.raises(StoreError, match="part 0: expected 5 images, found 0 encoded and 1 skipped"):
        builder.write(StoreFolder(tmp_path))
    assert objects(tmp_path) == {}


def test_what_float16_cannot_hold_is_an_error_too(tmp_path: Path, photos: Path) -> None:
    vae = small_vae()
    with torch.no_grad():
        vae.quant_conv.weight *= 1e6
    with pytest.raises(NonFiniteLatentsError, match=r"000\.png: .* stored in float16; .* use bfloat16 or float32"):
        encode(photos, tmp_path, LatentCodec(vae), dtype="float16")


# ---- what is refused


def test_another_vae_preprocessing_type_or_source_is_refused(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    store = tmp_path / "store"
    source = write_images(tmp_path / "copy", 6)
    encode(source, store, codec, part_images=3)
    (store / "manifest.json").unlink()
    before = objects(store)
    same_weights = small_vae()
    same_weights.register_to_config(scaling_factor=0.25)
    cases: list[tuple[str, LatentCodec, Preprocessing, dict[str, Any]]] = [
        ('fingerprint: "sha256:.*" there, "sha256:.*" here', small_codec(seed=2), SMALL, {}),
        ("config.scaling_factor: 0.5 there, 0.25 here", LatentCodec(same_weights), SMALL, {}),
        ("preprocessing.height: 32 there, 64 here", codec, Preprocessing(Crop(64, 32)), {}),
        ('dtype: "float32" there, "bfloat16" here', codec, SMALL, {"dtype": "bfloat16"}),
        ("flipped: false there, true here", codec, SMALL, {"flipped": True}),
        ("images: 6 there, 4 here", codec, SMALL, {"limit": 4}),
        ("part_images: 3 there, 6 here", codec, SMALL, {"part_images": 6}),
    ]
    for message, other, preprocessing, wishes in cases:
        with pytest.raises(StoreMismatchError, match=message):
            encode(source, store, other, preprocessing, **{"part_images": 3, **wishes})
    (source / "003.png").rename(source / "003b.png")
    with pytest.raises(StoreMismatchError, match=r'listing: "sha256:.*" there, "sha256:.*" here'):
        encode(source, store, codec, part_images=3)
    (source / "003b.png").rename(source / "003.png")
    assert objects(store) == before
    encode(source, store, codec, part_images=3)


def test_a_folder_of_other_things_is_refused(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    with pytest.raises(
        StoreError, match=r"expected a latent store or nothing, found 000\.png, 001\.png, 002\.png; name another"
    ):
        encode(photos, photos, codec)


def test_records_of_other_settings_are_refused(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    """Two launches with different settings that began at the same moment, before either saw the other."""
    encode(photos, tmp_path, codec, part_images=7)
    folder = StoreFolder(tmp_path)
    strange = replace(read_record(folder, 1), settings="f" * 64)
    folder.write(record_name(1), strange.to_bytes())
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(
        StoreMismatchError, match=r"parts/000001\.json: made with settings ffffffffffff\.\.\., those of"
    ):
        encode(photos, tmp_path, codec, part_images=7)


def test_a_damaged_record_is_named_with_the_remedy(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    reference = encode(photos, tmp_path, codec, part_images=7).manifest
    (tmp_path / "manifest.json").unlink()
    record = tmp_path / record_name(1)
    record.write_bytes(record.read_bytes()[:-1])
    with pytest.raises(
        StoreDamagedError, match=r"parts/000001\.json: .* delete it and run `latentcodec precompute` again"
    ):
        encode(photos, tmp_path, codec, part_images=7)
    record.unlink()
    assert encode(photos, tmp_path, codec, part_images=7).manifest == reference


def test_streams_and_senseless_numbers_are_refused(codec: LatentCodec) -> None:
    stream = object.__new__(HubStream)
    with pytest.raises(StoreError, match=r"hf:x: expected a source .* found a HubStream; download it first"):
        require_listed(stream, "hf:x")
    for wish in ("limit", "part_images"):
        with pytest.raises(StoreError, match=f"{wish}: expected at least 1"):
            plan_settings(ProceduralSource(), codec, SMALL, name="p", **{wish: 0})


@pytest.mark.parametrize(
    ("images", "policy", "batch", "part"),
    [
        (10, Crop(256, 256), 1, 16),
        (10**6, Crop(256, 256), 1, 977),
        (10**6, Crop(256, 256), 64, 1024),
        (10**9, Crop(256, 256), 64, 9984),
        (10**9, Crop(1024, 1024), 4, 1024),
        (10**9, Crop(65536, 65536), 1, 1),
        (10**4, Buckets(1024 * 1024), 4, 11 * 16 * 4),
        (10**6, Native(), 1, 977),
    ],
)
def test_how_many_images_make_a_part(images: int, policy: Any, batch: int, part: int) -> None:
    """A 1024th of all; 16 batches of each shape or more; up to 10,000, and 512 MiB: 32 bytes for 64 pixels in float32."""
    pixels = max((height * width for height, width in policy.shapes), default=1)
    codec = small_codec(tiling="never", batch_pixels=batch * pixels)
    found = plan_settings(ProceduralSource(), codec, Preprocessing(policy), name="p", dtype="float32", limit=images)
    assert found.part_images == part


# ---- where it goes on


def test_a_complete_store_is_left_alone(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    encode(photos, tmp_path, codec)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    outcome = encode(photos, tmp_path, codec)
    assert (outcome.images, outcome.manifest.rows) == (0, 14)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_only_what_is_missing_is_made_and_leftovers_go(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    encode(photos, tmp_path, codec, part_images=4)
    before = objects(tmp_path)
    for name in (
        "manifest.json",
        "skipped.jsonl",
        record_name(2),
        read_record(StoreFolder(tmp_path), 2).shards[0].path,
    ):
        (tmp_path / name).unlink()
    for leftover in (
        "shards/000001-4x4-deadbeef.safetensors",
        "shards/.x.partial",
        "index/000001-4x4-deadbeef.parquet",
        ".settings.json.12-abcd.partial",
    ):
        (tmp_path / leftover).write_bytes(b"left by a kill")
    (tmp_path / "README.md").write_bytes(b"somebody's own")
    outcome = encode(photos, tmp_path, codec, part_images=4)
    assert outcome.images == 4
    assert objects(tmp_path) == before | {"README.md": b"somebody's own"}


def test_stores_and_sources_behind_urls(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    name = uuid.uuid4().hex
    source = StoreFolder(f"memory://{name}/photos")
    for path in photos.iterdir():
        source.write(path.name, path.read_bytes())
    there = encode(f"memory://{name}/photos", f"memory://{name}/store", codec, part_images=5).manifest
    here = encode(photos, tmp_path, codec, part_images=5).manifest
    assert there.shards == here.shards
    assert [row.id for row, _, _ in rows_of(f"memory://{name}/store", there)] == [f"{n:03d}.png" for n in range(14)]


def test_beginning_twice_is_no_conflict(tmp_path: Path, codec: LatentCodec) -> None:
    settings = plan_settings(ProceduralSource(), codec, SMALL, name="p", limit=5, part_images=3)
    folder = StoreFolder(tmp_path)
    assert stored_part_images(folder) is None
    begin(folder, settings)
    begin(folder, replace(settings, source="elsewhere"))
    assert stored_part_images(folder) == 3
    with pytest.raises(StoreDamagedError, match="delete it"):
        finish(folder, settings, tidy=True)


# ---- progress


def test_progress_in_a_log_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert progress.progress_line(250, 1000, 10.0) == "250 of 1,000 images (25%), 25.0 images/s, 00:30 left"
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    with progress.Progress(100) as bar, progress.Progress(100, shown=False) as silent:
        bar.show(0)
        bar.show(50)
        bar.show(500)  # others counted what was there before
        silent.show(50)
    lines = capsys.readouterr().err.splitlines()
    assert [line[: line.index(")")] for line in lines] == ["50 of 100 images (50%", "100 of 100 images (100%"]


# ---- on a GPU


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives(tmp_path: Path, photos: Path, codec: LatentCodec) -> None:
    """But for the rounding of TF32. Copies go on streams of their own; many batches, so that memory is used again."""
    cuda = LatentCodec(small_vae().to("cuda"), batch_pixels=2 * 1024)
    policy = Preprocessing(Buckets(1024, 8))
    for _ in range(3):
        store = tmp_path / uuid.uuid4().hex
        found = encode(photos, store, cuda, policy, flipped=True, part_images=7, workers=2).manifest
        wanted = encode(photos, tmp_path / "cpu", codec, policy, flipped=True, part_images=7).manifest
        pairs = zip(rows_of(store, found), rows_of(tmp_path / "cpu", wanted), strict=True)
        for (row, values, flipped), (other, plain, mirrored) in pairs:
            assert row.id == other.id
            torch.testing.assert_close(values, plain, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(flipped, mirrored, rtol=1e-2, atol=1e-2)
