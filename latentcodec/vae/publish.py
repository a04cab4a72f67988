"""Publish a VAE on the Hugging Face hub: a diffusers folder with a model card, in one commit."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from latentcodec.vae.card import model_card
from latentcodec.vae.inspection import inspect_source
from latentcodec.vae.sources import VARIANTS, WEIGHTS_NAME

if TYPE_CHECKING:
    import diffusers

CARD = "README.md"
_CONTENTS = ("*.safetensors", "*.json", "*.jsonl", "*.md", "*.png", "*.jpg", "LICENSE*")  # what an export may hold
# Beside HfHubHTTPError, huggingface_hub lets through the errors of its HTTP client, which is another one by version.
_NETWORK_ERRORS: tuple[type[Exception], ...] = (OSError, *HfHubHTTPError.__bases__)


class PushError(RuntimeError):
    """A VAE could not be published. The message says what was refused and what to do."""


def push_vae(
    vae: "diffusers.AutoencoderKL | str | Path",
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    **load_options: Any,
) -> str:
    """Upload a VAE to `repo`, which is made if it does not exist; returns the address of the commit.

    A diffusers folder goes up as it is: config, weights with their variants and shards, model card, pictures; so does
    what `python -m train export` wrote. Anything else is first written as such a folder, in its own type. A folder
    without README.md gets a model card. Weights of an earlier push that are no longer there are deleted in the same
    commit, so that no variant of another VAE stays beside the new one.

    Args:
        vae: a network, or a source for `load_vae`. It is checked before anything is sent.
        repo: "owner/name".
        private: make a new repository private; an existing one stays what it is.
        revision: a branch, made if it does not exist; the main one if None.
        message: of the commit.
        token: with the right to write; if None, that of `hf auth login` or of the environment variable HF_TOKEN.
        **load_options: of `load_vae`, for a source that is no diffusers folder, for example `scaling_factor`.

    Raises:
        VAELoadError: `vae` cannot be loaded, so neither could anybody else load it.
        PushError: no token, a token that may not write there, no connection, or an answer that says no.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo):
        raise PushError(f"repo: expected owner/name, found {repo!r}")
    with tempfile.TemporaryDirectory(prefix="latentcodec-push-") as scratch:
        folder = _as_folder(vae, Path(scratch) / "vae", load_options)
        description = _checked(folder)
        files = sorted({path for pattern in _CONTENTS for path in folder.glob(pattern)})
        if not (folder / CARD).is_file():
            card = Path(scratch) / CARD
            card.write_text(model_card(description, repo), encoding="utf-8")
            files.append(card)
        title = message or f"Upload VAE {description['fingerprint'][:19]}"
        with _explained(repo):
            return _commit(HfApi(token=token), repo, files, private=private, revision=revision, title=title)


def _commit(api: HfApi, repo: str, files: list[Path], *, private: bool, revision: str | None, title: str) -> str:
    """Make the repository and the branch if they are not there, and commit the files; returns the commit's address."""
    api.create_repo(repo, private=private or None, exist_ok=True)
    if revision is not None:
        api.create_branch(repo, branch=revision, exist_ok=True)
    names = {path.name for path in files}
    there = api.list_repo_files(repo, revision=revision)
    stale = [name for name in there if name.startswith(WEIGHTS_NAME) and name not in names]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationDelete(path_in_repo=name) for name in stale),
        *(CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in files),
    ]
    return str(api.create_commit(repo, operations, commit_message=title, revision=revision).commit_url)


def _as_folder(vae: "diffusers.AutoencoderKL | str | Path", scratch: Path, options: dict[str, Any]) -> Path:
    """A diffusers folder with the VAE: the given one, or a new one at `scratch`."""
    if isinstance(vae, str | Path):
        folder = Path(vae).expanduser()
        if (folder / "config.json").is_file() and not options:
            return folder
    import torch

    from latentcodec.vae.loading import load_vae
    from latentcodec.vae.saving import save_vae

    if isinstance(vae, str | Path):
        stored = list(inspect_source(vae, **options)["stored"])
        half = {"F16": torch.float16, "BF16": torch.bfloat16}.get(stored[0]) if len(stored) == 1 else None
        vae = load_vae(vae, dtype=half, **options)
    save_vae(vae, scratch)
    return scratch


def _checked(folder: Path) -> dict[str, Any]:
    """The description of the VAE in a folder; every variant in it is read, and must be whole."""
    held = [v for v in VARIANTS if list(folder.glob(f"{WEIGHTS_NAME}*.{v}.*"))]
    plain = [path for path in folder.glob(f"{WEIGHTS_NAME}*") if not any(f".{v}." in path.name for v in VARIANTS)]
    variants = [None, *held] if plain or not held else held
    first, *_ = [inspect_source(folder, variant=variant) for variant in variants]  # all are read
    return first


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Errors of the hub and of the network as `PushError`s that say what to do."""
    owner = repo.partition("/")[0]
    login = "log in with `hf auth login`, or set HF_TOKEN to a token with the right to write"
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PushError(f"no token for the Hugging Face hub; {login}") from error
    except HFValidationError as error:
        raise PushError(f"repo: {error}") from error
    except RevisionNotFoundError as error:
        raise PushError(f"{repo} has no such branch: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise PushError(f"the hub does not accept the token, or there is none; {login}") from error
        if status == 403:
            raise PushError(
                f"the token may not write to {owner}; take one with the right to write there; {login}"
            ) from error
        if isinstance(error, RepositoryNotFoundError):
            raise PushError(f"{repo} cannot be made or seen with this token; check the spelling, or {login}") from error
        raise PushError(f"the hub refused {repo}: {error}") from error
    except OfflineModeIsEnabled as error:
        raise PushError("offline mode is on (HF_HUB_OFFLINE); unset it and run this again") from error
    except _NETWORK_ERRORS as error:
        raise PushError(f"the hub could not be reached ({error}); run this again where there is a network") from error
    except RuntimeError as error:  # what huggingface_hub makes of an upload that broke off
        raise PushError(f"{error} ({error.__cause__}); run this again") from error
