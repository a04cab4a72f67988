"""Files of a VAE, by name, from a repository on the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from latentcodec.vae.stored import VAELoadError


class HubFolder:
    """A repository `owner/name` on the hub. Files are downloaded on first use and then come from the hub's cache."""

    def __init__(self, repo: str, revision: str | None = None) -> None:
        self.repo = repo
        self.revision = revision
        self.label = f"{repo} on the Hugging Face hub"
        self.unreachable = False

    def file(self, name: str) -> Path | None:
        """As `Folder.file`.

        Raises:
            VAELoadError: no such repository or revision, or no right to read it.
        """
        try:
            # After one failed connection only the cache is asked: each further try would wait for its own timeout.
            path = hf_hub_download(self.repo, name, revision=self.revision, local_files_only=self.unreachable)
        except LocalEntryNotFoundError:  # neither reachable nor cached; a subclass of EntryNotFoundError
            self.unreachable = True
            return None
        except EntryNotFoundError:
            return None
        except GatedRepoError as error:
            raise VAELoadError(
                f"{self.label} is gated: accept its terms on its page, then log in with `hf auth login`"
            ) from error
        except RepositoryNotFoundError as error:
            raise VAELoadError(
                f"{self.label} does not exist or is private, and there is no local folder of that name; check the "
                "spelling, or log in with `hf auth login`"
            ) from error
        except RevisionNotFoundError as error:
            raise VAELoadError(f"{self.label} has no revision {self.revision!r}") from error
        except (HfHubHTTPError, HFValidationError) as error:
            raise VAELoadError(f"{self.label} could not be read: {error}") from error
        return Path(path)

    def hint(self) -> str:
        """As `Folder.hint`."""
        if not self.unreachable:
            return ""
        return (
            " The hub could not be reached, or offline mode is on (HF_HUB_OFFLINE), and the files are not in its cache."
            f" Where there is a network, run `hf download {self.repo} --local-dir FOLDER`, copy the folder here and"
            " pass its path."
        )
