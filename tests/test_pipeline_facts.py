"""The table of what pipelines read, against the sources of the diffusers that is installed."""

import inspect
import sys

import diffusers
import pytest

from latentcodec.pipeline_facts import FACTS


@pytest.mark.parametrize("name", FACTS)
def test_the_table_against_the_sources_of_diffusers(name: str) -> None:
    kind, facts = getattr(diffusers, name), FACTS[name]
    source = inspect.getsource(sys.modules[kind.__module__])
    assert "config.scaling_factor" in source
    assert f"self.{facts.denoiser}.config.in_channels" in source or name in (
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusion3Img2ImgPipeline",
    )  # which never ask how many channels the latents have
    assert ("config.shift_factor" in source) == facts.shift
    assert ("config.force_upcast" in source) == facts.upcasts
    assert ("self.vae.post_quant_conv" in source) == facts.upcasts
    assert ("latents.to(self.vae.dtype)" in source) == facts.casts
    decodes = "latents * latents_std / self.vae.config.scaling_factor + latents_mean" in source
    encodes = "- latents_mean) * self.vae.config.scaling_factor / latents_std" in source
    has_encoder = "self.vae.encode(" in source
    expected = {(False, False): "ignored", (True, True): "read", (True, False): "only to decode"}
    assert facts.per_channel == expected[decodes, encodes or (decodes and not has_encoder)]
    assert (".view(1, 4, 1, 1)" in source) == decodes
    assert ("in_channels // 4" in source) == ((4, 0) in facts.inputs)
    assert (kind.__name__.endswith("InpaintPipeline") and facts.inputs[0] != (4, 0)) == ((2, 1) in facts.inputs)
