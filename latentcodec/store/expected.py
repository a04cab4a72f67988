"""The refusal to read a store that is not what the caller takes it for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentcodec.store.errors import StoreError
from latentcodec.store.settings import Settings

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from latentcodec.codec import LatentCodec


def require_expected(
    settings: Settings,
    store: str,
    vae: "AutoencoderKL | LatentCodec | str | Path | None",
    expected: Mapping[str, Any],
) -> None:
    """Check that a store was made with this VAE and these settings.

    Args:
        vae: see `fingerprint_of`; None: any.
        expected: fields of `Settings`; of those that have members, any of these: `{"preprocessing": {"height": 512}}`.

    Raises:
        StoreMismatchError: naming each field that differs, with both values.
        StoreError: settings have no such field.
    """
    there = settings.to_json()
    unknown = sorted(expected.keys() - there.keys())
    if unknown:
        raise StoreError(f"expected: no such setting: {', '.join(unknown)}; a store has {', '.join(there)}")
    wanted = _merged(there, expected)
    if vae is not None:
        wanted["fingerprint"] = fingerprint_of(vae)
    settings.require_same(Settings.from_json(wanted), store)


def fingerprint_of(vae: "AutoencoderKL | LatentCodec | str | Path") -> str:
    """The fingerprint of the weights of a network, of a `LatentCodec`, or of whatever `load_vae` takes; text that is one
    already stays as it is."""
    if isinstance(vae, str) and vae.startswith("sha256:"):
        return vae
    if isinstance(vae, str | Path):
        from latentcodec.vae.loading import load_vae  # brings diffusers, which reading does without

        vae = load_vae(vae, scaling_factor=1.0)  # a single file need not say it, and weights do not depend on it
    if hasattr(vae, "fingerprint"):
        return str(vae.fingerprint)
    from latentcodec.vae.fingerprint import weights_fingerprint

    return weights_fingerprint(vae)


def _merged(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """`there` with what is wanted in its place, at any depth."""
    merged = dict(there)
    for key, value in wanted.items():
        inner = there.get(key)
        merged[key] = _merged(inner, value) if isinstance(value, Mapping) and isinstance(inner, Mapping) else value
    return merged
