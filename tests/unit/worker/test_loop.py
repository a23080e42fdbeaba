"""What a worker says, and what jobs can do to it: a real process on real queues; the test is its dealer."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import taskpool
from support.harness import until
from support.worker_stage import BATCH, EPOCH, EVENTS, PATIENCE_SECONDS, Start, call, command, fib
from taskpool import codec
from taskpool.clock import MILLISECOND
from taskpool.errors import QueueEmpty
from taskpool.ipc.sizing import Shape
from taskpool.kinds import KINDS
from taskpool.limits import FRAME_JOBS_MAX
from taskpool.messages import End, Frame, Progress, Report, Task
from taskpool.worker.loop import PROGRESS_OVERHEAD_BYTES


@pytest.fixture
def start(pool: str, tmp_path: Path) -> Iterator[Start]:
    with Start(pool, tmp_path) as start:
        yield start


# --- the messages -----------------------------------------------------------------------------


def test_ready_names_the_worker_and_its_kinds(start: Start) -> None:
    dealer = start("--verbose")
    assert (dealer.ready.pid, dealer.ready.version) == (dealer.pid, taskpool.__version__)
    assert dealer.ready.kinds == list(KINDS)
    assert dealer.log_text() == f"[Worker {dealer.pid}] Starting up\n"


def test_a_job_is_started_then_reported(start: Start) -> None:
    report = start().result(fib(20))
    assert (report.end, report.value) == (End.SUCCEEDED, b"6765")
    assert report.usage.started_wall_ns > 0


def test_a_program_is_run(start: Start) -> None:
    report = start().result(command("sh", "-c", "echo $TP_JOB_ID; exit 3"))
    assert (report.end, report.exit_status, report.output.stdout) == (End.FAILED, 3, f"{BATCH}/1\n")


def test_reports_of_tiny_jobs_travel_together(start: Start) -> None:
    dealer = start()
    n = dealer.send(*(fib(i % 10, seq=i) for i in range(1, 33)))
    dealer.hear_started(n)
    reports: list[Report] = []
    messages = 0
    while len(reports) < 32:
        reports += dealer.hear_progress().reports
        messages += 1
    assert [report.n for report in reports] == list(range(n, n + 32))
    assert messages < 32
    assert list(dealer.spool.directory.iterdir()) == [], "split rather than spilled"


def test_what_ended_before_a_job_that_ends_the_worker_is_found(start: Start) -> None:
    dealer = start()
    n = dealer.send(fib(5), fib(6, seq=2), call(dealer, "vanish", seq=3), fib(7, seq=4))
    dealer.hear_started(n)
    assert dealer.death() == 7
    assert dealer.found() == [(n, b"5"), (n + 1, b"8")]
    with pytest.raises(QueueEmpty):
        dealer.events.receive()


def test_what_was_sent_is_not_found_as_well(start: Start) -> None:
    dealer = start()
    n = dealer.send(fib(5), fib(6, seq=2))
    dealer.hear_started(n)
    assert [report.n for report in dealer.hear_progress().reports] == [n, n + 1]
    until(lambda: not dealer.found(), "a worker that lets go of what it has sent")


def test_a_report_that_no_message_takes_is_sent_before_the_next_job_begins(start: Start) -> None:
    dealer = start()
    n = dealer.send(fib(5), call(dealer, "large", EVENTS.msgsize, seq=2), call(dealer, "vanish", seq=3))
    dealer.hear_started(n)
    assert [report.n for report in dealer.hear_progress().reports] == [n]
    assert [report.n for report in dealer.hear_progress().reports] == [n + 1]
    assert dealer.death() == 7
    assert dealer.found() == []


def test_what_is_held_fits_its_message_whatever_the_numbers() -> None:
    most = 2**63 - 1
    report = Report(most, End.SUCCEEDED)
    message = Progress(most, most, [report] * FRAME_JOBS_MAX, started=most)
    taken = len(codec.encode(message)) - FRAME_JOBS_MAX * len(codec.encode_report(report))
    assert taken <= PROGRESS_OVERHEAD_BYTES


def test_the_next_start_rides_with_the_last_reports(start: Start) -> None:
    dealer = start()
    os.mkfifo(dealer.home / "fifo")
    first = dealer.send(call(dealer, "gate", str(dealer.home / "fifo")))
    second = dealer.send(fib(1))
    dealer.hear_started(first)
    (dealer.home / "fifo").write_text("go")
    progress = dealer.hear_progress()
    assert ([report.n for report in progress.reports], progress.started) == ([first], second)
    assert [report.n for report in dealer.hear_progress().reports] == [second]


def test_a_report_does_not_wait_for_a_job_that_may_take_long(start: Start) -> None:
    dealer = start()
    os.mkfifo(dealer.home / "fifo")
    n = dealer.send(fib(1), command("cat", str(dealer.home / "fifo")))
    dealer.hear_started(n)
    assert [report.n for report in dealer.hear_progress().reports] == [n]
    (dealer.home / "fifo").write_text("go")
    assert [report.output.stdout for report in dealer.hear_progress().reports] == ["go"]


def test_a_large_value_comes_through_the_spool(start: Start) -> None:
    dealer = start()
    assert dealer.result(call(dealer, "large", 300_000)).value == b'"%s"' % (b"x" * 300_000)
    assert list(dealer.spool.directory.iterdir()) == []


def test_a_value_that_the_spool_cannot_take_waits_for_it(start: Start) -> None:
    dealer = start()
    spool = dealer.spool.directory
    spool.rmdir()
    spool.touch()  # in the way of another
    n = dealer.send(call(dealer, "large", 300_000))
    dealer.hear_started(n)
    until(dealer.log_text, "the worker says that it waits")
    assert f"the pool's spool {spool} must be there, writable, and have room" in dealer.log_text()
    spool.unlink()
    (report,) = dealer.hear_progress().reports
    assert report.value == b'"%s"' % (b"x" * 300_000)
    assert dealer.log_text().count("waits") == 1
    assert dealer.result(fib(10)).value == b"55"


def test_a_full_queue_only_delays(start: Start) -> None:
    dealer = start(events=Shape(1, 1024))
    frames = [dealer.send(fib(10)), dealer.send(fib(11))]
    dealer.kill(signal.SIGTERM)  # interrupts the send that waits, or nothing
    heard: list[int] = []
    while len(heard) < 2:
        heard += [report.n for report in dealer.hear_progress().reports]
    assert heard == frames


def test_what_is_no_frame_for_it_is_dropped(start: Start) -> None:
    dealer = start()
    for garbage in (b"", b"garbage", b"\x01", b"\x01\xc1", codec.encode(Progress(1, EPOCH))):
        dealer.requests.send(garbage)
        assert dealer.result(fib(1)).value == b"1"
    dealer.send(fib(2), epoch=EPOCH + 1)
    assert dealer.result(fib(3)).value == b"2"
    assert dealer.log_text().count("Dropped") == 6


def test_a_damaged_job_fails_after_its_start(start: Start) -> None:
    dealer = start()
    dealer.requests.send(codec.encode(Frame(EPOCH, 7, 1, 0, BATCH, msgspec.Raw(b"\x91\x05"))))
    dealer.hear_started(7)
    [report] = dealer.hear_progress().reports
    assert (report.n, report.end) == (7, End.FAILED)
    assert dealer.result(fib(1)).value == b"1"


def test_a_damaged_frame_of_several_ends_the_worker_without_a_report(start: Start) -> None:
    """The dealer then sends each job alone, and only the damaged one fails."""
    dealer = start()
    n = dealer.send(fib(1), fib(2), count=3)
    dealer.hear_started(n)
    assert dealer.death() == 3
    assert dealer.events.depth() == 0
    assert "a frame of 2 jobs that says 3" in dealer.last_words()


# --- what jobs do ---------------------------------------------------------------------------------


def test_prints_are_captured_job_by_job(start: Start) -> None:
    dealer = start()
    output = dealer.result(call(dealer, "printing", "hello")).output
    assert output.stdout is not None
    assert sorted(output.stdout.splitlines()) == ["from below from a child", "hello"]
    assert output.stderr == "hello!\n"
    assert dealer.result(fib(1)).output.stdout is None
    assert dealer.last_words() == ""


def test_output_that_is_no_text_becomes_a_file(start: Start) -> None:
    dealer = start()
    output = dealer.result(call(dealer, "raw")).output
    assert output.stdout is None
    assert output.stdout_file is not None
    assert Path(output.stdout_file).read_bytes() == b"\xff\xfe"
    assert dealer.result(fib(1)).output.stdout is None


def test_a_grandchild_is_gone_before_the_report(start: Start) -> None:
    dealer = start()
    report = dealer.result(call(dealer, "grandchild"))
    with pytest.raises(ProcessLookupError):
        os.kill(json.loads(report.value or b""), 0)


def test_a_fork_that_returns_from_its_job_is_no_second_worker(start: Start) -> None:
    dealer = start()
    for _ in range(5):
        assert dealer.result(call(dealer, "fork")).value == b"1"
        assert dealer.result(fib(10)).value == b"55"
    assert dealer.events.depth() == 0


def test_a_job_that_closes_the_output_costs_the_process_not_the_result(start: Start) -> None:
    dealer = start()
    assert dealer.result(call(dealer, "close_output")).end is End.SUCCEEDED
    assert dealer.death() == 0


def test_a_file_that_a_job_makes_its_standard_output_is_left_alone(start: Start) -> None:
    dealer = start()
    own = dealer.home / "own"
    own.write_text("worth keeping\n")
    report = dealer.result(call(dealer, "replace_output", str(own)))
    assert report.end is End.SUCCEEDED
    assert "files of its own" in (report.output.stderr or "")
    assert own.read_text().endswith("keeping\n")
    assert dealer.death() == 0


def test_a_job_that_exits_leaves_its_last_words(start: Start) -> None:
    dealer = start()
    dealer.hear_started(dealer.send(call(dealer, "vanish")))
    assert dealer.death() == 7
    assert dealer.last_words() == "last words"


@pytest.mark.parametrize("of_its_own", [False, True])
def test_a_job_that_closes_the_workers_files_ends_it_and_nothing_else(start: Start, of_its_own: bool) -> None:
    dealer = start()
    own = dealer.home / "own"
    own.write_text("worth keeping")
    line = f"os.closerange(3, 50); {of_its_own} and [os.open({str(own)!r}, os.O_RDWR) for _ in range(47)]"
    assert dealer.result(fib(10)).value == b"55"
    dealer.hear_started(dealer.send(call(dealer, "do", line)))
    assert dealer.death() == 3
    assert dealer.events.depth() == 0
    assert "events is closed here" in dealer.last_words()
    assert own.read_text() == "worth keeping"


def test_the_next_job_starts_where_the_worker_did(start: Start) -> None:
    dealer = start()
    assert dealer.result(call(dealer, "wander")).value == b'"/"'
    assert json.loads(dealer.result(call(dealer, "where")).value or b"") == os.getcwd()


@pytest.mark.parametrize(
    "line",
    [
        "os.environ['POLLUTED'] = 'yes'",
        "os.environ.clear()",
        "os.environ = {'PATH': '/nowhere'}",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)",
        "subprocess.Popen(['sleep', '1000']); signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())",
        "signal.signal(signal.SIGALRM, print); signal.setitimer(signal.ITIMER_REAL, 1000)",
        "signal.setitimer(signal.ITIMER_PROF, 1000, 1000)",
        "signal.set_wakeup_fd(os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)[1])",
        "os.umask(0); os.chdir('/')",
        "thread = threading.Thread(target=int); thread.start(); thread.join()",
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "libc.syscall(251, 1, 0, 3 << 13)",
        "libc.prctl(4, 0, 0, 0, 0)",
        "libc.prctl(1, 0, 0, 0, 0); libc.prctl(36, 0, 0, 0, 0); libc.prctl(15, b'another', 0, 0, 0)",
        "open('/proc/self/oom_score_adj', 'w').write('900')",
        "open('/proc/self/comm', 'w').write('another')",
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]))",
        "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
        "os.environ['TZ'] = 'Asia/Tokyo'; time.strftime('%H')",
        "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset(); del os.environ['TZ']",
        "locale.setlocale(locale.LC_ALL, 'C')",
        "os.close(0)",
        "os.dup2(os.open('/dev/zero', os.O_RDONLY), 0)",
        "sys.stdin.close()",
        "sys.stdin = open('/dev/zero')",
        "sys.stdout.close(); sys.__stderr__.close()",
        "sys.stdout.detach()",
        "sys.stdout = os.fdopen(1, 'w'); sys.stderr = os.fdopen(2, 'w')",
        "import decimal; decimal.getcontext().prec = 3",
        "sys.stdout = None; sys.stderr = object()",
        "sys.stdout.reconfigure(encoding='ascii', errors='strict', line_buffering=True)",
        "sys.path.insert(0, '/elsewhere'); sys.argv.append('--more')",
        "sys.path = []; sys.argv = None",
        "del sys.stdin, sys.stdout, sys.stderr, sys.argv, sys.path",
        "sys.stdout = type('Odd', (), {'flush': sys.exit, '__eq__': sys.exit})()",
        "sys.setrecursionlimit(5000); sys.setswitchinterval(1); gc.disable(); gc.set_threshold(1, 2, 3)",
        "socket.setdefaulttimeout(3)",
        "multiprocessing.set_start_method('spawn')",
        "faulthandler.disable()",
        "faulthandler.dump_traceback_later(0.05, exit=True)",
        "os.setpgid(0, os.getppid())",
        pytest.param("os.setresuid(1, 1, -1)", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root may")),
        pytest.param(
            "os.setgroups([5]); os.setegid(5)", marks=pytest.mark.skipif(os.geteuid() != 0, reason="as above")
        ),
        pytest.param("os.nice(3)", marks=pytest.mark.skipif(os.geteuid() != 0, reason="as above")),
    ],
)
def test_the_next_job_finds_the_process_as_it_was(start: Start, line: str) -> None:
    dealer = start()
    before = dealer.result(call(dealer, "surroundings"))
    assert before.value is not None
    dealer.result(call(dealer, "do", line))
    after = dealer.result(command("sh", "-c", "echo $POLLUTED $TP_WORKER"))
    assert (after.end, after.exit_status, after.error) == (End.SUCCEEDED, 0, None)
    assert after.output.stdout == f"{dealer.mark}\n"
    assert json.loads(dealer.result(call(dealer, "surroundings")).value or b"") == json.loads(before.value)


def test_a_thread_that_runs_on_ends_the_worker_behind_the_report(start: Start) -> None:
    dealer = start()
    line = "threading.Thread(target=signal.sigwait, args=([signal.SIGUSR1],), daemon=True).start()"
    n = dealer.send(call(dealer, "do", line), fib(10))
    dealer.hear_started(n)
    [report] = dealer.hear_progress().reports
    assert (report.n, report.end) == (n, End.SUCCEEDED)
    assert dealer.death() == 0
    assert "Job b/1 leaves a thread that still runs: another worker takes over" in dealer.log_text()


def test_files_that_a_job_leaves_open_do_not_use_up_the_next_jobs(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        dealer = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for _ in range(2):
        assert dealer.result(call(dealer, "do", "[os.dup(0) for _ in range(70)]")).end is End.SUCCEEDED
    assert dealer.death() == 0
    assert "open files: another worker takes over" in dealer.log_text()


# --- time-outs and signals ------------------------------------------------------------------------


def test_past_its_deadline_a_job_is_interrupted_and_the_worker_leaves(start: Start) -> None:
    dealer = start()
    n = dealer.send(call(dealer, "spin"), timeout_ns=50 * MILLISECOND)
    dealer.hear_started(n)
    until = time.monotonic() + PATIENCE_SECONDS
    while not dealer.events.depth() and time.monotonic() < until:
        dealer.kill(signal.SIGTERM)  # before the deadline it does nothing
        select.select([dealer.events.fileno()], [], [], 0.01)
    [report] = dealer.hear_progress().reports
    assert (report.n, report.end) == (n, End.TIMED_OUT)
    assert report.usage.run_ns >= 50 * MILLISECOND
    assert dealer.death() == 0


def test_signals_do_not_disturb_a_worker(start: Start) -> None:
    dealer = start()
    os.mkfifo(dealer.home / "fifo")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        dealer.kill(number)
    n = dealer.send(call(dealer, "gate", str(dealer.home / "fifo")))
    dealer.hear_started(n)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        dealer.kill(number)
    (dealer.home / "fifo").write_text("go")
    assert [report.value for report in dealer.hear_progress().reports] == [b'"go"']


# --- chaos ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SEGV", "KILL", "ABRT", "BUS"])
def test_a_simulated_crash_is_a_real_one(start: Start, name: str) -> None:
    dealer = start("--chaos", f"crash=1:{name}", "--verbose")
    dealer.hear_started(dealer.send(fib(1)))
    assert dealer.death() == -signal.Signals[f"SIG{name}"]
    assert dealer.log_text().endswith(f"[Worker {dealer.pid}] Simulated crash!\n")
    assert dealer.last_words() == ""


def test_a_simulated_exit_says_nothing(start: Start) -> None:
    dealer = start("--chaos", "exit=1")
    dealer.hear_started(dealer.send(fib(1)))
    assert dealer.death() == 1


def test_a_simulated_hang_can_only_be_killed(start: Start) -> None:
    dealer = start("--chaos", "hang=1", "--verbose", "--log-format", "json")
    n = dealer.send(Task(1, 1, "fib", fib(1).payload), timeout_ns=1)
    dealer.hear_started(n)
    until = time.monotonic() + PATIENCE_SECONDS
    while "hang" not in dealer.log_text() and time.monotonic() < until:
        select.select([], [], [], 0.005)
    dealer.kill(signal.SIGTERM)
    assert json.loads(dealer.log_text().splitlines()[-1])["text"] == "Simulated hang!"
    dealer.kill(signal.SIGKILL)
    assert dealer.death() == -signal.SIGKILL
    assert dealer.events.depth() == 0
