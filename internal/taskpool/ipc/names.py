"""What the queues of a pool are called. Every name starts with `/tp.<pool>.`"""

from __future__ import annotations

import re

from taskpool import limits
from taskpool.errors import UsageError

_POOL_NAME = re.compile(limits.POOL_NAME_PATTERN)


def check_pool_name(pool: str) -> str:
    """The name itself when it is a legal pool name; raises UsageError when not."""
    if not _POOL_NAME.match(pool):
        raise UsageError(
            f"pool name {pool!r}: expected 1 to 32 lower-case letters, digits and hyphens, not starting with a hyphen"
        )
    return pool


def intake(pool: str) -> str:
    """Generators to dealer: submissions."""
    return f"/tp.{pool}.intake"


def control(pool: str) -> str:
    """Generators to dealer: everything small and urgent."""
    return f"/tp.{pool}.control"


def events(pool: str) -> str:
    """Workers to dealer: ready, started, reported."""
    return f"/tp.{pool}.events"


def lock(pool: str) -> str:
    """Carries no message: its one notification is the pool's lock in this IPC namespace."""
    return f"/tp.{pool}.lock"


def worker(pool: str, epoch: int, incarnation: int) -> str:
    """Dealer to one worker. The epoch keeps a worker that outlived its dealer away from new jobs."""
    return f"/tp.{pool}.{epoch}.w{incarnation}"


def reply(pool: str, slot: int) -> str:
    """Dealer to one generator.

    The generator sends only a slot number, never a name: the dealer must not be talked into writing to
    a queue of somebody's choice.
    """
    assert 0 <= slot < limits.REPLY_SLOTS_MAX, slot
    return f"/tp.{pool}.reply.{slot}"
