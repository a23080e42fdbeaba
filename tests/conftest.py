"""What every test gets: a pool name of its own, a state directory of its own, and a check that nothing is left.

Rules of this file:
1. A test that leaves a process, a queue or a queue's descriptor behind fails, and the left-over is removed so
   that the next test starts clean.
2. A tool that a test needs and this machine lacks is a skip for a person and a failure with CI=true: what is
   skipped in silence is not tested.
3. These checks look from outside (kernel and /proc), never through the code under test.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import posix_ipc
import pytest

from support.leftovers import command_line, processes_of, unlink_queues

PROBE_WORKERS = 80  # incarnations looked for after each test
PROBE_EPOCHS = 3
LINGER_SECONDS = 5.0  # how long what was told to end may take to be gone
PROBE_QUEUE_BYTES = 8 + 96  # what the kernel charges for one queue of one message of 8 bytes

_numbers = itertools.count(1)
_charged_before = pytest.StashKey[int | None]()
_left_over = pytest.StashKey[str]()


# --- tools ----------------------------------------------------------------------------------------


def need_tools(*names: str) -> None:
    """Skip the running test where a program is missing; with CI=true fail it."""
    missing = [name for name in names if shutil.which(name) is None]
    if not missing:
        return
    text = f"not on PATH: {', '.join(missing)} (.ci/run lists the packages)"
    if os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs_tool"):
        need_tools(*marker.args)


# --- places ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the home directory of the person who runs it, nor depends on what is there."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    patch.delenv("STATE_DIRECTORY", raising=False)
    yield
    patch.undo()


@pytest.fixture
def pool() -> Iterator[str]:
    """Give a pool name of this test's own. Afterwards no process and no queue may carry it."""
    name = f"t{os.getpid()}-{next(_numbers)}"
    yield name
    left = [f"process {pid}: {what}" for pid, what in _end_processes(name)]
    left += [f"queue {queue}" for queue in unlink_queues(name, PROBE_EPOCHS, PROBE_WORKERS)]
    if left:
        pytest.fail(f"pool {name} left behind:\n  " + "\n  ".join(left), pytrace=False)


# --- left-overs -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_children_no_descriptors() -> Iterator[None]:
    """No child process and no open queue survives its test in the test process itself."""
    children, queues = _children(), _open_queues()
    yield
    left = [f"child process {pid}: {command_line(pid)}" for pid in sorted(_children() - children)]
    for pid in _children() - children:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    left += [f"open queue {name}" for name in sorted(_open_queues() - queues)]
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


def _children() -> set[int]:
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):
            pids.update(int(pid) for pid in (task / "children").read_text().split())
    # The standard library's own helper: one for the whole session, ended by it.
    return {pid for pid in pids if "multiprocessing.resource_tracker" not in command_line(pid)}


def _open_queues() -> set[str]:
    """`fd -> name` of every message queue of ours this process holds; an unlinked one still costs its bytes."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(fd)
            if target.startswith("/tp."):
                found.add(f"{fd.name} -> {target}")
    return found


def _end_processes(pool: str) -> list[tuple[int, str]]:
    """What still runs for the pool after a while; it is killed."""
    until = time.monotonic() + LINGER_SECONDS
    while (left := processes_of(pool)) and time.monotonic() < until:
        time.sleep(0.02)  # polling /proc: a process that is not our child has nothing to wait on
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return sorted(left.items())


# --- queue bytes over the whole run ---------------------------------------------------------------


def queue_bytes_charged() -> int | None:
    """Bytes of RLIMIT_MSGQUEUE this user has in use, over all IPC namespaces; None where it cannot be told.

    The kernel shows the number nowhere, so it is weighed: the smallest soft limit under which one more tiny
    queue can be made.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    low, high = 0, hard if hard != resource.RLIM_INFINITY else 2**31
    ceiling = high
    try:
        while low < high:
            middle = (low + high) // 2
            resource.setrlimit(resource.RLIMIT_MSGQUEUE, (middle, hard))
            low, high = (low, middle) if _tiny_queue_fits() else (middle + 1, high)
    finally:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard))
    return low - PROBE_QUEUE_BYTES if low < ceiling else None


def _tiny_queue_fits() -> bool:
    name = f"/tp-probe.{os.getpid()}"
    try:
        queue = posix_ipc.MessageQueue(name, posix_ipc.O_CREX, max_messages=1, max_message_size=8)
    except OSError:
        return False
    queue.close()
    queue.unlink()
    return True


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_charged_before] = queue_bytes_charged()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    before = session.config.stash[_charged_before]
    if before is None:
        return
    until = time.monotonic() + LINGER_SECONDS
    while (after := queue_bytes_charged()) is not None and after > before and time.monotonic() < until:
        time.sleep(0.1)  # the last worker may still be dying
    if after is None or after <= before:
        return
    session.config.stash[_left_over] = f"{after - before} bytes of message queues are still charged to this user"
    if os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if text := config.stash.get(_left_over, None):
        terminalreporter.section("left behind", red=True)
        terminalreporter.line(f"{text}. A pool that runs besides the tests counts too; with CI=true this is a failure.")
