"""Both kinds of post, and a promise that a test leaves no queue behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taskpool.ipc.memory import MemoryPost
from taskpool.ipc.mqueue import KernelPost
from taskpool.ipc.queue import Mailbox, Post
from taskpool.ipc.sizing import Shape


class TidyPost:
    """Hands everything on to a post, and knows what to close and unlink in the end."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._mailboxes: list[Mailbox] = []

    def create(self, name: str, shape: Shape) -> Mailbox:
        return self._kept(self._post.create(name, shape))

    def open(self, name: str, *, send: bool, receive: bool) -> Mailbox:
        return self._kept(self._post.open(name, send=send, receive=receive))

    def adopt(self, name: str, shape: Shape) -> tuple[Mailbox, bool]:
        mailbox, recovered = self._post.adopt(name, shape)
        return self._kept(mailbox), recovered

    def unlink(self, name: str) -> None:
        self._post.unlink(name)

    def tidy(self) -> None:
        for mailbox in self._mailboxes:
            self._post.unlink(mailbox.name)
            mailbox.close()

    def _kept(self, mailbox: Mailbox) -> Mailbox:
        self._mailboxes.append(mailbox)
        return mailbox


@pytest.fixture(params=[MemoryPost, KernelPost])
def post(request: pytest.FixtureRequest, pool: str) -> Iterator[TidyPost]:
    """The contract's subject: the model and the kernel in turn. Tidied before `pool` looks for left-overs."""
    post = TidyPost(request.param())
    yield post
    post.tidy()


@pytest.fixture
def kernel(pool: str) -> Iterator[TidyPost]:
    """For what a model of one process cannot have."""
    post = TidyPost(KernelPost())
    yield post
    post.tidy()
