"""eval/sets.py and eval/features.py: rFID and KID with a small network, against NumPy in float64 and torch-fidelity."""

import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from small_network import FEATURES, SmallNetwork
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from eval import features as features_module
from eval.features import Inception
from eval.perceptual import BackboneFormatError, BackboneUnavailableError
from eval.sets import FeatureSet, FeatureStatistics, frechet_distance, kernel_distance


def pictures(count: int, seed: int, contrast: float = 1.0) -> list[np.ndarray]:
    """Smooth random colours with noise, 24 x 20."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(40, 215, (count, 3, 4, 3)).repeat(8, 1).repeat(5, 2)
    noise = random.normal(0, 12, coarse.shape)
    return list(np.clip(128 + contrast * (coarse + noise - 128), 0, 255).astype(np.uint8))


def feature_set(images: list[np.ndarray], *, order: list[int] | None = None) -> FeatureSet:
    network, found = SmallNetwork(), FeatureSet(keep=True)
    for index in order or range(len(images)):
        found.add(f"{index:04d}", network(images[index]))
    return found


def frechet_by_hand(one: np.ndarray, other: np.ndarray) -> float:
    """Heusel et al.'s formula in float64: the root of C1 C2 has the trace of the root of C1^(1/2) C2 C1^(1/2), symmetric."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    apart = one.mean(0) - other.mean(0)
    first, second = (
        sum(np.outer(row - side.mean(0), row - side.mean(0)) for row in side) / (len(side) - 1) for side in (one, other)
    )
    values, vectors = np.linalg.eigh(first)
    root = vectors @ np.diag(np.sqrt(np.clip(values, 0, None))) @ vectors.T
    trace = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    return float(apart @ apart + np.trace(first) + np.trace(second) - 2 * trace)


def kernel_by_hand(one: np.ndarray, other: np.ndarray) -> float:
    """The unbiased squared MMD of all images with the kernel (x.y / d + 1)^3, pair by pair."""
    one, other = one.astype(np.float64), other.astype(np.float64)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within = [
        sum(kernel(side[i], side[j]) for i in range(len(side)) for j in range(len(side)) if i != j)
        / (len(side) * (len(side) - 1))
        for side in (one, other)
    ]
    return sum(within) - 2 * sum(kernel(x, y) for x in one for y in other) / (len(one) * len(other))


def test_rfid_is_the_formula_in_float64() -> None:
    one, other = feature_set(pictures(90, 0)), feature_set(pictures(70, 1, contrast=0.8))
    expected = frechet_by_hand(one.vectors, other.vectors)
    assert expected > 1e-4
    assert frechet_distance(one.statistics, other.statistics) == pytest.approx(expected, rel=1e-8)


def test_kid_is_the_formula_in_float64() -> None:
    """With fewer images than a subset has, every subset is all of them, so KID is the plain estimate."""
    one, other = feature_set(pictures(40, 0)), feature_set(pictures(40, 1, contrast=0.8))
    found = kernel_distance(one.vectors, other.vectors)
    assert found.mean == pytest.approx(kernel_by_hand(one.vectors, other.vectors), rel=1e-9)
    assert found.mean > 0
    assert found.std < 1e-9
    assert (found.subsets, found.subset_size) == (100, 40)


class Registered(FeatureExtractorBase):
    """The small network as torch-fidelity takes one."""

    def __init__(self, name: str, features_list: list[str], **options: object) -> None:
        super().__init__(name, features_list)
        self.small = SmallNetwork()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("6",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "6"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> torch.Tensor:
        return torch.zeros(1, 3, 24, 20, dtype=torch.uint8)

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.small.batch(batch),)


class Tensors(torch.utils.data.Dataset):
    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.images[index].transpose(2, 0, 1).copy())


@pytest.fixture(scope="module")
def registered() -> str:
    torch_fidelity.register_feature_extractor("small", Registered)
    return "small"


def test_both_equal_torch_fidelity(registered: str) -> None:
    """The whole protocol: images in, figures out, with subsets smaller than the sets."""
    originals, others = pictures(1030, 0), pictures(1030, 1, contrast=0.9)
    theirs = torch_fidelity.calculate_metrics(
        input1=Tensors(originals), input2=Tensors(others), fid=True, kid=True, feature_extractor=registered,
        batch_size=64, cuda=False, cache=False, verbose=False, samples_shuffle=False, save_cpu_ram=True,
    )  # fmt: skip
    one, other = feature_set(originals), feature_set(others)
    rfid = frechet_distance(one.statistics, other.statistics)
    assert rfid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    kid = kernel_distance(one.vectors, other.vectors)
    assert kid.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)  # theirs is in float32
    assert kid.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-2)
    assert kid.subset_size == 1000


def test_identity_and_symmetry() -> None:
    one, other = feature_set(pictures(60, 0)), feature_set(pictures(60, 1))
    assert frechet_distance(one.statistics, one.statistics) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one.statistics, other.statistics) == pytest.approx(
        frechet_distance(other.statistics, one.statistics), rel=1e-9
    )
    kid, back = kernel_distance(one.vectors, other.vectors), kernel_distance(other.vectors, one.vectors)
    assert kid.mean == pytest.approx(back.mean, rel=1e-9)
    assert kernel_distance(one.vectors, one.vectors).mean < kid.mean


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
def test_streaming_equals_batch(batch: int) -> None:
    """With a large common offset, where sums of squares would lose their digits."""
    values = np.random.default_rng(0).normal(size=(500, 5)) @ np.random.default_rng(1).normal(size=(5, 5)) + 1e6
    statistics = FeatureStatistics(5)
    for first in range(0, len(values), batch):
        statistics.update(values[first : first + batch])
    assert statistics.count == 500
    np.testing.assert_allclose(statistics.mean, values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.covariance, np.cov(values, rowvar=False), rtol=1e-7, atol=1e-9)


def test_parts_merge_to_the_whole() -> None:
    values = np.random.default_rng(2).normal(size=(300, 4))
    parts = []
    for share in np.split(values, [10, 210]):
        part = FeatureStatistics(4)
        part.update(share)
        parts.append(part)
    whole, empty = parts[0], FeatureStatistics(4)
    whole.merge(parts[1])
    whole.merge(empty)
    whole.merge(parts[2])
    np.testing.assert_allclose(whole.covariance, np.cov(values, rowvar=False), rtol=1e-12)


def test_order_of_images_changes_nothing() -> None:
    images, others = pictures(150, 0), pictures(150, 1, contrast=0.9)
    turned = [*range(149, 75, -1), *range(76)]
    one, other = feature_set(images), feature_set(others)
    again, other_again = feature_set(images, order=turned), feature_set(others, order=turned[::-1])
    assert np.array_equal(one.vectors, again.vectors)
    assert frechet_distance(again.statistics, other_again.statistics) == pytest.approx(
        frechet_distance(one.statistics, other.statistics), abs=1e-9
    )
    assert kernel_distance(again.vectors, other_again.vectors) == kernel_distance(one.vectors, other.vectors)


def test_too_few_images_are_refused() -> None:
    lone = feature_set(pictures(1, 0))
    with pytest.raises(ValueError, match="at least two images, found 1"):
        frechet_distance(lone.statistics, lone.statistics)
    with pytest.raises(ValueError, match="at least two images, found 1"):
        kernel_distance(lone.vectors, lone.vectors)
    with pytest.raises(ValueError, match="features of no image"):
        FeatureSet(keep=False).statistics  # noqa: B018
    forgetful = FeatureSet(keep=False)
    forgetful.add("a", np.zeros(FEATURES, np.float32))
    with pytest.raises(ValueError, match="keep=False"):
        forgetful.vectors  # noqa: B018


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception with random weights, in torch-fidelity's file format."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), path)
    return path


def test_inception_is_torch_fidelitys(inception_file: Path) -> None:
    image = pictures(1, 0)[0][:, :17]
    found = Inception(inception_file)(image)
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(inception_file)
    )
    batch = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    assert found.shape == (2048,)
    assert found.std() > 0
    np.testing.assert_allclose(found, theirs(batch)[0][0].numpy(), rtol=1e-5, atol=1e-7)
    assert "299 x 299" in Inception.description


def test_inception_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneUnavailableError, match=r"absent\.pth is not a file.*weights-inception-2015-12-05"):
        Inception(tmp_path / "absent.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(BackboneFormatError, match=r"other\.pth: expected the state dict of torch-fidelity's Inception"):
        Inception(tmp_path / "other.pth")
    (tmp_path / "junk.pth").write_bytes(b"no tensors")
    with pytest.raises(BackboneFormatError, match=r"junk\.pth"):
        Inception(tmp_path / "junk.pth")

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", offline)
    with pytest.raises(BackboneUnavailableError, match=r"download of the Inception network failed: .*no network"):
        Inception()
    assert features_module._WAYS
