"""The files that a command line names, and what is in files of latents."""

from collections.abc import Sequence
from pathlib import Path

from latentcodec.commands import CommandError
from latentcodec.latent_file import LatentFile, LatentFileError
from latentcodec.latents import Moments


def find_files(paths: Sequence[str], suffix: str, remedy: str) -> list[tuple[str, Path]]:
    """The files among `paths`, and those with this suffix below its folders: name (below the folder) and path.

    Raises:
        CommandError: nothing there, which ends in `remedy`; or two of the same name.
    """
    found: dict[str, Path] = {}
    for given in map(Path, paths):
        inside = sorted(given.rglob(f"*{suffix}")) if given.is_dir() else [given]
        if not inside:
            raise CommandError(f"{given}: no {suffix} files below it; {remedy}")
        for path in inside:
            name = path.relative_to(given).as_posix() if given.is_dir() else path.name
            if name in found:
                raise CommandError(
                    f"two files are called {name}: {found[name]} and {path}; decode them one after another"
                )
            found[name] = path
    return list(found.items())


def raw_of(file: LatentFile, fingerprint: str) -> Moments:
    """Raw moments for the decoder. Latents are unscaled as they were scaled; their variance is not known and is zero.

    Raises:
        LatentFileError: made by another VAE than the one with `fingerprint`.
    """
    if file.fingerprint != fingerprint:
        raise LatentFileError(
            f"{file.image} was encoded by another VAE: {file.fingerprint}, not {fingerprint}; name that one with --vae"
        )
    values = file.values
    if isinstance(values, Moments):
        return values
    mean = tuple(file.scaling.invert(value) for value in values.tensors)
    return Moments(mean, tuple(value.new_full(value.shape, -30.0) for value in mean), values.sizes, values.methods)
