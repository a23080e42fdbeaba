"""The template of a pool's workers: a process that has loaded all a worker needs, and is copied for each.

A copy is a worker in a few milliseconds, where a new program takes fifty and more. The template runs no job, opens no
queue, and has one thread, so nothing in it can be held or half done when it is copied.

A worker must be its dealer's child: whose death the dealer is told of, and who dies with the dealer. So the template
forks twice: when the process in between has ended, the kernel gives the worker to the nearest subreaper above it, which
is the dealer (PR_SET_CHILD_SUBREAPER in prctl(2)).
"""

from __future__ import annotations

import _socket  # `socket` takes long to load
import gc
import os
import signal
import struct
from typing import NamedTuple

from taskpool.procs import procfs
from taskpool.procs.prctl import ParentTie
from taskpool.procs.process_tree import MARK_VARIABLE
from taskpool.procs.spawn import INCARNATION_DIGITS, INCARNATION_FLAG, REPORTS_FD, TEMPLATE_FLAG, TEMPLATE_READY

_CAPTURE_FDS = (1, 2)
_FDS = struct.Struct("2i")
_REQUEST_BYTES_MAX = 64
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # a service manager sends them to all of the group


class Request(NamedTuple):
    """What the dealer asks for: which worker, and its own descriptors."""

    incarnation: int
    capture_fd: int
    reports_fd: int


def copy_on_request(dealer_pid: int) -> int:
    """Make a worker at each request of the dealer; return in each of them, with its incarnation.

    In this process it does not return: it ends when the dealer closes its end of the socket, or is gone. Raises OSError
    when the dealer has given no socket.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    ParentTie(dealer_pid)
    channel = _socket.socket(fileno=REPORTS_FD)
    _load()
    channel.send(TEMPLATE_READY)
    while (request := _receive(channel)) is not None:
        try:
            is_worker = _fork_twice(dealer_pid)
        except OSError as error:
            channel.send(f"cannot be copied: {error.strerror}".encode())
            is_worker = False
        if is_worker:
            _become(request, channel)
            return request.incarnation
        os.close(request.capture_fd)
        os.close(request.reports_fd)
    os._exit(0)


def _load() -> None:
    """Load what `main.start` and a first job of each kind load."""
    import faulthandler  # noqa: F401
    import json  # noqa: F401

    import taskpool.kinds.capture
    import taskpool.kinds.execute
    import taskpool.kinds.invoke
    import taskpool.worker.capture
    import taskpool.worker.loop
    import taskpool.worker.runner  # noqa: F401

    # What is here stays shared: a collection would write to each object, and so copy its page.
    gc.collect()
    gc.freeze()


def _receive(channel: _socket.socket) -> Request | None:
    data, ancillary, _, _ = channel.recvmsg(_REQUEST_BYTES_MAX, _socket.CMSG_SPACE(_FDS.size), _socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    ((_, _, fds),) = ancillary
    return Request(int(data), *_FDS.unpack(fds))


def _fork_twice(dealer_pid: int) -> bool:
    """Return True in the new child of the dealer, False here. Raises OSError when there can be no more processes."""
    between = os.fork()
    if between:
        _, status = os.waitpid(between, 0)
        if status:
            raise OSError(os.waitstatus_to_exitcode(status), os.strerror(os.waitstatus_to_exitcode(status)))
        return False
    between = os.getpid()
    try:
        reader, writer = os.pipe()
        if os.fork():
            os._exit(0)
    except OSError as error:
        os._exit(error.errno or 1)
    os.close(writer)
    os.read(reader, 1)  # until the process in between is gone, or has at least closed its files
    os.close(reader)
    while (parent := os.getppid()) != dealer_pid:
        if parent != between:
            os._exit(0)  # the dealer is gone
        os.sched_yield()
    return True


def _become(request: Request, channel: _socket.socket) -> None:
    """Take the worker's own descriptors and its name, and tell the dealer that it is there."""
    os.setsid()
    for fd in _CAPTURE_FDS:
        os.dup2(request.capture_fd, fd)
    os.close(request.capture_fd)
    digits = INCARNATION_DIGITS
    procfs.replace_own_argument(f"{TEMPLATE_FLAG} {0:0{digits}}", f"{INCARNATION_FLAG} {request.incarnation:0{digits}}")
    os.environ[MARK_VARIABLE] = f"{os.environ[MARK_VARIABLE].rpartition('/')[0]}/{request.incarnation}"
    channel.send(b"%d" % os.getpid())
    channel.detach()
    os.dup2(request.reports_fd, REPORTS_FD, inheritable=False)
    os.close(request.reports_fd)
