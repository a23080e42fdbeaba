"""Types of the identifiers of dealers, workers and attempts: plain data, cheap to compare and to print.

A job is identified by its batch and its number in it, a generator by a random number: str and int.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

Epoch = NewType("Epoch", int)
"""One life of a dealer. Begins at 1, grows by one at each start of the pool, is kept in its lock file."""

Incarnation = NewType("Incarnation", int)
"""The number of a worker process within an epoch, from 1. Never used twice."""


class Token(NamedTuple):
    """One attempt of one job. A report that carries another token is stale and is dropped."""

    epoch: int
    n: int
