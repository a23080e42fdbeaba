"""`--output-dir`: a folder for each job, `DIR/SEQ` with `stdout`, `stderr` and `outcome.json`.

A job's folder is made under another name and renamed when all is in it: one that is there is whole. A second file says
whose folders they are, so that those of two batches are never mixed.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress

import msgspec
from msgspec import structs

from taskpool.errors import ConfigurationError, UsageError
from taskpool.generator.output.formats import to_json
from taskpool.messages import Outcome, Output

OWNER_NAME = "batch.json"
_OWNER_PART = f".{OWNER_NAME}.part."
STDOUT, STDERR, OUTCOME = "stdout", "stderr", "outcome.json"
_COPY_BYTES = 16 * 1024 * 1024
# Names without a folder: they stay true when the directory is moved.
_COPIED = Output(stdout_file=STDOUT, stderr_file=STDERR)
_CURE = "name another directory, or remove it"
_ELSEWHERE = "name a directory in a place that you can write to"


class _Owner(msgspec.Struct):
    """Whose folders these are."""

    batch: str


class _Written(msgspec.Struct):
    """What is used of an outcome that was written."""

    batch: str
    run: int


class OutputDirectory:
    """The folders of one batch's jobs."""

    def __init__(self, path: str, batch: str, *, append: bool, links: bool) -> None:
        """Look whether the directory can be used; nothing is changed until `begin`. Raises UsageError.

        `append`: an earlier run of the batch may have begun it. `links`: the files of long outputs may become ours, as
        nothing else writes to them or shows them; else they are copied.
        """
        self.path = path
        self._batch = batch
        self._links = links
        try:
            there = os.listdir(path)
        except FileNotFoundError:
            there = []
            _try_to_make(path)
        except OSError as error:
            raise _unusable(path, "cannot be used", error) from error
        else:
            _check_writable(path)
        owner = self._owner() if OWNER_NAME in there else None
        # A person may have files there, and `1` is a name that they may have. What a begin that was killed has left
        # is no one's.
        if owner is None and not all(name.startswith(_OWNER_PART) for name in there):
            raise UsageError(f"--output-dir {path} is not empty, and no batch has begun it: {_CURE}")
        if owner is not None and (owner != batch or not append):
            # Of this very batch, as `results` may find it, or of one of that name before: the name is all there is.
            again = "a batch of this name" if owner == batch else f"batch {owner}"
            raise UsageError(f"--output-dir {path} has the outputs of {again} already: {_CURE}")

    def begin(self) -> None:
        """Make the directory, and say whose it is. Raises ConfigurationError."""
        try:
            os.makedirs(self.path, exist_ok=True)
            if self._owner() is None:
                part = os.path.join(self.path, f"{_OWNER_PART}{os.getpid()}")
                _write(part, msgspec.json.encode(_Owner(self._batch)) + b"\n")
                _name_first(part, os.path.join(self.path, OWNER_NAME))
        except OSError as error:
            raise ConfigurationError(f"cannot write {self.path}: {error.strerror}") from error
        if (owner := self._owner()) != self._batch:
            raise ConfigurationError(f"--output-dir {self.path} has the outputs of batch {owner}: {_CURE}")

    def write(self, outcome: Outcome) -> None:
        """Write a job's folder, unless it is there already: outcomes may come again.

        Raises OSError, and ConfigurationError for a folder that is not of this batch.
        """
        folder = os.path.join(self.path, str(outcome.seq))
        written = self._written(folder)
        if written is not None and written.run >= outcome.run:
            return
        part = os.path.join(self.path, f".{outcome.seq}.part")
        with suppress(FileNotFoundError):
            shutil.rmtree(part)  # of a run that was killed
        os.mkdir(part)
        # Before the outputs: `_put` gives a file that is linked this one's mode.
        _write(os.path.join(part, OUTCOME), to_json(self._batch, structs.replace(outcome, output=_COPIED)))
        output = outcome.output
        self._put(os.path.join(part, STDOUT), output.stdout, output.stdout_file)
        self._put(os.path.join(part, STDERR), output.stderr, output.stderr_file)
        if written is not None:
            shutil.rmtree(folder)  # of the run before; killed here, this program is told the outcome again
        os.rename(part, folder)

    def _put(self, path: str, text: str | None, source: str | None) -> None:
        if source is None:
            _write(path, (text or "").encode())
            return
        if self._links:
            with suppress(OSError):  # another file system, or one without links
                os.link(source, path, follow_symlinks=False)
                # Kept outputs are ours alone; in a folder, a file is for those for whom its neighbours are.
                os.chmod(path, os.stat(os.path.join(os.path.dirname(path), OUTCOME)).st_mode & 0o777)
                return
        try:
            _copy(source, path)
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"a job's output lies in {source}, which cannot be read here: {error.strerror}; when the dealer runs "
                "in another container, share its state directory"
            ) from error

    def _owner(self) -> str | None:
        """Return whose folders these are; None: no one's. Raises UsageError."""
        path = os.path.join(self.path, OWNER_NAME)
        try:
            with open(path, "rb") as file:
                return msgspec.json.decode(file.read(), type=_Owner).batch
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(f"--output-dir: {path} does not say whose outputs these are ({error}): {_CURE}") from None

    def _written(self, folder: str) -> _Written | None:
        """Return what a job's folder holds; None: there is none. Raises ConfigurationError."""
        try:
            with open(os.path.join(folder, OUTCOME), "rb") as file:
                written = msgspec.json.decode(file.read(), type=_Written)
        except (FileNotFoundError, NotADirectoryError):
            # lexists: a link that leads nowhere is in the way of a folder too, for rename(2) replaces no link by one.
            if not os.path.lexists(folder):
                return None
            written = None
        except msgspec.MsgspecError:
            written = None
        if written is None or written.batch != self._batch:
            raise ConfigurationError(f"--output-dir: {folder} was not written for batch {self._batch}: remove it")
        return written


def _name_first(part: str, path: str) -> None:
    """Give the file its name, unless another one has it: two batches may begin in the same moment."""
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links: the later one would win, and the first is told by its next look
        os.rename(part, path)
        return
    os.unlink(part)


def _try_to_make(path: str) -> None:
    """Make a directory that does not exist, and those above it, and remove them again. Raises UsageError.

    Only the attempt tells: a file system may be read-only or full, a name too long, and root may write everywhere else.
    """
    missing, made = [path], list[str]()
    while (above := os.path.dirname(missing[-1])) and not os.path.lexists(above):
        missing.append(above)
    try:
        while missing:
            os.mkdir(missing[-1])
            made.append(missing.pop())
    except FileExistsError as error:
        if not os.path.isdir(missing[-1]):  # else another program has just made it
            raise _unusable(path, "cannot be made", error) from error
    except OSError as error:
        raise _unusable(path, "cannot be made", error) from error
    finally:
        for place in reversed(made):
            with suppress(OSError):  # another program has put something there: it stays
                os.rmdir(place)


def _check_writable(path: str) -> None:
    """Raises UsageError when no folder can be made in a directory."""
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise UsageError(f"--output-dir {path}: it cannot be written by uid {os.geteuid()}: {_ELSEWHERE}")


def _unusable(path: str, what: str, error: OSError) -> UsageError:
    return UsageError(f"--output-dir {path} {what}: {error.strerror}: {_ELSEWHERE}")


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _copy(source: str, path: str) -> None:
    """Copy a file within the kernel: it shares the blocks where the file system can, and never fills our memory."""
    # The path comes from a message: a link or a FIFO in its place must neither be followed nor waited for.
    source_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        with open(path, "wb", buffering=0) as file:
            while _copy_some(source_fd, file.fileno()):
                pass
    finally:
        os.close(source_fd)


def _copy_some(source_fd: int, fd: int) -> int:
    try:
        return os.copy_file_range(source_fd, fd, _COPY_BYTES)
    except OSError as error:
        # Between file systems, or one that cannot (copy_file_range(2)).
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM):
            raise
        return os.sendfile(fd, source_fd, None, _COPY_BYTES)  # None: from where it stands
