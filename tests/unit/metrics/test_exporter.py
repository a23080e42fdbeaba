"""What a page of metrics says, against the core whose counters it reads."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.exposition import choose_encoder

from support.exposition import check_golden
from taskpool.clock import MILLISECOND, SECOND, Instant, SystemClock
from taskpool.core.counters import JournalCounters, LoopCounters
from taskpool.core.job import Job
from taskpool.core.reactor import Reactor
from taskpool.core.state import PoolConfig
from taskpool.core.worker import Worker, WorkerState
from taskpool.ids import Incarnation
from taskpool.kinds import KINDS
from taskpool.messages import DEFAULT_LIMITS, JobSpec
from taskpool.metrics.exporter import Queue, Sources, registry
from taskpool.metrics.journal import Journal
from taskpool.metrics.logcounts import LogCounts
from taskpool.metrics.workers import NOTHING, use_of

WALL = 1_800_000_000


class Dealer:
    """All that is behind a page, without a dealer."""

    def __init__(self, journal: Path | None = None) -> None:
        self.core = Reactor(PoolConfig(name="demo", epoch=3, workers=2, version="1.2.3"), {11: "SIGSEGV"})
        self.loop = LoopCounters()
        self.logs = LogCounts()
        self.journal = None if journal is None else Journal(JournalCounters(), journal)
        self.is_ready = True

    def page(self) -> str:
        return generate_latest(registry(self.sources())).decode()

    def sources(self) -> Sources:
        names = ("intake", "control", "events")
        return Sources(
            core=self.core,
            loop=self.loop,
            kinds=tuple(KINDS),
            queues=lambda: [Queue(name, 1, 10) for name in names],
            queues_remade=lambda: 4,
            replies_full=lambda: 5,
            journal=self.journal,
            logs=self.logs,
            ready=lambda: self.is_ready,
            clock=SystemClock(),
        )

    def value(self, sample: str) -> float:
        """The number behind `name{labels}`."""
        lines = [line for line in self.page().splitlines() if line.startswith(f"{sample} ")]
        assert len(lines) == 1, f"{sample}: {lines}"
        return float(lines[0].rpartition(" ")[2])

    def queue_job(self, ordinal: int, wall_ns: int) -> Job:
        from taskpool.core.batch import Batch
        from taskpool.core.entries import JobRecord, Traits

        batch = self.core.pool.batches.setdefault("b", Batch("b", DEFAULT_LIMITS))
        job = Job(JobRecord(ordinal, "b", ordinal, 0, JobSpec("fib", b""), Traits(True, ""), wall_ns), batch)
        self.core.pool.jobs[ordinal] = job
        batch.receive()
        return job


def test_the_page_has_the_golden_names_types_and_labels(tmp_path: Path) -> None:
    check_golden(Dealer(tmp_path / "journal").page())


def test_a_pool_without_a_journal_has_no_journal_families() -> None:
    assert "taskpool_journal_" not in Dealer().page()


@pytest.mark.needs_tool("promtool")
def test_promtool_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    page = Dealer(tmp_path / "journal").page()
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_page_can_be_had_as_openmetrics(tmp_path: Path) -> None:
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    page = encode(registry(Dealer(tmp_path / "journal").sources())).decode()
    assert page.endswith("# EOF\n")


def test_every_value_that_is_known_in_advance_is_there_before_it_counts() -> None:
    dealer = Dealer()
    for sample in (
        'taskpool_jobs_finished_total{kind="python",outcome="timed_out"}',
        'taskpool_attempts_total{end="crashed"}',
        'taskpool_worker_exits_total{reason="signal",signal="SIGSEGV"}',
        'taskpool_submissions_refused_total{reason="full"}',
        'taskpool_worker_cpu_seconds_total{slot="1"}',
        'taskpool_job_run_seconds_count{kind="command"}',
        'taskpool_queue_full_total{queue="events"}',
        'taskpool_log_messages_total{level="error"}',
    ):
        assert dealer.value(sample) == 0


def test_counters_are_what_the_core_has_counted() -> None:
    dealer = Dealer()
    counters = dealer.core.pool.counters
    counters.jobs_accepted["fib"] = 7
    counters.jobs_finished["fib", "timed-out"] = 2
    counters.attempts["crashed"] = 3
    counters.worker_exited("signal", "SIGSEGV")
    counters.worker_exited("signal", "SIGXCPU")
    counters.ran("fib", 30 * MILLISECOND, 20 * MILLISECOND)
    counters.recovery.add(2 * MILLISECOND)
    assert dealer.value('taskpool_jobs_accepted_total{kind="fib"}') == 7
    assert dealer.value('taskpool_jobs_finished_total{kind="fib",outcome="timed_out"}') == 2
    assert dealer.value('taskpool_attempts_total{end="crashed"}') == 3
    assert dealer.value('taskpool_worker_exits_total{reason="signal",signal="SIGSEGV"}') == 1
    assert dealer.value('taskpool_worker_exits_total{reason="signal",signal="other"}') == 1
    assert dealer.value('taskpool_job_cpu_seconds_total{kind="fib"}') == 0.02
    assert dealer.value('taskpool_job_run_seconds_sum{kind="fib"}') == 0.03
    assert dealer.value('taskpool_recovery_seconds_bucket{le="0.001"}') == 0
    assert dealer.value('taskpool_recovery_seconds_bucket{le="0.0025"}') == 1
    assert dealer.value('taskpool_recovery_seconds_bucket{le="+Inf"}') == 1


def test_the_oldest_queued_job_is_the_oldest_by_time() -> None:
    dealer = Dealer()
    assert "\ntaskpool_oldest_queued_job_timestamp_seconds " not in dealer.page(), "there is none: no number"
    dealer.queue_job(1, (WALL + 20) * SECOND)
    dealer.queue_job(2, (WALL + 10) * SECOND)
    assert dealer.value("taskpool_oldest_queued_job_timestamp_seconds") == WALL + 10
    assert dealer.value('taskpool_jobs{state="queued"}') == 2


def test_the_loop_says_how_busy_and_how_late_it_was() -> None:
    dealer = Dealer()
    dealer.loop.turned(busy_ns=3 * MILLISECOND, overslept_ns=-5)
    dealer.loop.turned(busy_ns=1 * MILLISECOND, overslept_ns=20 * MILLISECOND)
    dealer.loop.heard("events", 10, capacity=10)
    dealer.loop.heard("events", 2, capacity=10)
    assert dealer.value("taskpool_loop_turns_total") == 2
    assert dealer.value("taskpool_loop_busy_seconds_total") == 0.004
    assert dealer.value("taskpool_loop_lag_seconds_sum") == 0.023
    assert dealer.value('taskpool_queue_received_messages_total{queue="events"}') == 12
    assert dealer.value('taskpool_queue_full_total{queue="events"}') == 1
    assert dealer.value('taskpool_queue_full_total{queue="reply"}') == 5
    assert dealer.value("taskpool_queues_remade_total") == 4


def test_the_journal_says_what_it_costs(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"x" * 100)
    Path(f"{path}-wal").write_bytes(b"x" * 11)
    dealer = Dealer(path)
    assert dealer.journal is not None
    dealer.journal.counters.observe(rows=5, took_ns=2 * MILLISECOND)
    dealer.core.pool.counters.journal_errors = 1
    assert dealer.value("taskpool_journal_bytes") == 111
    assert dealer.value("taskpool_journal_rows_total") == 5
    assert dealer.value("taskpool_journal_commit_seconds_count") == 1
    assert dealer.value("taskpool_journal_errors_total") == 1


def test_log_messages_are_counted_by_level() -> None:
    dealer = Dealer()
    logger = logging.Logger("of its own", logging.INFO)
    logger.addFilter(dealer.logs)
    logger.addHandler(logging.NullHandler())
    logger.debug("not written")
    logger.info("written")
    logger.critical("written")
    assert dealer.value('taskpool_log_messages_total{level="debug"}') == 0
    assert dealer.value('taskpool_log_messages_total{level="info"}') == 1
    assert dealer.value('taskpool_log_messages_total{level="error"}') == 1


def test_a_slot_shows_what_its_worker_uses() -> None:
    dealer = Dealer()
    code = "import os, sys; spent = [i * i for i in range(10**6)]; print(os.times().user, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        own_word = float(child.stdout.readline())
        worker = Worker(Incarnation(1), Instant(0, 0))
        worker.pid, worker.slot, worker.state = child.pid, 1, WorkerState.BUSY
        dealer.core.supervisor.workers[worker.incarnation] = worker
        assert dealer.value('taskpool_worker_cpu_seconds_total{slot="1"}') >= own_word
        assert dealer.value('taskpool_worker_resident_memory_bytes{slot="1"}') > 2**23
        assert dealer.value('taskpool_worker_resident_memory_bytes{slot="0"}') == 0
        assert dealer.value('taskpool_workers{state="busy"}') == 1
        child.stdin.close()
    assert use_of(child.pid) == NOTHING, "it is gone"


def test_a_stranger_with_a_workers_number_is_not_read() -> None:
    assert use_of(os.getpid()) == NOTHING, "we are no child of ours"
    assert use_of(1) == NOTHING


@pytest.mark.slow
def test_pages_can_be_made_while_the_loop_changes_everything() -> None:
    """What is walked is copied first: nothing here may raise."""
    dealer = Dealer()
    failures: list[BaseException] = []
    done = threading.Event()

    def scrape() -> None:
        made = registry(dealer.sources())
        try:
            while not done.is_set():
                generate_latest(made)
        except RuntimeError as error:  # "dictionary changed size during iteration"
            failures.append(error)

    before, thread = sys.getswitchinterval(), threading.Thread(target=scrape)
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for n in range(20_000):
            dealer.queue_job(n, n)
            dealer.core.supervisor.workers[Incarnation(n)] = Worker(Incarnation(n), Instant(0, 0))
            dealer.core.pool.counters.worker_exits["signal", f"SIG{n}"] = 1
            if n >= 100:
                del dealer.core.pool.jobs[n - 100]
                del dealer.core.supervisor.workers[Incarnation(n - 100)]
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(before)
    assert not failures
