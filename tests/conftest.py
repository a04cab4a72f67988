"""Fixtures that more than one test file uses."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose data or device is absent, with the reason."""
    for item in items:
        if item.get_closest_marker("shared") and not (SHARED / "photos").is_dir():
            item.add_marker(pytest.mark.skip(reason="../shared (photographs, backbone weights) is not beside the checkout"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout with photos/ and weights/; use it in tests marked `shared`."""
    return SHARED
