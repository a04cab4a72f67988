"""Tiles against the whole network: the same result, no seams, and memory that does not grow with the image."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentcodec.codec import LatentCodec
from latentcodec.engine import FAST_KEYS
from latentcodec.tiling.boxes import Box, Size, grid, whole
from latentcodec.tiling.layers import Convolution, GroupStatistics, Upsampling, grid_step
from latentcodec.tiling.network import decoder_layers, encoder_layers
from latentcodec.tiling.sweep import TiledNetwork, Tiling
from latentcodec.vae.presets import build_vae

NARROW = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4}


def random_vae(**overrides: Any) -> AutoencoderKL:
    torch.manual_seed(2)
    vae = build_vae("tiny-f8d4", **(NARROW | overrides)).eval()
    for module in vae.modules():  # so that a norm whose parameters are mixed up is noticed
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return vae


def uneven(height: int, width: int, channels: int = 3) -> Tensor:
    """Noise whose strength and mean change across the image, so that every tile has statistics of its own."""
    slope = torch.linspace(0.05, 0.5, height)[:, None] * torch.linspace(-1, 1, width)
    return slope + 0.3 * slope.abs() * torch.randn(1, channels, height, width)


def run(layers: list[Any], channels: int, source: Tensor, tiling: Tiling) -> tuple[Tensor, str]:
    return TiledNetwork(layers, channels)(source, tiling, torch.float32, torch.contiguous_format)


GEOMETRIES = {
    "quant convs": {},
    "no quant convs": {"use_quant_conv": False, "use_post_quant_conv": False},
    "3 levels": {"block_out_channels": (8, 8, 16), "layers_per_block": 1},
    "no attention": {"mid_block_add_attention": False},
    "attention in the levels": {
        "down_block_types": ("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        "up_block_types": ("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
    },
}
TILINGS = {
    "all kept": Tiling(side=32),
    "some kept": Tiling(side=48, budget=100_000),
    "nothing kept": Tiling(side=64, budget=0),
    "one tile": Tiling(side=512),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("tiling", TILINGS)
@torch.no_grad()
def test_exact_tiles_are_the_whole(geometry: str, tiling: str) -> None:
    vae = random_vae(**GEOMETRIES[geometry])
    image = uneven(88, 120)
    moments = vae.encode(image).latent_dist.parameters
    raw = moments[:, : vae.config.latent_channels].contiguous()
    encoded, approximations = run(encoder_layers(vae), 3, image, TILINGS[tiling])
    assert (encoded - moments).abs().max() < 2e-5 * moments.abs().max()
    decoded, more = run(decoder_layers(vae), vae.config.latent_channels, raw, TILINGS[tiling])
    picture = vae.decode(raw).sample
    assert (decoded - picture).abs().max() < 2e-5 * picture.abs().max()
    assert approximations == more == ""


@torch.no_grad()
def test_diffusers_tiles_are_not_the_whole() -> None:
    """What the test above would see if tiles had their own statistics."""
    vae = random_vae(sample_size=64)
    image = uneven(88, 120)
    moments = vae.encode(image).latent_dist.parameters
    vae.enable_tiling()
    assert (vae.encode(image).latent_dist.parameters - moments).abs().max() > 0.01 * moments.abs().max()


@given(
    kernel=st.sampled_from([(1, 1, 0, 0), (3, 1, 1, 1), (3, 2, 0, 1)]),
    size=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    corner=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    extent=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_a_box_of_a_convolution_is_that_box_of_the_whole(
    kernel: tuple[int, int, int, int], size: tuple[int, int], corner: tuple[int, int], extent: tuple[int, int]
) -> None:
    side, stride, before, after = kernel
    layer = Convolution(nn.Conv2d(2, 3, side, stride), before, after)
    image = torch.randn(1, 2, *size)
    with torch.no_grad():
        everything = layer.conv(F.pad(image, (before, after, before, after)))
        full = layer.output_size(Size(*size))
        assert tuple(everything.shape[2:]) == full
        top, left = corner[0] % full.height, corner[1] % full.width
        want = Box(top, left, min(top + extent[0], full.height), min(left + extent[1], full.width))
        have = layer.needs(want, Size(*size))
        area = have.within(whole(Size(*size)))
        (part,) = layer((image[..., *area],), have, want, Size(*size), None)
    assert torch.allclose(part, everything[..., *want.within(whole(full))], atol=1e-5)


@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), corner=st.tuples(st.integers(0, 17), st.integers(0, 17)))
def test_a_box_of_upsampling_is_that_box_of_the_whole(size: tuple[int, int], corner: tuple[int, int]) -> None:
    layer, image = Upsampling(), torch.randn(1, 2, *size)
    everything = F.interpolate(image, scale_factor=2.0)
    top, left = corner[0] % (2 * size[0]), corner[1] % (2 * size[1])
    want = Box(top, left, 2 * size[0], 2 * size[1])
    have = layer.needs(want, Size(*size))
    (part,) = layer((image[..., *have.within(whole(Size(*size)))],), have, want, Size(*size), None)
    assert torch.equal(part, everything[..., top:, left:])


@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), sides=st.tuples(st.integers(1, 17), st.integers(1, 17)))
def test_a_grid_covers_everything_once(size: tuple[int, int], sides: tuple[int, int]) -> None:
    count = torch.zeros(size)
    for box in grid(Size(*size), *sides):
        count[box.within(whole(Size(*size)))] += 1
        rows = box.middle_rows()
        assert box.top <= rows.top < rows.bottom <= box.bottom
    assert (count == 1).all()


def test_statistics_of_tiles_are_those_of_the_whole() -> None:
    """Far from zero, where a sum of squares in float32 would lose the variance."""
    features = 100 + uneven(64, 80, channels=8)
    survey = GroupStatistics(4)
    for box in grid(Size(64, 80), 24, 24):
        survey.add((features[..., *box.within(whole(Size(64, 80)))],), box)
    mean, variance = survey.facts()
    groups = features.double().view(4, -1)
    assert torch.allclose(mean.double(), groups.mean(1).repeat_interleave(2), rtol=1e-6)
    assert torch.allclose(variance.double(), groups.var(1, correction=0).repeat_interleave(2), rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "most"), [((64, 64), 4096), ((64, 64), 1000), ((100, 37), 50), ((3, 5), 1), ((7, 7), None)]
)
def test_the_grid_of_keys_is_as_fine_as_allowed(size: tuple[int, int], most: int | None) -> None:
    def count(step: int) -> int:
        return len(range(step // 2, size[0], step)) * len(range(step // 2, size[1], step))

    step = grid_step(Size(*size), most)
    assert most is None or count(step) <= most
    assert step == 1 or count(step - 1) > (most or 0)


@torch.no_grad()
def test_fast_tiles_all_use_the_same_facts() -> None:
    """With the same facts the border between tiles cannot be told: other tiles give the same picture."""
    vae = random_vae()
    raw = torch.randn(1, 4, 24, 40)
    results = [
        run(decoder_layers(vae), 4, raw, Tiling(side=side, sample=True, max_keys=100)) for side in (64, 96, 128, 512)
    ]
    picture = vae.decode(raw).sample
    for decoded, approximations in results:
        assert approximations == "attention to 60 of 960 positions"
        assert torch.allclose(decoded, results[0][0], atol=1e-5)
        assert 1e-5 < (decoded - picture).abs().mean() < 0.1 * picture.std()


@torch.no_grad()
def test_fast_tiles_estimate_only_what_is_not_kept() -> None:
    vae = random_vae()
    image = uneven(256, 384)
    moments = vae.encode(image).latent_dist.parameters
    network = TiledNetwork(encoder_layers(vae), 3)
    budget = 256 * 384 * 4 * 4  # half of the first level's maps
    encoded, approximations = run(encoder_layers(vae), 3, image, Tiling(side=128, budget=budget, sample=True))
    assert approximations == "statistics of 4 of 22 GroupNorms from an eighth of the rows"
    error = (encoded - moments).abs().mean() / moments.std()
    assert 1e-6 < error < 0.05
    assert network.largest_map(Size(256, 384), 4) > budget


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        sizes = [t.untyped_storage().nbytes() for t in tree_leaves(made) if isinstance(t, Tensor)]
        self.bytes = max(self.bytes, *sizes, 0)
        return made


@contextmanager
def largest_tensor() -> Iterator[LargestTensor]:
    with LargestTensor() as record, torch.no_grad():
        yield record


def test_memory_does_not_grow_with_the_image() -> None:
    vae = random_vae(mid_block_add_attention=False)
    tiling = Tiling(side=64, budget=2**18)
    for side in (128, 256):
        raw = torch.randn(1, 4, side // 8, side // 8)
        with largest_tensor() as tiled:
            decoded, _ = run(decoder_layers(vae), 4, raw, tiling)
        with largest_tensor() as untiled:
            vae.decode(raw)
        assert tiled.bytes <= max(tiling.budget, decoded.nbytes)
        assert untiled.bytes == 8 * side * side * 4


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_codec_tiles_what_is_larger_than_a_tile(mode: str) -> None:
    vae = random_vae()
    tiled, plain = LatentCodec(vae, tiling=mode, tile=64), LatentCodec(vae, tiling="never")
    images = [uneven(64, 64)[0], uneven(65, 71)[0]]
    encoded, expected = tiled.encode(images), plain.encode(images)
    assert encoded.methods == ("whole", "tiles")
    assert encoded.sizes == expected.sizes
    for ours, theirs in zip(encoded.tensors, expected.tensors, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    pictures = tiled.decode(encoded)
    assert pictures.methods == ("whole", "tiles")
    assert torch.allclose(pictures.tensors[1], plain.decode(encoded).tensors[1], atol=1e-4)


def test_auto_tiles_where_a_map_outgrows_the_budget() -> None:
    vae = random_vae()
    codec = LatentCodec(vae, memory_budget=128 * 128 * 16 * 4, tile=64)
    encoded = codec.encode([uneven(128, 128)[0], uneven(128, 136)[0]])
    assert encoded.methods == ("whole", "tiles")
    assert torch.allclose(encoded.tensors[1], LatentCodec(vae).encode(uneven(128, 136)[0]).tensors[0], atol=9)


def test_auto_is_fast_where_attention_would_be_most_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentcodec.engine.EXACT_POSITIONS", 15 * 15)
    monkeypatch.setattr("latentcodec.engine.FAST_KEYS", 100)
    assert FAST_KEYS > 100
    codec = LatentCodec(random_vae(), memory_budget=2**19, tile=64)
    exact, fast = codec.encode([uneven(120, 120)[0], uneven(128, 144)[0]]).methods
    assert exact == "tiles"
    assert fast.startswith("tiles: ")
    assert fast.endswith("attention to 72 of 288 positions")


def test_channels_last_on_a_cpu_is_tiled_before_its_statistics_go_wrong() -> None:
    """The bug that this is about: if torch sums with care one day, the limit can go."""
    torch.manual_seed(0)
    features = 3 + 2 * torch.randn(1, 4, 1024, 1024)
    expected = F.group_norm(features.double(), 1)
    careless = F.group_norm(features.contiguous(memory_format=torch.channels_last), 1)
    careful = F.group_norm(features, 1)
    assert (careless - expected).abs().max() > 20 * (careful - expected).abs().max()
    codec = LatentCodec(random_vae(), channels_last=True)
    execution = codec._encoder.execution
    assert execution.whole_pixels == 1024 * 1024
    assert replace(execution, memory_format=torch.contiguous_format).whole_pixels == float("inf")
    assert codec._encoder._needs_tiles(Size(1024, 1032))
    assert not codec._encoder._needs_tiles(Size(1024, 1024))
