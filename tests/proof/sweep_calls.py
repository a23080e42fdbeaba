"""Which system calls the sweep strikes at, and the errors that the manual pages give for each.

A call is state-changing when others can see that it was made: a queue, a message, a file, a lock, a process, a
signal. A kill at the entry of each of them is a kill in every state the outside can be in: what lies between two
such calls is the same to all other processes. Hence these are left out of the kills:
    close of a queue's descriptor   the kernel does it for the dead, so it is the kill at the call before
    openat without O_CREAT          changes nothing
    epoll, eventfd, pipe, fcntl     no other process sees them

Errors are injected with the call not made, as strace does it. Left out are those that would be a lie about the
caller itself (EFAULT, EINVAL, EBADF of a call with the right arguments), except EBADF of a queue, which has to end
the program, and ECHILD and EEXIST-like answers about state that is not so.
"""

from __future__ import annotations

# K@n: killed at the entry of the n-th.
STATE_CHANGING = (
    "mq_open",
    "mq_unlink",
    "mq_timedsend",
    "mq_timedreceive",
    "mq_notify",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "openat",  # with O_CREAT or O_TMPFILE
    "rename",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "ftruncate",
    "fallocate",
    "flock",
    "mkdir",
    "rmdir",
    "chmod",
    "fchmod",
    "clone",
    "clone3",
    "vfork",
    "prctl",
    "setsid",
    "kill",
    "pidfd_send_signal",
    "wait4",
    "waitid",
)

_FILES = ("EACCES", "ENOENT", "ENOSPC", "EIO")  # of calls with a path that change a directory
_FORK = ("EAGAIN", "ENOMEM")

# E@n: these errors, once each, at every call site.
ERRORS: dict[str, tuple[str, ...]] = {
    "mq_open": ("EACCES", "EEXIST", "EMFILE", "ENFILE", "ENOENT", "ENOMEM", "ENOSPC"),
    "mq_unlink": ("EACCES", "ENOENT"),
    "mq_timedsend": ("EAGAIN", "EINTR", "EBADF", "ENOMEM"),
    "mq_timedreceive": ("EAGAIN", "EINTR", "EBADF", "EMSGSIZE"),
    "mq_notify": ("EBUSY", "ENOMEM"),
    "write": ("EAGAIN", "EINTR", "EIO", "ENOSPC", "EPIPE", "EDQUOT", "EFBIG"),
    "pwrite64": ("EINTR", "EIO", "ENOSPC", "EDQUOT", "EFBIG"),
    "pread64": ("EINTR", "EIO"),
    "fsync": ("EINTR", "EIO", "ENOSPC", "EDQUOT"),
    "fdatasync": ("EINTR", "EIO", "ENOSPC", "EDQUOT"),
    "openat": ("EACCES", "EDQUOT", "EINTR", "EIO", "EMFILE", "ENFILE", "ENOENT", "ENOMEM", "ENOSPC", "EROFS"),
    "rename": _FILES,
    "link": (*_FILES, "EMLINK"),
    "linkat": (*_FILES, "EMLINK"),
    "unlink": ("EACCES", "ENOENT", "EIO", "EROFS"),
    "unlinkat": ("EACCES", "ENOENT", "EIO", "EROFS"),
    "ftruncate": ("EINTR", "EIO", "EFBIG"),
    "fallocate": ("EINTR", "EIO", "ENOSPC", "EOPNOTSUPP"),
    "flock": ("EAGAIN", "EINTR", "ENOLCK"),
    "fcntl": ("EACCES", "EAGAIN", "ENOLCK"),  # F_SETLK only
    "mkdir": (*_FILES, "EEXIST", "EROFS"),
    "rmdir": ("EACCES", "EBUSY", "ENOTEMPTY"),
    "chmod": ("EPERM", "EIO", "EROFS"),
    "fchmod": ("EPERM", "EIO", "EROFS"),
    "clone": _FORK,
    "clone3": _FORK,
    "vfork": _FORK,
    "kill": ("EPERM", "ESRCH"),
    "pidfd_open": ("EMFILE", "ENFILE", "ENOMEM", "ESRCH"),
    "pidfd_send_signal": ("EPERM", "ESRCH"),
    "wait4": ("EINTR",),
    "waitid": ("EINTR",),
    "epoll_create1": ("EMFILE", "ENFILE", "ENOMEM"),
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "epoll_wait": ("EINTR",),
    "poll": ("EINTR", "ENOMEM"),
    "eventfd2": ("EMFILE", "ENFILE", "ENOMEM"),
    "pipe2": ("EMFILE", "ENFILE"),
    "socketpair": ("EMFILE", "ENFILE", "ENOMEM"),
    "memfd_create": ("EMFILE", "ENFILE", "ENOMEM"),
    "prctl": ("EINVAL",),  # an older kernel
}

TRACED = tuple(dict.fromkeys((*STATE_CHANGING, *ERRORS)))

# What a text that names the trouble may say instead of strerror: the words of SQLite, of posix_ipc and our own.
_OWN_WORDS: dict[str, tuple[str, ...]] = {
    "EACCES": ("belongs to another user", "another process", "readonly", "unable to open"),
    "EAGAIN": ("in use", "another process", "without blocking", "can't start new thread", "full"),
    "EBADF": ("is closed", "not open for this"),
    "EBUSY": ("held by another", "in use"),
    "EDQUOT": ("disk I/O error", "full"),
    "EEXIST": ("is there already", "no queue"),
    "EFBIG": ("disk I/O error",),
    "EINTR": ("interrupted", "a signal came", "disk I/O error", "another process", "unable to open"),
    "EIO": ("disk I/O error", "unable to open"),
    "EMFILE": ("RLIMIT_NOFILE", "RLIMIT_MSGQUEUE", "descriptor", "unable to open"),
    "EMSGSIZE": ("is closed", "Message too long"),
    "ENFILE": ("open files", "unable to open"),
    "ENOENT": ("no queue", "No such file", "unable to open", "lost its name", "was unlinked"),
    "ENOLCK": ("another process", "disk I/O error"),
    "ENOMEM": ("memory", "can't start new thread", "unable to open"),
    "ENOSPC": ("full", "room", "queues_max", "disk I/O error", "unable to open", "Insufficient space"),
    "EPIPE": ("closed",),
    "EROFS": ("readonly", "unable to open"),
}


def words_for(error: str, strerror: str) -> tuple[str, ...]:
    """What a program may say, one of these, when it ends because of this error."""
    return (strerror, error, "[SQLITE_", "is open in another process", *_OWN_WORDS.get(error, ()))
