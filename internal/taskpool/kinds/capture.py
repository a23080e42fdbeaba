"""What a job prints goes to files without a name, never through a pipe.

Nothing has to read while the job runs, no job waits for a reader, and a grandchild that keeps its end open delays no
report. A file without a name is gone with the last process that holds it, so that a crash leaves nothing behind.
"""

from __future__ import annotations

import os
from types import TracebackType

from taskpool import limits
from taskpool.kinds.base import Context
from taskpool.messages import Output
from taskpool.procs.files import open_unnamed, sync_directory

_COPY_BYTES = 16 * 1024 * 1024


class CaptureFile:
    """A file without a name in `directory`, open for as long as the `with` block. Raises OSError."""

    def __init__(self, directory: str) -> None:
        self.fd = open_unnamed(directory)

    def __enter__(self) -> CaptureFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self.fd)


def collect(context: Context, stdout_fd: int, stderr_fd: int, *, reused: bool = False) -> Output:
    """Take what was captured: the text when it is short and UTF-8, else the path of a file that keeps it.

    All processes that write to the files must have ended. A file that is kept may be the captured one itself, under
    its new name; `reused` says that the captured ones will be written to again, so that a copy is kept.
    Raises OSError when the output cannot be kept.
    """
    stdout, stdout_file = _one(context, stdout_fd, "out", reused)
    stderr, stderr_file = _one(context, stderr_fd, "err", reused)
    return Output(stdout, stderr, stdout_file, stderr_file)


def lost(error: Exception) -> Output:
    """Make the output of a job whose own cannot be kept: a full disk does not change how the job ended."""
    text = f"[taskpool] what the job printed is lost: {error}\n"
    return Output(stderr=text.encode("utf-8", "backslashreplace").decode())  # a path may hold bytes that are no UTF-8


def _one(context: Context, fd: int, suffix: str, reused: bool) -> tuple[str | None, str | None]:
    size = os.fstat(fd).st_size
    if size <= limits.INLINE_OUTPUT_BYTES_MAX:
        try:
            return os.pread(fd, size, 0).decode(), None
        except UnicodeDecodeError:
            pass  # not text: kept byte for byte
    return None, _keep(context, fd, suffix, reused)


def _keep(context: Context, fd: int, suffix: str, reused: bool) -> str:
    """Give the output a name beside the spool that survives the loss of power."""
    # Not in the spool, whose files are transfers that end with their messages: this one is an outcome's, and stays
    # until retention takes the outcome. The token is in the name because a lost attempt may have kept its own.
    outputs = os.path.join(os.path.dirname(os.path.abspath(context.spool)), "output")
    directory = os.path.join(outputs, context.batch)
    for path in (outputs, directory):
        _make_directory(path)
    name = f"{context.seq}.{context.token.epoch}-{context.token.n}.{suffix}"
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if reused or not _link(fd, name, directory_fd):
            _copy(fd, name, directory_fd)
        # File first, then its name: the journal must not tell of a file that a loss of power has taken.
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
    return os.path.join(directory, name)


def _link(fd: int, name: str, directory_fd: int) -> bool:
    os.fsync(fd)
    try:
        # With dst_dir_fd, os.link follows the symbolic link in /proc: how linkat(2) names a file made by O_TMPFILE.
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory_fd)
    except FileNotFoundError:  # made without O_TMPFILE, see procs.files.open_unnamed: it can get no name any more
        return False
    return True


def _copy(fd: int, name: str, directory_fd: int) -> None:
    # O_EXCL: no other attempt has this name, so a file that is there is not ours to write to.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    copy_fd = os.open(name, flags, 0o600, dir_fd=directory_fd)
    try:
        offset = 0
        while count := os.sendfile(copy_fd, fd, offset, _COPY_BYTES):
            offset += count
        os.fsync(copy_fd)
    finally:
        os.close(copy_fd)


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    sync_directory(os.path.dirname(path))
