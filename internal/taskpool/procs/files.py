"""Files without a name, and names that survive a loss of power."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from taskpool.errors import is_lacking

_T = TypeVar("_T")

# The capture files of standard output and error. O_APPEND: several processes write to one file, and a job that opens
# /dev/stderr anew still writes behind what is there.
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC

# How file systems say that they have no O_TMPFILE (open(2)): NFS and old overlay file systems, kernels before 3.11.
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)


def open_unnamed(directory: str) -> int:
    """Open a new file for reading and appending that has no name and goes with its last descriptor.

    The file lies on the file system of `directory`, which is made anew where it is missing. Raises OSError.
    """
    try:
        return in_directory(directory, lambda: os.open(directory, _FLAGS | os.O_TMPFILE, 0o600))
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
    # LIMIT: such a file keeps its name for an instant, in which a kill leaves it behind; and it can get no other name
    # later, as linkat(2) gives one made by O_TMPFILE.
    path = os.path.join(directory, f"unnamed-{os.getpid()}-{os.urandom(8).hex()}")
    fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    os.unlink(path)
    return fd


def in_directory(directory: str | os.PathLike[str], act: Callable[[], _T]) -> _T:
    """Do what needs the directory, which is made anew if it was removed meanwhile, but not what it lies in.

    Raises OSError. What can go on without its files must not be stopped by a directory that was tidied up.
    """
    try:
        return act()
    except FileNotFoundError:
        with suppress(FileExistsError):  # made by another process meanwhile, or a link to a disk that is not there
            os.mkdir(directory, 0o700)
        return act()


def open_unnamed_somewhere(directory: str) -> int:
    """Open a file as `open_unnamed` does, in memory where `directory` has no room or cannot be used.

    For what has to be had even with a full disk, and stays small. Raises OSError when there is no descriptor left.
    """
    try:
        return open_unnamed(directory)
    except OSError as refused:
        try:
            fd = os.memfd_create("taskpool", os.MFD_CLOEXEC)
        except OSError as error:
            # Where there are none in memory, what is wrong with the directory is what a person can mend.
            raise (refused if is_lacking(error) else error) from None
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # memfd_create(2) takes no O_APPEND
        return fd


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Make the names in a directory survive a loss of power; fsync of a file does not include its name (fsync(2))."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
