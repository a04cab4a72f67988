"""The rows of the table: our way and the plain way of the same work. A new row is one line in ROWS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from eval.speed.bitstream import (
    compress_files,
    compress_plainly,
    decompress_files,
    decompress_plainly,
    parts_of_compressing,
    parts_of_decompressing,
)
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
from latentcodec.bitstream.model import has_model
from latentcodec.vae.cost import vae_cost
from latentcodec.vae.presets import PRESETS


def no_parts(task: Task, rounds: int) -> dict[str, float]:
    """For rows of one piece."""
    return {}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    ours: Callable[[Task], Work]
    plain: Callable[[Task], Work]
    operations: Callable[[Mapping[str, Any], int], float]
    """Arithmetic operations for one image of a side, two for a multiply-accumulate."""
    parts: Callable[[Task, int], dict[str, float]] = no_parts
    """Further figures of our side, from so many rounds; see `eval.speed.table.WORDS`."""
    prepared: bool = False
    """It takes a VAE that was prepared for the bitstream."""

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
    "compress": Row(compress_files, compress_plainly, encoding, parts_of_compressing, prepared=True),
    "decompress": Row(decompress_files, decompress_plainly, decoding, parts_of_decompressing, prepared=True),
}


def rows_for(vae: str) -> list[str]:
    """Names of those that can be measured with a VAE. A preset's random weights were not prepared for anything."""
    prepared = vae not in PRESETS and has_model(vae)
    return [name for name, row in ROWS.items() if prepared or not row.prepared]
