"""What is wrong with a journal, told from what SQLite and the system say, in words that help."""

from __future__ import annotations

import errno
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from taskpool.errors import JournalError
from taskpool.journal.schema import VERSION

FULL = (errno.ENOSPC, errno.EDQUOT)
_BROKEN = (errno.EIO, errno.EFBIG)
_ROOM_BYTES = 8 * 1024 * 1024  # twice what the WAL takes: then a life can begin, and end
# What comes of reading a damaged file: text that is none makes sqlite3 fail while it tells what failed.
UNREADABLE = (sqlite3.Error, OverflowError, TypeError, ValueError, LookupError, struct.error, msgspec.MsgspecError)


def is_full(error: sqlite3.Error | OSError) -> bool:
    """The disk is full; nothing else is wrong."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def is_refused(error: sqlite3.Error | OSError) -> bool:
    """A write did not succeed, which with a quota means that it is full; nothing of its transaction is stored."""
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_WRITE


@contextmanager
def tolerating_full() -> Iterator[None]:
    """For what can be done later, when there is room: the next commit tells whether anything else is wrong."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if not is_full(error) and not is_refused(error):
            raise


def explain(path: Path, error: Exception) -> str:
    """What SQLite says, or the system, in words that help."""
    if isinstance(error, JournalError):
        return str(error)
    if isinstance(error, OSError):
        if is_full(error):
            return full_text(path)
        return _broken_text(path, str(error)) if error.errno in _BROKEN else f"the journal {path}: {cause(error)}"
    if not isinstance(error, sqlite3.Error):
        return damaged(path, said(error))
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    # The exclusive lock of another process: with one dealer a pool, it is a tool or a second dealer.
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return in_use(path)
    # SQLITE_ERROR, or no code at all: no statement of ours is wrong, so the tables are not what they were.
    if primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA):
        return damaged(path, said(error))
    # A log's index, which only the tools have in a file, is made long before it is written.
    if primary == sqlite3.SQLITE_FULL or getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE:
        return full_text(path)
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"the journal {path} cannot be opened for writing: {said(error)}: check owner, mode and mount"
    if primary == sqlite3.SQLITE_IOERR:
        return _broken_text(path, said(error))
    return f"the journal {path}: {said(error)}"


def said(error: Exception) -> str:
    """The error's own text and name."""
    if isinstance(error, sqlite3.Error):
        return f"SQLite: {error} [{getattr(error, 'sqlite_errorname', type(error).__name__)}]"
    return f"something is not of its shape: {error} [{type(error).__name__}]"


def damaged(path: Path, how: str) -> str:
    """That a journal is damaged, and what can be done."""
    return (
        f"the journal {path} is damaged: {how}. It was left as it is: see `tp-dealer journal check`, save what can "
        "be read with `tp-dealer journal export`, then restore a backup or name another with --journal; to go on with "
        "what SQLite finds in it, run `tp-dealer journal check --accept-loss`"
    )


def in_use(path: Path) -> str:
    return f"the journal {path} is open in another process: a dealer holds it, or a tool; end that one first"


def newer(path: Path, version: int) -> str:
    return (
        f"the journal {path} has schema version {version}, and this program knows versions up to {VERSION}: a newer "
        "taskpool wrote it; run that one, or name another with --journal"
    )


def full_text(path: Path) -> str:
    """That there is no room, and how much is needed."""
    return f"the journal {path} cannot be written: its disk is full: make room, {_ROOM_BYTES >> 20} MiB or more"


def _broken_text(path: Path, how: str) -> str:
    return (
        f"the journal {path} cannot be read or written: {how}: a disk error, a quota, or a limit on file size "
        "(ulimit -f); the kernel log may say more"
    )


def cause(error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}: check owner, mode and mount"
    return said(error)
