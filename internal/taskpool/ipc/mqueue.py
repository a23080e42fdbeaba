"""Use the kernel's message queues. The only module that imports posix_ipc: its errors are translated here.

Three properties of posix_ipc shape this file (1.3.2, read in its source and measured):
its limit errors carry no errno and one text stands for two limits; dropping an object does not close its
descriptor; and an exception raised by a signal handler during a wait is lost, so handlers only note the signal.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import struct

import posix_ipc

from taskpool.errors import (
    ConfigurationError,
    MessageTooLong,
    QueueEmpty,
    QueueError,
    QueueExists,
    QueueForeign,
    QueueFull,
    QueueGone,
    QueueInterrupted,
    QueueLimit,
    QueueMissing,
    QueueRoomTaken,
    call_refused,
    is_lacking,
)
from taskpool.ipc.sizing import KernelLimits, Shape, byte_limit_cure, sysctl_cure

_SYSCTLS = "/proc/sys/fs/mqueue"
_MODE = 0o600  # who may write to a queue may have the pool's user run any program
_UNLIMITED = 2**63 - 1
_FLOCK = struct.Struct("hhqqi")  # struct flock, see fcntl(2): type, whence, start, length, pid
_WHOLE_QUEUE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
# The texts of posix_ipc's errors that come without an errno.
_ERRNO_OF_TEXT = {
    "Insufficient space for a new queue": errno.ENOSPC,
    "This process already has the maximum number of files open": errno.EMFILE,
    "The system limit on the total number of open files has been reached": errno.ENFILE,
}


def kernel_limits() -> KernelLimits:
    """Read the limits on queues here and now. Raises ConfigurationError where the kernel has no queues."""
    # Read each time: the sysctls are this IPC namespace's (mq_overview(7)) and may be raised while a pool runs.
    return KernelLimits(
        msg_max=_sysctl("msg_max"),
        msgsize_max=_sysctl("msgsize_max"),
        queues_max=_sysctl("queues_max"),
        bytes_max=_bytes_max(),
    )


# R10 (docs/protocol.md, 11): no other place in the package opens queues.
class KernelNamespace:
    """The queues of this process's IPC namespace; see `queue.QueueNamespace`."""

    def create(self, name: str, shape: Shape) -> KernelQueueEnd:
        try:
            # O_CREX, never O_CREAT alone: a queue that is there would be opened silently, with the owner and the shape
            # that it has, which may be another user's trap (measured).
            handle = posix_ipc.MessageQueue(
                name,
                posix_ipc.O_CREX | posix_ipc.O_NONBLOCK,
                mode=_MODE,
                max_messages=shape.maxmsg,
                max_message_size=shape.msgsize,
            )
        except posix_ipc.ExistentialError:
            raise QueueExists(f"a queue {name} is there already") from None
        except (ValueError, OSError, MemoryError, posix_ipc.PermissionsError) as error:
            raise _not_created(name, shape, error) from error
        queue = KernelQueueEnd(name, handle)  # from here on it has to be closed: posix_ipc does not
        try:
            os.fchmod(handle.mqd, _MODE)  # the umask has taken bits from the mode (mq_open(3))
        except OSError as error:
            queue.unlink()
            queue.close()
            raise QueueError(f"queue {name}: its mode cannot be set: {error}") from error
        return queue

    def open(self, name: str, *, send: bool, receive: bool) -> KernelQueueEnd:
        queue = _open_own(name, send=send, receive=receive)
        if not _is_private(queue):
            queue.close()
            raise QueueForeign(
                f"queue {name} is open to other users, a queue of a pool has mode 0600: "
                "restart the pool's dealer, which makes it anew"
            )
        return queue

    def reopen_or_create(self, name: str, shape: Shape) -> tuple[KernelQueueEnd, bool]:
        # Created first, opened second: the other order would leave a gap in which the name can be taken.
        try:
            return self.create(name, shape), False
        except QueueExists:
            found = _open_own(name, send=True, receive=True)
        if _is_private(found) and (found.maxmsg, found.msgsize) == shape:
            return found, True
        # Another shape comes from another version or other limits, another mode from a foreign program that may have
        # put messages into it.
        found.close()
        self.unlink(name)
        return self.create(name, shape), False

    def unlink(self, name: str) -> None:
        try:
            posix_ipc.unlink_message_queue(name)
        except posix_ipc.ExistentialError:
            pass
        except posix_ipc.PermissionsError:
            raise QueueForeign(f"queue {name} belongs to another user: only he or root can remove it") from None


class KernelQueueEnd:
    """One descriptor of a kernel queue; see `queue.QueueEnd`.

    The descriptor is O_NONBLOCK, so that nothing the dealer does can wait. The first `*_blocking` call turns
    that off for this descriptor alone; `send` and `receive` then use a time-out of zero, to the same effect.
    No other time-out is used: mq_timedsend(3) counts on the wall clock, which may jump.
    """

    def __init__(self, name: str, queue: posix_ipc.MessageQueue) -> None:
        self.name = name
        self.maxmsg: int = queue.max_messages
        self.msgsize: int = queue.max_message_size
        self._queue = queue
        self._no_wait: int | None = None  # the time-out with which a call returns at once; None while O_NONBLOCK is set

    def send(self, data: bytes) -> None:
        self._send(data, self._no_wait)

    def send_blocking(self, data: bytes) -> None:
        self._allow_blocking()
        self._send(data, None)

    def receive(self) -> bytes:
        return self._receive(self._no_wait)

    def receive_blocking(self) -> bytes:
        self._allow_blocking()
        return self._receive(None)

    def fileno(self) -> int:
        return self._queue.mqd  # type: ignore[no-any-return]

    def depth(self) -> int:
        try:
            return self._queue.current_messages  # type: ignore[no-any-return]
        except posix_ipc.ExistentialError as error:
            raise self._gone(error) from None

    def linked(self) -> bool:
        return self.status().st_nlink > 0

    def status(self) -> os.stat_result:
        """Return owner, mode and link count of the queue itself, which its name may not mean any more."""
        try:
            return os.fstat(self.fileno())
        except OSError as error:
            raise self._gone(error) from None

    def unlink(self) -> None:
        if self.linked():
            KernelNamespace().unlink(self.name)

    def hold(self) -> None:
        # A lock of the open file description, which the kernel frees when its last descriptor closes. Unlike one of
        # flock(2) it can be looked at without being taken.
        try:
            fcntl.fcntl(self.fileno(), fcntl.F_OFD_SETLK, _WHOLE_QUEUE)
        except (OSError, ValueError) as error:
            raise self._gone(error) from None

    def held(self) -> bool:
        try:
            found = fcntl.fcntl(self.fileno(), fcntl.F_OFD_GETLK, _WHOLE_QUEUE)
        except (OSError, ValueError) as error:
            raise self._gone(error) from None
        kind: int = _FLOCK.unpack(found)[0]
        return kind != fcntl.F_UNLCK

    def hold_notification_lock(self) -> None:
        # SIGURG: its default action is to be ignored (signal(7)), should a message come after all.
        try:
            self._queue.request_notification(signal.SIGURG)
        except posix_ipc.BusyError:
            raise QueueExists(f"queue {self.name} is held by another process of this IPC namespace") from None
        except OSError as error:
            raise self._gone(error) from None
        # After the registration: the last holder unlinks before it closes, so a name that is still there is not lost
        # by its leaving any more.
        if not self.linked():
            raise QueueMissing(f"queue {self.name} lost its name while it was being taken; try again")

    def close(self) -> None:
        if self.fileno() >= 0:  # posix_ipc sets it to -1; closing twice could close another object's
            self._queue.close()

    def _send(self, data: bytes, timeout: int | None) -> None:
        if len(data) > self.msgsize:
            raise MessageTooLong(f"a message of {len(data)} bytes; queue {self.name} takes {self.msgsize}")
        try:
            self._queue.send(data, timeout)
        except posix_ipc.BusyError:
            raise QueueFull(f"queue {self.name} is full: {self.maxmsg} messages") from None
        except posix_ipc.SignalError:  # posix_ipc does not try again, as the standard library does (PEP 475)
            raise QueueInterrupted(f"a signal came while sending to {self.name}") from None
        except (posix_ipc.Error, OSError) as error:
            # Also a matter of room, though of the kernel's: a moment later there may be some.
            if isinstance(error, OSError) and error.errno == errno.ENOMEM:
                raise QueueFull(f"the kernel has no memory for another message in {self.name}") from None
            raise self._gone(error) from None

    def _receive(self, timeout: int | None) -> bytes:
        try:
            return self._queue.receive(timeout)[0]  # type: ignore[no-any-return]
        except posix_ipc.BusyError:
            raise QueueEmpty(f"queue {self.name} is empty") from None
        except posix_ipc.SignalError:
            raise QueueInterrupted(f"a signal came while receiving from {self.name}") from None
        except (posix_ipc.Error, OSError) as error:
            raise self._gone(error) from None

    def _allow_blocking(self) -> None:
        if self._no_wait is None:
            try:
                self._queue.block = True
            except posix_ipc.ExistentialError as error:
                raise self._gone(error) from None
            self._no_wait = 0

    def _gone(self, error: Exception) -> QueueGone:
        if is_lacking(error):
            return QueueGone(call_refused(f"queue {self.name}: a call of mq_overview(7)", error))
        return QueueGone(f"queue {self.name} is closed here, or not open for this: {error}")


def _open_own(name: str, *, send: bool, receive: bool) -> KernelQueueEnd:
    """Open a queue of this user that is there. Raises QueueMissing, QueueForeign, QueueLimit."""
    try:
        queue = KernelQueueEnd(name, posix_ipc.MessageQueue(name, posix_ipc.O_NONBLOCK, read=receive, write=send))
    except posix_ipc.ExistentialError:
        raise QueueMissing(
            f"no queue {name} in this IPC namespace ({ipc_namespace()}): the pool's dealer is not running, or runs in "
            "a container whose IPC namespace is not shared with this program"
        ) from None
    except posix_ipc.PermissionsError:
        raise _foreign(name, "another user (or a security module forbids to open it)") from None
    except (OSError, MemoryError) as error:
        raise _out_of_descriptors(name, error) from error
    owner = queue.status().st_uid
    if owner != os.geteuid():
        # Root gets this far with any user's queue, and jobs in it would run as root.
        queue.close()
        raise _foreign(name, _user(owner))
    return queue


def _is_private(queue: KernelQueueEnd) -> bool:
    return not queue.status().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _foreign(name: str, owner: str) -> QueueForeign:
    return QueueForeign(
        f"queue {name} belongs to {owner} and this program runs as {_user(os.geteuid())}: "
        "run as the same user, or take another pool name"
    )


def _not_created(name: str, shape: Shape, error: Exception) -> QueueError:
    """Return the true reason why the kernel refused a new queue; posix_ipc does not tell it."""
    if isinstance(error, ValueError):  # EINVAL, in posix_ipc's translation
        return _beyond_sysctls(name, shape, kernel_limits())
    code = _errno(error)
    if code == errno.ENOSPC:
        queues_max = _sysctl("queues_max")
        return QueueRoomTaken(
            f"queue {name}: this IPC namespace holds its fs.mqueue.queues_max of {queues_max} queues already. "
            f"Stop a pool, or raise it: {sysctl_cure('queues_max', 2 * queues_max)}"
        )
    # The kernel itself says EMFILE for an exceeded RLIMIT_MSGQUEUE (mqueue_get_inode in ipc/mqueue.c).
    if code == errno.EMFILE and _descriptor_is_free():
        bytes_max = _bytes_max()
        kind = QueueRoomTaken if shape.bytes <= bytes_max else QueueLimit
        return kind(
            f"queue {name} needs {shape.bytes} bytes of RLIMIT_MSGQUEUE, which is {bytes_max} for all queues of "
            f"{_user(os.getuid())} on this host. Stop a pool, or raise it: {byte_limit_cure(bytes_max + shape.bytes)}"
        )
    return _out_of_descriptors(name, error)


def _beyond_sysctls(name: str, shape: Shape, kernel: KernelLimits) -> QueueError:
    if shape.maxmsg > kernel.msg_max:
        limit, value, need = "msg_max", kernel.msg_max, shape.maxmsg
    else:
        limit, value, need = "msgsize_max", kernel.msgsize_max, shape.msgsize
    return QueueLimit(
        f"queue {name} needs {need}, and fs.mqueue.{limit} is {value}. Raise it: {sysctl_cure(limit, need)}"
    )


def _out_of_descriptors(name: str, error: Exception) -> QueueError:
    if is_lacking(error):
        return QueueLimit(call_refused(f"queue {name}: mq_open(3)", error))
    if isinstance(error, posix_ipc.PermissionsError):
        return QueueLimit(f"queue {name}: {error}: a security module or the sandbox here forbids mq_open(3); allow it")
    if _errno(error) != errno.EMFILE:
        return QueueLimit(f"queue {name}: {error}")
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    need = 2 * files_max
    return QueueLimit(
        f"queue {name} needs a file descriptor, and this process has all {files_max} of its RLIMIT_NOFILE open. Raise "
        f"it: ulimit -n {need}, LimitNOFILE={need} (systemd), --ulimit nofile={need} (container)"
    )


def _errno(error: Exception) -> int | None:
    # Both ways, should a later posix_ipc set errno.
    return getattr(error, "errno", None) or _ERRNO_OF_TEXT.get(str(error))


def _descriptor_is_free() -> bool:
    """Say whether a descriptor can be had: that tells RLIMIT_NOFILE from RLIMIT_MSGQUEUE, as no error does."""
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def ipc_namespace() -> str:
    """Return what tells this process's IPC namespace from the others that live on this machine."""
    try:
        return os.readlink("/proc/self/ns/ipc")
    except OSError:
        return "unknown: /proc is not mounted"


def _bytes_max() -> int:
    value = resource.getrlimit(resource.RLIMIT_MSGQUEUE)[0]
    return _UNLIMITED if value == resource.RLIM_INFINITY else value


def _sysctl(name: str) -> int:
    path = f"{_SYSCTLS}/{name}"
    try:
        with open(path, "rb") as file:
            return int(file.read())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path}: {error}; POSIX message queues need a kernel with CONFIG_POSIX_MQUEUE and /proc mounted"
        ) from None


def _user(uid: int) -> str:
    import pwd  # only for error texts: a worker starts without it

    try:
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
