"""Entries for a store, and a store whose answers can be waited for."""

from __future__ import annotations

import select
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.programs import start
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
    Traits,
)
from taskpool.core.storage import (
    BatchFound,
    Commit,
    Committed,
    FindBatch,
    Loaded,
    LoadJobs,
    LoadOutcomes,
    OutcomesLoaded,
    StoredJob,
    StoreEvent,
)
from taskpool.journal.engine import JournalOptions
from taskpool.journal.seal import seal_of
from taskpool.journal.sqlite import SqliteStore
from taskpool.journal.store import Store
from taskpool.messages import JobSpec, Limits, Outcome, State

DEADLINE_SECONDS = 20.0
FIRST = (-(2**31), 0)  # before every key
MANY = 1 << 30
BALLAST_BYTES = 64 * 1024
QUEUED_WALL_NS = 1_700_000_000_000_000_000


def open_store(path: Path, epoch: int = 1, **options: Any) -> SqliteStore:
    """`options` are those of JournalOptions, and `clock` and `observe`."""
    shell = {name: options.pop(name) for name in ("clock", "observe") if name in options}
    return SqliteStore(path, epoch, JournalOptions(**({"ballast_bytes": BALLAST_BYTES} | options)), **shell)


def run_sql(path: Path, statement: str) -> None:
    """Change a journal behind its dealers' back, and its seal with it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()
    seal_of(path).unlink(missing_ok=True)


def opened(batch: str = "b", **limits: Any) -> BatchOpened:
    return BatchOpened(batch, Limits(**limits))


def accepted(
    ordinal: int, batch: str = "b", seq: int = 0, priority: int = 0, payload: bytes = b"payload"
) -> JobAccepted:
    seq = seq or ordinal
    spec, traits = JobSpec("fib", payload), Traits(True, "")
    digest = b"digest %d" % seq
    return JobAccepted(JobRecord(ordinal, batch, seq, priority, spec, traits, QUEUED_WALL_NS + ordinal), digest)


def returned(ordinal: int, **counts: Any) -> JobReturned:
    return JobReturned(ordinal, JobCounts(**counts))


def attempted(ordinal: int, n: int = 0, try_: int = 1) -> AttemptMade:
    return AttemptMade(n or ordinal, ordinal, try_)


def recorded(ordinal: int, no: int = 0, *, state: State = State.SUCCEEDED, **fields: Any) -> OutcomeRecorded:
    batch = fields.pop("batch", "b")
    seq = fields.pop("seq", ordinal)
    facts: dict[str, Any] = {
        "run": 1,
        "kind": "fib",
        "label": None,
        "attempts": 1,
        "crashes": 0,
        "value": b"55",
    } | fields
    return OutcomeRecorded(ordinal, batch, Outcome(no=no or ordinal, seq=seq, state=state, **facts))


class Asked:
    """A store, asked and listened to."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._heard: list[StoreEvent] = []
        self._number = 0

    def next(self) -> StoreEvent:
        """The next answer. There must be one in time."""
        while not self._heard:
            self._heard += self.store.answers()
            if not self._heard:
                assert self.store.fileno() >= 0, "nothing was answered"
                assert select.select([self.store.fileno()], [], [], DEADLINE_SECONDS)[0], "no answer in time"
        return self._heard.pop(0)

    def commit(self, *entries: Entry) -> None:
        self._number += 1
        self.store.request(Commit(self._number, list(entries)))
        assert self.next() == Committed(self._number)

    def jobs(self, after: tuple[int, int] = FIRST, limit: int = 1000, bytes_max: int = MANY) -> list[StoredJob]:
        return self.loaded(after, limit, bytes_max).jobs

    def loaded(self, after: tuple[int, int] = FIRST, limit: int = 1000, bytes_max: int = MANY) -> Loaded:
        self.store.request(LoadJobs(after, limit, bytes_max))
        answer = self.next()
        assert isinstance(answer, Loaded)
        return answer

    def outcomes(self, batch: str = "b", after: int = 0, limit: int = 1000) -> list[Outcome]:
        self.store.request(LoadOutcomes(batch, after, limit))
        answer = self.next()
        assert isinstance(answer, OutcomesLoaded)
        return answer.items

    def batch(self, name: str = "b") -> BatchRecord | None:
        self.store.request(FindBatch(name))
        answer = self.next()
        assert isinstance(answer, BatchFound)
        assert answer.name == name
        return answer.batch


# --- one that dies ---------------------------------------------------------------------------------

JOBS_A_COMMIT = 10

# Commits JOBS_A_COMMIT jobs at a time; records those of the commit before. Prints each number once it is answered.
WRITER = """
import sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from support.journals import Asked, accepted, attempted, open_store, opened, recorded
store = open_store(Path(sys.argv[1]), 2)
asked = Asked(store)
stored = asked.batch()
done = stored.accepted // 10 if stored else 0
if not stored:
    asked.commit(opened())
print("ready", flush=True)
while done < int(sys.argv[2]):
    jobs = range(done * 10 + 1, done * 10 + 11)
    ended = [] if done == 0 else range(done * 10 - 9, done * 10 + 1)
    asked.commit(*map(accepted, jobs), *map(attempted, jobs), *map(recorded, ended))
    done += 1
    print(done, flush=True)
if sys.argv[2] == "3":
    input()
store.close(clean=True)
"""


def writer(path: Path, commits: int) -> subprocess.Popen[str]:
    return start(WRITER, path, commits, *sys.path)


def kill_a_writer(path: Path, commits: int) -> None:
    """A dealer that had this many commits answered, and was killed."""
    with writer(path, commits) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == str(commits):
                break
        process.kill()
