"""The standard library's own tests of executors (`test.test_concurrent_futures`), turned on `taskpool.Executor`.

They are mixins around `self.executor` and `self.executor_type`, so most run as they are. What is put in their place:

1. `Executor` drops the `mp_context` that tests of ProcessPoolExecutor give it.
2. Where they name a class of the standard library (ProcessPoolExecutor, Future, BrokenProcessPool), ours is named.
3. A crash costs its own call here, not the pool, and what is wrong with a pickle is an exception of that call: `ENDS`
   has the tests that expect the pool to break, and what the call raises instead.
4. `EXCLUDED` are tests of what only the standard library has. FailingInitializerMixin is left out as well: an
   initializer that fails breaks the pool there, and fails the calls of its process here.

The tests have dead-lines of seconds. So the pool runs when they begin, however slowly a loaded machine starts it.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import importlib
import importlib.util
import logging
import multiprocessing
import pickle
import shutil
import sys
import tempfile
import time
import types
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import taskpool
from taskpool.executor.call import Call, Setup
from taskpool.executor.errors import RemoteTraceback
from taskpool.executor.future import CallFuture

PACKAGE = "test.test_concurrent_futures"
PARTS = (
    *("util", "executor", "test_as_completed", "test_deadlock", "test_future", "test_init", "test_process_pool"),
    *("test_shutdown", "test_wait"),
)
GONE_S = 60.0

MIXINS = (
    *("WaitTests", "AsCompletedTests", "InitializerMixin"),
    *("ProcessPoolShutdownTest", "ProcessPoolExecutorTest", "ExecutorDeadlockTest"),
)

# Each with its reason.
EXCLUDED = {
    "test_max_workers_negative": "wants other words of the error, which is a ValueError here too",
    "test_cancel_futures": "wants one of the calls to have begun, for which it does not wait",
    "test_processes_terminate": "shares a semaphore by fork",
    "test_saturation": "shares a semaphore by fork",
    "test_killed_child": "wants the pool to break where one process is killed",
    "test_idle_process_reuse_one": "counts the private `_processes`, which are started on demand there",
    "test_idle_process_reuse_multiple": "counts the private `_processes`, which are started on demand there",
    "test_max_tasks_per_child": "counts the private `_processes`",
    "test_max_tasks_per_child_defaults_to_spawn_context": "looks at the private `_mp_context`",
    "test_ressources_gced_in_workers": "waits one second only, and has the key of a manager go along by fork",
    "test_python_finalization_error": "replaces a private function of `threading` that starts a second thread",
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "replaces private classes of ProcessPoolExecutor",
}

ENDS: dict[str, type[BaseException]] = {
    "test_exit_at_task_unpickle": SystemExit,
    "test_error_at_task_unpickle": pickle.UnpicklingError,
    "test_exit_during_result_pickle_on_worker": TypeError,
    "test_error_during_result_pickle_on_worker": TypeError,
    "test_error_during_result_unpickle_in_result_handler": pickle.UnpicklingError,
    "test_exit_during_result_unpickle_in_result_handler": SystemExit,
}


class Executor(taskpool.Executor):
    """As the tests make it, and with what they wait for when it has ended."""

    def __init__(self, max_workers: int | None = None, mp_context: object = None, **options: Any) -> None:
        super().__init__(max_workers, **options)

    @property
    def _executor_manager_thread(self) -> object:
        return self._loop.thread

    @property
    def _processes(self) -> dict[int, Process]:
        private = self._loop._link.private
        assert private is not None
        workers = Path(f"/proc/{private.pid}/task/{private.pid}/children").read_text().split()
        return {pid: Process(pid) for pid in (private.pid, *map(int, workers))}

    @property
    def _call_queue(self) -> CallQueue:
        return CallQueue()


class ProcessPoolExecutor(Executor):
    """What the tests get by that name: another class than that of `self.executor`, as a test is skipped for it."""


class Process:
    """A process of the pool, to be waited for."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def join(self) -> None:
        until = time.monotonic() + GONE_S
        while Path(f"/proc/{self._pid}").exists():
            assert time.monotonic() < until
            time.sleep(0.01)  # polling: what is not a child of this process has nothing to wait on


class CallQueue:
    """There is none, so its thread has ended."""

    def join_thread(self) -> None:
        pass


class Future(CallFuture[Any]):
    """One of no call. Tests look for the name of the class."""

    def __init__(self) -> None:
        super().__init__(Call("", b"", b"", (), (), Setup(), None), lambda _: None)


class OurExecutor:
    """Ahead of a mixin: what the tests find in `self`."""

    executor_type = Executor
    executor: Executor
    _testMethodName: str  # noqa: N815 - unittest's

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]  # of the mixin
        self.executor.submit(int).result()

    def get_context(self) -> object:
        return multiprocessing.get_context("spawn")

    def _check_crash(self, error: type[BaseException], *call: Any, **options: Any) -> None:
        super()._check_crash(ENDS.get(self._testMethodName, error), *call, **options)  # type: ignore[misc]


class OurFuture:
    """Ahead of the tests of futures, which need no executor and look for no threads here."""

    def setUp(self) -> None:
        pass

    def tearDown(self) -> None:
        pass


def modules() -> list[types.ModuleType]:
    """Return the modules that the tests are in: one up to Python 3.11. Raises ImportError where there are none."""
    if importlib.util.find_spec(PACKAGE) is None:
        _borrow()
    package = importlib.import_module(PACKAGE)
    if not hasattr(package, "__path__"):
        return [package]
    return [importlib.import_module(f"{PACKAGE}.{part}") for part in PARTS]


_BORROWED: list[str] = []  # the directory, for programs that tests start


def _borrow() -> None:
    """Let an interpreter that was built without them import those of the distribution's, if of the same version."""
    directory = tempfile.mkdtemp(prefix="tp-standard-tests-")
    atexit.register(shutil.rmtree, directory)
    Path(directory, "test").symlink_to("/usr/lib/python{}.{}/test".format(*sys.version_info))
    sys.modules.pop("test", None)
    sys.path.insert(0, directory)  # where workers look as well
    _BORROWED.append(directory)


def test_classes(found: list[types.ModuleType]) -> dict[str, type[unittest.TestCase]]:
    """Return the classes of tests, by name."""
    named = {name: value for module in found for name, value in vars(module).items()}
    left_out: dict[str, Any] = dict.fromkeys(EXCLUDED)
    made = {}
    for name in MIXINS:
        bases = (OurExecutor, named[name], named["ExecutorMixin"], unittest.TestCase)
        made[f"Our{name}"] = type(f"Our{name}", tuple(dict.fromkeys(bases)), left_out)
    made["OurFutureTests"] = type("OurFutureTests", (OurFuture, named["FutureTests"]), {})
    return made


def put_ours_in(found: list[types.ModuleType], patch: pytest.MonkeyPatch) -> None:
    """Let the tests name our classes where they name those of the standard library."""
    ours: dict[str, object] = {"BrokenProcessPool": taskpool.JobCrashed, "Future": Future, "futures": _Futures()}
    ours["create_future"] = _create_future
    for state in ("PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED"):
        ours[f"{state}_FUTURE"] = _create_future(state)
    ours["EXCEPTION_FUTURE"] = _create_future("FINISHED", exception=OSError())
    ours["SUCCESSFUL_FUTURE"] = _create_future("FINISHED", result=42)
    for module in found:
        if hasattr(module, "assert_python_ok"):
            patch.setattr(module, "assert_python_ok", _with_our_import(module.assert_python_ok))
        for name in ours.keys() & vars(module).keys():
            patch.setattr(module, name, ours[name])
    patch.setattr("concurrent.futures.process._RemoteTraceback", RemoteTraceback)
    # They look for what is logged on standard error, where it comes if pytest does not take it.
    patch.setattr(logging.getLogger("concurrent.futures"), "handlers", [logging.lastResort])


class _Futures:
    """`concurrent.futures`, with ours among its executors."""

    ProcessPoolExecutor = ProcessPoolExecutor

    def __getattr__(self, name: str) -> Any:
        return getattr(concurrent.futures, name)


def _with_our_import(assert_python_ok: Callable[..., Any]) -> Callable[..., Any]:
    def run(option: str, code: str) -> Any:
        theirs = "from concurrent.futures import Executor"
        assert theirs in code
        where = {"PYTHONPATH": _BORROWED[0]} if _BORROWED else {}
        return assert_python_ok(option, code.replace(theirs, "from taskpool import Executor"), **where)

    return run


def _create_future(state: str = "PENDING", exception: BaseException | None = None, result: object = None) -> Any:
    future: Any = Future()
    future._state, future._exception, future._result = state, exception, result
    future.seq = int(state == "RUNNING")  # the pool has its call
    return future
