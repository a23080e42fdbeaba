"""Disk space held back, so that what must be stored can still be stored when the disk is full."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from taskpool.journal.trouble import FULL

BALLAST_BYTES = 8 * 1024 * 1024
_PROBE_BYTES = 64 * 1024
_ROOM_FACTOR = 2  # taken again only when the disk has this many times its size left


class Ballast:
    """A file beside the journal that is nothing but its blocks."""

    def __init__(self, path: Path, size: int = BALLAST_BYTES) -> None:
        self._path = path
        self._size = size
        self.held = False
        self.reason = ""  # why it could not be taken, if it is not just that the disk is full

    def take(self) -> bool:
        """Whether the space is held. False: the disk has not that much left."""
        try:
            # O_NOFOLLOW: in a directory that others may write to, a link must not lead this to another file.
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            self._say(error)
            return False
        try:
            # Real blocks: a file that is only made long (ftruncate) holds no space.
            os.posix_fallocate(fd, 0, self._size)
            self.held = True
        except OSError as error:  # half a ballast would only take what the journal needs
            self._say(error)
            with suppress(OSError):
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)
        return self.held

    @property
    def need(self) -> int:
        """How many bytes must be free for the pool to go on."""
        return self._size * _ROOM_FACTOR

    def _say(self, error: OSError) -> None:
        hint = ", see ulimit -f" if error.errno == errno.EFBIG else ""
        self.reason = "" if error.errno == errno.ENOSPC else f" ({error.strerror}{hint})"

    def release(self) -> bool:
        """Gives the space to the journal, also that of an earlier life. Whether there was any to give."""
        self.held = False
        try:
            size = self._path.stat().st_size
            os.truncate(self._path, 0)
        except OSError:
            return False
        return size > 0

    def is_refused(self) -> bool:
        """Whether the disk is full, or a quota, which SQLite does not tell from other errors."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            return error.errno in FULL
        size = os.fstat(fd).st_size
        try:
            os.posix_fallocate(fd, size, _PROBE_BYTES)
            os.ftruncate(fd, size)
        except OSError as error:
            return error.errno in FULL
        finally:
            os.close(fd)
        return False

    def remove(self) -> None:
        """Remove the ballast: a pool that is not running needs none."""
        self.held = False
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def retake(self) -> bool:
        """Whether it is held, again, now that there is room."""
        if self.held:
            return True
        # Taken again at just its size it would fill the disk at once, and be given back with the next commit.
        try:
            room = os.statvfs(self._path.parent)
        except OSError:
            return False
        return room.f_bavail * room.f_frsize >= self.need and self.take()
