"""What a page of metrics says, against the core whose counters it reads."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.exposition import choose_encoder

from support.exposition import check_golden
from support.journals import open_store
from support.memory_platform import MemoryPlatform, assemble
from taskpool.clock import MILLISECOND, SECOND, Instant
from taskpool.core.batch import Batch
from taskpool.core.entries import JobRecord, Traits
from taskpool.core.job import Job
from taskpool.core.worker import Worker, WorkerState
from taskpool.dealer.dealer import Dealer
from taskpool.dealer.http import metric_sources
from taskpool.dealer.log import LogCounters
from taskpool.identifiers import Incarnation
from taskpool.journal.sqlite import SqliteStore
from taskpool.messages import DEFAULT_LIMITS, JobSpec
from taskpool.metrics.exporter import registry
from taskpool.procs.writer import LineWriter

WALL = 1_800_000_000


class Page:
    """A real dealer that does not turn, and the page of its metrics."""

    def __init__(self, dealer: Dealer) -> None:
        self.dealer = dealer
        self.core = dealer.core
        self.counters = dealer.core.pool.counters
        self.logs = LogCounters(LineWriter(2, "Dealer"))
        sources = metric_sources(dealer.parts, dealer.loop, self.logs)
        self.registry = registry(sources, dealer.parts.clock)

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def value(self, sample: str) -> float:
        """The number behind `name{labels}`."""
        lines = [line for line in self.text().splitlines() if line.startswith(f"{sample} ")]
        assert len(lines) == 1, f"{sample}: {lines}"
        return float(lines[0].rpartition(" ")[2])

    def queue_job(self, ordinal: int, wall_ns: int) -> Job:
        batch = self.core.pool.batches.setdefault("b", Batch("b", DEFAULT_LIMITS))
        job = Job(JobRecord(ordinal, "b", ordinal, 0, JobSpec("fib", b""), Traits(True, ""), wall_ns), batch)
        self.core.pool.jobs[ordinal] = job
        batch.receive()
        return job


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with ExitStack() as teardown:
        yield Page(assemble(MemoryPlatform(tmp_path), teardown))


@pytest.fixture
def journaled(tmp_path: Path) -> Iterator[Page]:
    with ExitStack() as teardown:
        store = open_store(tmp_path / "journal", ballast_bytes=4096)
        yield Page(assemble(MemoryPlatform(tmp_path, store=store), teardown))


def test_the_page_has_the_golden_names_types_and_labels(journaled: Page) -> None:
    check_golden(journaled.text())


def test_a_pool_without_a_journal_has_no_journal_families(page: Page) -> None:
    assert "taskpool_journal_" not in page.text()


@pytest.mark.needs_tool("promtool")
def test_promtool_finds_nothing_to_complain_about(journaled: Page) -> None:
    checked = subprocess.run(["promtool", "check", "metrics"], input=journaled.text(), capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_page_can_be_had_as_openmetrics(journaled: Page) -> None:
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    assert encode(journaled.registry).decode().endswith("# EOF\n")


def test_every_value_that_is_known_in_advance_is_there_before_it_counts(page: Page) -> None:
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
        assert page.value(sample) == 0


def test_counters_are_what_the_core_has_counted(page: Page) -> None:
    counters = page.counters
    counters.jobs_accepted["fib"] = 7
    counters.jobs_finished["fib", "timed-out"] = 2
    counters.attempts["crashed"] = 3
    counters.worker_exited("signal", "SIGSEGV")
    counters.worker_exited("signal", "SIGXCPU")
    counters.ran("fib", 30 * MILLISECOND, 20 * MILLISECOND)
    counters.recovery.add(2 * MILLISECOND)
    assert page.value('taskpool_jobs_accepted_total{kind="fib"}') == 7
    assert page.value('taskpool_jobs_finished_total{kind="fib",outcome="timed_out"}') == 2
    assert page.value('taskpool_attempts_total{end="crashed"}') == 3
    assert page.value('taskpool_worker_exits_total{reason="signal",signal="SIGSEGV"}') == 1
    assert page.value('taskpool_worker_exits_total{reason="signal",signal="other"}') == 1
    assert page.value('taskpool_job_cpu_seconds_total{kind="fib"}') == 0.02
    assert page.value('taskpool_job_run_seconds_sum{kind="fib"}') == 0.03
    assert page.value('taskpool_recovery_seconds_bucket{le="0.001"}') == 0
    assert page.value('taskpool_recovery_seconds_bucket{le="0.0025"}') == 1
    assert page.value('taskpool_recovery_seconds_bucket{le="+Inf"}') == 1


def test_the_oldest_queued_job_is_the_oldest_by_time(page: Page) -> None:
    assert "\ntaskpool_oldest_queued_job_timestamp_seconds " not in page.text(), "there is none: no number"
    page.queue_job(1, (WALL + 20) * SECOND)
    page.queue_job(2, (WALL + 10) * SECOND)
    assert page.value("taskpool_oldest_queued_job_timestamp_seconds") == WALL + 10
    assert page.value('taskpool_jobs{state="queued"}') == 2


def test_the_loop_says_how_busy_and_how_late_it_was(page: Page) -> None:
    loop, queues = page.dealer.loop.counters, page.dealer.parts.queues.counters
    loop.count_turn(busy_ns=3 * MILLISECOND, overslept_ns=-5)
    loop.count_turn(busy_ns=1 * MILLISECOND, overslept_ns=20 * MILLISECOND)
    queues.count_received("events", 10, capacity=10)
    queues.count_received("events", 2, capacity=10)
    queues.full["reply"] += 5
    queues.count_recreated()
    assert page.value("taskpool_loop_turns_total") == 2
    assert page.value("taskpool_loop_busy_seconds_total") == 0.004
    assert page.value("taskpool_loop_lag_seconds_sum") == 0.023
    assert page.value('taskpool_queue_received_messages_total{queue="events"}') == 12
    assert page.value('taskpool_queue_full_total{queue="events"}') == 1
    assert page.value('taskpool_queue_full_total{queue="reply"}') == 5
    assert page.value("taskpool_queues_remade_total") == 1


def test_the_journal_says_what_it_costs(journaled: Page, tmp_path: Path) -> None:
    page, store = journaled, journaled.dealer.parts.store
    assert isinstance(store, SqliteStore)
    store.counters.observe(rows=5, took_ns=2 * MILLISECOND)
    page.counters.journal_errors = 1
    size = sum((tmp_path / name).stat().st_size for name in ("journal", "journal-wal"))
    assert page.value("taskpool_journal_bytes") == size > 4096
    assert page.value("taskpool_journal_rows_total") == 5
    assert page.value("taskpool_journal_commit_seconds_count") == 1
    assert page.value("taskpool_journal_errors_total") == 1


def test_log_messages_are_counted_by_level(page: Page) -> None:
    page.logs.count(logging.makeLogRecord({"levelname": "INFO"}))
    assert page.value('taskpool_log_messages_total{level="info"}') == 1
    assert page.value('taskpool_log_messages_total{level="debug"}') == 0


def test_workers_are_counted_by_state(page: Page) -> None:
    worker = Worker(Incarnation(1), Instant(0, 0))
    worker.state = WorkerState.BUSY
    page.core.supervisor.workers[worker.incarnation] = worker
    assert page.value('taskpool_workers{state="busy"}') == 1
    assert page.value('taskpool_workers{state="idle"}') == 0


def test_families_can_be_asked_for_by_name(page: Page) -> None:
    asked = page.registry.restricted_registry(["taskpool_workers_wanted", "taskpool_worker_starts_total"])
    found = [line for line in generate_latest(asked).decode().splitlines() if not line.startswith("#")]
    assert sorted(found) == ["taskpool_worker_starts_total 0.0", "taskpool_workers_wanted 2.0"]


@pytest.mark.slow
def test_pages_can_be_made_while_the_loop_changes_everything(page: Page) -> None:
    """What is walked is copied first: nothing here may raise."""
    failures: list[BaseException] = []
    done = threading.Event()

    def scrape() -> None:
        try:
            while not done.is_set():
                page.text()
        except RuntimeError as error:  # "dictionary changed size during iteration"
            failures.append(error)

    before, thread = sys.getswitchinterval(), threading.Thread(target=scrape)
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for n in range(20_000):
            page.queue_job(n, n)
            page.core.supervisor.workers[Incarnation(n)] = Worker(Incarnation(n), Instant(0, 0))
            page.counters.worker_exits["signal", f"SIG{n}"] = 1
            if n >= 100:
                del page.core.pool.jobs[n - 100]
                del page.core.supervisor.workers[Incarnation(n - 100)]
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(before)
    assert not failures
