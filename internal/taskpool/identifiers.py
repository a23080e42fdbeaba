"""Names of dealers' lives, of workers and of attempts: plain data, cheap to compare and to print."""

from __future__ import annotations

from typing import NamedTuple, NewType

Epoch = NewType("Epoch", int)
"""One life of a dealer. Begins at 1, grows by one at each start of the pool, is kept in its lock file."""

Incarnation = NewType("Incarnation", int)
"""The number of a worker process within an epoch, from 1. Never used twice."""


class Token(NamedTuple):
    """Names one attempt over all epochs, in the files of its output."""

    epoch: int
    n: int
