"""Which of the processes that were started together this one is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Its number among them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number among those of this machine, hence its GPU."""
    local_size: int = 1
    """How many were started on this machine."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Launch":
        """What `accelerate launch` and `torchrun` tell their processes: RANK, WORLD_SIZE, LOCAL_RANK and so on.

        The environment is all that is used of a launch. No process group is made, because whoever waits in one for a
        machine that has died waits in vain; the processes meet in the store instead, see `latentcodec.store.crew`.
        """

        def number(name: str, default: int) -> int:
            return int(environment.get(name, default))

        return cls(
            rank=number("RANK", 0),
            size=number("WORLD_SIZE", 1),
            local_rank=number("LOCAL_RANK", number("RANK", 0)),
            local_size=number("LOCAL_WORLD_SIZE", number("WORLD_SIZE", 1)),
        )

    @property
    def cores(self) -> int:
        """Processor cores for each process of this machine, at most 16."""
        has = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(max(has // self.local_size, 1), 16)
