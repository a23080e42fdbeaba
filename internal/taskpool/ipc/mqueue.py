"""The kernel's message queues. The only module that knows posix_ipc: its errors never leave here.

Three habits of posix_ipc shape this file (1.3.2, read in its source and measured):
its limit errors carry no errno and one text stands for two limits; dropping an object does not close its
descriptor; and an exception raised by a signal handler during a wait is swallowed, so handlers only mark.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat

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
)
from taskpool.ipc.sizing import KernelLimits, Shape, byte_limit_cure, sysctl_cure

_SYSCTLS = "/proc/sys/fs/mqueue"
_MODE = 0o600
_UNLIMITED = 2**63 - 1
_ERRNO_OF_TEXT = {
    "Insufficient space for a new queue": errno.ENOSPC,
    "This process already has the maximum number of files open": errno.EMFILE,
    "The system limit on the total number of open files has been reached": errno.ENFILE,
}


def kernel_limits() -> KernelLimits:
    """The limits on queues here and now. Raises ConfigurationError where the kernel has no queues."""
    return KernelLimits(
        msg_max=_sysctl("msg_max"),
        msgsize_max=_sysctl("msgsize_max"),
        queues_max=_sysctl("queues_max"),
        bytes_max=_bytes_max(),
    )


class KernelNamespace:
    """The queues of this process's IPC namespace; see `queue.QueueNamespace`."""

    def create(self, name: str, shape: Shape) -> KernelQueueEnd:
        try:
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
        queue = KernelQueueEnd(name, handle)
        try:
            os.fchmod(handle.mqd, _MODE)  # the umask may have taken bits from it
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

    def adopt(self, name: str, shape: Shape) -> tuple[KernelQueueEnd, bool]:
        try:
            return self.create(name, shape), False
        except QueueExists:
            found = _open_own(name, send=True, receive=True)
        if _is_private(found) and (found.maxmsg, found.msgsize) == shape:
            return found, True
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
    """

    def __init__(self, name: str, queue: posix_ipc.MessageQueue) -> None:
        self.name = name
        self.maxmsg: int = queue.max_messages
        self.msgsize: int = queue.max_message_size
        self._queue = queue
        self._at_once: int | None = None  # the time-out that makes a call return at once

    def send(self, data: bytes) -> None:
        self._send(data, self._at_once)

    def send_blocking(self, data: bytes) -> None:
        self._wait_from_now_on()
        self._send(data, None)

    def receive(self) -> bytes:
        return self._receive(self._at_once)

    def receive_blocking(self) -> bytes:
        self._wait_from_now_on()
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
        """Owner, mode and link count of the queue itself, whatever its name means by now."""
        try:
            return os.fstat(self.fileno())
        except OSError as error:
            raise self._gone(error) from None

    def unlink(self) -> None:
        if self.linked():
            KernelNamespace().unlink(self.name)

    def hold_notification_lock(self) -> None:
        # SIGURG is ignored by default, should anybody send to the queue after all.
        try:
            self._queue.request_notification(signal.SIGURG)
        except posix_ipc.BusyError:
            raise QueueExists(f"queue {self.name} is held by another process of this IPC namespace") from None
        except OSError as error:
            raise self._gone(error) from None
        if not self.linked():
            raise QueueMissing(f"queue {self.name} lost its name while it was being taken; try again")

    def close(self) -> None:
        if self.fileno() >= 0:
            self._queue.close()

    def _send(self, data: bytes, timeout: int | None) -> None:
        if len(data) > self.msgsize:
            raise MessageTooLong(f"a message of {len(data)} bytes; queue {self.name} takes {self.msgsize}")
        try:
            self._queue.send(data, timeout)
        except posix_ipc.BusyError:
            raise QueueFull(f"queue {self.name} is full: {self.maxmsg} messages") from None
        except posix_ipc.SignalError:
            raise QueueInterrupted(f"a signal came while sending to {self.name}") from None
        except (posix_ipc.Error, OSError) as error:
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

    def _wait_from_now_on(self) -> None:
        if self._at_once is None:
            try:
                self._queue.block = True
            except posix_ipc.ExistentialError as error:
                raise self._gone(error) from None
            self._at_once = 0

    def _gone(self, error: Exception) -> QueueGone:
        return QueueGone(f"queue {self.name} is closed here, or not open for this: {error}")


def _open_own(name: str, *, send: bool, receive: bool) -> KernelQueueEnd:
    """Opens a queue of this user. Never with O_CREAT: on a queue that is there it would silently return
    whatever owner and shape that one has."""
    try:
        queue = KernelQueueEnd(name, posix_ipc.MessageQueue(name, posix_ipc.O_NONBLOCK, read=receive, write=send))
    except posix_ipc.ExistentialError:
        raise QueueMissing(
            f"no queue {name} in this IPC namespace ({_ipc_namespace()}): the pool's dealer is not running, or runs in "
            "a container whose IPC namespace is not shared with this program"
        ) from None
    except posix_ipc.PermissionsError:
        raise _foreign(name, "another user") from None
    except (OSError, MemoryError) as error:
        raise _out_of_descriptors(name, error) from error
    owner = queue.status().st_uid
    if owner != os.geteuid():
        # Root gets this far with anybody's queue.
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
    """The true reason the kernel refused a new queue."""
    if isinstance(error, ValueError):
        return _beyond_sysctls(name, shape, kernel_limits())
    code = _errno(error)
    if code == errno.ENOSPC:
        queues_max = _sysctl("queues_max")
        return QueueLimit(
            f"queue {name}: this IPC namespace holds its fs.mqueue.queues_max of {queues_max} queues already. "
            f"Stop a pool, or raise it: {sysctl_cure('queues_max', 2 * queues_max)}"
        )
    if code == errno.EMFILE and _descriptor_is_free():
        bytes_max = _bytes_max()
        return QueueLimit(
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
    if _errno(error) != errno.EMFILE:
        return QueueLimit(f"queue {name}: {error}")
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    need = 2 * files_max
    return QueueLimit(
        f"queue {name} needs a file descriptor, and this process has all {files_max} of its RLIMIT_NOFILE open. Raise "
        f"it: ulimit -n {need}, LimitNOFILE={need} (systemd), --ulimit nofile={need} (container)"
    )


def _errno(error: Exception) -> int | None:
    return getattr(error, "errno", None) or _ERRNO_OF_TEXT.get(str(error))


def _descriptor_is_free() -> bool:
    """Tells RLIMIT_NOFILE from RLIMIT_MSGQUEUE, which posix_ipc reports in the same words."""
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _ipc_namespace() -> str:
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
