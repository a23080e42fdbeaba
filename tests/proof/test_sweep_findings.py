"""What the sweep has found, each as small as it can be told."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskpool.codec import decode, encode
from taskpool.core.storage import FindBatch
from taskpool.dealer.dealer import Dealer
from taskpool.errors import ConfigurationError, JournalError, QueueError, QueueMissing, system_refused
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.journal import file
from taskpool.journal.engine import JournalOptions
from taskpool.journal.sqlite import SqliteStore
from taskpool.messages import Command, Spilled

SMALL = JournalOptions(ballast_bytes=4096)


def refusing(number: int, real: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    """A system call that is refused when its arguments say so."""

    def call(*args: Any, **how: Any) -> Any:
        if when(*args, **how):
            raise OSError(number, os.strerror(number))
        return real(*args, **how)

    return call


def spilled(directory: Path) -> tuple[Spool, Spilled]:
    spool = Spool(directory)
    message = decode(spool.pack(encode(Command(1, "status")), 8))
    assert isinstance(message, Spilled)
    return spool, message


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES])
def test_a_report_is_taken_although_its_file_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It was dropped, and its job ran for ever."""
    spool, message = spilled(tmp_path)
    monkeypatch.setattr(os, "unlink", refusing(number, os.unlink, lambda *_: True))
    assert spool.unpack(message) == Command(1, "status")


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_file_that_this_machine_cannot_read_is_no_bad_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    spool, message = spilled(tmp_path)
    monkeypatch.setattr(os, "open", refusing(number, os.open, lambda path, *_: message.name in str(path)))
    with pytest.raises(ConfigurationError, match=os.strerror(number)):
        spool.unpack(message)


def test_a_store_that_fails_half_way_leaves_a_journal_that_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite removed the -wal when its forgotten connection was collected; the next life missed it and refused."""
    path = tmp_path / "journal.db"
    o_path = refusing(errno.EMFILE, os.open, lambda path, flags, *_, **__: bool(flags & os.O_PATH))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", o_path)
        with pytest.raises(OSError, match="Too many open files"):
            SqliteStore(path, 1, SMALL)
    store = SqliteStore(path, 2, SMALL)
    store.close(clean=True)
    assert not file.wal_of(path).exists()


def test_a_store_without_a_thread_closes_its_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    store = SqliteStore(path, 1, SMALL)
    monkeypatch.setattr(threading.Thread, "start", refusing_thread)
    with pytest.raises(JournalError, match="can't start new thread"):
        store.request(FindBatch("b"))
    store.close(clean=False)
    SqliteStore(path, 2, SMALL).close(clean=True)


def refusing_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_dealer_that_failed_half_way_closes_its_store() -> None:
    """The teardown asked for what was not there yet, and so never closed the journal."""
    dealer = Dealer.__new__(Dealer)
    dealer._performer = None
    assert not dealer._left_cleanly()


def test_a_queue_whose_mode_cannot_be_set_does_not_stay(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"/tp.{pool}.intake"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchmod", refusing(errno.EPERM, os.fchmod, lambda *_: True))
        with pytest.raises(QueueError, match="mode cannot be set"):
            KernelNamespace().create(name, Shape(1, 64))
    with pytest.raises(QueueMissing):
        KernelNamespace().open(name, send=True, receive=False)


def test_a_refusal_says_what_and_where() -> None:
    text = ""
    try:
        os.open("/nonexistent/file", os.O_RDONLY)
    except OSError as error:
        text = system_refused(error)
    assert "No such file or directory" in text and __name__ in text
