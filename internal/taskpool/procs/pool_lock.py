"""Lock a pool for one dealer, and count the dealers it has had: the lock file of a pool.

This lock keeps two dealers of one state directory apart. A second one, the notification of the queue `lock`
(ipc.queue.QueueEnd.hold_notification_lock), keeps those apart that share queues but no directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Annotated

import msgspec

from taskpool.clock import MILLISECOND, SECOND, rfc3339
from taskpool.errors import ConfigurationError, PoolInUse
from taskpool.identifiers import Epoch
from taskpool.procs import procfs
from taskpool.procs.files import sync_directory
from taskpool.procs.wait import wait_ready

LOCK_NAME = "pool.lock"
# The content is padded to one disk sector and written in one piece, so that a loss of power leaves the old one or the
# new one, never a mixture, and nothing has to be truncated.
_LOCK_BYTES = 512
_CURES = {
    **dict.fromkeys(
        (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS), "; set XDG_STATE_HOME to a file system with flock(2)"
    ),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ": make room"),
}
_HIDDEN = "; it cannot be seen here: a tp-dealer journal command may have the pool, or a dealer of another container"
_SWEEP_NS_MAX = 5 * SECOND
_SWEEP_LOOK_NS = 5 * MILLISECOND
HELD_LOOK_NS = 20 * MILLISECOND  # how often is looked whether a lock that another process has is free


class Holder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the lock file: the dealer that holds the pool, or held it last."""

    pid: int
    epoch: Annotated[int, msgspec.Meta(ge=1)]
    started: str  # RFC 3339
    boot_id: str  # for a person: the pid means nothing after a reboot
    host: str  # ... nor on another host that shares the directory


def last_holder(directory: Path) -> Holder | None:
    """Return the dealer that holds a pool, or held it last; takes no lock. None: the lock file does not tell."""
    try:
        return msgspec.json.decode((directory / LOCK_NAME).read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


def is_held(directory: Path) -> bool:
    """Say whether a dealer has the pool just now."""
    try:
        fd = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(fd)
    return False


def lock_exclusively(fd: int) -> bool:
    """Take the flock of a file; False: another process has it. A sweep of dead pools is waited for."""
    deadline = time.monotonic_ns() + _SWEEP_NS_MAX
    while time.monotonic_ns() < deadline:
        # A sweep holds it shared, and for milliseconds. Whose exclusive lock refuses a shared one too is in for longer.
        for operation in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            try:
                fcntl.flock(fd, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if operation == fcntl.LOCK_EX:
                return True
            break
        else:
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)
        wait_ready((), (), _SWEEP_LOOK_NS)
    return False


def lock_shared(path: Path) -> int | None:
    """Open a lock file that is there and take its flock for a sweep; return the descriptor, which holds it.

    None: there is no such file of this user, or another process has it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


class PoolLock:
    """The exclusive right to be the pool's dealer, and the count of those that have been: its epoch.

    The right is a flock, which the kernel frees when its holder dies, even by SIGKILL. The file stays: it carries the
    epoch to the next dealer. LIMIT: a child that was made by a plain fork keeps the flock; the dealer only spawns.
    """

    def __init__(self, directory: Path, pool: str) -> None:
        self._directory = directory
        self._path = directory / LOCK_NAME
        self._pool = pool
        self._fd = -1

    def acquire(self, started_wall_ns: int) -> Epoch:
        """Take the lock and start a new epoch, which is on disk when this returns.

        Raises PoolInUse, naming the holder; ConfigurationError when the file is damaged or cannot be used.
        """
        try:
            self._open()
            return self._begin_epoch(started_wall_ns)
        except OSError as error:
            self.close()
            cure = _CURES.get(error.errno or 0, "")
            raise ConfigurationError(f"cannot use the lock file {self._path}: {error.strerror}{cure}") from error
        except (PoolInUse, ConfigurationError):
            self.close()
            raise

    def hold(self) -> bool:
        """Take the lock without a new epoch, to clear away what a dead dealer left.

        False: another process has it, or the file cannot be used.
        """
        try:
            self._open()
        except (OSError, PoolInUse):
            self.close()
            return False
        return True

    def begin_after(self, epoch: int, started_wall_ns: int) -> None:
        """Have the next dealer's epoch be a later one than this. Raises what `acquire` raises."""
        try:
            self._open()
            self._write(Epoch(epoch), started_wall_ns)
        except OSError as error:
            raise ConfigurationError(f"cannot use the lock file {self._path}: {error.strerror}") from error
        finally:
            self.close()

    def close(self) -> None:
        """Free the lock. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        # O_CLOEXEC: a worker that inherited the descriptor would hold the pool after its dealer's death.
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not lock_exclusively(self._fd):
            raise PoolInUse(self._in_use())
        # Between open and flock a generator may have removed the directory of a private pool whose dealer has left:
        # a lock on a file without a name keeps no other dealer out.
        if os.fstat(self._fd).st_nlink == 0:
            raise PoolInUse(f"pool {self._pool} was removed while it was being opened: start again")

    def _in_use(self) -> str:
        try:
            holder = self._read()
        except ConfigurationError:
            holder = None
        if holder is None:  # it has the lock and has not written its epoch yet
            return f"pool {self._pool} is in use by another dealer"
        here = holder.host == os.uname().nodename
        host = "" if here else f" on {holder.host}"
        # What works on the journal takes the lock too, and does not write its name over the last dealer's.
        hidden = "" if not here or os.path.exists(f"/proc/{holder.pid}") else _HIDDEN
        since = f"since {holder.started} (epoch {holder.epoch}){hidden}"
        return f"pool {self._pool} is in use by pid {holder.pid}{host} {since}"

    def _begin_epoch(self, started_wall_ns: int) -> Epoch:
        before = self._read()
        epoch = Epoch(before.epoch + 1 if before else 1)
        self._write(epoch, started_wall_ns)
        if before is None:
            sync_directory(self._directory)  # the name too must survive a loss of power
        return epoch

    def _write(self, epoch: Epoch, started_wall_ns: int) -> None:
        holder = Holder(os.getpid(), epoch, rfc3339(started_wall_ns), procfs.boot_id(), os.uname().nodename)
        os.pwrite(self._fd, msgspec.json.encode(holder).ljust(_LOCK_BYTES - 1) + b"\n", 0)
        # R5 (docs/protocol.md, 11): an epoch that is used and lost in a power cut would be used a second time.
        os.fsync(self._fd)

    def _read(self) -> Holder | None:
        """Return what the file says; None when it is empty: its creator died before it began its epoch."""
        data = os.pread(self._fd, _LOCK_BYTES, 0)
        if not data:
            return None
        try:
            return msgspec.json.decode(data, type=Holder)
        except msgspec.MsgspecError as error:
            # Starting again at epoch 1 would take an earlier epoch's workers and reports for ours.
            raise ConfigurationError(
                f"the lock file {self._path} is damaged ({error}), and with it the pool's epoch is lost: make sure "
                f"that no process with TP_WORKER={self._pool}/... in its environment is left, then remove the file"
            ) from None
