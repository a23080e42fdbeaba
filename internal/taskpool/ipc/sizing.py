"""Choose how large the queues of a pool are.

The kernel charges `maxmsg * (msgsize + 96)` bytes for a queue when it is created, full or empty, to the
user who creates it, over all IPC namespaces, until its last descriptor closes (measured; ipc/mqueue.c).
So sizes are chosen once, for the most queues a pool can ever hold at the same time, and `scale` never has
to create a queue again. Numbers in, numbers out: reading the kernel's limits is `mqueue.kernel_limits`.
"""

from __future__ import annotations

from typing import NamedTuple

from taskpool import limits
from taskpool.errors import QueueLimit

MESSAGE_OVERHEAD_BYTES = 96  # what the kernel adds to each slot of a queue
SHARE = 2  # a pool takes at most 1/SHARE of the user's bytes: the rest is for the same user's other pools


class Shape(NamedTuple):
    """A queue's capacity: how many messages, and how many bytes in each."""

    maxmsg: int
    msgsize: int

    @property
    def bytes(self) -> int:
        """Return what the kernel charges for it."""
        return self.maxmsg * (self.msgsize + MESSAGE_OVERHEAD_BYTES)


LOCK = Shape(1, 1)  # the same for ever: two versions of the dealer must agree on it


class KernelLimits(NamedTuple):
    """What this IPC namespace and this user may have: fs.mqueue.* and RLIMIT_MSGQUEUE."""

    msg_max: int
    msgsize_max: int
    queues_max: int
    bytes_max: int


class Layout(NamedTuple):
    """The shape of each kind of queue in a pool."""

    intake: Shape
    control: Shape
    events: Shape
    worker: Shape
    reply: Shape

    def need(self, workers: int, replies: int = limits.REPLY_SLOTS_MAX) -> int:
        """Return the bytes charged when so many workers and so many reply queues are there at once."""
        shared = self.intake.bytes + self.control.bytes + self.events.bytes + LOCK.bytes
        return shared + workers * self.worker.bytes + replies * self.reply.bytes


# From the roomiest down (docs/protocol.md, 3). Larger messages save spool files, more of them save waits. A generator
# does not know the spool before its Welcome, so Hello and Welcome must fit their queues in every layout: that is why
# control and reply never go below 512 bytes. A worker's queue is small because there are so many of it, and takes two
# messages: the frame in hand and the next one.
LADDER = (
    Layout(  # raised sysctls and a raised byte limit
        intake=Shape(64, 8192),
        control=Shape(64, 512),
        events=Shape(64, 8192),
        worker=Shape(2, 8192),
        reply=Shape(16, 8192),
    ),
    Layout(  # stock sysctls, a raised byte limit
        intake=Shape(10, 8192),
        control=Shape(10, 512),
        events=Shape(10, 8192),
        worker=Shape(2, 4096),
        reply=Shape(10, 8192),
    ),
    Layout(  # everything stock: msg_max 10, msgsize_max 8192, RLIMIT_MSGQUEUE 819200
        intake=Shape(10, 4096),
        control=Shape(10, 512),
        events=Shape(10, 4096),
        worker=Shape(2, 1024),
        reply=Shape(4, 1024),
    ),
    Layout(  # hundreds of workers under stock limits, or less than stock
        intake=Shape(10, 1024),
        control=Shape(10, 512),
        events=Shape(10, 1024),
        worker=Shape(2, 256),
        reply=Shape(4, 512),
    ),
)

# The dealer's send to a worker must not meet a full queue: what is in flight always fits.
assert all(layout.worker.maxmsg >= limits.FRAMES_IN_FLIGHT_MAX for layout in LADDER)


_QUEUES_BESIDE = 4 + limits.REPLY_SLOTS_MAX  # beside those of the workers; 4: intake, control, events, lock


def choose(workers: int, kernel: KernelLimits) -> Layout:
    """Return the roomiest layout for a pool of this many workers. Raises QueueLimit when none fits.

    The count is not the pool's present size but the largest it may be scaled to.
    """
    workers = max(workers, limits.WORKER_QUEUES_MIN)
    needed = least(workers)
    queues = needed.queues_max
    # The number first: no layout changes it, so the text need not speak of bytes.
    if queues > kernel.queues_max:
        raise QueueLimit(
            f"fs.mqueue.queues_max is {kernel.queues_max}; a pool of up to {workers} workers needs {queues} queues. "
            f"Ask for fewer workers, or raise it: {sysctl_cure('queues_max', queues)}"
        )
    for layout in LADDER:
        if _shapes_fit(layout, kernel) and layout.need(workers) * SHARE <= kernel.bytes_max:
            return layout
    raise _nothing_fits(workers, needed, kernel)


def least(workers: int) -> KernelLimits:
    """Return the lowest limits with which `choose` finds a layout for so many workers."""
    workers = max(workers, limits.WORKER_QUEUES_MIN)
    smallest = LADDER[-1]
    return KernelLimits(
        msg_max=max(shape.maxmsg for shape in smallest),
        msgsize_max=max(shape.msgsize for shape in smallest),
        queues_max=workers + _QUEUES_BESIDE,
        bytes_max=smallest.need(workers) * SHARE,
    )


class Room(NamedTuple):
    """How many workers a pool can be scaled to, and what limits it there."""

    workers: int
    limit: str


def room(layout: Layout, kernel: KernelLimits) -> Room:
    """Return how far a pool with this layout can be scaled.

    All of the user's bytes count here, not a share of them: the one who scales that far is the one who goes short.
    """
    by_count = kernel.queues_max - _QUEUES_BESIDE
    by_bytes = (kernel.bytes_max - layout.need(0)) // layout.worker.bytes
    if by_count < by_bytes:
        return Room(by_count, f"fs.mqueue.queues_max is {kernel.queues_max} queues")
    return Room(by_bytes, f"RLIMIT_MSGQUEUE is {kernel.bytes_max} bytes")


def byte_limit_cure(need_bytes: int) -> str:
    """Return the ways to raise RLIMIT_MSGQUEUE."""
    return f"ulimit -q {need_bytes}, LimitMSGQUEUE={need_bytes} (systemd), --ulimit msgqueue={need_bytes} (container)"


def sysctl_cure(name: str, value: int) -> str:
    """Return the ways to raise one of fs.mqueue.*."""
    return f"sysctl fs.mqueue.{name}={value}, --sysctl fs.mqueue.{name}={value} (container)"


def _shapes_fit(layout: Layout, kernel: KernelLimits) -> bool:
    return all(shape.maxmsg <= kernel.msg_max and shape.msgsize <= kernel.msgsize_max for shape in layout)


def _nothing_fits(workers: int, needed: KernelLimits, kernel: KernelLimits) -> QueueLimit:
    # In this order: a queue that the sysctls forbid cannot be had for any number of bytes.
    for name, value, need in (
        ("msg_max", kernel.msg_max, needed.msg_max),
        ("msgsize_max", kernel.msgsize_max, needed.msgsize_max),
    ):
        if value < need:
            return QueueLimit(f"fs.mqueue.{name} is {value}; a pool needs {need}. Raise it: {sysctl_cure(name, need)}")
    need = needed.bytes_max
    return QueueLimit(
        f"RLIMIT_MSGQUEUE is {kernel.bytes_max} bytes; a pool of up to {workers} workers needs {need} (its queues take "
        f"at most 1/{SHARE} of the limit). Ask for fewer workers, or raise it: {byte_limit_cure(need)}"
    )
