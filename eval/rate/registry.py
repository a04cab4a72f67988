"""The codecs that can be compared, and how a command line names them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from eval.labels import label_sources
from eval.rate.codec import CodecOptions, RateCodec, RateError
from eval.rate.compressai_codec import CompressAI
from eval.rate.latent_codecs import Ceiling, LatentBytes
from eval.rate.pillow_codecs import Avif, Jpeg, JpegXL, WebP

CODECS: dict[str, Callable[[str, CodecOptions], RateCodec]] = {
    "jpeg": lambda source, options: Jpeg(),
    "jpeg-444": lambda source, options: Jpeg("4:4:4"),
    "webp": lambda source, options: WebP(),
    "avif": lambda source, options: Avif(),
    "avif-444": lambda source, options: Avif("4:4:4"),
    "jxl": lambda source, options: JpegXL(),
    "latentcodec": LatentBytes,
    "vae": Ceiling,
    "compressai": CompressAI,
}
"""Makers of codecs by kind; given what stands behind the colon."""

SOURCED = frozenset({"latentcodec", "vae", "compressai"})
"""Kinds that need something behind a colon."""


@dataclass(frozen=True)
class CodecSpec:
    """A codec of a run, before it is opened; travels to other processes."""

    name: str
    """In tables and rows."""
    kind: str
    """Key of `CODECS`."""
    source: str
    """A VAE's folder, a model's name; empty for a format."""
    options: CodecOptions

    def open(self) -> RateCodec:
        """Load what it needs.

        Raises:
            RateError, VAELoadError, BitstreamError: it cannot be opened.
        """
        return CODECS[self.kind](self.source, self.options)


def parse_codecs(text: str, options: CodecOptions, efforts: Sequence[int] = (1,)) -> list[CodecSpec]:
    """Codecs from `KIND`, `KIND:SOURCE` and `NAME=KIND:SOURCE`, joined by commas.

    A VAE's codec is named by its kind and its folder's name; with several efforts there is one codec for each, which says
    its effort. Behind every `latentcodec:VAE` comes `vae:VAE`, its ceiling, unless it is in the list anyway.

    Raises:
        RateError: a kind that is not known, or without or with a source where it needs or has none; a name twice.
        LabelError: two VAEs of one name.
    """
    parts = _with_ceilings([_split(part.strip()) for part in text.split(",") if part.strip()])
    vaes = list(dict.fromkeys(source for _, kind, source in parts if kind in ("latentcodec", "vae")))
    short = {source: label for label, source in label_sources(vaes).items()}
    specs: list[CodecSpec] = []
    for given, kind, source in parts:
        name = given or (kind if not source else f"{kind}:{short.get(source, source)}")
        for effort in efforts if kind == "latentcodec" else efforts[:1]:
            suffix = f" effort {effort}" if kind == "latentcodec" and len(efforts) > 1 else ""
            specs.append(CodecSpec(name + suffix, kind, source, replace(options, effort=effort)))
    names = [spec.name for spec in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RateError(f"codecs: expected different names, found {', '.join(twice)} twice; say NAME=KIND:SOURCE")
    if not specs:
        raise RateError(f"codecs: expected at least one of {', '.join(CODECS)}, found none")
    return specs


def _split(part: str) -> tuple[str, str, str]:
    """Name (or nothing), kind and source."""
    before, equals, rest = part.partition("=")
    given, rest = (before, rest) if equals and ":" not in before else ("", part)
    kind, _, source = rest.partition(":")
    if kind not in CODECS:
        hint = "; WebP is 4:2:0 always" if kind == "webp-444" else ""
        raise RateError(f"codecs: expected one of {', '.join(CODECS)}, found {kind}{hint}")
    if bool(source) != (kind in SOURCED):
        wanted = f"{kind}:SOURCE" if kind in SOURCED else kind
        raise RateError(f"codecs: expected {wanted}, found {rest}")
    return given, kind, source


def _with_ceilings(parts: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    measured = {source for _, kind, source in parts if kind == "vae"}
    found = []
    for part in parts:
        found.append(part)
        given, kind, source = part
        if kind == "latentcodec" and source not in measured:
            measured.add(source)
            found.append((f"{given} ceiling" if given else "", "vae", source))
    return found


def parse_qualities(text: str | None, specs: Sequence[CodecSpec]) -> dict[str, tuple[float, ...]]:
    """{codec's name: qualities} from `CODEC=Q/Q/...`, joined by commas; a codec by its name or by its kind.

    Raises:
        RateError: no such codec in the run, or what is no number.
    """
    found: dict[str, tuple[float, ...]] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        who, equals, values = part.strip().rpartition("=")
        matching = [spec.name for spec in specs if who in (spec.name, spec.kind)]
        if not equals or not matching:
            raise RateError(f"qualities: expected CODEC=Q/Q/... with a codec of this run, found {part.strip()}")
        try:
            numbers = tuple(sorted({float(value) for value in values.split("/")}))
        except ValueError as error:
            raise RateError(f"qualities: expected numbers joined by /, found {values}") from error
        found |= dict.fromkeys(matching, numbers)
    return found
