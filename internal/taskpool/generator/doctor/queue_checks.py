"""Check the queues of this user: the kernel's limits on them, what is in use, and what dead pools have left.

What was read goes in, rows come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taskpool.errors import QueueLimit, counted
from taskpool.generator.doctor.row import Row, fault, warning
from taskpool.ipc import sizing
from taskpool.ipc.sizing import KernelLimits, Layout

FIX = "tp-generator doctor --fix"
_UNLISTED = "none noted; other names cannot be listed, /dev/mqueue is not mounted"
_NAMED_MAX = 4  # names that a row spells out
_CONNECTED = 2  # reply queues of a private pool: its generator, and a question to it
_SPARES = 1  # of a private pool, unless it is told otherwise


class Leavings(NamedTuple):
    """What dead pools and old batches have left."""

    dead: Sequence[str] = ()  # private pools of which generator and dealer were killed
    private: Sequence[str] = ()  # those of them that have queues
    named: Sequence[str] = ()  # pools with queues and no dealer
    unknown: Mapping[str, Sequence[str]] = {}  # names of queues, by pool, of pools without a state directory here
    expired: Sequence[str] = ()  # batches past their --retain
    listed: bool = True  # whether all queues could be listed: /dev/mqueue is mounted


def queue_limits(kernel: KernelLimits, workers: int) -> Row:
    """Compare fs.mqueue.* with what a pool of so many workers needs."""
    value = f"msg_max {kernel.msg_max}, msgsize_max {kernel.msgsize_max}, queues_max {kernel.queues_max}"
    needed = sizing.least(workers)
    short = {
        name: need
        for name, need, limit in (
            ("msg_max", needed.msg_max, kernel.msg_max),
            ("msgsize_max", needed.msgsize_max, kernel.msgsize_max),
            ("queues_max", needed.queues_max, kernel.queues_max),
        )
        if limit < need
    }
    if not short:
        return Row("queue limits", value)
    settings = " ".join(f"fs.mqueue.{name}={need}" for name, need in short.items())
    why = f"a pool of up to {workers} workers needs {', '.join(f'{name} {need}' for name, need in short.items())}"
    return fault("queue limits", value, why, f"sudo sysctl -w {settings}  # --sysctl (container)")


def queue_bytes(kernel: KernelLimits, uses: Mapping[str, int], workers: int) -> Row:
    """Compare RLIMIT_MSGQUEUE with what is in use (`uses`: bytes by pool) and what one pool more takes."""
    check, used = "queue bytes", sum(uses.values())
    pools = sorted(uses, key=lambda pool: -uses[pool])
    by = f" by {_some([f'{pool} {uses[pool]}' for pool in pools])}" if uses else ""
    value = f"{used} of {kernel.bytes_max} in use{by}"
    # As a dealer would choose it now, whatever the pools that are there have chosen.
    layout = layout_for(kernel, workers)
    if layout is None:
        need = sizing.least(workers).bytes_max
        why = f"a pool of up to {workers} workers needs {need} bytes of RLIMIT_MSGQUEUE"
        return fault(check, value, why, _more_bytes(need))
    # What one takes at once, not what it may be scaled to: half of the limit, or less.
    one = layout.need(workers + _SPARES, _CONNECTED)
    fit = max(0, kernel.bytes_max - used) // one
    value += f"; {counted(fit, 'more private pool fits', 'more private pools fit')}"
    if fit:
        return Row(check, value)
    why = f"a private pool of {counted(workers, 'worker')} takes {one} bytes, and RLIMIT_MSGQUEUE leaves fewer"
    return fault(check, value, why, _more_bytes(used + one * sizing.SHARE))


def layout_for(kernel: KernelLimits, workers: int) -> Layout | None:
    """Return the layout of a pool of so many workers, whatever the number of queues may be; None: the bytes are short
    for each."""
    # The sysctls have a row of their own.
    least = sizing.least(workers)
    raised = KernelLimits(
        msg_max=max(kernel.msg_max, least.msg_max),
        msgsize_max=max(kernel.msgsize_max, least.msgsize_max),
        queues_max=max(kernel.queues_max, least.queues_max),
        bytes_max=kernel.bytes_max,
    )
    try:
        return sizing.choose(workers, raised)
    except QueueLimit:
        return None


def trial_queue(problem: str | None) -> Row:
    """Judge the creation of one small queue. `problem` is the text of the error that it gave."""
    if problem is None:
        return Row("trial queue", "created and removed")
    # What was refused is told with its cure (ipc/mqueue.py).
    why, found, cure = problem.partition("aise it: ")
    why = why.removesuffix(" Stop a pool, or r").removesuffix(" R") if found else why
    return fault("trial queue", "refused", why, cure.partition(", ")[0] or "sysctl fs.mqueue; ulimit -q; ulimit -n")


def stale_queues(left: Leavings) -> Row:
    """Judge queues whose dealer is dead."""
    check = "stale queues"
    pools = [*left.private, *left.named, *left.unknown]
    if not pools:
        return Row(check, "none" if left.listed else _UNLISTED)
    why = "their dealers were killed, and the queues count against RLIMIT_MSGQUEUE of this user"
    if left.named:
        why += f"; a dealer that starts again takes them back with the last reports in them: {_some(left.named)}"
    return warning(check, f"of {_some(pools)}", why, FIX)


def kept_state(left: Leavings) -> Row:
    """Judge state directories that serve no purpose any more."""
    check = "kept state"
    dead, expired = len(left.dead), len(left.expired)
    if not dead and not expired:
        return Row(check, "nothing to remove")
    value = f"{counted(dead, 'dead private pool')}, {counted(expired, 'expired batch', 'expired batches')}"
    what = _some([*left.dead, *left.expired])
    return warning(check, value, f"room is taken by what has died or is past its --retain: {what}", FIX)


def _more_bytes(need: int) -> str:
    elsewhere = f"LimitMSGQUEUE={need} (systemd), --ulimit msgqueue={need} (container)"
    return f"sudo prlimit --pid $$ --msgqueue={need}  # {elsewhere}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
