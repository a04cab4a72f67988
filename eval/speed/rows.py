"""The rows of the table: our way and the plain way of the same work. A new row is one line in ROWS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from eval.speed.sides import Prepare
from eval.speed.store import encode_in_memory, precompute_files, script_files
from eval.speed.workloads import (
    Task,
    Work,
    decode_latents,
    decode_latents_plainly,
    encode_files,
    encode_files_plainly,
)
from latentcodec.vae.cost import vae_cost


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    ours: Callable[[Task], Work]
    plain: Callable[[Task], Work]
    operations: Callable[[Mapping[str, Any], int], float]
    """Arithmetic operations for one image of a side, two for a multiply-accumulate."""

    def sides(self, task: Task) -> tuple[Prepare, Prepare]:
        """Both, ready to be sent to a process."""
        return partial(self.ours, task), partial(self.plain, task)


def encoding(config: Mapping[str, Any], side: int) -> float:
    """Operations of the encoder."""
    return 2e9 * vae_cost(config, side, side).encode_gmac


def decoding(config: Mapping[str, Any], side: int) -> float:
    """Operations of the decoder."""
    return 2e9 * vae_cost(config, side, side).decode_gmac


ROWS: dict[str, Row] = {
    "encode": Row(encode_files, encode_files_plainly, encoding),
    "decode": Row(decode_latents, decode_latents_plainly, decoding),
    "store": Row(precompute_files, script_files, encoding),
    "overlap": Row(precompute_files, encode_in_memory, encoding),
}
