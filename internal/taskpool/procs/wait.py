"""Wait for descriptors, at most so long: the one place that calls poll(2).

The dealer's loop is the exception. It watches hundreds of descriptors over its whole life, for which epoll is made.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Protocol

from taskpool.clock import MILLISECOND, SECOND, AwakeClock

STEP_NS = 100 * MILLISECOND  # what a standstill can hide in one wait, against ten wake-ups a second
_POLL_NS_MAX = 3600 * SECOND  # poll(2) counts milliseconds in an int, which a time-out of 25 days overflows


class HasFileno(Protocol):
    """An object with a descriptor, as `procs.signals.Wakeup`."""

    def fileno(self) -> int: ...


Descriptor = int | HasFileno


def wait_ready(
    readable: Iterable[Descriptor], writable: Iterable[Descriptor] = (), timeout_ns: int | None = None
) -> set[int]:
    """Wait until a descriptor can be read or written, or has failed; return the numbers of those.

    The set is empty when `timeout_ns` nanoseconds are over; None waits without a limit, 0 and less do not wait. A
    descriptor whose other end is gone counts as ready: the read or write that follows says so. A signal with a Python
    handler does not end the wait (PEP 475); watch a `Wakeup` for that.
    """
    wanted = dict.fromkeys(map(_number, readable), select.POLLIN)
    for fd in map(_number, writable):
        wanted[fd] = wanted.get(fd, 0) | select.POLLOUT
    poll = select.poll()
    for fd, mask in wanted.items():
        poll.register(fd, mask)
    if timeout_ns is None:
        return {fd for fd, _ in poll.poll()}
    while True:
        step_ns = max(0, min(timeout_ns, _POLL_NS_MAX))
        # Rounded up, since poll counts milliseconds: who waits for a deadline must not wake just before it.
        ready = poll.poll(-(-step_ns // MILLISECOND))
        timeout_ns -= step_ns
        if ready or timeout_ns <= 0:
            return {fd for fd, _ in ready}


def wait_until(
    deadline_ns: int | None, clock: AwakeClock, readable: Iterable[Descriptor], writable: Iterable[Descriptor] = ()
) -> set[int]:
    """Wait as `wait_ready`, until a moment of a clock that leaves out this process's standstills; None: no limit."""
    readable, writable = [*readable], [*writable]
    if deadline_ns is None:
        return wait_ready(readable, writable)
    while True:
        now_ns = clock.now().mono
        due_ns = min(deadline_ns, now_ns + STEP_NS)
        ready = wait_ready(readable, writable, due_ns - now_ns)
        if ready or now_ns >= deadline_ns:
            return ready
        clock.woke(due_ns)


def _number(descriptor: Descriptor) -> int:
    return descriptor if isinstance(descriptor, int) else descriptor.fileno()
