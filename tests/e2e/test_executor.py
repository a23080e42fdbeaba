"""`taskpool.Executor` with real processes: results, exceptions, crashes, hangs, cancellation, what is left."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import functools
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import taskpool
from support import programs
from support.leftovers import unlink_queues
from taskpool import Executor

DEADLINE_S = 60.0

Make = Callable[..., Executor]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes an Executor. Afterwards nothing of it may be there: no file, no queue; `conftest` looks for processes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    made: list[tuple[Executor, str]] = []

    def make(*args: Any, **options: Any) -> Executor:
        executor = Executor(*args, **options)
        made.append((executor, executor._loop._link.batch))
        return executor

    yield make
    for executor, batch in made:
        executor.shutdown()
        assert unlink_queues(batch, 3, 20) == []
        assert not (tmp_path / "state" / "taskpool" / batch).exists()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)  # polling: what happens in another process has nothing to wait on


# --- what the calls do: found by name in the workers ----------------------------------------------


def double(n: int) -> int:
    return 2 * n


def divide(a: int, b: int) -> float:
    return a / b


def segfault() -> None:
    ctypes.string_at(0)


def segfault_at(n: int, bad: int) -> int:
    return ctypes.string_at(0)[0] if n == bad else n


def leave(status: int) -> None:
    os._exit(status)


def change(buffer: memoryview) -> pickle.PickleBuffer:
    buffer[:1] = b"x"
    return pickle.PickleBuffer(buffer)


def hang(started: Path) -> None:
    started.write_text(str(os.getpid()))
    while True:
        time.sleep(60)


def wait_for(started: Path, gate: Path) -> bool:
    started.touch()
    while not gate.exists():
        time.sleep(0.01)
    return True


def lock() -> object:
    return threading.Lock()


class Picky(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)


def be_picky() -> None:
    raise Picky(7, "said")


def fail_first(marks: Path) -> int:
    with marks.open("a") as file:
        file.write("x")
    if marks.stat().st_size < 3:
        raise ValueError("not yet")
    return marks.stat().st_size


ready: list[str] = []


def set_up(text: str) -> None:
    ready.append(text)


def what_is_set_up() -> tuple[int, list[str]]:
    return os.getpid(), ready


def fail_to_set_up() -> None:
    raise KeyError("model")


# --- results and exceptions -----------------------------------------------------------------------


def test_results_come_back(make: Make) -> None:
    with make(2) as executor:
        futures = [executor.submit(double, n) for n in range(50)]
        assert [future.result(DEADLINE_S) for future in futures] == [2 * n for n in range(50)]
        assert executor.submit(functools.partial(divide, 1), b=4).result(DEADLINE_S) == 0.25
        assert futures[0].job == f"{executor._loop._link.batch}/1"
        assert executor.stats()["succeeded"] == 51
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(double, 1)


def test_an_exception_comes_back_as_itself_with_the_remote_traceback(make: Make) -> None:
    with make(1) as executor:
        error = executor.submit(divide, 1, 0).exception(DEADLINE_S)
    assert isinstance(error, ZeroDivisionError)
    assert "in divide" in str(error.__cause__)
    assert "return a / b" in str(error.__cause__)


def test_what_cannot_be_pickled_fails_its_own_call(make: Make) -> None:
    with make(1) as executor:
        argument = executor.submit(double, threading.Lock())
        result, exception, good = executor.submit(lock), executor.submit(be_picky), executor.submit(double, 4)
        with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock'"):
            argument.result(DEADLINE_S)
        with pytest.raises(TypeError, match="the result, of type lock, cannot be pickled: TypeError: cannot pickle"):
            result.result(DEADLINE_S)
        with pytest.raises(taskpool.JobFailed, match=r"Picky: said \(the exception itself cannot be pickled") as caught:
            exception.result(DEADLINE_S)
        assert "in be_picky" in (caught.value.traceback or "")
        assert good.result(DEADLINE_S) == 8


def test_megabytes_go_both_ways_and_leave_no_file(make: Make, tmp_path: Path) -> None:
    with make(1) as executor:
        large = os.urandom(20_000_000)
        assert executor.submit(bytes.__add__, large, b"x").result(DEADLINE_S) == large + b"x"
        batch = executor._loop._link.batch
        output = tmp_path / "state" / "taskpool" / batch / "output" / batch
        wait_until(lambda: not any(output.iterdir()))


def test_large_buffers_are_shared_by_files_that_go(make: Make, tmp_path: Path) -> None:
    with make(1) as executor:
        block = bytearray(b"a" * 5_000_000)
        future = executor.submit(change, pickle.PickleBuffer(block))
        result = future.result(DEADLINE_S)
        assert isinstance(result, memoryview)  # on pages of a file: in a pickle it would be bytes
        assert result == b"x" + block[1:]
        result[:1] = b"y"
        batch = executor._loop._link.batch
        output = tmp_path / "state" / "taskpool" / batch / "output" / batch
        wait_until(lambda: not any(output.iterdir()))
    assert result == b"y" + block[1:]


def test_what_a_call_prints_is_printed_here(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    with make(1) as executor:
        executor.submit(print, "hello").result(DEADLINE_S)
        executor.submit(print, "x" * 100_000).result(DEADLINE_S)
    assert capsys.readouterr().out == "hello\n" + "x" * 100_000 + "\n"


# --- crashes, hangs -------------------------------------------------------------------------------


def test_a_segfault_fails_only_its_own_future(make: Make) -> None:
    with make(2) as executor:
        futures = [executor.submit(segfault_at, n, 20) for n in range(60)]
        error = futures.pop(20).exception(DEADLINE_S)
        assert [future.result(DEADLINE_S) for future in futures] == [n for n in range(60) if n != 20]
        assert executor.submit(double, 3).result(DEADLINE_S) == 6
    assert isinstance(error, taskpool.JobCrashed)
    assert (error.signal, error.exit_status) == (signal.SIGSEGV, None)
    assert "Segmentation fault" in (error.traceback or "")
    assert "in segfault_at" in (error.traceback or "")
    assert error.attempts in (1, 2)  # once more in a fresh process, where another call may have harmed the first one


def test_an_exit_is_a_crash_with_its_status(make: Make) -> None:
    with make(1, crash_limit=2) as executor:
        error = executor.submit(leave, 7).exception(DEADLINE_S)
        assert isinstance(error, taskpool.JobCrashed)
        assert (error.signal, error.exit_status) == (None, 7)
        assert error.attempts >= 2
        with pytest.raises(SystemExit, match="gone"):  # that is an exception like others
            executor.submit(sys.exit, "gone").result(DEADLINE_S)


def test_a_hang_is_ended_at_its_time_out(make: Make, tmp_path: Path) -> None:
    with make(2) as executor:
        hanging = executor.options(timeout=0.5).submit(hang, tmp_path / "pid")
        good = executor.submit(double, 2)  # which has all the time that it needs on a busy machine
        with pytest.raises(taskpool.JobTimedOut, match=r"after its time-out of 0.5 s") as caught:
            hanging.result(DEADLINE_S)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, taskpool.JobFailed)
        assert good.result(DEADLINE_S) == 4


def test_retries_are_for_failures_and_views_have_limits_of_their_own(make: Make, tmp_path: Path) -> None:
    with make(1) as executor:
        patient = executor.options(retries=5, priority=3)
        assert patient.submit(fail_first, tmp_path / "a").result(DEADLINE_S) == 3
        with pytest.raises(ValueError, match="not yet"):
            executor.submit(fail_first, tmp_path / "b").result(DEADLINE_S)
        with pytest.raises(TypeError):
            executor.options(speed=3)


# --- cancellation ---------------------------------------------------------------------------------


def test_cancel_ends_a_running_call(make: Make, tmp_path: Path) -> None:
    with make(1) as executor:
        future, behind = executor.submit(hang, tmp_path / "pid"), executor.submit(double, 5)
        wait_until((tmp_path / "pid").exists)
        assert future.running()
        assert future.cancel()
        assert future.cancelled()
        assert concurrent.futures.wait([future], DEADLINE_S).done == {future}
        assert behind.result(DEADLINE_S) == 10  # the only worker was free again
        assert not behind.cancel()
        assert executor.stats()["cancelled"] == 1


def test_shutdown_cancels_what_does_not_run(make: Make, tmp_path: Path) -> None:
    gate, executor = tmp_path / "gate", make(1)
    running = executor.submit(wait_for, tmp_path / "started", gate)
    waiting = [executor.submit(double, n) for n in range(2000)]
    wait_until((tmp_path / "started").exists)
    executor.shutdown(wait=False, cancel_futures=True)
    assert concurrent.futures.wait(waiting, DEADLINE_S).not_done == set()
    assert all(future.cancelled() for future in waiting[1:])  # one may have been sent ahead to the process that is busy
    gate.touch()
    assert running.result(DEADLINE_S) is True
    executor.shutdown()


def test_an_interrupt_ends_what_runs(make: Make, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), make(1) as executor:
        future = executor.submit(hang, tmp_path / "pid")
        wait_until((tmp_path / "pid").exists)
        raise KeyboardInterrupt
    assert future.cancelled()


# --- map ------------------------------------------------------------------------------------------


def test_map_keeps_the_order(make: Make) -> None:
    with make(2) as executor:
        assert list(executor.map(double, range(10))) == [2 * n for n in range(10)]
        assert list(executor.map(divide, [1, 2, 3], [2, 2], chunksize=2)) == [0.5, 1.0]
        assert list(executor.map(double, range(101), chunksize=10)) == [2 * n for n in range(101)]
        assert executor.stats()["submitted"] == 10 + 1 + 11


def test_map_submits_no_more_than_its_buffer(make: Make) -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    with make(1) as executor:
        results = executor.map(double, numbers(), buffersize=3)
        assert len(taken) == 3
        assert [next(results), next(results)] == [0, 2]
        assert len(taken) == 5
        assert list(results) == [2 * n for n in range(2, 100)]


def test_map_times_out(make: Make, tmp_path: Path) -> None:
    with make(1) as executor:
        results = executor.map(hang, [tmp_path / "pid"], timeout=0.1)
        with pytest.raises(TimeoutError):
            next(results)  # and the call is cancelled


# --- processes ------------------------------------------------------------------------------------


def test_the_initializer_runs_before_the_calls_of_each_process(make: Make) -> None:
    with make(1, initializer=set_up, initargs=("ready",)) as executor:
        first = executor.submit(what_is_set_up).result(DEADLINE_S)
        assert first[1] == ["ready"]
        assert executor.submit(what_is_set_up).result(DEADLINE_S) == first
        executor.submit(segfault).exception(DEADLINE_S)
        assert executor.submit(what_is_set_up).result(DEADLINE_S)[1] == ["ready"]
    with make(1, initializer=fail_to_set_up) as executor:
        error = executor.submit(double, 1).exception(DEADLINE_S)
        assert str(error) == "the worker's initializer failed: KeyError: 'model'"


def test_a_process_runs_no_more_calls_than_it_may(make: Make) -> None:
    with make(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(os.getpid).result(DEADLINE_S) for _ in range(6)]
    assert pids[0] == pids[1]
    assert len(set(pids)) == 3


def test_asyncio_runs_calls_in_it(make: Make) -> None:
    async def main(executor: Executor) -> list[object]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, double, n) for n in range(5)]
        return await asyncio.gather(*calls, loop.run_in_executor(executor, segfault), return_exceptions=True)

    with make(2) as executor:
        *values, crash = asyncio.run(main(executor))
    assert values == [0, 2, 4, 6, 8]
    assert isinstance(crash, taskpool.JobCrashed)


def test_threads_share_it_and_callbacks_may_submit(make: Make) -> None:
    results: list[int] = []
    done = threading.Event()

    def note(future: concurrent.futures.Future[int]) -> None:
        results.append(future.result())
        done.set()

    def submit_again(future: concurrent.futures.Future[int]) -> None:
        executor.submit(double, future.result()).add_done_callback(note)

    with make(2) as executor:
        executor.submit(double, 1).add_done_callback(submit_again)
        threads = [threading.Thread(target=lambda: results.extend(executor.map(double, range(100)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done.wait(DEADLINE_S)
    assert sorted(results) == sorted([4, *(2 * n for n in range(100) for _ in range(4))])


def test_a_callback_that_raises_what_its_call_has_raised_costs_nothing(make: Make) -> None:
    with make(1) as executor:
        future = executor.submit(sys.exit, 3)
        future.add_done_callback(lambda future: future.result())
        assert isinstance(future.exception(DEADLINE_S), SystemExit)
        assert executor.submit(double, 1).result(DEADLINE_S) == 2


def test_a_pool_whose_calls_are_cancelled_leaves_without_a_word(
    make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with make(1) as executor:
        futures = [executor.submit(hang, tmp_path / "pid") for _ in range(20)]
        wait_until((tmp_path / "pid").exists)
        for future in futures:
            future.cancel()
    with pytest.raises(KeyboardInterrupt), make(1) as executor:
        futures = [executor.submit(hang, tmp_path / "again") for _ in range(20)]
        wait_until((tmp_path / "again").exists)
        raise KeyboardInterrupt
    assert all(future.cancelled() for future in futures)
    assert capfd.readouterr().err == ""


# --- the dealer -----------------------------------------------------------------------------------


def test_a_killed_dealer_takes_its_calls_along_and_the_next_ones_get_another(make: Make, tmp_path: Path) -> None:
    with make(1) as executor:
        future = executor.submit(hang, tmp_path / "pid")
        wait_until((tmp_path / "pid").exists)
        private = executor._loop._link.private
        assert private is not None
        os.kill(private.pid, signal.SIGKILL)
        with pytest.raises(taskpool.JobLost, match="without a journal nothing has kept it"):
            future.result(DEADLINE_S)
        assert executor.submit(double, 4).result(DEADLINE_S) == 8
        assert executor.stats()["lost"] == 1


def test_a_dealer_that_cannot_start_is_the_end_of_the_pool(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TP_DEALER_CHAOS", "nonsense")
    with make(1) as executor:
        with pytest.raises(taskpool.PoolError, match=r"ended with exit status 2"):
            executor.submit(double, 4).result(DEADLINE_S)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(double, 4)


def test_a_forked_child_is_refused_and_does_not_keep_the_pool(make: Make) -> None:
    with make(1) as executor:
        executor.submit(double, 1).result(DEADLINE_S)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                executor.submit(double, 2)
            except RuntimeError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        text = os.read(reader, 1000).decode()
        os.close(reader)
        os.close(writer)
        assert f"belongs to the process {os.getpid()}, and this one, {child}, was forked from it" in text
        assert executor.submit(double, 2).result(DEADLINE_S) == 4


# --- programs -------------------------------------------------------------------------------------

MAIN = """
import os, taskpool
model = None
class Point:
    def __init__(self, x): self.x = x
def start(value):
    global model
    model = value
def work(x):
    return Point((x, model))
if __name__ == "__main__":
    with taskpool.Executor(2, initializer=start, initargs=(5,)) as executor:
        points = list(executor.map(work, range(4)))
        assert all(type(point) is Point for point in points)
        print([point.x for point in points])
        print(executor.submit(lambda a: a + 1, 1).result())
"""
SAID = "[(0, 5), (1, 5), (2, 5), (3, 5)]\n2\n"


MANAGER = """
import multiprocessing, taskpool
def adopt(key):
    multiprocessing.current_process().authkey = key
def work(queue, n):
    queue.put(n * n)
if __name__ == "__main__":
    key = bytes(multiprocessing.current_process().authkey)
    with multiprocessing.Manager() as manager, taskpool.Executor(1, initializer=adopt, initargs=(key,)) as executor:
        queue = manager.Queue()
        for n in range(3):
            executor.submit(work, queue, n).result()
        print([queue.get() for _ in range(3)])
"""


def test_queues_of_a_manager_may_be_arguments(make: Make) -> None:
    assert programs.run(MANAGER) == "[0, 1, 4]\n"


def test_what_main_defines_is_sent_along(make: Make, tmp_path: Path) -> None:
    assert programs.run(MAIN) == SAID
    script = tmp_path / "script.py"
    script.write_text(MAIN)
    run = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    assert programs.run(run, script) == SAID


def test_a_program_on_standard_input_and_one_that_does_not_shut_down(make: Make) -> None:
    with programs.start("import code; code.interact(banner='', exitmsg='')") as console:
        lines = [
            "import taskpool",
            "executor = taskpool.Executor(1)",
            "def work(x): return x + 1",
            "",
            "future = executor.submit(work, 1)",
            "print(future.result())",
            "_ = executor.submit(print, 'at the end')",
        ]
        printed, complaint = console.communicate("\n".join(lines) + "\n", timeout=DEADLINE_S)
    assert console.returncode == 0, complaint
    assert printed.replace(">>> ", "").replace("... ", "") == "2\nat the end\n"


def test_an_executor_that_is_forgotten_ends(make: Make) -> None:
    code = """
import gc, taskpool, threading
executor = taskpool.Executor(1)
view = executor.options(timeout=9)
assert executor.submit(int, "3").result() == 3
del executor
gc.collect()
assert view.submit(int, "4").result() == 4
thread = view._loop.thread
del view
gc.collect()
thread.join(30)
print(thread.is_alive())
"""
    assert programs.run(code) == "False\n"


def test_the_import_is_cheap() -> None:
    code = """
import sys
before = set(sys.modules)
import taskpool
print(sorted(set(sys.modules) - before))
print(taskpool.JobCrashed.__name__, "Executor" in dir(taskpool))
try:
    taskpool.Nothing
except AttributeError as error:
    print(error)
"""
    said = "['taskpool']\nJobCrashed True\nmodule 'taskpool' has no attribute 'Nothing'\n"
    assert programs.run(code) == said


# --- memory -----------------------------------------------------------------------------------------


def hold(mib: int) -> int:
    return len(bytearray(mib << 20)) >> 20


def test_a_call_that_takes_more_than_its_memory_fails_alone(make: Make) -> None:
    with make(1, memory_limit="150M") as executor:
        futures = [executor.submit(hold, mib) for mib in (10, 1000, 20)]
        futures.append(executor.options(memory_limit="400M").submit(hold, 300))
        with pytest.raises(taskpool.OutOfMemory, match="within its memory limit of 150 MiB") as caught:
            futures[1].result(DEADLINE_S)
        assert isinstance(caught.value.__cause__, MemoryError)
        assert [futures[n].result(DEADLINE_S) for n in (0, 2, 3)] == [10, 20, 300]
