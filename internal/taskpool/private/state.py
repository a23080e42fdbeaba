"""The state directory of a private pool: which batch it belongs to, and how long it stays.

The directory is named after the pool, and the pool after its batch. A note in it names the batch, so that neither the
state of a named pool nor that of another batch is ever taken for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from taskpool import limits
from taskpool.clock import SECOND, SystemClock
from taskpool.errors import ConfigurationError, PoolInUse, TaskpoolError, UsageError
from taskpool.kinds.base import OWN_VARIABLES
from taskpool.kinds.capture import epoch_of
from taskpool.private import notes
from taskpool.private.notes import Note, Summary, Typed, private_pool_name
from taskpool.procs.pool_lock import HELD_LOOK_NS, PoolLock, last_holder, lock_exclusively
from taskpool.procs.spawn import scrubbed
from taskpool.procs.state_dir import (
    JOURNAL_NAME,
    OUTPUT_NAME,
    PRIVATE_NOTE,
    RESULT_NAME,
    TYPED_NAME,
    remove_all_but,
    state_directory,
)
from taskpool.procs.wait import wait_ready

NOTE_NAME = PRIVATE_NOTE
_STATE_NAMES = ("pool.lock", JOURNAL_NAME)  # what a pool without our note is known by
_KILLED_NS_MAX = 2 * SECOND  # how long a generator that was killed takes to be gone, on a machine under load
# Variables that belong to the session of a person or service, or say where state is: as at(1) leaves them out. All
# others are as they were when the batch was begun.
_OF_THE_SESSION = frozenset(
    {"DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "GPG_AGENT_INFO", "HOME", "INVOCATION_ID", "JOURNAL_STREAM", "KRB5CCNAME"}
    | {"NOTIFY_SOCKET", "SHLVL", "SSH_AGENT_PID", "SSH_AUTH_SOCK", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY"}
    | {"STATE_DIRECTORY", "TERM", "TMPDIR", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "XDG_SESSION_ID"}
    | {"XDG_STATE_HOME", "_"}
)


def enter_directory(batch: str) -> str | None:
    """Go to where a kept batch was begun, from where its relative paths count.

    Returns why that cannot be done; None when it is done, or when nothing is kept of the batch.
    """
    note = notes.read(state_directory(private_pool_name(batch), create=False) / NOTE_NAME, Note)
    # None: `PrivateState` says what is wrong, if anything is.
    if note is not None and note.batch == batch and note.directory is not None:
        try:
            os.chdir(note.directory)
        except OSError as error:
            return f"{os.fsdecode(note.directory)}: {error.strerror}"
    return None


def unknown_batch(batch: str) -> str:
    """Return the text of the error that there is no such batch to go on with."""
    text = notes.unknown(batch, notes.known_ids(), "to resume")
    return f"--resume: {text}; --resume=or-begin begins it"


def _in_use(batch: str, directory: Path) -> str:
    holder = last_holder(directory)
    dealer = f", whose dealer is PID {holder.pid}" if holder is not None else ""
    return f"batch {batch!r} is in use by another tp-generator{dealer}: wait for its end, or stop it"


def _here() -> bytes | None:
    try:
        return os.getcwdb()
    except OSError:
        return None


def _kept_variables() -> dict[str, str]:
    variables = scrubbed(os.environ).items()
    # A batch that is gone on with inside a job carries the mark of that job.
    return {name: value for name, value in variables if name not in _OF_THE_SESSION and name not in OWN_VARIABLES}


class Beginning(NamedTuple):
    """How a run comes to its batch."""

    typed: Typed | None = None  # the command; None: it was not typed again
    named: bool = False  # by a person
    retain_ns: int = limits.RETAIN_NS
    must_exist: bool = False  # a batch that is to be resumed


class PrivateState:
    """The state directory of one private pool."""

    def __init__(
        self,
        batch: str,
        journal: str | None,
        *,
        resume: bool,
        names_files: bool = True,
        beginning: Beginning = Beginning(),  # noqa: B008 - a tuple
    ) -> None:
        """Take the directory for the batch. `journal`: a path, "none", or None for one in the directory itself.
        `names_files`: this run writes outcome objects, which name files of outputs.

        Raises UsageError when another batch or a named pool has the directory, or the batch is kept and not to be
        resumed; PoolInUse when another generator has it; ConfigurationError when it cannot be used.
        """
        self.batch = batch
        self.pool = private_pool_name(batch)
        self.directory = state_directory(self.pool)
        self._path = self.directory / NOTE_NAME
        self._alone = True  # no other generator has the batch
        self._note_fd = -1  # locked for as long as this generator lives: its pool is not swept as a dead one
        self.journal = self._journal_path(journal)
        self._variables: list[bytes] | None = None
        self.resumed = False  # an earlier run has left its state
        self._beginning = beginning
        try:
            self._take(names_files=names_files, resume=resume)
            self._keep_typed(beginning.typed)
        except TaskpoolError:
            self.close()
            raise

    def _take(self, *, names_files: bool, resume: bool) -> None:
        note = self._read()
        self.resumed = note is not None
        if note is None:
            self._refuse_a_named_pool()
            if resume:
                self._refuse_unknown()
            self._begin(names_files)
            return
        self._variables = note.environment
        if note.batch != self.batch:
            raise UsageError(f"{self.directory} keeps the state of batch {note.batch!r}: choose another --batch")
        if not resume:
            raise UsageError(
                f"batch {self.batch!r} exists already, kept in {self.directory}: add --resume to go on with it, choose "
                f"another --batch, or forget it with `tp-generator forget {self.batch}`"
            )
        # With another journal the batch would begin anew beside the one that is kept.
        if note.journal != (None if self.journal is None else str(self.journal)):
            raise UsageError(
                f"--resume: batch {self.batch!r} was begun with the journal {note.journal or 'none'}: give that one"
            )
        if not self._alone:
            raise PoolInUse(_in_use(self.batch, self.directory))
        self._note = note
        if names_files and not note.names_files:
            self._note = msgspec.structs.replace(note, names_files=True)
            self._rewrite()

    @property
    def names_files(self) -> bool:
        """Whether outcome objects of this run, or of one that it resumes, name files of outputs."""
        return self._note.names_files

    def environment(self) -> dict[str, str]:
        """Return the environment for the jobs: where the batch is gone on with, that in which it was begun."""
        now = scrubbed(os.environ)
        if self._variables is None:
            return now
        kept = _kept_variables()
        then = dict(os.fsdecode(variable).split("=", 1) for variable in self._variables if b"=" in variable)
        return then | {name: value for name, value in now.items() if name not in kept}

    def close(self) -> None:
        """Let go of the directory. May be called twice."""
        if self._note_fd >= 0:
            os.close(self._note_fd)
            self._note_fd = -1

    @property
    def gives_outputs_away(self) -> bool:
        """Whether no file of jobs' output is shown or read any more once it is printed."""
        return self._own_journal and not self.names_files

    def empty(self, printed: Iterable[Path]) -> None:
        """Free the disk of files of jobs' output that were printed, unless something that stays names them.

        Their names stay: whether the dealer has stored the acknowledgement is not known here, so after a kill an
        outcome may come again, and what is printed of it then is what its file holds: nothing.
        """
        if not self.gives_outputs_away:
            return
        for path in printed:
            if path.parent != self.directory / OUTPUT_NAME / self.batch:  # it comes from a message
                continue
            with suppress(OSError):  # then it goes with the directory
                _empty(path)

    @property
    def _own_journal(self) -> bool:
        """Whether the journal goes with the directory. One that the user named lies elsewhere, and stays: other batches
        may be in it, and it names outputs."""
        return self.journal is None or self.journal.parent == self.directory

    def remove(self, keep: Set[Path]) -> int:
        """Remove the directory, except for some files of jobs' output; return how many those are.

        Outputs of earlier batches with this name stay too: what was written of them names these files.
        """
        keep = {path for path in keep if path.exists() and path.stat().st_size}  # not those that `empty` has emptied

        def stays(path: Path) -> bool:
            if path in keep:
                return True
            epoch = epoch_of(path.name) if path.parent.parent == self.directory / OUTPUT_NAME else 0
            return epoch > 0 and (epoch <= self._note.after_epoch or not self._own_journal)

        remove_all_but(self.directory / OUTPUT_NAME, stays)  # by itself: it may be a link to a larger disk
        remove_all_but(self.directory, stays)
        return sum(path.exists() for path in keep)

    def _refuse_unknown(self) -> None:
        """Raise UsageError when there is nothing to resume. A journal that a person has named may have the batch."""
        in_journal = self.journal is not None and not self._own_journal and self.journal.exists()
        if self._beginning.must_exist and not in_journal:
            with suppress(OSError):  # not empty: earlier batches have left outputs
                self.directory.rmdir()
            raise UsageError(unknown_batch(self.batch))

    def _keep_typed(self, typed: Typed | None) -> None:
        """Note what was typed. Of a batch that goes on with other options, the latest."""
        if typed is not None and self.journal is not None:
            notes.write(self.directory / TYPED_NAME, typed)

    def begin_run(self) -> None:
        """Forget what the last run came to: this one is under way."""
        with suppress(OSError):
            (self.directory / RESULT_NAME).unlink()

    def conclude(self, summary: Summary) -> None:
        """Note what this run came to. Raises ConfigurationError."""
        notes.write(self.directory / RESULT_NAME, summary)

    @property
    def named(self) -> bool:
        """Whether a person has named the batch, which then stays for a while when all has succeeded."""
        return self._note.named

    def _begin(self, names_files: bool) -> None:
        """Note that the batch begins, beside the outputs that earlier ones of its name have left."""
        outputs = (name for _, _, names in os.walk(self.directory / OUTPUT_NAME) for name in names)
        after_epoch = max(map(epoch_of, outputs), default=0)
        journal = None if self.journal is None else str(self.journal)
        variables = [os.fsencode(f"{name}={value}") for name, value in _kept_variables().items()]
        begun = self._beginning
        self._note = Note(
            self.batch, journal, _here(), variables, after_epoch, names_files, begun.named, begun.retain_ns
        )
        self._write()
        if after_epoch:  # the lock file that counts epochs is gone, and epochs tell outputs apart
            try:
                PoolLock(self.directory, self.pool).begin_after(after_epoch, SystemClock().now().wall)
            except TaskpoolError:
                self._path.unlink()
                raise

    def _journal_path(self, journal: str | None) -> Path | None:
        if journal == "none":
            return None
        if journal is None:
            return self.directory / JOURNAL_NAME
        try:
            return Path(journal).absolute()
        except FileNotFoundError:
            raise UsageError(
                f"--journal {journal}: the current directory is gone: cd elsewhere, or give an absolute path"
            ) from None

    def _refuse_a_named_pool(self) -> None:
        if any((self.directory / name).exists() for name in _STATE_NAMES):
            raise UsageError(
                f"--batch {self.batch}: {self.directory} holds the state of a pool of that name: choose another "
                f"--batch, or submit to that pool with --pool {self.pool}"
            )

    def _read(self) -> Note | None:
        try:
            data = self._open_note()
            return None if data is None else msgspec.json.decode(data, type=Note)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigurationError(f"cannot read {self._path}: {error}; remove it if it is no use") from error

    def _open_note(self) -> bytes | None:
        """Lock and read the note; None: there is none."""
        while self._note_fd < 0:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            self._lock(fd)
            if os.fstat(fd).st_nlink:
                self._note_fd = fd
            else:
                os.close(fd)
                state_directory(self.pool)  # a sweep of dead pools has just removed it
        return os.pread(self._note_fd, os.fstat(self._note_fd).st_size, 0)

    def _lock(self, fd: int) -> None:
        deadline = time.monotonic_ns() + _KILLED_NS_MAX
        with suppress(OSError):  # the file system has no locks: the dealer, which cannot do without, says so
            while not (alone := lock_exclusively(fd)) and time.monotonic_ns() < deadline:
                wait_ready((), (), HELD_LOOK_NS)
            self._alone = alone

    def _rewrite(self) -> None:
        # In place, for the lock is on this file; and padded, so that a kill amid it leaves the one or the other.
        size = os.fstat(self._note_fd).st_size
        os.pwrite(self._note_fd, msgspec.json.encode(self._note).ljust(size), 0)

    def _write(self) -> None:
        try:
            # O_EXCL: of two generators that begin the same batch at once, one is refused.
            self._note_fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._lock(self._note_fd)
            with open(self._note_fd, "wb", closefd=False) as file:
                file.write(msgspec.json.encode(self._note))
        except FileExistsError:
            raise UsageError(f"batch {self.batch!r} is just being started by another tp-generator") from None
        except OSError as error:
            raise ConfigurationError(f"cannot write {self._path}: {error.strerror}") from error


def _empty(path: Path) -> None:
    """Truncate a file; one that has another name too stays under that as it is. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_nlink > 1:
            path.unlink()
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        else:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)
