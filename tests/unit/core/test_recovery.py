"""A dealer's next life: what was under way, what is found in the store, and the care after an unclean end."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from support.builders import EPOCH, Work, World, work
from taskpool.clock import SECOND
from taskpool.codec import decode_tasks
from taskpool.core.backlog import Backlog
from taskpool.core.effects import Kill, SendFrame, Topic
from taskpool.core.entries import (
    AttemptMade,
    BatchOpened,
    BatchRecord,
    Entry,
    JobAccepted,
    JobCounts,
    JobRecord,
    JobReturned,
    OutcomeRecorded,
)
from taskpool.core.events import ReportLost, TakenBack
from taskpool.core.storage import (
    Commit,
    DiskFull,
    FindBatch,
    InFlight,
    Loaded,
    Restored,
    StoredJob,
    StoreEvent,
    StoreRequest,
)
from taskpool.errors import ExitCode
from taskpool.identifiers import Incarnation
from taskpool.journal.memory import MemoryStore
from taskpool.limits import (
    BOOT_NS_MAX,
    COMMAND_BACKSTOP_NS,
    DRAIN_TIMEOUT_NS,
    START_SILENT_NS_MAX,
    TERM_GRACE_NS,
    UNCLEAN_EXITS_ALONE_MIN,
    WRITE_AHEAD_NS,
)
from taskpool.messages import DEFAULT_LIMITS, End, Outcome, Report, State

BEFORE = EPOCH - 1  # the life that left all this


class Estate:
    """What an earlier life left: batch b, its first jobs under way (attempt n = seq), the others queued."""

    def __init__(self, *works: Work, in_flight: int = 0, unclean_exits: bool = False, unclean_before: int = 0) -> None:
        self.works = works
        self.unclean_exits = unclean_exits
        self.late: list[tuple[int, Report]] = []
        self.corrupt: set[int] = set()
        self.quarantined: list[int] = []
        self.in_flight = in_flight
        self.unclean_before = unclean_before
        self.cancelled = False
        self.store = MemoryStore()

    def stored(self, seq: int) -> StoredJob:
        each, tries = self.works[seq - 1], int(seq <= self.in_flight)
        priority = (each.spec.limits or DEFAULT_LIMITS).priority
        counts = JobCounts(tries=tries, unclean_exits=self.unclean_before * tries)
        record = JobRecord(seq, "b", seq, priority, each.spec, each.traits, 5)
        return StoredJob(record, counts, corrupt=seq in self.corrupt)

    def world(self, workers: int = 1, **options: Any) -> World:
        """The next life begins."""
        jobs = [self.stored(seq) for seq in range(1, len(self.works) + 1)]
        rows: list[Entry] = [JobAccepted(job.record, b"") for job in jobs]
        rows += [AttemptMade(seq, seq, 1) for seq in [*range(1, self.in_flight + 1), *self.quarantined]]
        rows += [
            OutcomeRecorded(seq, "b", Outcome(no, seq, 1, "fib", None, State.QUARANTINED, 1, 1))
            for no, seq in enumerate(self.quarantined, 1)
        ]
        self.store.request(Commit(0, rows))
        self.store.answers()
        done = len(self.quarantined)
        batch = BatchRecord("b", DEFAULT_LIMITS, len(jobs), len(jobs), done, 0, len(jobs) - done, self.cancelled)
        restored = Restored(
            unclean_exit=self.unclean_exits,
            ordinal=len(jobs),
            batches=[batch],
            in_flight=[InFlight(BEFORE, seq, jobs[seq - 1]) for seq in range(1, self.in_flight + 1)],
            quarantined=[jobs[seq - 1] for seq in self.quarantined],
            late=self.late,
        )
        return World(workers, journaled=True, store=self.store, restored=restored, **options)


def run_out(world: World, worker: int = 1) -> list[int]:
    """Let the worker do everything; the jobs in the order in which they were sent."""
    seqs = []
    while world.workers[worker].queue:
        seqs += [seq for _, seqs_of in world.sent() for seq in seqs_of]
        world.run(worker)
    return seqs


# --- what was under way ---------------------------------------------------------------------------


def test_what_was_under_way_goes_back_uncounted_and_everything_runs_in_order() -> None:
    world = Estate(*[work()] * 5, in_flight=2).world()
    assert [row for row in world.entries if isinstance(row, JobReturned)] == [
        JobReturned(1, JobCounts(1, 0, 0, 0, 0)),
        JobReturned(2, JobCounts(1, 0, 0, 0, 0)),
    ]
    world.hello()
    assert run_out(world) == [1, 2, 3, 4, 5]
    assert [(outcome.seq, outcome.attempts) for outcome in world.outcomes()] == [(seq, 1) for seq in range(1, 6)]


def test_what_goes_back_waits_its_turn_behind_what_lies_in_the_store() -> None:
    estate = Estate(work(priority=-1), *[work()] * 6, in_flight=1)
    assert run_out(estate.world(backlog=Backlog(2, 1000))) == [2, 3, 4, 5, 6, 7, 1]


def test_a_report_found_in_the_queue_counts_as_if_it_had_been_read_in_time() -> None:
    estate = Estate(work(), work(retries=1), work("command", crash_limit=1), in_flight=3)
    estate.late = [
        (BEFORE, Report(1, End.SUCCEEDED, value=b"1")),
        (BEFORE, Report(2, End.FAILED)),
        (BEFORE, Report(3, End.CRASHED, signal=11)),
    ]
    world = estate.world()
    world.hello()
    outcomes = world.outcomes()
    assert [(outcome.seq, outcome.state) for outcome in outcomes] == [(1, State.SUCCEEDED), (3, State.QUARANTINED)]
    assert (outcomes[0].pid, outcomes[0].slot) == (None, None), "nobody knows any more"
    assert run_out(world) == [2]
    assert world.ends() == [(2, State.SUCCEEDED)]


def test_a_report_of_another_life_or_with_a_word_of_the_dealers_does_not_count() -> None:
    estate = Estate(work(), work(), in_flight=2)
    estate.late = [(BEFORE - 1, Report(1, End.SUCCEEDED)), (BEFORE, Report(2, End.CANCELLED))]
    assert run_out(estate.world()) == [1, 2]


def test_new_jobs_get_new_numbers() -> None:
    world = Estate(work(), in_flight=1).world()
    world.hello("new")
    world.submit(work(), batch="new")
    assert [row.job.ordinal for row in world.entries if isinstance(row, JobAccepted)] == [2]


def test_jobs_the_store_cannot_vouch_for_are_not_run() -> None:
    estate = Estate(work(), work(), in_flight=1)
    estate.corrupt = {1}
    world = estate.world()
    world.hello()
    assert run_out(world) == [2]
    outcomes = {outcome.seq: outcome for outcome in world.outcomes()}
    assert outcomes[1].state is State.FAILED
    assert outcomes[1].error is not None
    assert outcomes[1].error.type == "Corrupt"
    assert outcomes[2].state is State.SUCCEEDED


def test_nor_those_it_gives_back_later() -> None:
    class Damaged(MemoryStore):
        def request(self, request: StoreRequest) -> None:
            super().request(request)
            self._answers[-1] = damage(self._answers[-1])

    def damage(answer: StoreEvent) -> StoreEvent:
        if not isinstance(answer, Loaded):
            return answer
        jobs = [structs.replace(job, corrupt=job.record.seq == 2) for job in answer.jobs]
        return Loaded(jobs, answer.more)

    estate = Estate(work(), work(), work())
    estate.store = Damaged()
    world = estate.world()
    world.hello()
    assert run_out(world) == [1, 3]
    assert sorted(world.ends()) == [(1, State.SUCCEEDED), (2, State.FAILED), (3, State.SUCCEEDED)]


def test_the_quarantine_survives() -> None:
    estate = Estate(work(), work())
    estate.quarantined = [1]
    world = estate.world()
    assert run_out(world) == [2]
    assert world.command("requeue", "b", 1) == {"requeued": 1}
    world.hello(cursor=2)
    assert run_out(world) == [1]
    assert [(outcome.no, outcome.run, outcome.state) for outcome in world.outcomes()] == [(3, 2, State.SUCCEEDED)]


# --- after an unclean end -------------------------------------------------------------------------


def test_a_dealer_that_writes_ahead_stores_an_attempt_before_it_sends_it() -> None:  # R2
    world = Estate(work(), work(), work(), unclean_exits=True).world(slow_store=True)
    world.answer(1)  # the jobs
    assert world.entries[-1] == AttemptMade(1, 1, 1)
    world.quiet()
    world.advance(START_SILENT_NS_MAX - 1)
    world.answer(1)
    assert world.sent() == [(1, [1])]
    world.advance(START_SILENT_NS_MAX - 1)
    assert world.killed() == [], "its time to begin counts from here"
    world.run()
    assert world.sent() == []
    world.answer()
    assert world.sent() == [(1, [2])]
    world.start()
    world.advance(WRITE_AHEAD_NS)
    world.report()
    assert world.sent() == [(1, [3])], "it has lived long enough"


def test_a_frame_whose_worker_died_before_it_was_stored_is_not_sent() -> None:
    world = Estate(work(), unclean_exits=True).world(slow_store=True)
    world.answer(1)
    world.die(signal=9)
    world.forget()
    world.answer(1)
    assert world.sent() == []
    world.answer()
    assert world.sent() == [(2, [1])]


def test_a_frame_that_is_not_sent_yet_is_taken_back_and_never_sent() -> None:
    world = Estate(work(), unclean_exits=True).world(slow_store=True)
    world.answer(1)
    world.signal("TERM")
    world.answer()
    assert world.sent() == []
    assert world.exits() == [0]


def test_a_drain_does_not_wait_for_ever_for_a_store_that_does_not_answer() -> None:
    world = Estate(work(), unclean_exits=True).world(slow_store=True)
    world.answer(1)
    world.signal("TERM")
    world.advance(DRAIN_TIMEOUT_NS)
    assert world.killed() == []
    assert world.exits() == [ExitCode.ENVIRONMENT]


def test_a_job_that_was_running_at_every_unclean_end_runs_alone() -> None:
    estate = Estate(*[work("command")] * 4, in_flight=1, unclean_exits=True, unclean_before=UNCLEAN_EXITS_ALONE_MIN - 1)
    world = estate.world(workers=3)
    assert world.sent() == [(1, [1])]
    world.run(1)
    assert [seqs for _, seqs in world.sent()] == [[2], [3], [4]]


def test_it_waits_until_nothing_else_runs() -> None:
    estate = Estate(work("command"), in_flight=1, unclean_exits=True, unclean_before=UNCLEAN_EXITS_ALONE_MIN - 1)
    estate.works = (*estate.works, work("command", priority=1), work("command"))
    world = estate.world(workers=3)
    assert world.sent() == [(1, [2])]
    world.run(1)
    assert world.sent() == [(1, [1])]
    world.run(1)
    assert world.sent() == [(1, [3])]


def test_the_next_unclean_end_with_it_alone_quarantines_it() -> None:
    world = Estate(work(), in_flight=1, unclean_exits=True, unclean_before=UNCLEAN_EXITS_ALONE_MIN).world()
    world.hello()
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.crashes, outcome.attempts) == (State.QUARANTINED, 0, 0)
    assert outcome.error is not None
    assert f"{UNCLEAN_EXITS_ALONE_MIN + 1} times in a row" in outcome.error.message
    assert [note["unclean_exits"] for note in world.noted(Topic.JOB_QUARANTINED)] == [UNCLEAN_EXITS_ALONE_MIN + 1]


def test_without_a_crash_limit_it_runs_again_and_again() -> None:
    estate = Estate(work(crash_limit=0), in_flight=1, unclean_exits=True, unclean_before=UNCLEAN_EXITS_ALONE_MIN)
    assert run_out(estate.world()) == [1]


def test_a_clean_end_speaks_of_nobody() -> None:
    world = Estate(work(), in_flight=1, unclean_before=UNCLEAN_EXITS_ALONE_MIN).world()
    assert run_out(world) == [1]


# --- batches in the store -------------------------------------------------------------------------


def test_a_batch_that_is_not_in_memory_is_looked_for_once() -> None:
    world = World(journaled=True, slow_store=True)
    found: list[str] = []
    world.on_event = lambda event, effects: found.extend(each.name for each in effects if isinstance(each, FindBatch))
    world.kept["b"] = BatchRecord("b", DEFAULT_LIMITS, 5, 5, 5, 3, 0)
    world.hello()
    world.hello()
    world.hello(client=2)
    assert found == ["b"]
    assert world.told() == []
    world.answer(1)
    (welcome,) = world.told(1)
    assert (welcome.accepted, welcome.total, welcome.last_no) == (5, 5, 5)
    assert world.told(2)[0].reason == "conflict"


def test_a_batch_nobody_knows_is_opened() -> None:
    world = World(journaled=True)
    world.hello()
    assert world.told()[0].accepted == 0
    assert BatchOpened("b", DEFAULT_LIMITS) in world.entries


def test_outcomes_that_the_store_has_lost_are_neither_asked_for_nor_waited_for_for_ever() -> None:
    world = World(journaled=True)
    world.kept["b"] = BatchRecord("b", DEFAULT_LIMITS, 2, 2, 2, 1, 0)
    world.hello()
    welcome, refused = world.told()
    assert welcome.last_no == 2
    assert (refused.batch, refused.reason) == ("b", "gone")
    assert "from number 2 on" in refused.text
    world.quiet()


def test_a_batch_at_rest_is_found_again() -> None:
    world = World(journaled=True)
    world.batch(work())
    world.bye()
    world.run()
    assert "b" not in world.core.pool.batches
    world.kept["b"] = BatchRecord("b", DEFAULT_LIMITS, 1, 1, 1, 0, 0)
    world.hello()
    assert world.ends() == [(1, State.SUCCEEDED)]


def test_a_batch_is_not_forgotten_while_anything_of_it_is_not_stored() -> None:
    """Else the store would be asked, and would not know."""
    world = World(journaled=True, slow_store=True)
    world.hello()
    world.answer(1)
    world.bye()
    assert "b" in world.core.pool.batches, "its opening is not stored"
    world.hello()
    world.close()
    world.bye()
    assert "b" in world.core.pool.batches, "nor its close"
    world.answer()
    assert "b" not in world.core.pool.batches


def test_nor_is_one_with_jobs_whose_close_is_not_stored() -> None:
    world = World(journaled=True, slow_store=True)
    world.hello()
    world.answer()
    world.submit(work())
    world.answer()
    world.run()
    world.close()  # behind the commit that carries the outcome
    world.bye()
    world.answer(1)
    assert "b" in world.core.pool.batches
    world.answer()
    assert "b" not in world.core.pool.batches


def test_a_draining_dealer_serves_batches_it_finds_and_opens_none() -> None:
    world = World(journaled=True)
    world.batch(work(), batch="a", client=3)
    world.signal("INT")
    world.kept["b"] = BatchRecord("b", DEFAULT_LIMITS, 1, 1, 1, 1, 0)
    world.hello()
    assert world.told()[0].accepted == 1
    world.hello("new", client=2)
    assert world.told(2)[0].reason == "draining"


def test_a_private_dealer_that_finds_an_empty_batch_waits_for_its_reader() -> None:
    batch = BatchRecord("b", DEFAULT_LIMITS, 0, 0, 0, 0, 0)
    restored = Restored(unclean_exit=False, ordinal=0, batches=[batch], in_flight=[], quarantined=[], late=[])
    world = World(private=True, journaled=True, restored=restored)
    assert world.exits() == []
    world.hello("b")
    assert world.exits() == []
    world.close()
    assert world.exits() == [ExitCode.OK]


def test_where_a_batch_stands() -> None:
    world = World(journaled=True)
    world.kept["b"] = BatchRecord("b", DEFAULT_LIMITS, 5, None, 4, 3, 0, cancelled=True)
    assert world.command("batch", "b") == {
        "batch": "b",
        "accepted": 5,
        "total": None,
        "recorded": 4,
        "acknowledged": 3,
        "open": 0,
        "cancelled": True,
    }
    assert world.core.pool.batches == {}, "a look is no reason to keep it"
    assert "no batch 'x'" in world.command("batch", "x")["error"]
    world.do_command("batch", "b", client=77)
    assert world.told(77) == []
    world.batch(work(), batch="c")
    assert world.command("batch", "c")["open"] == 1


def test_hello_and_a_question_at_once_are_both_answered() -> None:
    world = World(journaled=True, slow_store=True)
    world.hello(None)
    world.forget()
    world.hello("b")
    world.do_command("batch", "b", client=1)
    world.answer()
    assert [type(message).__name__ for message in world.told()] == ["Welcome", "Answer"]


def test_a_batch_cancelled_in_an_earlier_life_stays_cancelled() -> None:
    estate = Estate(work(), work(), in_flight=1)
    estate.cancelled = True
    world = estate.world()
    ended = [(row.ordinal, row.outcome.state) for row in world.entries if isinstance(row, OutcomeRecorded)]
    assert ended == [(1, State.CANCELLED), (2, State.CANCELLED)]
    assert world.sent() == []


# --- the disk -------------------------------------------------------------------------------------


def test_a_full_disk_refuses_jobs_and_starts_none() -> None:
    world = World(journaled=True)
    world.hello()
    world.submit(work(), work())
    world.start()
    world.forget()
    world.do(DiskFull(True, "no space left on /state"))
    world.submit(work())
    (refused,) = world.told()
    assert (refused.reason, refused.text) == ("full", "no space left on /state")
    world.report()
    assert world.ends() == [(1, State.SUCCEEDED)], "what runs is recorded"
    world.quiet()
    world.do(DiskFull(False, "12 GiB free"))
    assert world.sent() == [(1, [2])]
    assert [note["text"] for note in world.noted(Topic.DISK)] == ["no space left on /state", "12 GiB free"]


@pytest.mark.parametrize("seconds", [0, 5])
def test_nothing_to_restore_is_a_first_life(seconds: int) -> None:
    world = World(journaled=True)
    world.advance(seconds * SECOND)
    world.quiet()


def test_two_places_may_be_full_at_once() -> None:
    world = World(journaled=True)
    world.hello()
    world.do(DiskFull(True, "no space left on /state"))
    world.do(DiskFull(True, "no space left on /spool", "spool"))
    world.do(DiskFull(False, "12 GiB free"))
    assert world.core.pool.disk_full == "no space left on /spool"
    assert world.core.pool.counters.journal_errors == 1
    world.do(DiskFull(False, "1 GiB free", "spool"))
    assert world.core.pool.disk_full == ""


def test_a_job_whose_report_may_wait_for_the_spool_is_not_timed_out() -> None:
    world = World(journaled=True)
    world.batch(work("command", timeout_ns=1 * SECOND))
    world.start()
    backstop_ns = 1 * SECOND + TERM_GRACE_NS + COMMAND_BACKSTOP_NS
    world.forget()
    for _ in range(20):
        world.do(DiskFull(True, "no space left on /spool", "spool"))
        world.advance(1 * SECOND)
    world.do(DiskFull(False, "1 GiB free", "spool"))
    world.quiet()
    assert [note["text"] for note in world.noted(Topic.DISK)] == ["no space left on /spool", "1 GiB free"]
    world.advance(backstop_ns - 2 * SECOND)
    world.quiet()
    world.advance(2 * SECOND)
    assert world.take(Kill), "from now on it is silent again"


def test_no_deadline_is_judged_between_two_looks_at_a_full_spool() -> None:
    world = World(journaled=True)
    world.batch(work("command", timeout_ns=1 * SECOND))
    world.start()
    world.advance(1 * SECOND + TERM_GRACE_NS + COMMAND_BACKSTOP_NS - SECOND // 2)
    world.do(DiskFull(True, "no space left on /spool", "spool"))
    world.forget()
    world.advance(SECOND * 9 // 10)
    world.quiet()
    world.do(DiskFull(False, "1 GiB free", "spool"))
    world.advance(SECOND * 4 // 10)
    assert world.take(Kill) == []
    world.advance(SECOND // 5)
    assert world.take(Kill), "what was left of its time is over"


def test_a_worker_that_boots_while_the_spool_is_in_trouble_has_its_time() -> None:
    world = World(boot=False)
    world.forget()
    for _ in range(BOOT_NS_MAX // SECOND + 1):
        world.do(DiskFull(True, "no space left on /spool", "spool"))
        world.advance(1 * SECOND)
    world.do(DiskFull(False, "1 GiB free", "spool"))
    assert world.take(Kill) == []
    world.advance(BOOT_NS_MAX)
    assert world.take(Kill) == [Kill(Incarnation(1), "KILL")]


def test_a_worker_whose_report_is_lost_is_ended_and_its_jobs_run_again() -> None:
    world = World(journaled=True)
    world.batch(work())
    world.start()
    world.forget()
    (incarnation,) = (worker for worker, held in world.core.supervisor.workers.items() if held.frames)
    world.do(ReportLost(Incarnation(99)))
    world.quiet()
    world.do(ReportLost(incarnation))
    assert world.take(Kill) == [Kill(incarnation, "KILL")]
    world.do(ReportLost(incarnation))
    assert world.take(Kill) == [], "it is being ended"
    world.die(incarnation, signal=9)
    ((other, _),) = world.sent()
    world.run(other)
    assert world.ends() == [(1, State.SUCCEEDED)]
    assert world.core.pool.counters.attempts[End.LOST.value] == 1


def test_a_frame_that_was_not_sent_for_lack_of_room_did_not_happen() -> None:
    world = World(journaled=True)
    world.batch(work())
    (sent,) = world.take(SendFrame)
    world.workers[1].queue.clear()
    world.do_all(DiskFull(True, "no space left on /spool", "spool"), TakenBack(sent.incarnation, (sent.frame.first_n,)))
    assert world.sent() == [], "not before there is room"
    world.do(DiskFull(False, "1 GiB free", "spool"))
    (again,) = world.take(SendFrame)
    (task,) = decode_tasks(again.frame.tasks)
    assert task.try_ == 1, "and it is the first try"
    world.start()
    world.report()
    assert world.ends() == [(1, State.SUCCEEDED)]
