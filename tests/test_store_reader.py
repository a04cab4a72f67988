"""Reading a store: values, draws, flips, facts, refusals; in threads, in forked and in spawned processes; without limits."""

import gc
import json
import pickle
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_stores import CONFIG, SmallStore, write_store
from torch import Tensor
from torch.utils.data import DataLoader

import latentcodec
from latentcodec.scaling import Scaling
from latentcodec.store import opened
from latentcodec.store.dataset import LatentDataset
from latentcodec.store.draws import Draw
from latentcodec.store.errors import StoreDamagedError, StoreError, StoreMismatchError
from latentcodec.store.manifest import MANIFEST_NAME
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.presets import build_vae

NATIVE = {"policy": "native"}


def mean_of(store: SmallStore, row: int, mirrored: bool = False) -> Tensor:
    """What a diffusion model should get: SD 3's scale, as in diffusers."""
    raw = (store.mirrored if mirrored else store.values)[row][:4].float()
    return (raw - 0.25) * 0.5


@pytest.fixture(params=["disk", "url"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return write_store(tmp_path / "store", flipped=True)


# ---- values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("values", ["moments", "mean"])
def test_rows_come_in_order_scaled_with_their_facts(url: str, dtype: str, values: str) -> None:
    store = write_store(url, dtype=dtype, values=values, parts=2)
    dataset = LatentDataset(url, sample=False)
    assert len(dataset) == 40
    for row in (0, 9, 10, 25, 39, -1):
        sample, fact = dataset[row], store.index[row]
        assert sample["latents"].dtype == torch.float32
        assert torch.equal(sample["latents"], mean_of(store, row))
        assert (sample["row"], sample["mirrored"], sample["id"]) == (row % 40, False, fact.id)
        assert (sample["caption"], sample["label"]) == (fact.caption, fact.label)
        assert sample["original_size"] == (fact.height, fact.width)
        assert sample["crop_top_left"] == (0, 3)
        assert sample["target_size"] == (fact.crop_height, fact.crop_width)
        assert torch.equal(dataset.stored(row), store.values[row])
        assert dataset.index_row(row) == fact
    for row in (40, -41):
        with pytest.raises(IndexError, match=r"expected -40 \.\.\. 39"):
            dataset[row]
    with pytest.raises(KeyError, match="without mirrored images"):
        dataset.stored(0, mirrored=True)


def test_it_is_a_public_name() -> None:
    assert latentcodec.LatentDataset is LatentDataset


def test_a_store_of_whole_network_latents_reads_as_diffusers_would(tmp_path: Path) -> None:
    """Against `latent_dist` itself, for a network whose moments are stored."""
    vae = build_vae("tiny-f8d4").eval()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(image).latent_dist
    config = {"latents_mean": None, "latents_std": None, "shift_factor": None, "scaling_factor": 0.18215,
              "latent_channels": 4, "block_out_channels": [1, 1, 1, 1]}  # fmt: skip
    store = write_store(tmp_path, parts=1, shapes=((4, 4),), rows=1, config=config)
    path = tmp_path / store.manifest.shards[0].path
    path.write_bytes(path.read_bytes()[: -8 * 16 * 4] + posterior.parameters.numpy().tobytes())
    assert torch.equal(LatentDataset(tmp_path, sample=False)[0]["latents"], posterior.mode()[0] * 0.18215)
    drawn = torch.stack([LatentDataset(tmp_path, seed=seed)[0]["latents"] for seed in range(100)]) / 0.18215
    assert torch.allclose(drawn.mean(0), posterior.mean[0], atol=float(posterior.std.max()) * 0.5)
    assert torch.allclose(drawn.std(0), posterior.std[0], rtol=0.5)


@pytest.mark.parametrize(
    "config",
    [
        {"scaling_factor": 0.18215, "shift_factor": None},
        {"scaling_factor": 1.0, "latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [0.5, 1.0, 2.0, 4.0]},
    ],
)
def test_the_scale_is_that_of_the_config(tmp_path: Path, config: dict[str, Any]) -> None:
    store = write_store(tmp_path, config={**CONFIG, **config}, parts=1)
    dataset = LatentDataset(tmp_path, sample=False)
    expected = Scaling.of({**CONFIG, **config}).apply(store.values[3][:4])
    assert torch.equal(dataset[3]["latents"], expected)
    other = Scaling(2.0)
    assert torch.equal(LatentDataset(tmp_path, sample=False, scaling=other)[3]["latents"], store.values[3][:4] * 2)


# ---- draws and flips


def test_a_draw_depends_on_seed_row_and_epoch_only(store: SmallStore) -> None:
    one, again, other = (LatentDataset(store.url, seed=seed) for seed in (1, 1, 2))
    for row in (0, 30):
        for epoch in (0, 7):
            assert torch.equal(one[Draw(row, epoch)]["latents"], again[Draw(row, epoch)]["latents"])
    latents = [one[3]["latents"], one[Draw(3, 1)]["latents"], other[3]["latents"], one[4]["latents"]]
    assert all(not torch.equal(a, b) for i, a in enumerate(latents) for b in latents[:i])
    again.set_epoch(1)
    assert torch.equal(again[3]["latents"], one[Draw(3, 1)]["latents"])


def test_draws_have_the_posteriors_mean_and_deviation(tmp_path: Path) -> None:
    store = write_store(tmp_path, parts=1, shapes=((4, 4),), rows=1)
    dataset = LatentDataset(tmp_path, scaling=Scaling(1.0))
    drawn = torch.stack([dataset[Draw(0, epoch)]["latents"] for epoch in range(400)])
    mean, logvar = store.values[0].chunk(2)
    noise = (drawn - mean) / torch.exp(0.5 * logvar)
    assert noise.mean(0).abs().max() < 5 / 400**0.5
    assert (noise.std(0) - 1).abs().max() < 0.2
    assert abs(torch.corrcoef(noise.flatten(1).T).fill_diagonal_(0)).max() < 0.27


def test_flips_are_drawn_for_each_row_and_epoch(store: SmallStore) -> None:
    dataset = LatentDataset(store.url, sample=False)
    assert dataset.flip == 0.5
    samples = [dataset[Draw(row, epoch)] for epoch in range(12) for row in range(60)]
    for sample in samples:
        assert torch.equal(sample["latents"], mean_of(store, sample["row"], sample["mirrored"]))
        # the box is 3 from the left of a picture 7 wider than it
        assert sample["crop_top_left"] == (0, 4 if sample["mirrored"] else 3)
    assert 0.43 < sum(sample["mirrored"] for sample in samples) / len(samples) < 0.57
    per_row = [{samples[60 * epoch + row]["mirrored"] for epoch in range(12)} for row in range(60)]
    assert sum(len(seen) == 2 for seen in per_row) >= 59
    for flip in (0.0, 1.0):
        certain = LatentDataset(store.url, flip=flip)
        assert {certain[row]["mirrored"] for row in range(60)} == {bool(flip)}


# ---- batches


@pytest.mark.parametrize("sample", [True, False])
def test_a_batch_is_its_rows(url: str, sample: bool) -> None:
    write_store(url, flipped=True)
    dataset = LatentDataset(url, sample=sample)
    draws = [Draw(row, 3) for row in (25, 2, 47, 8, 2)]
    batch, rows = dataset.batch(draws), [dataset[draw] for draw in draws]
    assert torch.equal(batch["latents"], torch.stack([row["latents"] for row in rows]))
    for key in ("row", "mirrored", "label", "original_size", "crop_top_left", "target_size"):
        assert batch[key].tolist() == [list(row[key]) if isinstance(row[key], tuple) else row[key] for row in rows]
    for key in ("id", "caption"):
        assert batch[key] == [row[key] for row in rows]
    with pytest.raises(ValueError, match=r"expected rows of one shape, found \(\d, 4, 4\) and \(\d, 4, 6\)"):
        dataset.batch([0, 10])
    with pytest.raises(ValueError, match="found no rows"):
        dataset.batch([])


def test_captions_and_labels_are_there_if_the_store_has_any(tmp_path: Path) -> None:
    write_store(tmp_path / "none", captions=False, labels=False, parts=1)
    dataset = LatentDataset(tmp_path / "none")
    assert not {"caption", "label"} & (dataset[0].keys() | dataset.batch([0]).keys())
    write_store(tmp_path / "captions", labels=False, parts=1)
    dataset = LatentDataset(tmp_path / "captions")
    assert dataset.batch([0, 1])["caption"] == ["number 0", "number 1"]
    assert "label" not in dataset[0]


def test_only_the_fields_asked_for_are_given(store: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    every = LatentDataset(store.folder.url)
    assert every.fields == {"id", "original_size", "crop_top_left", "target_size", "caption", "label"}
    for fields in ({"label"}, {"target_size", "id"}, every.fields):
        dataset = LatentDataset(store.folder.url, fields=fields)
        assert dataset[3].keys() == dataset.batch([3, 4]).keys() == {"latents", "row", "mirrored"} | fields
        assert {key: dataset[3][key] for key in fields} == {key: every[3][key] for key in fields}  # type: ignore[literal-required]
    bare = LatentDataset(store.folder.url, fields=())
    monkeypatch.setattr(opened.OpenShards, "facts", None)  # no index is read
    assert bare.batch([3, 4]).keys() == {"latents", "row", "mirrored"}
    assert bare[3].keys() == {"latents", "row", "mirrored"}
    with pytest.raises(StoreError, match=r"fields: .* has id, .*, label, not capton; leave it out"):
        LatentDataset(store.folder.url, fields=["id", "capton"])


def test_what_is_stored_stays_as_it_is(url: str) -> None:
    """float32 rows lie in the mapped file, and scaling works in place."""
    write_store(url, dtype="float32", parts=1)
    for sample in (False, True):
        dataset = LatentDataset(url, sample=sample)
        first = [dataset[3]["latents"], dataset.batch([3, 4])["latents"]]
        again = [dataset[3]["latents"], dataset.batch([3, 4])["latents"]]
        assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))


def test_a_missing_label_is_none_and_no_number(tmp_path: Path) -> None:
    store = write_store(tmp_path, parts=1)
    manifest = replace(store.manifest, labels=5)
    store.folder.write(MANIFEST_NAME, manifest.to_bytes())
    batch = LatentDataset(tmp_path).batch([0, 1])
    assert batch["label"] == [0, 1]
    assert isinstance(batch["label"], list)


def test_rows_of_native_resolution(url: str) -> None:
    store = write_store(url, preprocessing=NATIVE, shapes=((4, 4), (4, 6), (5, 3)), rows=3)
    dataset = LatentDataset(url, sample=False)
    for row in range(len(dataset)):
        assert torch.equal(dataset[row]["latents"], mean_of(store, row))
    found = {(bucket.height, bucket.width): bucket.rows(torch.arange(9).numpy()).tolist() for bucket in dataset.buckets}
    assert found == {(4, 4): list(range(0, 27, 3)), (4, 6): list(range(1, 27, 3)), (5, 3): list(range(2, 27, 3))}


def test_buckets_hold_every_row_once(store: SmallStore) -> None:
    buckets = LatentDataset(store.url).buckets
    assert [(bucket.height, bucket.width, len(bucket)) for bucket in buckets] == [(4, 4, 30), (4, 6, 30)]
    rows = [row for bucket in buckets for row in bucket.rows(torch.arange(30).numpy()).tolist()]
    assert sorted(rows) == list(range(60))
    for bucket in buckets:
        assert all(
            store.values[row].shape[1:] == (bucket.height, bucket.width)
            for row in bucket.rows(torch.arange(30).numpy())
        )


# ---- processes


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_read_the_same(store: SmallStore, method: str) -> None:
    dataset = LatentDataset(store.url)
    here = [dataset[row] for row in range(60)]  # shards are open here before the workers start
    workers = 2 if method == "fork" else 1  # of which each imports torch anew
    loader: DataLoader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=method)
    for mine, theirs in zip(here, loader, strict=True):
        assert torch.equal(mine["latents"], theirs["latents"])
        assert mine["id"] == theirs["id"]


def test_the_default_collate_function_works(store: SmallStore) -> None:
    batch = next(iter(DataLoader(LatentDataset(store.url), batch_size=4)))
    assert batch["latents"].shape == (4, 4, 4, 4)
    assert batch["label"].tolist() == [0, 1, 2, 3]


def test_threads_read_the_same(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_store(url)
    monkeypatch.setattr(opened, "_MOST_OPEN", 2)  # of six, so that shards are given up while others read them
    monkeypatch.setattr(opened, "_MOST_FACTS", 1)
    dataset = LatentDataset(url, sample=False)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(0)).repeat(2).tolist()
    with ThreadPoolExecutor(8) as pool:
        for row, sample in zip(rows, pool.map(dataset.__getitem__, rows), strict=True):
            assert torch.equal(sample["latents"], mean_of(store, row))
            assert sample["id"] == store.index[row].id


def test_pickling_leaves_open_files_behind(store: SmallStore) -> None:
    dataset = LatentDataset(store.url, seed=3)
    expected = dataset[5]["latents"]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[5]["latents"], expected)


def open_handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_few_shards_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_store(tmp_path, parts=12, rows=1)
    monkeypatch.setattr(opened, "_MOST_OPEN", 4)
    dataset = LatentDataset(tmp_path, sample=False)
    gc.collect()
    before = open_handles()
    for row in range(len(dataset)):
        assert torch.equal(dataset[row]["latents"], mean_of(store, row))
    assert 0 < open_handles() - before <= 4


# ---- refusals


def test_another_vae_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    vae = build_vae("tiny-f8d4")
    latentcodec.save_vae(vae, tmp_path / "vae")
    mine = weights_fingerprint(vae)
    store = write_store(tmp_path / "mine", fingerprint=mine, parts=1)
    for named in (vae, latentcodec.LatentCodec(vae), tmp_path / "vae", str(tmp_path / "vae"), mine):
        assert len(LatentDataset(store.url, vae=named)) == 20
    other = write_store(tmp_path / "other", parts=1)
    with pytest.raises(StoreMismatchError) as error:
        LatentDataset(other.url, vae=tmp_path / "vae")
    assert mine in str(error.value)
    assert other.manifest.settings.fingerprint in str(error.value)


def test_other_settings_are_refused_with_both_values(store: SmallStore) -> None:
    LatentDataset(store.url, expected={"dtype": "float32", "preprocessing": {"policy": "buckets"}})
    with pytest.raises(StoreMismatchError) as error:
        LatentDataset(store.url, expected={"dtype": "bfloat16", "preprocessing": {"policy": "crop", "height": 64}})
    for line in ('dtype: "float32" there, "bfloat16" here', "preprocessing.height: nothing there, 64 here",
                 'preprocessing.policy: "buckets" there, "crop" here'):  # fmt: skip
        assert line in str(error.value)
    with pytest.raises(StoreError, match="no such setting: colour; a store has fingerprint, "):
        LatentDataset(store.url, expected={"colour": "red"})


def test_what_the_store_does_not_hold_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path, values="mean", parts=1)
    assert not LatentDataset(store.url).sample
    with pytest.raises(StoreError, match="holds means without variances"):
        LatentDataset(store.url, sample=True)
    with pytest.raises(StoreError, match="holds no mirrored images"):
        LatentDataset(store.url, flip=0.5)
    with pytest.raises(StoreError, match=r"expected a probability from 0 to 1, found 2\.0"):
        LatentDataset(store.url, flip=2.0)
    with pytest.raises(StoreDamagedError, match="expected a latent store, found no"):
        LatentDataset(tmp_path / "nowhere")


def test_a_damaged_shard_is_an_error_when_it_is_read(store: SmallStore) -> None:
    path = Path(store.url, store.manifest.shards[1].path)
    path.write_bytes(path.read_bytes()[:-1])
    dataset = LatentDataset(store.url)
    assert dataset[0]["row"] == 0
    with pytest.raises(StoreDamagedError, match=rf"{path.name}: expected \d+ bytes, found \d+"):
        dataset[10]


# ---- size

MANY = """
import json, resource, sys, time
import torch, pyarrow.parquet, fsspec, torch.utils.data
from latentcodec.store import dataset as loaded
from latentcodec.store.sampler import BucketBatchSampler

def memory():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024

before, began = memory(), time.perf_counter()
dataset = loaded.LatentDataset(sys.argv[1])
opened = time.perf_counter() - began
sampler = BucketBatchSampler(dataset, 256)
batches = iter(sampler)
first = next(batches)
print(json.dumps({"rows": len(dataset), "seconds": opened, "first_batch": time.perf_counter() - began,
                  "batches": len(sampler), "megabytes": memory() - before, "size": len(first)}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_opening_takes_time_and_memory_for_shards_not_rows(tmp_path: Path) -> None:
    """A hundred million rows in ten thousand shards: in a process of its own, above what importing torch takes."""
    store = write_store(tmp_path, parts=1, shapes=((4, 4),))
    entry = replace(store.manifest.shards[0], rows=10_000)
    shards = tuple(replace(entry, part=part) for part in range(10_000))
    settings = replace(store.manifest.settings, images=100_000_000, part_images=10_000)
    store.folder.write(MANIFEST_NAME, replace(store.manifest, settings=settings, shards=shards).to_bytes())
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(tmp_path)], capture_output=True, text=True, timeout=100, check=True
    )
    found = json.loads(done.stdout)
    assert found["rows"] == 100_000_000
    assert found["size"] == 256
    assert found["batches"] == -(-100_000_000 // 256)
    assert found["seconds"] < 2
    assert found["megabytes"] < 100
