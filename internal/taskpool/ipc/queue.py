"""What a message queue guarantees, be it the kernel's (`mqueue`) or a model of it (`memory`).

tests/contract holds both to it. In short: bounded, first in first out, whole messages, and a queue that has lost its
name goes on working for the processes that have it open (mq_overview(7)).

The queue is never the record of who has a job: the kernel hands a message to a blocked receiver before that runs, and
the message is gone when the receiver is killed then (docs/adr/0001).
"""

from __future__ import annotations

from typing import Protocol

from taskpool.ipc.sizing import Shape


class QueueEnd(Protocol):
    """One open end of a queue. It has to be closed: dropping the object does not give its descriptor back.

    Every method but `close` and `fileno` raises QueueGone on a closed queue.
    """

    @property
    def name(self) -> str:
        """The name it was opened by, with its slash; the queue itself may have lost it since."""

    @property
    def maxmsg(self) -> int:
        """How many messages it holds."""

    @property
    def msgsize(self) -> int:
        """Bytes of the longest message it takes."""

    def send(self, data: bytes) -> None:
        """Send without waiting. Raises MessageTooLong, else QueueFull; QueueGone when not opened for sending."""

    def send_blocking(self, data: bytes) -> None:
        """Wait for room, then send. Raises QueueInterrupted when a signal came, and what `send` raises but QueueFull.

        Nothing but room or a signal ends the wait: neither the other end's death nor the loss of the name.
        """

    def receive(self) -> bytes:
        """Receive without waiting. Raises QueueEmpty; QueueGone when not opened for receiving.

        The kernel's bytes occupy `msgsize` whatever their length: decode them, do not keep them.
        """

    def receive_blocking(self) -> bytes:
        """Wait for a message. Raises QueueInterrupted when a signal came; QueueGone as `receive`."""

    def fileno(self) -> int:
        """Return the descriptor, for epoll, and only level-triggered; -1 once closed.

        A blocked sender that refills the queue as it is emptied raises no edge (measured): an edge-triggered loop would
        stand still before a full queue.
        """

    def depth(self) -> int:
        """Return how many messages wait."""

    def linked(self) -> bool:
        """Say whether the queue still has its name. The loss of a name wakes no process: look now and then."""

    def unlink(self) -> None:
        """Take the name away, if it still names this queue. Both ends go on working."""

    def hold(self) -> None:
        """Hold the queue until this end is closed or this process dies, even by SIGKILL, for others to see by `held`.

        Unlike a pid in a message it means the same in every PID namespace, and cannot outlive its process. One end at a
        time, open both ways.
        """

    def held(self) -> bool:
        """Say whether another end of the queue holds it."""

    def hold_notification_lock(self) -> None:
        """Make this process the holder of the queue until it closes any of its ends of it or dies, even by SIGKILL.

        A queue takes one registration for notification (mq_notify(3)), which the kernel keeps and frees: so it serves
        as a lock in this IPC namespace. No process may send to such a queue, and the holder unlinks it before closing.

        Raises QueueExists when another process holds it, QueueMissing when the queue has lost its name (the
        holder has just left: reopen or create it again).
        """

    def close(self) -> None:
        """Give the descriptor back. May be called twice."""


class QueueNamespace(Protocol):
    """Where queues are created and found: an IPC namespace."""

    def create(self, name: str, shape: Shape) -> QueueEnd:
        """Create a queue, private to this user, open both ways. Raises QueueExists, QueueLimit."""

    def open(self, name: str, *, send: bool, receive: bool) -> QueueEnd:
        """Open a queue that is there; never create one. Raises QueueMissing, QueueForeign, QueueLimit."""

    def reopen_or_create(self, name: str, shape: Shape) -> tuple[QueueEnd, bool]:
        """Return the queue of that name, open both ways, and whether it is one of an earlier life that was reopened.

        A reopened queue still holds its messages. One of this user with another shape or mode is replaced and its
        messages are lost. Raises QueueForeign when it belongs to another user, and QueueLimit.
        """

    def unlink(self, name: str) -> None:
        """Take a name away; one that is not there is fine. Raises QueueForeign when it is another user's."""
