"""The LPIPS of training: exact by default; with a rounded backbone close, in fp32 outside, and with the same gradient."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from eval.perceptual import load_lpips, untrained_lpips
from train.config import LossConfig
from train.losses import lpips
from train.perceptual import training_lpips


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    features = untrained_lpips("alex").net
    layers = {name.partition(".")[2]: value.contiguous() for name, value in features.state_dict().items()}
    file: Path = tmp_path_factory.mktemp("backbone") / "alex.safetensors"
    save_file({f"features.{name}": value for name, value in layers.items()}, file)
    return str(file)


def value_and_gradient(config: LossConfig) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    reconstructions = (images + 0.3 * torch.randn(images.shape, generator=generator)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):  # as around a step
        value = lpips(training_lpips(config, torch.device("cpu")), images, reconstructions)
    value.backward()
    assert reconstructions.grad is not None
    return value.detach(), reconstructions.grad


def test_default_is_the_reference_and_bf16_is_close(backbone: str) -> None:
    exact = LossConfig(lpips_net="alex", lpips_backbone=backbone)
    reference, its_gradient = value_and_gradient(exact)
    assert type(training_lpips(exact, torch.device("cpu"))) is type(load_lpips("alex", backbone))
    rounded, gradient = value_and_gradient(
        LossConfig(lpips_net="alex", lpips_backbone=backbone, lpips_precision="bf16")
    )
    assert rounded.dtype is torch.float32
    assert not torch.equal(rounded, reference)
    torch.testing.assert_close(rounded, reference, rtol=0.02, atol=0)
    assert F.cosine_similarity(gradient.flatten(), its_gradient.flatten(), dim=0) > 0.9
