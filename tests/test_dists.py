"""eval/dists.py: DISTS with its backbone from a file, equal to the package that downloads it."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from DISTS_pytorch import DISTS
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval import perceptual
from eval.dists import load_dists, untrained_dists
from eval.metrics import DistsMetric, ImageTooSmallError
from eval.perceptual import BackboneFormatError, BackboneUnavailableError

CLASSIFIER = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no environment variables."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(perceptual.ENVIRONMENT["vgg"], raising=False)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def random_features() -> dict[str, Tensor]:
    """VGG16's features with random weights, as torchvision names them."""
    generator = torch.Generator().manual_seed(2)
    found = {}
    for name, parameter in untrained_dists().named_parameters():
        if name.startswith("stage"):
            _, index, kind = name.split(".")
            scale = (2 / parameter[0].numel()) ** 0.5 if kind == "weight" else 0.05
            found[f"features.{index}.{kind}"] = torch.randn(parameter.shape, generator=generator) * scale
    return found


@pytest.fixture(scope="module")
def random_file(random_features: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vgg") / "random.safetensors"
    save_file(random_features, path)
    return path


def photo(height: int = 96, width: int = 112) -> np.ndarray:
    return np.ascontiguousarray(skimage.data.astronaut()[60 : 60 + height, 150 : 150 + width])


def noisy(image: np.ndarray, spread: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(scale=spread, size=image.shape)
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def package(features: dict[str, Tensor]) -> DISTS:
    """The package as its users get it: it reads torchvision's full weights from the hub cache."""
    state = {key: value.float() for key, value in features.items()}
    for index, shape in CLASSIFIER.items():
        state[f"classifier.{index}.weight"] = torch.zeros(1, 1).expand(shape)
        state[f"classifier.{index}.bias"] = torch.zeros(1).expand(shape[0])
    torch.save(state, perceptual.hub_cache_path("vgg"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torchvision, about how the package calls it
        return DISTS()


def check_against(theirs: DISTS, backbone: Path) -> None:
    ours = DistsMetric(backbone)
    random = np.random.default_rng(1).integers(0, 256, (2, 40, 33, 3), dtype=np.uint8)
    for reference, distorted in ((photo(), noisy(photo(), 12)), (random[0], random[1])):
        pair = [torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in (reference, distorted)]
        expected = float(theirs(*pair).detach())
        assert expected > 1e-3
        assert ours(reference, distorted) == pytest.approx(expected, abs=1e-6)


@pytest.mark.skipif(
    not Path(sys.prefix, "weights.pt").is_file(), reason="the package itself finds its weights only there"
)
def test_equals_the_package(hub: Path, random_features: dict[str, Tensor], random_file: Path) -> None:
    check_against(package(random_features), random_file)


@pytest.mark.shared
@pytest.mark.skipif(
    not Path(sys.prefix, "weights.pt").is_file(), reason="the package itself finds its weights only there"
)
def test_equals_the_package_with_the_real_backbone(hub: Path, shared: Path) -> None:
    backbone = shared / "weights" / "vgg16_features.fp16.safetensors"
    check_against(package(load_file(backbone)), backbone)


def test_identity_symmetry_and_order(random_file: Path) -> None:
    metric = DistsMetric(random_file)
    image = photo()
    scores = [metric(image, noisy(image, spread)) for spread in (4, 16, 60)]
    assert metric(image, image) == pytest.approx(0, abs=1e-6)
    assert 0 < scores[0] < scores[1] < scores[2] <= 1
    assert metric(noisy(image, 16), image) == pytest.approx(scores[1], abs=1e-6)
    with pytest.raises(ImageTooSmallError, match="width: expected at least 16 pixels, found 15"):
        metric(image[:, :15], image[:, :15])


def test_frozen_and_leaves_the_seed(random_file: Path) -> None:
    before = torch.get_rng_state()
    module = load_dists(random_file)
    assert torch.equal(torch.get_rng_state(), before)
    assert not module.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in module.parameters())
    assert module.alpha.shape == (1, 1475, 1, 1)
    assert (module.alpha > 0).any()


def test_backbone_comes_from_the_same_places(
    hub: Path, random_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_features: dict[str, Tensor]
) -> None:
    with pytest.raises(
        BackboneUnavailableError, match=r"LPIPS-vgg and DISTS need torchvision's ImageNet features of VGG16"
    ):
        load_dists(download=False)
    monkeypatch.setenv("LATENTCODEC_LPIPS_VGG", str(random_file))
    found = load_dists(download=False).stage3[1].weight
    assert torch.equal(found, random_features["features.10.weight"])
    broken = {key: value for key, value in random_features.items() if key != "features.28.bias"}
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(
        BackboneFormatError, match=r"broken\.safetensors does not hold.*: features\.28\.bias is missing"
    ):
        load_dists(tmp_path / "broken.safetensors")
