"""The jobs that kill their own worker. It imports what each worker has loaded already: a fresh one imports this file
within what is measured.
"""

from __future__ import annotations

import os
import signal
import time


def die_once(mark: str) -> int:
    """Kill the worker at the first call with this mark; the second returns the nanoseconds since just before that."""
    if (before := died_at(mark)) is not None:
        return time.monotonic_ns() - before
    return die(mark)


def die(mark: str) -> int:
    """Kill the worker at every call, by SIGKILL, having written down when."""
    draft = f"{mark}.draft"
    with open(draft, "w") as file:
        file.write(str(time.monotonic_ns()))  # the one clock that all processes of a machine share
    os.rename(draft, mark)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process has outlived SIGKILL")


def died_at(mark: str) -> int | None:
    """Return the time of the mark; None where there is no mark."""
    try:
        with open(mark) as file:
            return int(file.read())
    except FileNotFoundError:
        return None
