"""The names of things that travel: jobs, attempts, workers, clients.

Rule of this file: an id is plain data, cheap to compare and to print, and carries no behaviour.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

Epoch = NewType("Epoch", int)
"""One life of a dealer. Starts at 1, grows by one at each start of the pool, kept in its lock file."""

Incarnation = NewType("Incarnation", int)
"""The number of a worker process within an epoch, from 1. Never used twice."""


class Token(NamedTuple):
    """One attempt of one job. A report that carries any other token is stale and is dropped."""

    epoch: int
    n: int
