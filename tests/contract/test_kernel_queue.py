"""What only the kernel's queues have: owners, modes, limits, signals, descriptors, and a life beyond the process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from taskpool.errors import ExitCode, QueueExists, QueueForeign, QueueGone, QueueInterrupted, QueueLimit
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace, kernel_limits
from taskpool.ipc.queue import QueueNamespace
from taskpool.ipc.sizing import LOCK, Shape

SHAPE = Shape(maxmsg=2, msgsize=64)
STRANGER = 65534  # nobody, on every distribution
LONER = 54321  # a user id that is not in use, so that no other queue is charged to it
WAIT_SECONDS = 10

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def name(pool: str) -> str:
    return names.intake(pool)


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def run_python(script: str, *args: str, under: tuple[str, ...] = ()) -> str:
    """What a process of its own prints, because limits cannot be raised again once lowered."""
    prelude = "import os, resource, sys\nfrom taskpool.errors import QueueLimit\n"
    prelude += "from taskpool.ipc.sizing import Shape\nfrom taskpool.ipc.mqueue import KernelNamespace\n"
    command = [*under, sys.executable, "-c", prelude + script, *args]
    done = subprocess.run(command, env=python_env(), capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python_env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


# --- limits: each is named with its value and its cure --------------------------------------------


def test_the_limits_are_those_of_the_kernel() -> None:
    limits = kernel_limits()
    assert limits.msg_max >= 1
    assert limits.msgsize_max >= 128
    assert limits.queues_max >= 1
    assert limits.bytes_max >= 0


def test_the_byte_limit_is_told_from_the_descriptor_limit(name: str) -> None:
    text = run_python(
        """
resource.setrlimit(resource.RLIMIT_MSGQUEUE, (1000, 1000))
try:
    KernelNamespace().create(sys.argv[1], Shape(10, 1024))
except QueueLimit as error:
    print(error)
""",
        name,
    )
    for word in ("11200 bytes", "RLIMIT_MSGQUEUE, which is 1000", "ulimit -q 12200", "LimitMSGQUEUE=", "msgqueue="):
        assert word in text


def test_bytes_that_others_hold_are_told_from_too_few(pool: str) -> None:
    kinds = run_python(
        """
shape = Shape(10, 1024)
for limit in (shape.bytes - 1, shape.bytes):
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (limit, resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1]))
    other = None
    try:
        other = KernelNamespace().create(f"/tp.{sys.argv[1]}.intake", shape)
        KernelNamespace().create(f"/tp.{sys.argv[1]}.control", shape)
    except QueueLimit as error:
        print(type(error).__name__)
    if other is not None:
        other.unlink()
""",
        pool,
    )
    assert kinds.split() == ["QueueLimit", "QueueRoomTaken"]


@pytest.mark.parametrize("call", ["create(sys.argv[1], Shape(1, 1))", "open(sys.argv[2], send=True, receive=True)"])
def test_the_descriptor_limit_is_told_from_the_byte_limit(kernel: QueueNamespace, pool: str, call: str) -> None:
    there = names.control(pool)
    kernel.create(there, SHAPE)
    text = run_python(
        f"""
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        os.open("/", os.O_RDONLY)
except OSError:
    pass
try:
    KernelNamespace().{call}
except QueueLimit as error:
    print(error)
""",
        names.intake(pool),
        there,
    )
    for word in ("64 of its RLIMIT_NOFILE", "ulimit -n 128", "LimitNOFILE=128"):
        assert word in text


@needs_root
@pytest.mark.parametrize("shape", [(10, 1024), (2, 1024), (4, 512), (1, 1)])
def test_a_queue_costs_what_the_budget_says(pool: str, shape: tuple[int, int]) -> None:
    made = run_python(
        """
shape = Shape(int(sys.argv[2]), int(sys.argv[3]))
os.setuid(int(sys.argv[4]))
resource.setrlimit(resource.RLIMIT_MSGQUEUE, (3 * shape.bytes, 3 * shape.bytes))
namespace, made = KernelNamespace(), []
try:
    while True:
        made.append(namespace.create(f"/tp.{sys.argv[1]}.reply.{len(made)}", shape))
except QueueLimit:
    print(len(made))
for queue in made:
    queue.unlink()
""",
        pool,
        *map(str, (*shape, LONER)),
    )
    assert made == "3\n"


@needs_root
@pytest.mark.needs_tool("unshare")
def test_too_many_queues_in_the_namespace(pool: str) -> None:
    """In a namespace of its own: the limit is lowered for no other process."""
    text = run_python(
        """
try:
    with open("/proc/sys/fs/mqueue/queues_max", "w") as file:
        file.write("1")
except OSError as error:
    print("SKIP", error)
    sys.exit()
KernelNamespace().create(f"/tp.{sys.argv[1]}.intake", Shape(1, 1))
try:
    KernelNamespace().create(f"/tp.{sys.argv[1]}.control", Shape(1, 1))
except QueueLimit as error:
    print(error)
""",
        pool,
        under=("unshare", "--ipc"),
    )
    if text.startswith("SKIP"):
        pytest.skip(f"fs.mqueue.queues_max cannot be set here: {text}")
    assert "fs.mqueue.queues_max of 1 queues" in text
    assert "sysctl fs.mqueue.queues_max=2" in text


def test_more_than_the_sysctls_allow(kernel: QueueNamespace, name: str) -> None:
    limits = kernel_limits()
    with pytest.raises(QueueLimit, match=rf"needs {limits.msg_max + 1}, and fs.mqueue.msg_max is {limits.msg_max}"):
        kernel.create(name, Shape(limits.msg_max + 1, 1))
    with pytest.raises(QueueLimit, match=r"fs\.mqueue\.msgsize_max") as caught:
        kernel.create(name, Shape(1, limits.msgsize_max + 1))
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


# --- owners and modes -----------------------------------------------------------------------------


def test_a_created_queue_is_private_whatever_the_umask(name: str) -> None:
    before = os.umask(0o777)
    try:
        queue = KernelNamespace().create(name, SHAPE)
    finally:
        os.umask(before)
    assert queue.status().st_mode & 0o777 == 0o600
    queue.unlink()
    queue.close()


def test_a_queue_open_to_others_is_not_opened(kernel: QueueNamespace, name: str) -> None:
    os.fchmod(kernel.create(name, SHAPE).fileno(), 0o620)
    with pytest.raises(QueueForeign, match="0600"):
        kernel.open(name, send=True, receive=False)


def test_a_queue_open_to_others_is_replaced_not_reopened(kernel: QueueNamespace, name: str) -> None:
    first = kernel.create(name, SHAPE)
    first.send(b"perhaps not from us")
    os.fchmod(first.fileno(), 0o666)
    reopened, recovered = kernel.reopen_or_create(name, SHAPE)
    assert not recovered
    assert reopened.depth() == 0
    assert not first.linked()


@needs_root
def test_root_does_not_take_a_queue_of_another_user(kernel: QueueNamespace, name: str) -> None:
    with as_user(STRANGER):
        theirs = kernel.create(name, SHAPE)
    with pytest.raises(QueueForeign, match=f"uid {STRANGER}.* runs as user root"):
        kernel.open(name, send=True, receive=True)
    with pytest.raises(QueueForeign, match=f"uid {STRANGER}"):
        kernel.reopen_or_create(name, SHAPE)
    with pytest.raises(QueueForeign, match=f"uid {STRANGER}"):
        kernel.reopen_or_create(name, Shape(1, 1))
    assert theirs.linked()


@needs_root
def test_a_stranger_is_kept_out(kernel: QueueNamespace, name: str) -> None:
    ours = kernel.create(name, SHAPE)
    with as_user(STRANGER):
        with pytest.raises(QueueForeign, match=f"another user .* runs as .*uid {STRANGER}"):
            kernel.open(name, send=True, receive=False)
        with pytest.raises(QueueForeign):
            kernel.reopen_or_create(name, SHAPE)
        with pytest.raises(QueueForeign, match="only he or root"):
            kernel.unlink(name)
    assert ours.linked()


# --- waiting --------------------------------------------------------------------------------------


def test_a_signal_interrupts_both_waits(kernel: QueueNamespace, name: str) -> None:
    queue = kernel.create(name, Shape(1, 8))
    before = signal.signal(signal.SIGUSR1, lambda _signum, _frame: None)
    try:
        with signals_until_done(), pytest.raises(QueueInterrupted):
            queue.receive_blocking()
        queue.send(b"full")
        with signals_until_done(), pytest.raises(QueueInterrupted):
            queue.send_blocking(b"waits")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert queue.depth() == 1


@contextmanager
def signals_until_done() -> Iterator[None]:
    """Many, because one could come before the wait has begun."""
    done = threading.Event()
    main = threading.get_ident()

    def disturb() -> None:
        while not done.wait(0.01):
            signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_epoll_sees_what_can_be_done_now(kernel: QueueNamespace, name: str) -> None:
    queue = kernel.create(name, Shape(1, 8))
    with select.epoll() as epoll:
        epoll.register(queue.fileno(), select.EPOLLIN | select.EPOLLOUT)
        assert epoll.poll(0) == [(queue.fileno(), select.EPOLLOUT)]
        queue.send(b"x")
        for _ in range(2):  # level-triggered: it says so as long as it is so
            assert epoll.poll(0) == [(queue.fileno(), select.EPOLLIN)]


def test_a_blocking_end_leaves_the_others_as_they_are(kernel: QueueNamespace, name: str) -> None:
    """The dealer and a worker share a queue, never its O_NONBLOCK."""
    queue = kernel.create(name, SHAPE)
    other = kernel.open(name, send=True, receive=True)
    queue.send_blocking(b"x")
    assert os.get_blocking(queue.fileno())
    assert not os.get_blocking(other.fileno())


def test_descriptors_do_not_cross_exec(kernel: QueueNamespace, name: str) -> None:
    assert not os.get_inheritable(kernel.create(name, SHAPE).fileno())


# --- the lock and SIGKILL -------------------------------------------------------------------------


def test_the_lock_is_held_against_other_processes_and_freed_by_sigkill(kernel: QueueNamespace, pool: str) -> None:
    script = """
import sys, time
from taskpool.ipc.sizing import LOCK
from taskpool.ipc.mqueue import KernelNamespace
lock, _ = KernelNamespace().reopen_or_create(sys.argv[1], LOCK)
lock.hold_notification_lock()
print("held", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script, names.lock(pool)]
    with subprocess.Popen(command, env=python_env(), stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            lock, recovered = kernel.reopen_or_create(names.lock(pool), LOCK)
            assert recovered
            with pytest.raises(QueueExists, match="held by another process"):
                lock.hold_notification_lock()
        finally:
            holder.kill()
    lock.hold_notification_lock()


def test_a_queue_is_held_until_the_sigkill_of_its_maker(kernel: QueueNamespace, name: str) -> None:
    script = """
import sys, time
from taskpool.ipc.sizing import Shape
from taskpool.ipc.mqueue import KernelNamespace
KernelNamespace().create(sys.argv[1], Shape(2, 64)).hold()
print("held", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script, name]
    with subprocess.Popen(command, env=python_env(), stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"held\n"
            other = kernel.open(name, send=True, receive=False)
            assert other.held()
            with pytest.raises(QueueGone):
                kernel.open(name, send=True, receive=True).hold()
        finally:
            holder.kill()
    assert not other.held()


def test_queue_and_messages_survive_the_sigkill_of_their_maker(kernel: QueueNamespace, name: str) -> None:
    script = """
import os, signal, sys
from taskpool.ipc.sizing import Shape
from taskpool.ipc.mqueue import KernelNamespace
KernelNamespace().create(sys.argv[1], Shape(2, 64)).send(b"survivor")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, name], env=python_env(), timeout=WAIT_SECONDS)
    assert done.returncode == -signal.SIGKILL
    queue, recovered = kernel.reopen_or_create(name, SHAPE)
    assert recovered
    assert queue.receive() == b"survivor"
