"""The kinds of jobs. Read `base` first: it says what a kind is; then `fib`, the smallest one.

    base                     Kind, what it is told (Context) and what it answers (Result)
    fib  fib_kernel          a number, computed inside the worker
    python  invoke           a function by name, called inside the worker
    command  template        any program, with GNU parallel's replacement strings
    source                   where the jobs of a command line come from, for the generator
    parallel                 a command's command line: GNU parallel's input language, for the generator
    execute  capture         starting that program and waiting for it; keeping what it prints

A new kind is a module here and an instance in `KINDS`.
"""

from __future__ import annotations

from typing import Any

from taskpool.errors import MessageError, UsageError
from taskpool.kinds.base import Context, JobTimedOut, Kind, Result, WorkerUnfit
from taskpool.kinds.command import COMMAND
from taskpool.kinds.fib import FIB
from taskpool.kinds.python import PYTHON
from taskpool.messages import JobSpec

__all__ = ["KINDS", "Context", "JobTimedOut", "Kind", "Result", "WorkerUnfit", "job_title", "kind"]

# The order is that of --help and of errors that list the kinds.
KINDS: dict[str, Kind[Any, Any]] = {kind.name: kind for kind in (FIB, COMMAND, PYTHON)}


def kind(name: str) -> Kind[Any, Any]:
    """Find the kind of that name. Raises UsageError that lists the known ones."""
    try:
        return KINDS[name]
    except KeyError:
        raise UsageError(f"unknown kind {name!r}; this program knows {', '.join(KINDS)}") from None


def job_title(spec: JobSpec) -> str:
    """Say in one short printable line what a job is; of one from another version's journal only its kind."""
    try:
        return KINDS[spec.kind].title(spec.payload)
    except (KeyError, MessageError):
        return f"{spec.kind}(...)"
