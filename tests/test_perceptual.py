"""eval/perceptual.py: where the backbone comes from, what is refused, and equality with the `lpips` package."""

import hashlib
import warnings
from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval import perceptual
from eval.perceptual import BackboneFormatError, BackboneUnavailableError, find_backbone, load_lpips

ALEXNET_SHAPES = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
FILES = {"alex": "alexnet_features.safetensors", "vgg": "vgg16_features.fp16.safetensors"}


def random_alexnet() -> dict[str, Tensor]:
    """Features of AlexNet with random weights, and a classifier's key beside them."""
    state = {"classifier.1.weight": torch.zeros(2, 2)}
    for index, shape in ALEXNET_SHAPES.items():
        state[f"features.{index}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        state[f"features.{index}.bias"] = torch.randn(shape[0]) * 0.1
    return state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return random_alexnet()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no environment variables: nothing is found by accident."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for variable in perceptual.ENVIRONMENT.values():
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def pair(seed: int = 0, size: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(2, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    return a, 0.7 * a + 0.3 * b


def test_hub_names_are_torchvisions(hub: Path) -> None:
    assert perceptual.hub_cache_path("vgg") == hub / "vgg16-397923af.pth"
    assert perceptual.hub_cache_path("alex") == hub / "alexnet-owt-7be5be79.pth"


def test_places_in_order(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_backbone("alex") is None
    cached, variable, named = hub / "alexnet-owt-7be5be79.pth", tmp_path / "variable.pth", tmp_path / "named.pth"
    for path in (cached, variable, named):
        path.touch()
    assert find_backbone("alex") == cached
    assert find_backbone("vgg") is None
    monkeypatch.setenv("LATENTCODEC_LPIPS_ALEX", "")
    assert find_backbone("alex") == cached
    monkeypatch.setenv("LATENTCODEC_LPIPS_ALEX", str(variable))
    assert find_backbone("alex") == variable
    assert find_backbone("alex", named) == named


def test_a_named_file_that_is_absent_is_never_passed_over(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hub / "vgg16-397923af.pth").touch()
    with pytest.raises(BackboneUnavailableError, match=r"argument `backbone` names absent\.pth, which is not a file"):
        load_lpips("vgg", "absent.pth")
    monkeypatch.setenv("LATENTCODEC_LPIPS_VGG", "gone.safetensors")
    with pytest.raises(BackboneUnavailableError, match=r"\$LATENTCODEC_LPIPS_VGG names gone\.safetensors"):
        find_backbone("vgg")


def test_without_any_source_the_error_says_every_way(hub: Path) -> None:
    with pytest.raises(BackboneUnavailableError) as caught:
        load_lpips("vgg", download=False)
    for part in ("VGG16", "`backbone`", "LATENTCODEC_LPIPS_VGG", "vgg16-397923af.pth", str(hub), "download"):
        assert part in str(caught.value)


def test_download(hub: Path, tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real download, from a file:// address: fetched once, checked by the hash in its name, then cached."""
    source = tmp_path / "source"
    source.mkdir()
    torch.save(state, source / "alexnet.pth")
    digest = hashlib.sha256((source / "alexnet.pth").read_bytes()).hexdigest()[:8]
    good = (source / "alexnet.pth").rename(source / f"alexnet-{digest}.pth")
    monkeypatch.setitem(perceptual.DOWNLOADS, "alex", good.as_uri())
    module = load_lpips("alex")
    assert torch.equal(module.net.slice1[0].weight, state["features.0.weight"])
    assert find_backbone("alex") == hub / good.name

    bad = source / "alexnet-00000000.pth"
    bad.write_bytes(good.read_bytes())
    for address, message in ((bad.as_uri(), "invalid hash value"), ((source / "no.pth").as_uri(), "No such file")):
        monkeypatch.setitem(perceptual.DOWNLOADS, "alex", address)
        with pytest.raises(BackboneUnavailableError, match=rf"download of the backbone failed: .*{message}"):
            load_lpips("alex")
        assert find_backbone("alex") is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_formats_dtype_and_classifier(
    suffix: str, hub: Path, tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    half = {key: value.half() for key, value in state.items()}
    path = tmp_path / f"alex{suffix}"
    save_file(half, path) if suffix == ".safetensors" else torch.save(half, path)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = load_lpips("alex", path)
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr().out == ""
    assert not module.training
    assert not any(child.training for child in module.modules())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in module.parameters())
    copied = {index: layer for part in module.net.children() for index, layer in part.named_children()}
    for index in ALEXNET_SHAPES:
        assert torch.equal(copied[str(index)].weight, half[f"features.{index}.weight"].float())
        assert torch.equal(copied[str(index)].bias, half[f"features.{index}.bias"].float())
    a, b = pair()
    assert torch.equal(module(a, a), torch.zeros(2, 1, 1, 1))
    assert (module(a, b) > 0).all()


def test_incomplete_and_foreign_files_are_named(hub: Path, tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "broken.safetensors"
    broken = {key: value for key, value in state.items() if key != "features.8.bias"}
    broken["features.3.weight"] = torch.zeros(1, 2)
    save_file(broken, path)
    with pytest.raises(BackboneFormatError) as caught:
        load_lpips("alex", path)
    assert "features.8.bias is missing" in str(caught.value)
    assert "features.3.weight has shape (1, 2), expected (192, 64, 5, 5)" in str(caught.value)
    assert "broken.safetensors does not hold torchvision's AlexNet features" in str(caught.value)
    assert "features.0" not in str(caught.value)

    for content in (b"", b"not tensors at all"):
        for name in ("junk.safetensors", "junk.pth"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(BackboneFormatError, match=rf"{name}: expected a safetensors file, or a torch file"):
                load_lpips("alex", tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BackboneFormatError, match="expected a dict of tensors, found list"):
        load_lpips("alex", tmp_path / "list.pth")


def test_a_pickled_module_is_not_unpickled(hub: Path, tmp_path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "module.pth")
    with pytest.raises(BackboneFormatError, match="tensors only"):
        load_lpips("alex", tmp_path / "module.pth")


def test_untrained_lpips_is_seeded_and_leaves_the_seed() -> None:
    before = torch.get_rng_state()
    modules = [perceptual.untrained_lpips("alex") for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    a, b = pair()
    assert torch.equal(modules[0](a, b), modules[1](a, b))
    torch.manual_seed(1)
    assert not torch.equal(perceptual.untrained_lpips("alex")(a, b), modules[0](a, b))
    assert not any(parameter.requires_grad for parameter in modules[0].parameters())
    assert not modules[0].training


@pytest.mark.shared
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_equals_the_package_with_the_same_backbone(net: str, hub: Path, shared: Path) -> None:
    """The package itself, `lpips.LPIPS(net)`, reads torchvision's full weights from the hub cache."""
    features = {key: value.float() for key, value in load_file(shared / "weights" / FILES[net]).items()}
    classifier = {"alex": {1: (4096, 9216), 4: (4096, 4096)}, "vgg": {0: (4096, 25088), 3: (4096, 4096)}}[net]
    for index, shape in {**classifier, 6: (1000, 4096)}.items():
        features[f"classifier.{index}.weight"] = torch.zeros(1, 1).expand(shape)
        features[f"classifier.{index}.bias"] = torch.zeros(1).expand(shape[0])
    cached = perceptual.hub_cache_path(net)
    torch.save(features, cached)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torchvision, about how the package calls it
        package = lpips.LPIPS(net=net, version="0.1", verbose=False)

    ours = load_lpips(net, shared / "weights" / FILES[net])
    from_cache = load_lpips(net, download=False)
    for seed, size in ((0, 64), (1, 97)):
        a, b = pair(seed, size)
        expected = package(a, b).detach()
        assert (expected > 0.01).all()
        torch.testing.assert_close(ours(a, b), expected, rtol=0, atol=1e-6)
        assert torch.equal(from_cache(a, b), ours(a, b))
