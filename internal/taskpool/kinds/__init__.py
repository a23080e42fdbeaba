"""The kinds of jobs. Read `base` first: it says what a kind is; then `fib`, the smallest one.

    base                     Kind and TypedKind, what it is told (Context) and what it answers (Result)
    fib  fib_kernel          a number, computed inside the worker
    python  invoke           a function by name, called inside the worker
    call  pickling  parts    a function of a program that uses `taskpool.Executor`, with what it is given, pickled
    command  template        any program, with GNU parallel's replacement strings
    source                   where the jobs of a command line come from, for the generator
    parallel                 a command's command line: GNU parallel's input language, for the generator
    execute  capture         starting that program and waiting for it; keeping what it prints

A new kind is a module here and an instance in `KINDS`, which takes in `TYPED_KINDS`: those whose jobs people write.
"""

from __future__ import annotations

from typing import Any

from taskpool.errors import MessageError, UsageError
from taskpool.kinds.base import Context, JobTimedOut, Kind, Result, TypedKind, WorkerUnfit
from taskpool.kinds.call import CALL
from taskpool.kinds.command import COMMAND
from taskpool.kinds.fib import FIB
from taskpool.kinds.python import PYTHON
from taskpool.messages import JobSpec

__all__ = [
    "KINDS",
    "TYPED_KINDS",
    "Context",
    "JobTimedOut",
    "Kind",
    "Result",
    "TypedKind",
    "WorkerUnfit",
    "job_title",
    "typed_kind",
]

# The order is that of --help and of errors that list the kinds.
TYPED_KINDS: dict[str, TypedKind[Any, Any]] = {kind.name: kind for kind in (FIB, COMMAND, PYTHON)}
KINDS: dict[str, Kind[Any]] = {**TYPED_KINDS, CALL.name: CALL}


def typed_kind(name: str) -> TypedKind[Any, Any]:
    """Find the kind of that name, whose jobs people write. Raises UsageError that lists the known ones."""
    try:
        return TYPED_KINDS[name]
    except KeyError:
        known = ", ".join(TYPED_KINDS)
    if name in KINDS:
        raise UsageError(f"jobs of kind {name!r} are made by Python programs (taskpool.Executor); write one of {known}")
    raise UsageError(f"unknown kind {name!r}; this program knows {known}")


def job_title(spec: JobSpec) -> str:
    """Say in one short printable line what a job is; of one from another version's journal only its kind."""
    try:
        return KINDS[spec.kind].title(spec.payload)
    except (KeyError, MessageError):
        return f"{spec.kind}(...)"
