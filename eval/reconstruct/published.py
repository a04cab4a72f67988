"""What others have reported of known VAEs. Each table has its own protocol, so its figures compare with nothing but
themselves: they are shown and stored apart from what was measured."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class PublishedRow:
    """One VAE."""

    model: str
    metrics: dict[str, float]
    """As reported. `lpips` alone: the network was not named."""


@dataclass(frozen=True)
class PublishedTable:
    """Figures that were measured together."""

    protocol: str
    """Images, sizes, and what is not known of how it was measured."""
    source: str
    rows: tuple[PublishedRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def published_tables() -> list[PublishedTable]:
    """All of them, from `FILE`."""
    return [
        PublishedTable(table["protocol"], table["source"], tuple(PublishedRow(**row) for row in table["rows"]))
        for table in json.loads(FILE.read_text("utf-8"))
    ]
