"""Exports, read back with the libraries that they are for."""

import gc
import json
import tarfile
import uuid
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from small_stores import CONFIG, SmallStore, write_store

from latentcodec.cli import main
from latentcodec.scaling import Scaling
from latentcodec.store import export_formats
from latentcodec.store.errors import StoreError, StoreMismatchError
from latentcodec.store.export import DESCRIPTION_NAME, ExportOptions, export
from latentcodec.store.export_formats import EXPORT_FORMATS
from latentcodec.store.files import StoreFolder
from latentcodec.store.launch import Launch

webdataset = pytest.importorskip("webdataset")

STORES: dict[str, dict[str, Any]] = {
    "buckets": {"flipped": True},
    "bfloat16": {"dtype": "bfloat16", "captions": False, "labels": False},
    "mean": {"dtype": "float16", "values": "mean"},
    "native": {"preprocessing": {"policy": "native"}, "shapes": ((4, 4), (3, 5)), "rows": 4, "flipped": True},
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SmallStore:
    return write_store(tmp_path / "store", parts=2, **STORES[request.param])


def exported(store: SmallStore, out: Path, format: str, **options: Any) -> Path:
    export(store.folder, StoreFolder(out), ExportOptions(format, **options))
    return out


def expected(store: SmallStore) -> dict[str, list[np.ndarray]]:
    """What must come back, as float32: exact for all types."""
    name = store.manifest.settings.values
    found = {name: [values.float().numpy() for values in store.values]}
    if store.manifest.settings.flipped:
        found[f"{name}_flipped"] = [values.float().numpy() for values in store.mirrored]
    return found


def read_tars(url: str) -> list[dict[str, Any]]:
    """With webdataset, which leaves files for the garbage collector to close, and warnings about that are errors here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(webdataset.WebDataset(url, shardshuffle=False).decode())
        gc.collect()
    return samples


# ---- with the plain libraries


def test_webdataset_reads_it(store: SmallStore, tmp_path: Path) -> None:
    out = exported(store, tmp_path / "out", "webdataset")
    last = len(store.manifest.shards) - 1
    samples = read_tars(f"{out}/{{000000..{last:06d}}}.tar")
    assert len(samples) == len(store.values)
    for row, (sample, fact) in enumerate(zip(samples, store.index, strict=True)):
        for name, arrays in expected(store).items():
            assert np.array_equal(sample[f"{name}.npy"], arrays[row])
        assert sample["__key__"] == f"{row:012d}"
        assert (sample.get("txt"), sample.get("cls")) == (fact.caption, fact.label)
        assert sample["json"]["id"] == fact.id
        assert sample["json"]["metadata"] == {"from": "nowhere"}
        assert sample["json"]["crop_width"] == fact.crop_width


def test_datasets_reads_it(store: SmallStore, tmp_path: Path) -> None:
    out = exported(store, tmp_path / "out", "parquet")
    for spec in ({"path": "parquet", "data_files": f"{out}/*.parquet"}, {"path": str(out)}):
        plain = load_dataset(**spec, split="train", cache_dir=str(tmp_path / "cache"))
        assert len(plain) == len(store.values)
    dataset = plain.with_format("numpy", columns=[*expected(store), "shape"])
    for row, fact in enumerate(store.index):
        sample = dataset[row]
        for name, arrays in expected(store).items():
            assert np.array_equal(sample[name].reshape(sample["shape"]), arrays[row])
        assert {key: plain[row][key] for key in asdict(fact)} == asdict(fact)


def test_pyarrow_reads_it_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_store(tmp_path / "store", parts=1, dtype="float16", shapes=((4, 4),))
    monkeypatch.setattr(export_formats, "_GROUP_BYTES", 3 * store.values[0].nbytes)
    file = pq.ParquetFile(exported(store, tmp_path / "out", "parquet") / "000000.parquet")
    assert file.num_row_groups == 4
    assert str(file.schema_arrow.field("moments").type) == "list<element: halffloat>"
    flat = file.read().column("moments").to_pylist()
    assert np.array_equal(np.array(flat, dtype=np.float32), np.stack([v.float().flatten() for v in store.values]))


def test_numpy_reads_it(store: SmallStore, tmp_path: Path) -> None:
    out = exported(store, tmp_path / "out", "npz")
    first = 0
    for number, entry in enumerate(store.manifest.shards):
        rows = range(first, first + entry.rows)
        with np.load(out / f"{number:06d}.npz") as file:  # which refuses pickles
            for name, arrays in expected(store).items():
                for place, row in enumerate(rows):
                    values = file[f"{name}.{place}"] if entry.native else file[name][place]
                    assert np.array_equal(values.astype(np.float32), arrays[row])
            assert file["id"].tolist() == [store.index[row].id for row in rows]
            assert file["height"].tolist() == [store.index[row].height for row in rows]
            captions = np.where(file["caption_missing"], None, file["caption"].astype(object)).tolist()
            assert captions == [store.index[row].caption for row in rows]
            labels = np.where(file["label_missing"], None, file["label"].astype(object)).tolist()
            assert labels == [store.index[row].label for row in rows]
        first += entry.rows


# ---- what is written


def test_other_programs_open_the_tars(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", parts=1, flipped=True)
    out = exported(store, tmp_path / "out", "webdataset")
    with tarfile.open(out / "000000.tar") as archive:
        names = archive.getnames()
    assert names[:5] == [f"{0:012d}.{end}" for end in ("moments.npy", "moments_flipped.npy", "json", "txt", "cls")]
    assert len(names) == 50


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_latents_are_scaled_means(tmp_path: Path, format: str) -> None:
    store = write_store(tmp_path / "store", parts=1, dtype="bfloat16", shapes=((4, 4),))
    out = exported(store, tmp_path / "out", format, values="latents", dtype="float16")
    scaling = Scaling(0.5, 0.25)
    wanted = np.stack([scaling.apply(values[:4].float()).half().numpy() for values in store.values])
    path = out / f"000000{EXPORT_FORMATS[format].ending}"
    if format == "npz":
        with np.load(path) as file:
            found = file["latents"]
    elif format == "parquet":
        found = np.array(pq.read_table(path).column("latents").to_pylist(), dtype=np.float16).reshape(wanted.shape)
    else:
        found = np.stack([sample["latents.npy"] for sample in read_tars(str(path))])
    assert found.dtype == np.float16
    assert np.array_equal(found, wanted)
    description = json.loads((out / DESCRIPTION_NAME).read_text())
    assert (description["values"], description["dtype"], description["scaled"]) == ("latents", "float16", True)
    assert Scaling.from_json(description["scaling"]) == scaling
    assert description["fingerprint"] == store.manifest.settings.fingerprint


def test_values_that_float16_cannot_hold_are_an_error(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", parts=1, config={**CONFIG, "scaling_factor": 1e6})
    with pytest.raises(
        StoreError, match=r"0\.jpg: torch\.float16 cannot hold its values, up to .*; pass --dtype float32"
    ):
        exported(store, tmp_path / "out", "npz", values="latents", dtype="float16")
    exported(store, tmp_path / "wide", "npz", values="latents")


# ---- interruptions, several processes


@pytest.mark.parametrize("format", EXPORT_FORMATS)
def test_an_interrupted_export_goes_on_to_the_same_bytes(tmp_path: Path, format: str) -> None:
    store = write_store(tmp_path / "store")
    whole = {path.name: path.read_bytes() for path in exported(store, tmp_path / "whole", format).iterdir()}
    out = tmp_path / "out"

    class KilledError(RuntimeError):
        pass

    def killed(rows: int) -> None:
        if len(list(out.iterdir())) == 4:
            raise KilledError

    with pytest.raises(KilledError):
        export(store.folder, StoreFolder(out), ExportOptions(format), progress=killed)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    rows: list[int] = []
    export(store.folder, StoreFolder(out), ExportOptions(format), progress=rows.append)
    assert rows == [10] * 6
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items())


def test_several_processes_share_the_files(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    out = StoreFolder(f"memory://{uuid.uuid4().hex}")
    done = [0, 0]
    for rank in (0, 1):

        def progress(rows: int, rank: int = rank) -> None:
            done[rank] += rows

        export(store.folder, out, ExportOptions("npz"), launch=Launch(rank, 2), progress=progress)
    assert done == [30, 30]
    whole = exported(store, tmp_path / "whole", "npz")
    assert {name: out.read(name) for name in out.list("")} == {path.name: path.read_bytes() for path in whole.iterdir()}


def test_another_export_in_the_folder_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", parts=1)
    out = exported(store, tmp_path / "out", "npz")
    with pytest.raises(StoreMismatchError, match="format: npz there, parquet here"):
        exported(store, out, "parquet")
    other = write_store(tmp_path / "other", parts=2)
    with pytest.raises(StoreMismatchError, match=r"rows: 20 there, 40 here(.|\n)*store: \w+ there, \w+ here"):
        exported(other, out, "npz")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(StoreMismatchError, match=r"expected a new folder, found thesis\.tex"):
        exported(store, tmp_path / "full", "npz")
    with pytest.raises(StoreError, match="to: expected one of webdataset, parquet, npz, found 'zarr'"):
        ExportOptions("zarr")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_store(tmp_path / "store", parts=1)
    assert main(["export-latents", store.url, str(tmp_path / "out"), "--to", "npz", "--values", "latents"]) == 0
    assert "20 rows of latents in float32, 2 npz files; scaled" in capsys.readouterr().out
    assert (
        main(["export-latents", store.url, str(tmp_path / "out"), "--to", "npz", "--values", "latents", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["files"] == 2
    assert main(["export-latents", store.url, str(tmp_path / "out"), "--to", "tfrecord"]) == 1
    assert "expected one of webdataset" in capsys.readouterr().err
    with np.load(tmp_path / "out" / "000000.npz") as file:
        assert torch.from_numpy(file["latents"]).shape == (10, 4, 4, 4)
