"""The processes that `multiprocessing` starts beside those a job asks for, and what it remembers of them.

A resource tracker unlinks shared memory and semaphores that were left, a fork server starts processes, a manager holds
objects. None outlives its job: so their end is arranged here, and they are forgotten, so that the next job starts new
ones as if it were the first.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from taskpool import limits
from taskpool.clock import SECOND
from taskpool.procs.process_tree import children_of, is_resource_tracker

# Frozen, a worker is the interpreter too that multiprocessing starts its helpers with: `-c` and one of these.
_STATEMENTS = ("from multiprocessing.resource_tracker import main", "from multiprocessing.forkserver import main")
_SPAWNED = "--multiprocessing-fork"  # a process of the start method spawn, when frozen

# joblib and loky have trackers of their own.
_TRACKERS = (
    "multiprocessing.resource_tracker",
    "loky.backend.resource_tracker",
    "joblib.externals.loky.backend.resource_tracker",
)


def run_if_helper(arguments: Sequence[str]) -> bool:
    """Be what multiprocessing has started this frozen program for, if it has; True once that is over."""
    if not getattr(sys, "frozen", False):
        return False
    # As PyInstaller's own hook does it, which would load multiprocessing at each start of a worker.
    if arguments[:1] == [_SPAWNED]:
        from multiprocessing import spawn

        words = (argument.partition("=") for argument in arguments[1:])
        numbers: dict[str, Any] = {name: None if text == "None" else int(text) for name, _, text in words}
        spawn.spawn_main(**numbers)
        return True
    if len(arguments) >= 2 and arguments[-2] == "-c" and arguments[-1].startswith(_STATEMENTS):
        exec(arguments[-1], {"__name__": "__main__"})
        return True
    return False


def shut_down_in_order() -> None:
    """Shut down the pools and managers that a job has left, as the end of a script would.

    A pool left alone would replace each process that is killed. This is part of the job's own time; a process that
    ignores SIGTERM is killed after the usual grace. Raises JobTimedOut.
    """
    util: Any = sys.modules.get("multiprocessing.util")
    if util is None or not util._finalizer_registry:
        return
    before = signal.signal(signal.SIGALRM, _kill_children)
    signal.setitimer(signal.ITIMER_REAL, limits.TERM_GRACE_NS / SECOND)
    try:
        util._run_finalizers(0)  # without those below 0, which wait for what reads a queue
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


def _kill_children(_signum: int, _frame: object) -> None:
    for pid in children_of():
        if not is_resource_tracker(pid):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def forget_helpers() -> None:
    """Let go of what multiprocessing has started in this process; the caller ends what runs on.

    A tracker ends by itself when the last one that could tell it something has, and then unlinks what is left.
    """
    if "multiprocessing" not in sys.modules:
        return
    for name in _TRACKERS:
        tracker = getattr(sys.modules.get(name), "_resource_tracker", None)
        if tracker is not None:
            _let_go(tracker, "_fd", "_pid")
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    if server is not None:
        _let_go(server, "_forkserver_alive_fd", "_forkserver_pid", "_forkserver_address")
    _forget_children(sys.modules["multiprocessing.process"])


def _let_go(holder: Any, fd_name: str, *names: str) -> None:
    """Close a descriptor on which a helper waits, and set it and other attributes to None, as before its start."""
    fd = getattr(holder, fd_name, None)
    if fd is not None:
        with suppress(OSError):
            os.close(fd)
    for name in (fd_name, *names):
        setattr(holder, name, None)


def _forget_children(module: Any) -> None:
    # A job that keeps one of these objects must not wait for, or signal, a later process that has got its PID.
    for child in list(module._children):
        popen = getattr(child, "_popen", None)
        with suppress(Exception):  # its pipe is closed
            if popen is not None and popen.poll() is None:
                popen.returncode = -signal.SIGKILL
    module._children.clear()
    _remove_directory(module)


def _remove_directory(module: Any) -> None:
    """Remove where the sockets of managers and fork servers were: a worker has no orderly exit that would do it."""
    config = getattr(module._current_process, "_config", {})
    directory = config.pop("tempdir", None)
    if directory is not None:
        import shutil

        shutil.rmtree(directory, ignore_errors=True)
