"""Training crops are a pure function of seed and images seen."""

import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from latentcodec.images.decode import BrokenImageError
from latentcodec.images.items import ImageItem
from train.config import DataConfig, TrainConfig, load_preset
from train.data import (
    MicroBatches,
    StreamedImages,
    TrainingImages,
    cut_crop,
    generator,
    training_loader,
)
from train.run_config import ConfigError


def config(source: str | dict[str, float], *overrides: str, **data: Any) -> TrainConfig:
    base = load_preset(
        "tiny", "--batch_size", "4", "--steps", "5", "--data.crop", "32", "--data.workers", "0", *overrides
    )
    base.data = DataConfig(**{**vars(base.data), "source": source, **data})
    return base


def training_images(source: str | dict[str, float]) -> TrainingImages:
    images = training_loader(config(source), 4, processes=1, rank=0, start_step=0, pin=False).dataset
    assert isinstance(images, TrainingImages)
    return images


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(7):
        pixels = rng.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def run_through(
    config: TrainConfig, processes: int = 1, start_step: int = 0
) -> dict[tuple[int, int], tuple[str, bytes, bytes]]:
    """{(step, place in the batch): (id, crop, noise)} over all processes."""
    seen = {}
    for rank in range(processes):
        loader = training_loader(config, 4, processes=processes, rank=rank, start_step=start_step, pin=False)
        size = config.microbatch(processes)
        for number, batch in enumerate(loader):
            step, part = divmod(number, config.accumulate)
            for index in range(size):
                place = (part * processes + rank) * size + index
                seen[start_step + step, place] = (
                    batch.ids[index], batch.images[index].numpy().tobytes(), batch.noise[index].numpy().tobytes()
                )  # fmt: skip
    return seen


@pytest.mark.parametrize(
    ("processes", "overrides", "workers"),
    [(2, [], 0), (1, ["--accumulate", "2"], 0), (2, ["--accumulate", "2"], 0), (1, [], 2)],
)
def test_order_does_not_depend_on_processes_accumulation_or_workers(
    photos: Path, processes: int, overrides: list[str], workers: int
) -> None:
    reference = run_through(config(str(photos)))
    assert len(reference) == 20
    assert run_through(config(str(photos), *overrides, workers=workers), processes) == reference


def test_resuming_goes_on_at_the_place(photos: Path) -> None:
    reference = run_through(config(str(photos)))
    resumed = run_through(config(str(photos)), start_step=3)
    assert resumed == {key: value for key, value in reference.items() if key[0] >= 3}


def test_an_epoch_visits_every_image_once_and_crops_anew(photos: Path) -> None:
    images = training_images(str(photos))
    first, second = ([images[place] for place in range(start, start + 7)] for start in (0, 7))
    assert {sample.id for sample in first} == {sample.id for sample in second} == {f"{n}.png" for n in range(7)}
    assert [sample.id for sample in first] != [sample.id for sample in second]
    by_id = {sample.id: sample.image for sample in second}
    assert any(not np.array_equal(sample.image, by_id[sample.id]) for sample in first)


def test_another_seed_is_another_order(photos: Path) -> None:
    assert run_through(config(str(photos))) != run_through(config(str(photos), "--seed", "1"))


def test_broken_images_are_passed_over_and_listed(photos: Path, tmp_path: Path) -> None:
    for path in photos.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    images = training_images(str(tmp_path))
    samples = [images[place] for place in range(7)]
    listed = [entry for sample in samples for entry in sample.broken]
    assert {id for id, _ in listed} == {"3.png"}
    assert all(reason for _, reason in listed)
    assert all(sample.id != "3.png" for sample in samples)
    assert [sample.id for sample in samples] == [images[place].id for place in range(7)], "the replacement is fixed too"


def test_nothing_but_broken_images_is_an_error(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"no image")
    images = training_images(str(tmp_path))
    with pytest.raises(ConfigError, match="100 images in a row could not be decoded"):
        images[0]


def test_bomb_is_skipped_by_its_header(tmp_path: Path, photos: Path) -> None:
    Image.new("1", (10_000, 10_001)).save(tmp_path / "bomb.png")
    (tmp_path / "good.png").write_bytes((photos / "0.png").read_bytes())
    images = training_images(str(tmp_path))
    samples = [images[place] for place in range(2)]
    assert [sample.id for sample in samples] == ["good.png", "good.png"]
    (broken,) = {entry for sample in samples for entry in sample.broken}
    assert broken[0] == "bomb.png"
    assert "pixels" in broken[1]


def test_mix_of_sources_keeps_the_shares(photos: Path) -> None:
    images = training_images({str(photos): 0.75, "procedural": 0.25})
    ids = [images[place].id for place in range(1000)]
    from_photos = [id for id in ids if ".png" in id]
    assert len(from_photos) == 750
    assert len({tuple(from_photos[start : start + 7]) for start in range(0, 70, 7)}) > 1, "each epoch has its own order"


def test_samples_are_picklable_for_spawned_workers(photos: Path) -> None:
    images = training_images(str(photos))
    again = pickle.loads(pickle.dumps(images))
    assert again[3].image.tobytes() == images[3].image.tobytes()


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    downscale=st.floats(1, 4),
    seed=st.integers(0, 1000),
    flip=st.booleans(),
)
def test_every_image_gives_a_crop(height: int, width: int, downscale: float, seed: int, flip: bool) -> None:
    data = DataConfig(source="x", crop=32, max_downscale=downscale, flip=flip)
    image = np.full((height, width, 3), 7, np.uint8)
    piece = cut_crop(image, data, generator(seed, 1, 0))
    assert piece.shape == (32, 32, 3)
    assert piece.flags.c_contiguous
    assert (piece == 7).all()


class _Stream:
    """Seven constant images in order, the third of them broken."""

    def __iter__(self) -> Any:
        for number in range(7):
            if number == 2:
                yield BrokenImageError("2", "truncated")
            else:
                yield ImageItem(str(number), np.full((32, 32, 3), number, np.uint8))

    def skip(self, count: int) -> "_Stream":
        return self


@pytest.mark.parametrize("processes", [1, 2])
def test_stream_numbers_its_items_for_every_process(processes: int) -> None:
    base = config("hf:x", flip=False)
    ids = {}
    broken = []
    for rank in range(processes):
        batches = MicroBatches(base, processes, rank, start_step=1)
        for step, batch in enumerate(StreamedImages(_Stream(), batches, 4), start=1):
            ids |= {(step, rank * base.microbatch(processes) + i): id for i, id in enumerate(batch.ids)}
            broken += batch.broken
    places = [id for _, id in sorted(ids.items())]
    # Places 4 to 19 of 0 1 2 3 4 5 6 0 1 2 ..., the broken 2 replaced by the next good image.
    assert places == [["0", "1", "3", "3", "4", "5", "6"][place % 7] for place in range(4, 20)]
    assert broken == [("2", "truncated")] * 2


def test_tar_and_folder_give_the_same_crops(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, path.name)
    packed, loose = (run_through(config(source)) for source in (str(tmp_path / "photos.tar"), str(photos)))
    assert [value[1:] for value in packed.values()] == [value[1:] for value in loose.values()]


def test_noise_is_as_wide_as_configured(photos: Path) -> None:
    def noise(*overrides: str) -> np.ndarray:
        (batch, *_) = training_loader(
            config(str(photos), "--steps", "1", "--batch_size", "64", *overrides), 4,
            processes=1, rank=0, start_step=0, pin=False,
        )  # fmt: skip
        return batch.noise.numpy()

    plain, wide, varied = noise(), noise("--model.noise_scale", "[3,3]"), noise("--model.noise_scale", "[1,16]")
    np.testing.assert_allclose(wide, 3 * plain, rtol=1e-6)
    factors = (varied / plain).reshape(64, -1)
    np.testing.assert_allclose(factors, factors[:, :1] * np.ones_like(factors), rtol=1e-5)
    logs = np.log2(factors[:, 0])
    assert 0 <= logs.min() < 1
    assert 3 < logs.max() <= 4
    assert 1.5 < logs.mean() < 2.5
