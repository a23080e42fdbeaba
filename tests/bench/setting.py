"""What all trials share: the programs and peers that are measured, where they may write, and how much they do."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bench.peer import Peers
from bench.pool import Programs

WORKERS = 2  # unless a row says otherwise; of either side


class Setting(NamedTuple):
    """Of one run."""

    programs: Programs  # of the environment, or of TASKPOOL_BIN
    frozen: Programs | None  # of dist/taskpool, if it was made
    peers: Peers
    work: Path
    scale: float

    def scaled(self, count: int, least: int) -> int:
        """Return how many of so many a run of this scale does."""
        return max(least, round(count * self.scale))
