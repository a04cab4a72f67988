"""Files beside an image that say something about it: ``.txt`` caption, ``.json`` fields, ``.cls`` class number."""

import json
from collections.abc import Mapping
from typing import Any

from latentcodec.images.decode import BrokenImageError

SIDECAR_EXTENSIONS: tuple[str, ...] = ("json", "txt", "cls")


def parse_sidecars(id: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The metadata in an image's sidecar files.

    Args:
        id: of the image, for errors.
        files: extension -> content. A JSON object gives its fields, any other JSON value goes under ``json``;
            ``.txt`` gives ``caption`` (over one in the JSON), ``.cls`` the integer ``label``.

    Raises:
        BrokenImageError: a file does not hold what its extension says. Losing a caption or label without a word
            would be worse than losing the image.
    """
    metadata: dict[str, Any] = {}
    for extension in SIDECAR_EXTENSIONS:
        if extension not in files:
            continue
        try:
            text = files[extension].decode("utf-8-sig")
            if extension == "json":
                value = json.loads(text)
                metadata.update(value if isinstance(value, dict) else {"json": value})
            elif extension == "txt":
                metadata["caption"] = text.strip()
            else:
                metadata["label"] = int(text)
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise BrokenImageError(
                id, f"unreadable metadata: its .{extension} holds {files[extension][:40]!r}: {error}"
            ) from error
    return metadata
