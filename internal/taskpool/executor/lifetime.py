"""What the end of the interpreter and a fork mean for the loops of a process.

As the standard library does it: at the end of the program the loops run on until all that was submitted is done. A
forked child has none of their threads. It lets go of what it has inherited, the pipe above all by whose end a private
dealer knows that its program is gone.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from taskpool.executor.loop import Ending, Loop

_live: weakref.WeakSet[Loop] = weakref.WeakSet()
_registered = False


def register() -> None:
    """Have loops ended when the interpreter ends. Raises RuntimeError when it does so already."""
    global _registered
    if not _registered:
        # As concurrent.futures: before other threads are waited for, which atexit does not come.
        register: Any = vars(threading)["_register_atexit"]
        register(_end_all)
        os.register_at_fork(after_in_child=_let_go_of_all)
        _registered = True


def start(loop: Loop) -> None:
    """Start a loop's thread, which ends with the interpreter. Raises RuntimeError when there can be no thread."""
    loop.thread.start()
    _live.add(loop)


def _end_all() -> None:
    loops = [loop for loop in _live if loop.thread.is_alive()]
    # All are told before one is waited for: they finish side by side.
    for loop in loops:
        loop.end(Ending.DRAIN)
    for loop in loops:
        loop.thread.join()


def _let_go_of_all() -> None:
    for loop in list(_live):
        loop.let_go()
    _live.clear()
