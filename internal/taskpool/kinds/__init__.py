"""The kinds of jobs. Adding one: write its module with the names of `base.Kind` and list it here."""

from __future__ import annotations

from taskpool.errors import UsageError
from taskpool.kinds import command, fib, python
from taskpool.kinds.base import Context, Job, JobTimedOut, Kind, Result

__all__ = ["KINDS", "Context", "Job", "JobTimedOut", "Kind", "Result", "command", "fib", "kind", "python"]

_MODULES: tuple[Kind, ...] = (fib, command, python)

KINDS: dict[str, Kind] = {module.NAME: module for module in _MODULES}


def kind(name: str) -> Kind:
    """The kind of that name. Raises UsageError that lists the known ones."""
    try:
        return KINDS[name]
    except KeyError:
        raise UsageError(f"unknown kind {name!r}; this program knows {', '.join(KINDS)}") from None
