"""One attempt inside this very process. What only a process of its own can show is in test_loop.py."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import pytest

from taskpool import codec, limits
from taskpool.clock import SECOND
from taskpool.errors import MessageError
from taskpool.kinds import KINDS, Context, JobTimedOut, Result, WorkerUnfit
from taskpool.messages import NO_OUTPUT, End, Frame, JobError, Limits, Output, Progress, Report, Task
from taskpool.procs import procfs
from taskpool.procs.prctl import ParentTie
from taskpool.worker import runner as module
from taskpool.worker.capture import Capture
from taskpool.worker.log import Log
from taskpool.worker.process_state import ProcessState
from taskpool.worker.runner import Runner
from taskpool.worker.timeout import TimeoutSignal

Job = Callable[[Context], Result]
DONE = Result(End.SUCCEEDED, value=b"42")


class StillCapture(Capture):
    """Leaves this process's own descriptors 1 and 2 alone."""

    def __init__(self) -> None:
        self.output: Output | OSError = NO_OUTPUT

    def take(self, context: Context) -> Output:
        if isinstance(self.output, OSError):
            raise self.output
        return self.output


class NoTie(ParentTie):
    """Leaves this process's own ties alone."""

    def __init__(self) -> None:
        self.descendants_go_first = False

    @contextmanager
    def descendants_first(self) -> Iterator[None]:
        self.descendants_go_first = True
        yield
        self.descendants_go_first = False


class Stage:
    """A runner, and a kind whose jobs are functions of the test."""

    def __init__(self) -> None:
        self.job: Job = lambda context: DONE
        self.in_process = True
        self.runs_user_code = True
        self.capture = StillCapture()
        timeout_signal = TimeoutSignal()
        timeout_signal.install()
        self.tie = NoTie()
        self.runner = Runner("spool", self.tie, timeout_signal, self.capture, Log(None))

    def run(self, payload: bytes, context: Context) -> Result:
        return self.job(context)

    def attempt(self, job: Job, *, timeout_ns: int = 0, kind: str = "fake") -> Report:
        self.job = job
        task = Task(seq=3, try_=2, kind=kind, payload=b"")
        tasks = codec.encode_tasks([task])
        frame = Frame(5, 71, count=1, slot=1, batch="b", tasks=tasks, limits=Limits(timeout_ns=timeout_ns))
        report = self.runner.run(frame, 71, task)
        assert codec.decode(codec.encode(Progress(1, 5, [report]))) == Progress(1, 5, [report]), "the dealer takes it"
        return report


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    taken = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in taken}
    descriptors = set(procfs.own_descriptors())
    stage = Stage()
    monkeypatch.setitem(KINDS, "fake", stage)
    yield stage
    for number, handler in before.items():
        signal.signal(number, handler)
    for fd in set(procfs.own_descriptors()) - descriptors:  # a worker keeps copies for as long as it lives
        with suppress(OSError):
            os.close(fd)


def raising(error: BaseException) -> Job:
    def job(context: Context) -> Result:
        raise error

    return job


def terminate(context: Context) -> Result:
    """A job whose process gets a SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)
    return DONE


# --- reports --------------------------------------------------------------------------------------


def test_a_report_says_how_it_went(stage: Stage) -> None:
    stage.capture.output = Output(stdout="hello")
    before = time.time_ns()
    report = stage.attempt(lambda context: DONE)
    assert (report.n, report.end, report.value, report.output.stdout) == (71, End.SUCCEEDED, b"42", "hello")
    assert before <= report.usage.started_wall_ns <= time.time_ns()
    assert not stage.runner.must_exit


def test_a_job_may_be_the_last_one_of_its_process(stage: Stage) -> None:
    assert stage.attempt(lambda context: DONE._replace(last=True)).end is End.SUCCEEDED
    assert stage.runner.must_exit


def test_a_job_is_told_who_it_is(stage: Stage) -> None:
    seen: list[Context] = []

    def job(context: Context) -> Result:
        seen.append(context)
        return DONE

    stage.attempt(job, timeout_ns=9 * SECOND)
    [context] = seen
    assert (context.batch, context.seq, context.try_, context.slot, context.token) == ("b", 3, 2, 1, (5, 71))
    assert context.deadline_ns == context.started_ns + 9 * SECOND


def test_usage_is_measured_inside_and_taken_from_programs(stage: Stage) -> None:
    def spin(context: Context) -> Result:
        filled = bytearray(b"x") * (50 << 20)
        until = time.process_time_ns() + 20_000_000
        while time.process_time_ns() < until:
            pass
        return DONE._replace(value=b"%d" % len(filled), cpu_ns=7, max_rss_bytes=8)

    usage = stage.attempt(spin).usage
    assert usage.cpu_ns >= 20_000_000
    assert usage.run_ns >= 20_000_000
    assert usage.max_rss_bytes > 50 << 20
    stage.in_process = False
    usage = stage.attempt(spin).usage
    assert (usage.cpu_ns, usage.max_rss_bytes) == (7, 8)


def test_what_is_restored_after_a_job_is_not_charged_to_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(_: ProcessState) -> None:
        until = time.process_time_ns() + 50_000_000
        while time.process_time_ns() < until:
            pass

    monkeypatch.setattr(ProcessState, "restore", slowly)
    assert stage.attempt(lambda context: DONE).usage.cpu_ns < 50_000_000


def test_the_memory_of_one_job_is_not_charged_to_the_next(stage: Stage) -> None:
    def use(size: int) -> Job:
        def job(context: Context) -> Result:
            filled = bytearray(b"x") * size
            until = time.monotonic_ns() + 2 * limits.FRAME_TINY_JOB_NS_MAX
            while time.monotonic_ns() < until:
                pass
            return DONE._replace(value=b"%d" % len(filled))

        return job

    large = stage.attempt(use(100 << 20)).usage.max_rss_bytes
    assert stage.attempt(use(1)).usage.max_rss_bytes < large - (50 << 20)


def test_an_unknown_kind_fails_its_job(stage: Stage) -> None:
    report = stage.attempt(lambda context: DONE, kind="tarot")
    assert report.end is End.FAILED
    assert report.error is not None
    assert "'tarot'" in report.error.message
    assert "fib" in report.error.message


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MessageError("fib: expected int")])
def test_what_the_machine_or_the_payload_spoils_is_a_failure(stage: Stage, error: Exception) -> None:
    report = stage.attempt(raising(error))
    assert (report.end, report.error) == (End.FAILED, JobError(type(error).__name__, str(error)))
    assert not stage.runner.must_exit


def test_an_error_in_a_kind_is_not_hidden(stage: Stage) -> None:
    with pytest.raises(ZeroDivisionError):
        stage.attempt(raising(ZeroDivisionError()))


@pytest.mark.parametrize("words", ["\udcff", "x" * 10**6, "\N{SNOWMAN}" * 10**6])
def test_any_words_of_a_job_fit_a_report(stage: Stage, words: str) -> None:
    """Encoding and decoding again, in `attempt`, is the test: the decoder holds every limit."""
    error = JobError(words, words, words)
    report = stage.attempt(lambda context: Result(End.FAILED, error=error))
    assert report.error is not None
    assert report.error.message[:5] == words.encode("utf-8", "backslashreplace").decode()[:5]


def test_a_job_that_spoils_its_output_loses_only_that(stage: Stage) -> None:
    stage.capture.output = OSError(9, "Bad file descriptor")
    report = stage.attempt(lambda context: DONE)
    lost = "[taskpool] what the job printed is lost: [Errno 9] Bad file descriptor\n"
    assert (report.end, report.output) == (End.SUCCEEDED, Output(stderr=lost))
    assert stage.runner.must_exit


# --- what is left of a job ------------------------------------------------------------------------


def test_the_next_job_finds_directory_and_umask_as_they_were(stage: Stage) -> None:
    here, mask = os.getcwd(), os.umask(0o077)
    os.umask(mask)

    def job(context: Context) -> Result:
        os.chdir("/")
        os.umask(0)
        return DONE

    stage.attempt(job)
    assert os.getcwd() == here
    assert os.umask(mask) == mask


def test_a_limit_that_cannot_be_raised_again_ends_the_process(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a hard limit for all users but root; here a soft one, which this process gets back."""
    before, real = resource.getrlimit(resource.RLIMIT_CORE), resource.setrlimit

    def job(context: Context) -> Result:
        real(resource.RLIMIT_CORE, ((before[0] or 4096) - 1, before[1]))
        monkeypatch.setattr(resource, "setrlimit", refuse)
        return DONE

    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    try:
        report = stage.attempt(job)
    finally:
        real(resource.RLIMIT_CORE, before)
    assert report.end is End.SUCCEEDED
    assert stage.runner.must_exit


def test_a_program_that_only_another_worker_can_start_is_given_back(stage: Stage) -> None:
    """One of the limits of this process was lowered from outside, as prlimit(1) does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said: list[str | None] = []

    def job(context: Context) -> Result:
        said.append(context.lowered(resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        said.append(context.lowered(resource.RLIMIT_NPROC))
        said.append(context.lowered(resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE))
        raise WorkerUnfit("no descriptor left")

    stage.runs_user_code = stage.in_process = False
    try:
        report = stage.attempt(job)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert said == [None, None, f"RLIMIT_NOFILE of this worker was lowered to {soft - 1}"]
    assert (report.end, report.error) == (End.LOST, JobError("WorkerUnfit", "no descriptor left"))
    assert stage.runner.must_exit


def test_no_child_outlives_its_job(stage: Stage) -> None:
    started: list[int] = []

    def job(context: Context) -> Result:
        started.append(os.posix_spawn("/bin/sleep", ["sleep", "1000"], os.environ))
        return DONE

    stage.attempt(job)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


# --- time-outs ------------------------------------------------------------------------------------


def test_a_job_past_its_deadline_is_interrupted(stage: Stage) -> None:
    report = stage.attempt(terminate, timeout_ns=1)
    assert report.end is End.TIMED_OUT
    assert report.error == JobError("TimedOut", "still running after its time-out of 1e-09 s")
    assert stage.runner.must_exit


@pytest.mark.parametrize("timeout_ns", [0, 3600 * SECOND], ids=["no time-out", "time left"])
def test_no_other_job_hears_the_signal(stage: Stage, timeout_ns: int) -> None:
    assert stage.attempt(terminate, timeout_ns=timeout_ns).end is End.SUCCEEDED
    assert not stage.runner.must_exit


def test_a_kind_that_keeps_its_own_time_is_not_interrupted(stage: Stage) -> None:
    stage.in_process = False
    assert stage.attempt(terminate, timeout_ns=1).end is End.SUCCEEDED


def test_between_jobs_the_signals_mean_nothing(stage: Stage) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # HUP: tests/unit/procs/test_prctl.py
        os.kill(os.getpid(), number)


def test_a_job_is_interrupted_once(stage: Stage) -> None:
    def stubborn(context: Context) -> Result:
        try:
            return terminate(context)
        except JobTimedOut:
            terminate(context)  # the second does not disturb what the job does in its last moments
            raise

    assert stage.attempt(stubborn, timeout_ns=1).end is End.TIMED_OUT


def test_programs_get_the_default_signals_back(stage: Stage) -> None:
    """A handler, unlike SIG_IGN, does not cross exec."""
    text = "import signal; print(*(signal.getsignal(n) == signal.SIG_DFL for n in (15,)))"
    shown = subprocess.run([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert shown.stdout == "True\n"


def test_the_signal_may_come_at_any_instruction(stage: Stage) -> None:
    """The attempt is then timed out or succeeded, and says so; it never ends in the worker's own code."""
    ends: set[End] = set()
    for position in range(1, 10_000):
        with SignalAt(position) as trap:
            report = stage.attempt(lambda context: DONE, timeout_ns=1)
        assert stage.runner.must_exit == (report.end is End.TIMED_OUT), position
        stage.runner.must_exit = False
        ends.add(report.end)
        if not trap.sprung:
            break
    assert ends == {End.SUCCEEDED, End.TIMED_OUT}
    assert position > 100


class SignalAt:
    """Sends SIGTERM to this process when the n-th instruction of the code below `Runner.run` is due."""

    def __init__(self, position: int) -> None:
        self.sprung = False
        self._left = position

    def __enter__(self) -> SignalAt:
        self._before = sys.gettrace()
        # Python 3.12 looks for frames that ask for opcodes only when a trace function is set; later ones always do.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        below_run = frame.f_code.co_name == "run" and frame.f_code.co_filename == module.__file__
        outer = frame.f_back
        if below_run or (outer is not None and outer.f_trace == self._trace_opcode):
            frame.f_trace_opcodes = True
            return self._trace_opcode
        return None

    def _trace_opcode(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode" and not self.sprung:
            self._left -= 1
            if self._left == 0:
                self.sprung = True
                os.kill(os.getpid(), signal.SIGTERM)
        return self._trace_opcode


@pytest.mark.parametrize(("in_process", "expected"), [(True, False), (False, True)])
def test_the_end_of_the_dealer_ends_a_command_first(stage: Stage, in_process: bool, expected: bool) -> None:
    """Within a job's own code no handler runs: the kernel kills that process."""
    seen: list[bool] = []
    stage.in_process = in_process

    def job(_context: Context) -> Result:
        seen.append(stage.tie.descendants_go_first)
        return DONE

    stage.attempt(job)
    assert seen == [expected]
    assert not stage.tie.descendants_go_first
