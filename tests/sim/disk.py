"""The journal's disk: what is durable, and a store upon it.

A commit is atomic. One under way when its dealer dies is there or is not; one that fails may be there all the same.
A commit of attempts alone survives its process and not a loss of power.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.journal_model import JournalModel
from sim.world import World
from taskpool.core.entries import AttemptMade, Entry
from taskpool.core.storage import (
    BatchFound,
    Commit,
    CommitFailed,
    Committed,
    DigestsLoaded,
    DiskFull,
    EndedLoaded,
    FindBatch,
    LoadDigests,
    Loaded,
    LoadEnded,
    LoadJobs,
    LoadOutcomes,
    OutcomesLoaded,
    Restored,
    StoreEvent,
    StoreRequest,
)
from taskpool.journal.memory import MemoryStore

if TYPE_CHECKING:
    from sim.oracle import Oracle
    from sim.platform import SimPlatform

STORE_FD = 900_001
FULL = "the disk is full (simulated)"


class Disk:
    """Outlives dealers, and reboots."""

    def __init__(self, world: World, oracle: Oracle) -> None:
        self.world = world
        self.journal_model = JournalModel(world, oracle)
        self.epoch = 0
        self.clean = True
        self.slow_until_ns = 0
        self._unsynced: list[tuple[int, Sequence[Entry]]] = []

    def write(self, epoch: int, rows: Sequence[Entry]) -> None:
        self.journal_model.apply(epoch, rows)
        if all(isinstance(row, AttemptMade) for row in rows):
            self._unsynced.append((epoch, rows))
        else:
            self._unsynced.clear()  # a sync takes along what was written before it

    def lose_power(self) -> None:
        """What was not synced is gone: attempts that were the last things written."""
        while self._unsynced:
            epoch, rows = self._unsynced.pop()
            self.world.faults.seen["attempt_lost_by_power"] += 1
            self.journal_model.forget_attempts(epoch, rows)


class SimStore:
    """See `journal.store.Store`. Requests are carried out one after the other, as by the one writer thread."""

    durable = True

    def __init__(self, platform: SimPlatform, disk: Disk, epoch: int) -> None:
        self._platform = platform
        self._world = platform.world
        self._disk = disk
        self._epoch = epoch
        self._answers: list[StoreEvent] = []
        self._requests: list[StoreRequest] = []
        self._delay_ns = self._world.rng.choice((0, 0, 300_000))
        self._free_ns = 0  # when the writer has carried out what was asked for
        self._full_until_ns = 0
        self._innocent = disk.clean
        self._took_over = False
        self._failed = False
        self.closed = False

    @property
    def ready(self) -> bool:
        return bool(self._answers)

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    # --- requests ---

    def restore(self) -> Restored | None:
        self._platform.step()
        disk = self._disk
        unclean, disk.clean = not disk.clean, False
        self._platform.host.oracle.attempts.unclean = unclean
        restored = disk.journal_model.restored(unclean_exit=unclean)
        if restored is not None and unclean:
            self._platform.write_ahead_from(self._world.now_ns)
        return restored

    def request(self, request: StoreRequest) -> None:
        if isinstance(request, Commit):
            self._took_over = True
        elif isinstance(request, LoadOutcomes):
            self._world.faults.seen["outcomes_read_back"] += 1
            self._perhaps_lose_readers(request.batch)
        self._ask(request)
        if isinstance(request, Commit):
            self._platform.perhaps_dies("dealer_dies_after_commit")

    def _perhaps_lose_readers(self, batch: str) -> None:
        for generator in self._platform.host.generators:
            if generator.serves(batch) and self._world.faults.fires("generator_calls_amid_read"):
                generator.lose_touch()
                self._free_ns = max(self._world.now_ns, self._free_ns) + self._world.faults.amount(1_000_000, 10**9)

    def answers(self) -> list[StoreEvent]:
        answers, self._answers = self._answers, []
        return answers

    def fileno(self) -> int:
        return STORE_FD

    def check(self) -> None:
        self._platform.step()
        if self._full_until_ns and self._world.now_ns >= self._full_until_ns:
            self._full_until_ns = 0
            self._answers.append(DiskFull(False, "there is room again"))

    def close(self, *, clean: bool, chosen: bool = False) -> None:
        self._platform.step()
        self._world.faults.seen["left_amid_work"] += chosen and not clean
        while self._requests:
            self._carry_out()
        self.closed = True
        self._disk.clean = clean or (chosen and self._can_tell)
        if clean and self._disk.journal_model.running:
            self._world.fail("I11", "the journal is closed as if in good order, with attempts under way")
        self._world.note("journal closed, clean {}", clean)

    def left(self) -> None:
        """The dealer is gone because it wanted to."""
        if self._can_tell and not self._disk.clean:
            self._world.fail("I4", "an end that the dealer chose is held against the jobs under way")

    @property
    def _can_tell(self) -> bool:
        """Whether this life may say how it ended: the journal works, and what the life before left was taken over."""
        return not self._failed and (self._took_over or self._innocent)

    def die(self) -> None:
        """The process is killed: what is under way is written or not."""
        self.closed = True
        for commit in (request for request in self._requests if isinstance(request, Commit)):
            if self._world.chance(0.5):
                return
            self._disk.write(self._epoch, commit.entries)

    # --- carried out ---

    def _ask(self, request: StoreRequest) -> None:
        self._platform.step()
        world, delay_ns = self._world, self._delay_ns
        is_commit = isinstance(request, Commit)
        if is_commit and world.faults.fires("commit_slow"):
            delay_ns = world.faults.amount(1_000_000, 20_000_000_000)
        elif not is_commit and world.faults.fires("read_slow"):
            delay_ns = world.faults.amount(1_000_000, 10_000_000_000)
        delay_ns = max(delay_ns, self._disk.slow_until_ns - world.now_ns)
        self._requests.append(request)
        if delay_ns and is_commit and world.faults.fires("dealer_dies_with_commit_under_way"):
            self._platform.die()
        self._free_ns = max(world.now_ns, self._free_ns) + delay_ns
        if len(self._requests) > 1 or self._free_ns > world.now_ns:
            world.at(self._free_ns, self._catch_up)
        else:
            self._carry_out()

    def _catch_up(self) -> None:
        if not self.closed and self._requests:
            self._carry_out()

    def _carry_out(self) -> None:
        request = self._requests.pop(0)
        if isinstance(request, Commit):
            self._commit(request.number, request.entries)
            return
        self._world.note("the store answers " + type(request).__name__)
        self._answers.append(self._answer(request))

    def _answer(self, request: LoadJobs | LoadOutcomes | FindBatch | LoadDigests | LoadEnded) -> StoreEvent:
        model = self._disk.journal_model
        match request:
            case LoadJobs():
                return self._load_jobs(request)
            case LoadOutcomes(batch, after, limit, reader):
                return OutcomesLoaded(batch, model.outcomes.get(batch, [])[after : after + limit], reader)
            case FindBatch(name):
                return BatchFound(name, model.stored_batch(name))
            case LoadDigests(batch, first_seq, count):
                digests = model.digests.get(batch, [])[first_seq - 1 : first_seq - 1 + count]
                return DigestsLoaded(batch, first_seq, digests)
            case LoadEnded():
                return EndedLoaded(model.ended(request))

    def _commit(self, number: int, rows: Sequence[Entry]) -> None:
        faults = self._world.faults
        self._world.note("commit {} of {} rows", number, len(rows))
        if self._world.trace is not None:
            self._world.say(f"    {[_in_short(row) for row in rows]}")
        if faults.fires("commit_eio_lost"):
            self._failed = True
            self._answers.append(CommitFailed("disk I/O error (simulated)"))
            return
        self._disk.write(self._epoch, rows)
        if faults.fires("commit_eio_applied"):
            self._failed = True
            self._answers.append(CommitFailed("disk I/O error (simulated)"))
            return
        if not self._full_until_ns and faults.fires("commit_disk_full"):
            self._full_until_ns = self._world.now_ns + faults.amount(10**8, 10**10)
            self._answers.append(DiskFull(True, FULL))
        self._answers.append(Committed(number))

    def _load_jobs(self, request: LoadJobs) -> StoreEvent:
        jobs, more = self._disk.journal_model.queued_after(request.after, request.limit, request.bytes_max)
        self._world.faults.seen["job_loaded_from_store"] += len(jobs)
        if self._world.trace is not None:
            self._world.say(f"    after {request.after}: {[job.record.ordinal for job in jobs]}, more {more}")
        return Loaded(jobs, more)


def _in_short(row: Entry) -> str:
    return f"{type(row).__name__} {getattr(row, 'ordinal', '')}".strip()


class WatchedMemoryStore(MemoryStore):
    """The store of a pool without a journal, with the oracle looking on."""

    def __init__(self, platform: SimPlatform, disk: Disk, epoch: int) -> None:
        super().__init__()
        self._platform = platform
        self._disk = disk
        self._epoch = epoch
        self.ready = self.busy = False

    def request(self, request: StoreRequest) -> None:
        if isinstance(request, Commit):
            self._platform.step()
        super().request(request)
        if isinstance(request, Commit):
            self._disk.write(self._epoch, request.entries)

    def left(self) -> None:
        """Nothing of it is left."""

    def die(self) -> None:
        """Likewise."""
