"""What is let go of, when, and what is not (journal/retention.py)."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from support.journals import DEADLINE_SECONDS, Asked, accepted, open_store, opened, recorded, run_sql
from taskpool.clock import SECOND, Instant
from taskpool.core.entries import Acknowledged, BatchClosed, Entry
from taskpool.journal import file, retention, tools
from taskpool.journal.retention import AgeClock, Retention
from taskpool.journal.statements import Statements
from taskpool.messages import State

DAY_NS = 24 * 3600 * SECOND
START = Instant(1_000 * SECOND, 1_700_000_000 * SECOND)


class HandClock:
    """Set by hand."""

    def __init__(self, start: Instant) -> None:
        self._now = start

    def now(self) -> Instant:
        return self._now

    def advance(self, duration_ns: int) -> None:
        self._now = Instant(self._now.mono + duration_ns, self._now.wall + duration_ns)

    def step(self, wall_ns: int) -> None:
        """Somebody sets the wall clock."""
        self._now = Instant(self._now.mono, self._now.wall + wall_ns)


def finished(batch: str, ordinal: int, *, state: State = State.SUCCEEDED) -> list[Entry]:
    job = accepted(ordinal, batch, 1)
    return [opened(batch), job, BatchClosed(batch, 1), recorded(ordinal, 1, batch=batch, seq=1, state=state)]


def age(path: Path, batch: str, days: int) -> None:
    run_sql(path, f"UPDATE batches SET changed_wall_ns = changed_wall_ns - {days * DAY_NS} WHERE name = '{batch}'")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """old and read, old, new and read, waiting (open), parked (quarantine), halfway (never closed); all but two old"""
    store = open_store(path := tmp_path / "journal.db")
    asked = Asked(store)
    asked.commit(*finished("old-read", 1), Acknowledged("old-read", 1), *finished("old", 2))
    asked.commit(*finished("new-read", 3), Acknowledged("new-read", 1))
    asked.commit(opened("waiting"), accepted(4, "waiting", 1))
    asked.commit(*finished("parked", 5, state=State.QUARANTINED))
    asked.commit(opened("halfway"), accepted(6, "halfway", 1), recorded(6, 1, batch="halfway", seq=1))
    store.close(clean=True)
    for batch in ("old-read", "old", "waiting", "parked", "halfway"):
        age(path, batch, days=10)
    return path


def kept(path: Path) -> list[str]:
    connection = file.read_only(path)
    names = [batch.name for batch in Statements(connection, 0).batches()]
    file.stop_reading(connection, path, had_wal=True)
    return names


def choose(path: Path, retain_ns: int, retain_batches: int = 1000, **options: Any) -> None:
    """One look, as a dealer takes it now and then."""
    connection = file.connect(path, "NORMAL")
    Retention(connection, retain_ns, retain_batches, **options).choose()
    file.close(connection, path)


def test_old_batches_go(path: Path) -> None:
    choose(path, 7 * DAY_NS)
    assert kept(path) == ["new-read", "waiting", "parked"]
    store = open_store(path, 2)
    asked = Asked(store)
    assert asked.batch("old") is None
    assert asked.outcomes("old") == []
    store.close(clean=True)


def test_a_young_batch_stays(path: Path) -> None:
    choose(path, 11 * DAY_NS)
    assert len(kept(path)) == 6


def test_when_there_are_too_many_only_those_that_were_read_go(path: Path) -> None:
    choose(path, 11 * DAY_NS, retain_batches=0)
    assert kept(path) == ["old", "new-read", "waiting", "parked", "halfway"], "new-read is within its grace"


def test_a_batch_somebody_just_found_counts_as_used(path: Path) -> None:
    store = open_store(path, 2, retain_ns=11 * DAY_NS)
    Asked(store).batch("old")
    store.close(clean=True)
    choose(path, 7 * DAY_NS)
    assert "old" in kept(path)


def test_what_was_in_use_lately_stays_however_short_the_retention(path: Path) -> None:
    choose(path, 0, 0)
    assert kept(path) == ["new-read", "waiting", "parked"]


def test_a_batch_whose_reader_is_still_there_counts_as_used(path: Path) -> None:
    store = open_store(path, 2, retain_ns=11 * DAY_NS)
    Asked(store).commit(Acknowledged("old", 0))
    store.close(clean=True)
    choose(path, 7 * DAY_NS)
    assert "old" in kept(path)


def test_a_batch_that_was_never_closed_stays_in_the_life_that_used_it(path: Path) -> None:
    clock = HandClock(START)
    age_clock = AgeClock(clock)
    store = open_store(path, 2, clock=clock)
    Asked(store).batch("halfway")
    store.close(clean=True)
    clock.advance(10 * DAY_NS)
    choose(path, 7 * DAY_NS, age_clock=age_clock)
    assert "halfway" in kept(path)
    clock.advance(SECOND)
    choose(path, 7 * DAY_NS, age_clock=AgeClock(clock))
    assert "halfway" not in kept(path)


# --- the wall clock --------------------------------------------------------------------------------


@pytest.mark.parametrize("step_ns", [8 * DAY_NS, -8 * DAY_NS])
def test_a_step_of_the_clock_makes_nothing_older(tmp_path: Path, step_ns: int) -> None:
    """Neither of what was used before it, nor of what is used between it and its correction."""
    path, clock = tmp_path / "journal.db", HandClock(START)
    store = open_store(path, clock=clock)
    asked = Asked(store)
    asked.commit(*finished("before", 1))
    looks = AgeClock(clock)
    clock.step(step_ns)
    asked.commit(*finished("amid", 2))
    store.close(clean=True)
    choose(path, 7 * DAY_NS, age_clock=looks)
    clock.step(-step_ns)
    choose(path, 7 * DAY_NS, age_clock=looks)
    assert kept(path) == ["before", "amid"]


def test_a_clock_that_is_wrong_at_the_start_and_then_set_ends_nothing(path: Path) -> None:
    clock = HandClock(Instant(0, time.time_ns() + 100 * DAY_NS))
    age_clock = AgeClock(clock)
    clock.step(-100 * DAY_NS)
    choose(path, 11 * DAY_NS, age_clock=age_clock)
    assert len(kept(path)) == 6


def test_a_life_begins_with_a_period_in_which_nothing_goes(path: Path) -> None:
    connection = file.connect(path, "NORMAL")
    asleep = Retention(connection, 7 * DAY_NS, 1000, grace_ns=3600 * SECOND).step()
    file.close(connection, path)
    assert 3590 < asleep <= 3600
    assert len(kept(path)) == 6


def test_the_thread_removes_what_was_condemned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_left = threading.Event()
    remove = Retention.remove

    def watched(self: Retention) -> bool:
        removed = remove(self)
        if not removed:
            nothing_left.set()
        return removed

    monkeypatch.setattr(Retention, "remove", watched)
    store = open_store(path, 2, retain_ns=7 * DAY_NS, retain_grace_ns=0)
    Asked(store).commit()  # starts the thread; it does its steps while it is not asked for anything
    assert nothing_left.wait(DEADLINE_SECONDS)
    store.close(clean=True)
    connection = file.read_only(path)
    assert connection.execute("SELECT count(*) FROM batches").fetchone() == (3,)
    assert connection.execute("SELECT seq FROM outcomes").fetchall() == [(1,), (1,)]
    assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (3,)
    file.stop_reading(connection, path, had_wal=False)
    assert tools.check(path).problems == []


def test_a_large_batch_goes_in_small_steps(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    many = 3 * retention.STEP_ROWS
    store = open_store(path)
    asked = Asked(store)
    asked.commit(
        opened(), *map(accepted, range(1, many + 1)), *map(recorded, range(1, many + 1)), BatchClosed("b", many)
    )
    store.close(clean=True)
    connection = file.connect(path, "NORMAL")
    step = Retention(connection, -DAY_NS, 0, grace_ns=-DAY_NS)
    step.choose()
    steps = 0
    while step.remove():
        steps += 1
        (left,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
        assert left == max(0, many - steps * retention.STEP_ROWS)
    assert steps == many // retention.STEP_ROWS + 1
    file.close(connection, path)


def test_many_that_end_together_go_together(tmp_path: Path) -> None:
    """No look waits for its time while the one before found all that it takes."""
    path, many = tmp_path / "journal.db", 5 * retention.BATCHES_PER_LOOK_MAX
    store = open_store(path)
    Asked(store).commit(*[row for n in range(1, many + 1) for row in finished(f"b{n}", n)])
    store.close(clean=True)
    connection = file.connect(path, "NORMAL")
    step = Retention(connection, -DAY_NS, 0, grace_ns=0)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (pause := step.step()) < retention.LOOK_SECONDS / 2:
        assert time.monotonic() < deadline
        time.sleep(pause)  # what it asks for, as the journal's thread grants it
    assert connection.execute("SELECT count(*) FROM batches").fetchone() == (0,)
    file.close(connection, path)


def test_it_takes_its_share_of_the_time_and_no_more(path: Path) -> None:
    connection = file.connect(path, "NORMAL")
    step = Retention(connection, 7 * DAY_NS, 1000, grace_ns=0)
    assert 0 < step.step() < 5
    assert step.step() > 0, "a step directly after a step"
    file.close(connection, path)


def test_pages_are_used_again(tmp_path: Path) -> None:
    """Batch after batch, the file stays as large as the first ones made it."""
    path = tmp_path / "journal.db"
    sizes = []
    for life in range(1, 7):
        store = open_store(path, life)
        asked = Asked(store)
        base = life * 1000
        rows: list[Entry] = [opened(f"b{life}"), BatchClosed(f"b{life}", 300)]
        rows += [accepted(base + n, f"b{life}", n, payload=bytes(500)) for n in range(1, 301)]
        asked.commit(*rows)
        asked.commit(*[recorded(base + n, n, batch=f"b{life}", seq=n) for n in range(1, 301)])
        store.close(clean=True)
        tools.prune(path, -DAY_NS, 0)
        sizes.append(path.stat().st_size)
    assert len(set(sizes)) == 1, sizes
