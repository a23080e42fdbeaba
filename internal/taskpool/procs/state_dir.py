"""Where a pool keeps its state, and the lock that makes it one dealer's."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from taskpool.clock import rfc3339
from taskpool.errors import ConfigurationError, PoolInUse
from taskpool.ids import Epoch

LOCK_NAME = "pool.lock"
# The content is padded to one disk sector and written in one piece, so that a power cut leaves the old one
# or the new one, never a mixture, and nothing has to be truncated.
_LOCK_BYTES = 512


def state_directory(pool: str, env: Mapping[str, str] = os.environ, *, create: bool = True) -> Path:
    """The pool's own directory, mode 0700; with `create`, made if need be.

    Below $STATE_DIRECTORY (set by systemd), else $XDG_STATE_HOME/taskpool, else ~/.local/state/taskpool.
    Raises ConfigurationError when it cannot be had, or is somebody else's.
    """
    directory = _base(env) / pool
    variable = "STATE_DIRECTORY" if env.get("STATE_DIRECTORY") else "XDG_STATE_HOME"  # what would help
    if not is_text(str(directory)):
        raise ConfigurationError(f"the state directory {str(directory)!r} is not UTF-8: set {variable} to another")
    try:
        if create:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not directory.exists():
            return directory
        owner = directory.stat().st_uid
        if owner != os.geteuid():
            raise ConfigurationError(
                f"the state directory {directory} belongs to uid {owner}, and this is uid {os.geteuid()}: "
                f"use another --pool, or set {variable}"
            )
        directory.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"cannot use the state directory {directory}: {error.strerror}; set {variable} to a directory "
            "that can be written"
        ) from error
    return directory


def _base(env: Mapping[str, str]) -> Path:
    if service := env.get("STATE_DIRECTORY"):
        return Path(service.partition(":")[0])  # systemd joins several with colons
    # Relative paths are to be ignored, says the XDG Base Directory Specification.
    for home in env.get("XDG_STATE_HOME", ""), os.path.expanduser("~/.local/state"):
        if os.path.isabs(home):
            return Path(home, "taskpool")
    raise ConfigurationError(f"uid {os.geteuid()} has no home directory for the pool's state: set XDG_STATE_HOME")


def is_text(path: str) -> bool:
    """Whether messages and notes can carry it: bytes of a path that are no UTF-8 come as surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def identity(directory: Path) -> str:
    """Tells a state directory from any other of this machine, by whatever path or mount it is reached."""
    found = directory.stat()
    return f"{found.st_dev:x}-{found.st_ino:x}"


class Holder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the lock file says of the dealer that holds the pool, or held it last."""

    pid: int
    epoch: Annotated[int, msgspec.Meta(ge=1)]
    started: str  # RFC 3339
    boot_id: str
    host: str


def last_holder(directory: Path) -> Holder | None:
    """Who holds a pool, or held it last, as far as its lock file says; takes no lock. None: nobody knows."""
    try:
        return msgspec.json.decode((directory / LOCK_NAME).read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


class PoolLock:
    """The right to be the pool's dealer, and the count of those that have been: its epoch.

    The right is a flock, which the kernel takes back when its holder dies, however it dies. The file stays:
    it carries the epoch to the next life.
    """

    def __init__(self, directory: Path, pool: str) -> None:
        self._directory = directory
        self._path = directory / LOCK_NAME
        self._pool = pool
        self._fd = -1

    def acquire(self, started_wall_ns: int) -> Epoch:
        """Takes the lock and starts a new epoch, which is on disk when this returns.

        Raises PoolInUse, saying by whom; ConfigurationError when the file is damaged or cannot be used.
        """
        try:
            self._open()
            return self._begin_epoch(started_wall_ns)
        except OSError as error:
            self.close()
            raise ConfigurationError(f"cannot use the lock file {self._path}: {error.strerror}") from error
        except (PoolInUse, ConfigurationError):
            self.close()
            raise

    def hold(self) -> bool:
        """Takes the lock without an epoch, to clear away what a dead dealer left; False: somebody else has it, or
        it cannot be had."""
        try:
            self._open()
        except (OSError, PoolInUse):
            self.close()
            return False
        return True

    def close(self) -> None:
        """Gives the pool up. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PoolInUse(self._in_use()) from None
        if os.fstat(self._fd).st_nlink == 0:
            raise PoolInUse(f"pool {self._pool} was removed while it was being opened: start again")

    def _in_use(self) -> str:
        try:
            holder = self._read()
        except ConfigurationError:
            holder = None
        if holder is None:  # its first words are not written yet
            return f"pool {self._pool} is in use by another dealer"
        host = "" if holder.host == os.uname().nodename else f" on {holder.host}"
        return f"pool {self._pool} is in use by pid {holder.pid}{host} since {holder.started} (epoch {holder.epoch})"

    def _begin_epoch(self, started_wall_ns: int) -> Epoch:
        before = self._read()
        epoch = Epoch(before.epoch + 1 if before else 1)
        holder = Holder(os.getpid(), epoch, rfc3339(started_wall_ns), _boot_id(), os.uname().nodename)
        os.pwrite(self._fd, msgspec.json.encode(holder).ljust(_LOCK_BYTES - 1) + b"\n", 0)
        os.fsync(self._fd)
        if before is None:
            _sync_directory(self._directory)  # the name too must survive a power cut
        return epoch

    def _read(self) -> Holder | None:
        """None for an empty file: its creator died before it began its epoch."""
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


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
