"""Attempts without a worker: what one tells a kind, and the command kind run as it would."""

from __future__ import annotations

import time
from pathlib import Path

from taskpool.identifiers import Token
from taskpool.kinds.base import Context, Result
from taskpool.kinds.command import COMMAND
from taskpool.messages import Limits


def context(state: Path, *, timeout_ns: int = 0, slot: int = 0) -> Context:
    """An attempt that begins now, in a pool whose state directory is `state`."""
    spool = state / "spool"
    spool.mkdir(exist_ok=True)
    return Context("nightly", 7, 2, slot, Token(3, 11), str(spool), time.monotonic_ns(), Limits(timeout_ns=timeout_ns))


def run(state: Path, *argv: str, timeout_ns: int = 0, slot: int = 0, **fields: object) -> Result:
    """A command job checked, and run to its end."""
    payload = COMMAND.parse({"argv": list(argv), **fields}, "line 1")
    COMMAND.check(payload)
    return COMMAND.run(payload, context(state, timeout_ns=timeout_ns, slot=slot))


def sh(state: Path, line: str, *, timeout_ns: int = 0) -> Result:
    """A line of shell as a job."""
    return run(state, line, shell=True, timeout_ns=timeout_ns)
