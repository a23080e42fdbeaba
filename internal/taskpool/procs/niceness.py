"""The niceness of processes that are started here.

In Linux a niceness is that of a thread, and a child has that of the thread which started it (setpriority(2), "C
library/kernel differences"). So a thread of its own gives a process its niceness from its first instruction on, and
this process keeps its own: to be lowered again takes a right that people have not.

LIMIT: with autogroups (sched(7), `kernel.sched_autogroup_enabled`), which are for processes in the root of the control
groups of the CPU, a niceness counts within a session only, and each worker has one.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from typing import TypeVar

from taskpool.errors import UsageError

LOWEST, HIGHEST = -20, 19  # a lower one gets more of the CPU
# RLIMIT_NICE, as `ulimit -e` shows it, counts the other way round: so much allows the niceness of 20 less that.
_ULIMIT_BASE = 20

# re.ASCII: \d and int() take the digits of every script.
_NUMBER = re.compile(r"[-+]?\d{1,2}", re.ASCII)

_T = TypeVar("_T")


def parse_niceness(text: str) -> int:
    """Return the niceness that a text means. Raises UsageError when it is none, or may not be given to a child."""
    number = int(text) if _NUMBER.fullmatch(text) else None
    if number is None or not LOWEST <= number <= HIGHEST:
        raise UsageError(f"--nice {text}: expected a niceness from {LOWEST} (most CPU) to {HIGHEST} (least)")
    try:
        # Only the attempt tells: the right may be a capability, or a limit that allows some way down.
        run_at(number, lambda: None)
    except PermissionError as error:
        raise UsageError(
            f"--nice {text}: below the niceness {os.getpriority(os.PRIO_PROCESS, 0)} of this process, which takes "
            f"CAP_SYS_NICE or `ulimit -e {_ULIMIT_BASE - number}`: {error.strerror}; a higher one needs no right"
        ) from None
    return number


def run_at(niceness: int, call: Callable[[], _T]) -> _T:
    """Return what the call returns in a thread of this niceness. Raises what the call raises, and PermissionError."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, niceness)  # 0: this thread
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            errors.append(error)

    thread = threading.Thread(target=run, name="niceness")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
