"""What a message queue promises, whoever implements it: the kernel (`mqueue`) or a model (`memory`).

tests/contract holds both to it. In short: bounded, first in first out, whole messages, and a queue lives
on without its name for whoever has it open.
"""

from __future__ import annotations

from typing import Protocol

from taskpool.ipc.sizing import Shape


class QueueEnd(Protocol):
    """One open end of a queue. Close it yourself: nothing else gives its descriptor back.

    Every method but `close` and `fileno` raises QueueGone on a closed queue.
    """

    @property
    def name(self) -> str: ...

    @property
    def maxmsg(self) -> int: ...

    @property
    def msgsize(self) -> int: ...

    def send(self, data: bytes) -> None:
        """Never waits. Raises MessageTooLong, else QueueFull; QueueGone when not opened for sending."""

    def send_blocking(self, data: bytes) -> None:
        """Waits for room. Raises QueueInterrupted when a signal came, and what `send` raises but QueueFull."""

    def receive(self) -> bytes:
        """Never waits. Raises QueueEmpty; QueueGone when not opened for receiving.

        The kernel's bytes occupy `msgsize` whatever their length: decode them, do not keep them.
        """

    def receive_blocking(self) -> bytes:
        """Waits for a message. Raises QueueInterrupted when a signal came; QueueGone as `receive`."""

    def fileno(self) -> int:
        """For epoll, and only level-triggered: a blocked sender that refills the queue raises no edge.
        -1 once closed."""

    def depth(self) -> int:
        """How many messages wait."""

    def linked(self) -> bool:
        """Whether the queue still has its name. Nobody is woken when a queue loses it: look now and then."""

    def unlink(self) -> None:
        """Takes the name away, if it still names this queue. Both ends go on working."""

    def hold_notification_lock(self) -> None:
        """Makes this process the holder of the queue until it closes any of its ends of it or dies, even by
        SIGKILL.

        Raises QueueExists when another process holds it, QueueMissing when the queue has lost its name (the
        holder has just left: adopt it anew). Nobody may send to such a queue, and who leaves it unlinks it
        before closing it.
        """

    def close(self) -> None:
        """May be called twice."""


class QueueNamespace(Protocol):
    """Where queues are made and found."""

    def create(self, name: str, shape: Shape) -> QueueEnd:
        """A new queue, private to this user, open both ways. Raises QueueExists, QueueLimit."""

    def open(self, name: str, *, send: bool, receive: bool) -> QueueEnd:
        """A queue that is there. Raises QueueMissing, QueueForeign, QueueLimit. Never creates."""

    def adopt(self, name: str, shape: Shape) -> tuple[QueueEnd, bool]:
        """The queue of that name, open both ways, and whether it was recovered from an earlier life.

        A recovered queue still holds its messages. One of ours with another shape or mode is replaced and
        its messages are lost. Raises QueueForeign when it belongs to somebody else, and QueueLimit.
        """

    def unlink(self, name: str) -> None:
        """Takes a name away; one that is not there is fine. Raises QueueForeign when it is not ours to take."""
