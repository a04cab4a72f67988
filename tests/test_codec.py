"""LatentCodec: parity with diffusers, any size, order, seeds, types, and what happens when memory runs out."""

import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from latentcodec.codec import LatentCodec
from latentcodec.images.decode import BrokenImageError
from latentcodec.images.pixels import to_tensor
from latentcodec.latents import Latents
from latentcodec.memory import MemoryFallbackWarning, freed_memory_kept, is_out_of_memory
from latentcodec.padding import reflect_pad
from latentcodec.precision import fastest_dtype
from latentcodec.scaling import Scaling
from latentcodec.vae.fingerprint import weights_fingerprint
from latentcodec.vae.loading import VAELoadError, save_vae
from latentcodec.vae.presets import build_vae

ROOT = Path(__file__).resolve().parents[1]


def small_vae(**overrides: object) -> AutoencoderKL:
    """A network of factor 8 that encodes 512 x 512 in a few hundredths of a second."""
    torch.manual_seed(1)
    config = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "scaling_factor": 0.5} | overrides
    return build_vae("tiny-f8d4", **config).eval()


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return small_vae()


@pytest.fixture(scope="module")
def codec(vae: AutoencoderKL) -> LatentCodec:
    return LatentCodec(vae)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(rows / (7 + 3 * c) + seed) + np.cos(columns / (11 + 2 * c)) for c in range(3)]
    noise = random.normal(0, 6, (height, width, 3))
    return np.clip(128 + 50 * np.stack(waves, axis=2) + noise, 0, 255).astype(np.uint8)


@torch.no_grad()
def test_float32_is_diffusers_bit_for_bit(vae: AutoencoderKL, codec: LatentCodec) -> None:
    images = torch.rand(3, 3, 64, 96) * 2 - 1
    moments, latents = codec.encode_moments(images), codec.encode(images)
    pictures = codec.decode(moments)
    for index in range(3):
        posterior = vae.encode(images[index : index + 1]).latent_dist
        assert torch.equal(moments.mean[index], posterior.mean[0])
        assert torch.equal(moments.logvar[index], posterior.logvar[0])
        assert torch.equal(latents.tensors[index], posterior.mode()[0] * 0.5)
        assert torch.equal(pictures.tensors[index], vae.decode(posterior.mean).sample[0])
        scaled = latents.tensor[index : index + 1]
        assert torch.equal(codec.decode(scaled).tensor, vae.decode(scaled / 0.5).sample)


@torch.no_grad()
def test_batches_are_diffusers_bit_for_bit_too(vae: AutoencoderKL) -> None:
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    moments = LatentCodec(vae, batch_pixels=3 * 64 * 64).encode_moments(images)
    assert torch.equal(torch.stack(moments.mean), vae.encode(images).latent_dist.mean)


def test_a_batch_of_bytes_is_encoded_like_a_list_of_images(vae: AutoencoderKL) -> None:
    codec = LatentCodec(vae, batch_pixels=3 * 32 * 48)
    assert (codec.batch_size(30, 41), codec.batch_size(64, 64), codec.batch_size(8, 8)) == (3, 1, 72)
    images = [photo(30, 41, seed) for seed in range(3)]
    expected = codec.encode_moments(images)
    moments, methods = codec.encode_batch(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    assert torch.equal(moments, torch.cat([torch.stack(expected.mean), torch.stack(expected.logvar)], dim=1))
    assert methods == expected.methods
    tiled = LatentCodec(vae, tiling="exact", tile=32)
    assert tiled.batch_size(64, 64) == 1
    assert tiled.encode_batch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[1] == ("tiles",)


def test_results_can_be_trained_on(codec: LatentCodec) -> None:
    latents = codec.encode(photo(16, 16)).tensor
    weight = torch.ones(1, requires_grad=True)
    (latents * weight).sum().backward()
    assert weight.grad is not None
    assert not latents.is_inference()


def test_autocast_around_it_changes_nothing(codec: LatentCodec) -> None:
    image = photo(32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = codec.encode(image).tensor
    assert torch.equal(inside, codec.encode(image).tensor)


def test_posterior_samples_are_diffusers_and_depend_on_the_seed_only(vae: AutoencoderKL, codec: LatentCodec) -> None:
    image, other = photo(24, 40), photo(16, 16, seed=1)
    with torch.no_grad():
        posterior = vae.encode(to_tensor(image)[None]).latent_dist
    expected = posterior.sample(torch.Generator().manual_seed(7))[0] * 0.5
    assert torch.equal(codec.encode(image, sample=True, seed=7).tensors[0], expected)
    assert torch.equal(codec.encode([other, image], sample=True, seed=6).tensors[1], expected)
    assert not torch.equal(codec.encode(image, sample=True, seed=8).tensors[0], expected)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_any_size_and_mode_comes_back_at_its_size(height: int, width: int, mode: str, dtype: torch.dtype) -> None:
    codec = CODECS[dtype]
    image = Image.new(mode, (width, height))
    latents = codec.encode(image)
    assert latents.sizes == ((height, width),)
    assert latents.tensors[0].shape == (4, -(-height // 8), -(-width // 8))
    picture = codec.decode(latents)
    assert picture.tensors[0].shape == (3, height, width)
    assert picture.to_pil()[0].size == (width, height)
    assert latents.tensors[0].dtype == picture.tensors[0].dtype == torch.float32


CODECS = {
    dtype: LatentCodec(torch.nn.Module.to(small_vae(block_out_channels=(4, 4, 4, 4), norm_num_groups=2), dtype=dtype))
    for dtype in (torch.float32, torch.bfloat16)
}


@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_padding_is_numpys_reflection(height: int, width: int) -> None:
    image = torch.rand(1, 2, height, width)
    padded = reflect_pad(image, 8)
    below, right = -height % 8, -width % 8
    expected = np.pad(image.numpy(), [(0, 0), (0, 0), (0, below), (0, right)], mode="reflect")
    assert np.array_equal(padded.numpy(), expected)


def test_mixed_inputs_keep_their_order(codec: LatentCodec, tmp_path: Path) -> None:
    arrays = [photo(h, w, seed) for seed, (h, w) in enumerate([(16, 24), (40, 8), (16, 24), (5, 9), (40, 8)])]
    path = tmp_path / "photo.png"
    Image.fromarray(arrays[3]).save(path)
    mixed = [arrays[0], Image.fromarray(arrays[1]), to_tensor(arrays[2]), path, str(path)]
    latents = codec.encode(mixed)
    assert latents.sizes == ((16, 24), (40, 8), (16, 24), (5, 9), (5, 9))
    for tensor, image in zip(latents.tensors, [*arrays[:4], arrays[3]], strict=True):
        assert torch.equal(tensor, codec.encode(image).tensors[0])
    pictures = codec.decode(latents)
    assert [tuple(picture.shape[1:]) for picture in pictures.tensors] == list(latents.sizes)
    with pytest.raises(ValueError, match="expected tensors of one shape, found 4 x 1 x 2 and"):
        _ = latents.tensor


def test_a_result_does_not_depend_on_its_batch(vae: AutoencoderKL) -> None:
    images = [photo(32, 32, seed) for seed in range(3)]
    together = LatentCodec(vae, batch_pixels=10**6).encode(images)
    for image, tensor in zip(images, together.tensors, strict=True):
        alone = LatentCodec(vae).encode(image).tensors[0]
        assert torch.allclose(alone, tensor, atol=1e-5)


def test_exif_orientation_of_pillow_images_is_that_of_files(codec: LatentCodec, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by a quarter
    Image.fromarray(photo(16, 32)).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        opened = codec.encode(image)
    assert opened.sizes == ((32, 16),)
    assert torch.equal(opened.tensors[0], codec.encode(tmp_path / "turned.png").tensors[0])


def test_nothing_in_nothing_out(codec: LatentCodec) -> None:
    assert len(codec.decode(codec.encode([]))) == 0


def test_bfloat16_error_is_that_of_its_eight_bits() -> None:
    """One rounding is wrong by up to 2^-9 of the value; the dozens of layers of a random network make some of these."""
    vae = small_vae(block_out_channels=(32, 64, 128, 128), norm_num_groups=8)
    image = photo(128, 128)
    exact = LatentCodec(vae).reconstruct(image).tensor
    for channels_last in (False, True):
        rounded = LatentCodec(small_bfloat16(vae), channels_last=channels_last).reconstruct(image).tensor
        error = (rounded - exact).square().mean().sqrt() / exact.std()
        assert 0 < error < 0.1


def small_bfloat16(vae: AutoencoderKL) -> AutoencoderKL:
    copy = AutoencoderKL.from_config(dict(vae.config))
    copy.load_state_dict(vae.state_dict())
    return torch.nn.Module.to(copy, dtype=torch.bfloat16).eval()


def test_from_pretrained_chooses_for_the_machine(vae: AutoencoderKL, tmp_path: Path) -> None:
    save_vae(vae, tmp_path / "vae")
    codec = LatentCodec.from_pretrained(tmp_path / "vae", device="cpu")
    assert codec.dtype == fastest_dtype(torch.device("cpu"))
    assert codec.fingerprint == weights_fingerprint(vae), "of the file, not of the weights rounded to 16 bits"
    exact = LatentCodec.from_pretrained(tmp_path / "vae", device="cpu", dtype=torch.float32)
    assert torch.equal(exact.encode(photo(16, 16)).tensor, LatentCodec(vae).encode(photo(16, 16)).tensor)
    assert exact.fingerprint == LatentCodec(vae).fingerprint


def test_the_package_has_a_default(vae: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentcodec.vae.sources.PRETRAINED", tmp_path)
    with pytest.raises(VAELoadError, match="expected the VAE to use, found none; pass"):
        LatentCodec.from_pretrained()
    save_vae(vae, tmp_path / "f8d16")
    assert LatentCodec.from_pretrained().fingerprint == weights_fingerprint(vae)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (Scaling(0.5), lambda raw: raw * 0.5),
        (Scaling(0.5, shift=0.25), lambda raw: (raw - 0.25) * 0.5),
        (Scaling(2.0, mean=(1.0, -1.0), std=(2.0, 4.0)), lambda raw: torch.stack([(raw[0] - 1), (raw[1] + 1) / 2])),
    ],
)
def test_scaling_has_three_forms(scaling: Scaling, expected: Callable[[Tensor], Tensor]) -> None:
    raw = torch.randn(2, 3, 5)
    assert torch.allclose(scaling.apply(raw), expected(raw))
    assert torch.allclose(scaling.invert(scaling.apply(raw)), raw, atol=1e-6)
    assert Scaling.from_json(scaling.to_json()) == scaling


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.full((1, 3, 8, 8), 255.0), r"images\[0\]: expected values in \[-1, 1\], found 255 ... 255"),
        (torch.full((3, 8, 8), float("nan")), r"expected values in \[-1, 1\], found nan"),
        (
            torch.zeros(3, 8, 8, dtype=torch.uint8),
            r"images: expected a float tensor \[3, height, width\] .* torch.uint8",
        ),
        (torch.zeros(1, 8, 8), r"found torch.float32 \[1, 8, 8\]"),
        (np.zeros((8, 8, 3)), r"images: expected a uint8 array .* found float64 \[8, 8, 3\]"),
        ([np.zeros((8, 8), np.uint8)], r"images\[0\]: expected a uint8 array"),
    ],
)
def test_wrong_images_are_named(codec: LatentCodec, wrong: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codec.encode(wrong)  # type: ignore[arg-type]


def test_wrong_latents_and_files_are_named(codec: LatentCodec, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"latents\[0\]: expected 4 channels, found 16; they were made by another VAE"):
        codec.decode(torch.zeros(1, 16, 2, 2))
    with pytest.raises(BrokenImageError, match="cannot be opened"):
        codec.encode(tmp_path / "absent.png")


def test_moments_that_overflow_are_an_error() -> None:
    vae = small_vae()
    with torch.no_grad():
        vae.encoder.conv_out.weight *= 1e6
    half = LatentCodec(torch.nn.Module.to(vae, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"images\[0\]: its moments are not finite in torch.float16"):
        half.encode(photo(16, 16))


def limit_memory(monkeypatch: pytest.MonkeyPatch, module: torch.nn.Module, pixels: int, error: Exception) -> list[int]:
    """Make a network fail as if an allocator had room for `pixels` only; returns the batch sizes it is called with."""
    forward, seen = module.forward, []

    def limited(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        if batch.shape[0] * batch.shape[2] * batch.shape[3] > pixels:
            raise error
        return forward(batch)

    monkeypatch.setattr(module, "forward", limited)
    return seen


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["cuda", "cpu", "python"])
def test_out_of_memory_halves_the_batch_and_says_so(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    codec = LatentCodec(small_vae(), batch_pixels=8 * 32 * 32)
    images = [photo(32, 32, seed) for seed in range(6)]
    expected = codec.encode(images)
    seen = limit_memory(monkeypatch, codec.vae.encoder, 2 * 32 * 32, error)
    with pytest.warns(MemoryFallbackWarning) as warned:
        latents = codec.encode(images)
    assert [str(warning.message) for warning in warned] == [
        "memory ran out with 6 of 32 x 32 pixels at once; going on in batches of 3",
        "memory ran out with 3 of 32 x 32 pixels at once; going on in batches of 1",
    ]
    assert seen == [6, 3, 1, 1, 1, 1, 1, 1]
    assert latents.methods == ("whole",) * 6
    assert torch.allclose(latents.tensor, expected.tensor, atol=1e-5)
    codec.encode(images)
    assert seen[8:] == [1] * 6, "what memory allows is remembered"


def test_out_of_memory_with_one_image_goes_on_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = LatentCodec(small_vae(), tile=32)
    images = [photo(32, 32), photo(48, 72), photo(16, 16)]
    expected = codec.encode(images)
    limit_memory(monkeypatch, codec.vae.encoder, 32 * 32, OUT_OF_MEMORY[1])
    with pytest.warns(
        MemoryFallbackWarning, match="memory ran out with 1 of 48 x 72 pixels at once; going on in tiles"
    ):
        latents = codec.encode(images)
    assert latents.methods == ("whole", "tiles", "whole")
    assert torch.allclose(latents.tensors[1], expected.tensors[1], atol=1e-4)


def test_out_of_memory_is_an_error_where_tiles_are_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = LatentCodec(small_vae(), tiling="never")
    limit_memory(monkeypatch, codec.vae.decoder, 8, OUT_OF_MEMORY[0])
    with pytest.raises(
        torch.OutOfMemoryError, match=r"does not suffice for one image of 32 x 32 pixels .* tiling='auto'"
    ):
        codec.decode(torch.zeros(1, 4, 4, 4))


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch, codec: LatentCodec) -> None:
    bug = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(bug)
    limit_memory(monkeypatch, codec.vae.encoder, 0, bug)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        codec.encode(photo(8, 8))


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space by Linux's means")
def test_a_real_lack_of_memory_leads_to_tiles() -> None:
    """A process whose address space has room for the network and for tiles, and not for the whole image's maps."""
    code = """
        import resource, warnings, sys
        import torch
        from latentcodec.codec import LatentCodec
        from latentcodec.vae.presets import build_vae
        torch.set_num_threads(1)
        codec = LatentCodec(build_vae("tiny-f8d4").eval(), tile=128)
        image = torch.zeros(1, 3, 512, 512)
        codec.encode(torch.zeros(1, 3, 64, 64))
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 160 * 2**20, resource.RLIM_INFINITY))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            latents = codec.encode(image)
        print(sorted({w.category.__name__ for w in caught}), latents.methods, tuple(latents.tensor.shape))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "['MemoryFallbackWarning'] ('tiles',) (1, 4, 64, 64)", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_kept_inside_the_block_only() -> None:
    def use() -> tuple[int, int]:
        """Page faults of eight blocks of 40 MiB, and the memory in use once they are freed."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(8):
            torch.zeros(10 * 2**20)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        return faults, int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    faults_outside, _ = use()
    with freed_memory_kept():
        with freed_memory_kept():
            use()
        faults_inside, memory_inside = use()
    memory_after = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    assert faults_inside < faults_outside / 4
    assert memory_after < memory_inside - 2**25


def test_compiled_networks_see_one_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def record(module: torch.nn.Module, *, dynamic: bool) -> Callable[[Tensor], Tensor]:
        assert not dynamic

        def run(batch: Tensor) -> Tensor:
            shapes.append(tuple(batch.shape))
            return module(batch)

        return run

    monkeypatch.setattr(torch, "compile", record)
    codec = LatentCodec(small_vae(), compile=True, batch_pixels=4 * 16 * 16)
    images = [photo(16, 16, seed) for seed in range(6)]
    latents = codec.encode(images)
    assert shapes == [(4, 3, 16, 16)] * 2
    assert torch.allclose(latents.tensor, LatentCodec(small_vae()).encode(images).tensor, atol=1e-5)


def test_slices_keep_what_belongs_together(codec: LatentCodec) -> None:
    latents = codec.encode([photo(8, 16), photo(16, 8)])
    part = latents[1:]
    assert isinstance(part, Latents)
    assert (len(part), part.sizes, part.methods) == (1, ((16, 8),), ("whole",))
    assert torch.equal(codec.decode(part).tensors[0], codec.decode(latents).tensors[1])
