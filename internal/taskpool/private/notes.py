"""What is kept of a private batch beside its journal: whose it is, how it was begun, how its last run ended.

`private.json` says whose the directory is, and is locked for as long as a generator has the batch (state.py).
`command.json` is what was typed, so that the batch goes on without being typed again; `result.json` what its last run
came to. It is not there while a run is under way, nor after one that was killed.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from taskpool import limits
from taskpool.errors import ConfigurationError
from taskpool.limits import POOL_NAME_PATTERN
from taskpool.procs.pool_lock import is_held, lock_shared
from taskpool.procs.state_dir import (
    JOURNAL_NAME,
    PRIVATE_NOTE,
    RESULT_NAME,
    TYPED_NAME,
    pools_directory,
    state_directory,
)

_HASH_DIGITS = 10
_READABLE_CHARS = 32 - 1 - _HASH_DIGITS
_HASHED = re.compile(rf"-[0-9a-f]{{{_HASH_DIGITS}}}\Z")
_NEAREST_MAX = 3

_T = TypeVar("_T")


def private_pool_name(batch: str) -> str:
    """Return the pool of a batch that runs privately: its id, if that can name a pool; else what can, and a hash."""
    # Without the hash `a.b` and `a-b` would share a pool. An id that looks as if it had one is hashed too, or it could
    # be the pool of another batch.
    if re.match(POOL_NAME_PATTERN, batch) and not _HASHED.search(batch):
        return batch
    readable = re.sub(r"[^a-z0-9-]", "-", batch.lower())[:_READABLE_CHARS]
    return f"{readable}-{hashlib.sha256(batch.encode()).hexdigest()[:_HASH_DIGITS]}"


class Note(msgspec.Struct):
    """What is kept of a private pool from run to run."""

    batch: str
    journal: str | None  # its path
    directory: bytes | None = None  # where the batch was begun; None: it was gone, or an earlier version began it
    environment: list[bytes] | None = None  # NAME=VALUE each, as it was there
    after_epoch: int = 0  # outputs of epochs up to this are of earlier batches with this name
    names_files: bool = True  # outcome objects were written, which name files of outputs
    named: bool = False  # a person chose its name, so it stays for a while when all has succeeded
    retain_ns: int = limits.RETAIN_NS  # for how long


class Typed(msgspec.Struct):
    """The command that has begun a batch."""

    words: list[bytes]  # behind the program's name
    stdin: bytes | None = None  # the file that was its standard input; None: none, or one without a name
    offset: int = 0  # from where it was read
    settings: dict[str, str] = {}  # what stood below the flags then: variables, files


class Summary(msgspec.Struct):
    """What the last run of a batch came to."""

    jobs: int
    states: dict[str, int]  # of all its runs
    complete: bool  # every job that will ever come has its outcome: nothing is left to run
    ended_wall_ns: int

    @property
    def succeeded(self) -> bool:
        return self.complete and self.states.get("succeeded", 0) == self.jobs


class KeptBatch(NamedTuple):
    """A private batch that has a state directory."""

    note: Note
    directory: Path
    running: bool  # a generator or its dealer has it
    summary: Summary | None
    used_wall_ns: int
    bytes: int  # on the disk

    @property
    def state(self) -> str:
        """Where it stands, in one word."""
        if self.running:
            return "running"
        if self.summary is None or not self.summary.complete:
            return "interrupted"
        return "succeeded" if self.summary.succeeded else "failed"

    @property
    def expires_wall_ns(self) -> int | None:
        """When it is not kept any longer; None: it stays until it is forgotten."""
        return self.used_wall_ns + self.note.retain_ns if self.state == "succeeded" else None


def read(path: Path, kind: type[_T]) -> _T | None:
    """Return what a file of a state directory says; None: there is none, or it does not say."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def write(path: Path, record: Typed | Summary) -> None:
    """Write a file whole: a kill leaves the old one or the new one. Raises ConfigurationError."""
    new = path.with_name(f"{path.name}.new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(record))
        new.rename(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


def typed_of(batch: str) -> Typed | None:
    """Return what was typed to begin a kept batch; None: it is not known."""
    return read(state_directory(private_pool_name(batch), create=False) / TYPED_NAME, Typed)


def find(batch: str) -> KeptBatch | None:
    """Return a kept batch by its id. Raises ConfigurationError."""
    directory = state_directory(private_pool_name(batch), create=False)
    kept = look_at(directory)
    return kept if kept is not None and kept.note.batch == batch else None


def kept_batches() -> Iterator[KeptBatch]:
    """Yield all of this user's, by the names of their directories."""
    with suppress(OSError):  # there is none
        for path in sorted(pools_directory().iterdir()):
            if (kept := look_at(path)) is not None:
                yield kept


def unknown(batch: str, known: Iterable[str], where: str) -> str:
    """Return the text of the error that there is no such batch, with the ids that come nearest to it."""
    nearest = difflib.get_close_matches(batch, list(known), _NEAREST_MAX, 0.5)
    meant = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    return f"there is no batch {batch!r} {where}{meant}"


def known_ids() -> list[str]:
    """Return the ids of all kept private batches."""
    return [kept.note.batch for kept in kept_batches()]


def with_result() -> list[Path]:
    """Return the directories of batches whose last run has come to its end."""
    try:
        return [path for path in pools_directory().iterdir() if (path / RESULT_NAME).exists()]
    except OSError:
        return []


def look_at(directory: Path) -> KeptBatch | None:
    """Return the private batch that has this state directory; None: it is no private batch's."""
    note = read(directory / PRIVATE_NOTE, Note)
    if note is None:
        return None
    size, used_wall_ns = _measure(directory)
    if note.journal is not None and (journal := Path(note.journal)).parent != directory:
        with suppress(OSError):
            size += journal.stat().st_size
    summary = read(directory / RESULT_NAME, Summary)
    return KeptBatch(note, directory, _in_use(directory), summary, used_wall_ns, size)


def _in_use(directory: Path) -> bool:
    fd = lock_shared(directory / PRIVATE_NOTE)
    if fd is None:
        return True
    os.close(fd)
    return is_held(directory)


def _measure(directory: Path) -> tuple[int, int]:
    """Return the bytes that a directory takes on the disk, and when it was last written to."""
    size = used_wall_ns = 0
    for root, _, file_names in os.walk(directory):
        for name in file_names:
            with suppress(OSError):
                status = os.lstat(os.path.join(root, name))
                size += status.st_blocks * 512  # stat(2): in units of 512 bytes
                # SQLite writes to the -wal file first, and to the journal itself only at a checkpoint.
                if name in (PRIVATE_NOTE, JOURNAL_NAME, RESULT_NAME, f"{JOURNAL_NAME}-wal"):
                    used_wall_ns = max(used_wall_ns, status.st_mtime_ns)
    return size, used_wall_ns
