"""One schedule: a seed, drawn into a pool, its jobs and its troubles; then calm, in which all of it must end well."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

from msgspec import structs

from sim.faults import Faults
from sim.generators import Batch
from sim.host import POOL, SimHost
from sim.jobs import Planned, Style, draw_batch_limits, draw_script
from sim.oracle import Oracle
from sim.platform import Killed, SimPlatform
from sim.trouble import Trouble
from sim.world import START_NS, Violation, World
from taskpool import limits
from taskpool.clock import MILLISECOND, SECOND, Instant
from taskpool.core import invariants
from taskpool.core.effects import Effect, Exit, Note, Topic
from taskpool.core.events import Event, LifelineClosed, Reconfigured, Signalled, SpawnFailed
from taskpool.core.storage import DiskFull, Restored
from taskpool.dealer import dealer as dealer_module
from taskpool.dealer import reply_queues
from taskpool.dealer.options import DealerOptions
from taskpool.errors import ExitCode, TaskpoolError
from taskpool.messages import Command

CALM_NS_MAX = 900 * SECOND  # in calm times everything is over within this
LIVES_MAX = 300  # no schedule needs as many dealers
LOOK_NS = 50 * MILLISECOND
HELD_NOTED_NS = 2 * SECOND
_TOLD = frozenset({Command, DiskFull, LifelineClosed, Reconfigured, Signalled, SpawnFailed})


class Result(NamedTuple):
    """How a schedule went."""

    seed: int
    violation: str | None
    hash: int
    seen: Counter[str]
    drawn: int
    fired: list[str]
    jobs: int
    virtual_ns: int
    trace: list[str] | None


class Plan:
    """What is drawn once for a schedule, before anything happens."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = Random(f"plan {seed}")
        mode = rng.random()
        self.private = mode < 0.06
        self.durable = mode >= 0.15 or mode < 0.02
        self.workers = rng.choice((1, 1, 2, 2, 3))
        self.spares = rng.choice((0, 1, 1))
        self.batches = 1 if self.private else rng.choice((1, 1, 1, 2))
        self.style = Style(rng)
        self.jobs = rng.randint(8, 24) if self.style.crowded else rng.randint(3, 12)
        self.backlog_jobs = rng.choice((2, 2, 3) if self.style.crowded else (3, 4, 6, 10_000))
        pending_max = rng.choice((5, 8, 200_000, 200_000))
        alone = self.durable and self.batches == 1  # what others leave unread fills the pool for good
        self.pending_max = pending_max if alone else 200_000
        # Its own chance: what else a seed draws does not depend on it.
        self.delay_ns = Random(f"delay {seed}").choice((0, 0, 0, 2 * MILLISECOND, 40 * MILLISECOND))
        self.outcomes_in_flight = rng.choice((1, 2, 4, 512, 512))
        self.invariants_every = rng.choice((4, 10, 25))
        self.chaos_ns = int(0.2 * SECOND * 30 ** rng.random())
        self.mean_ns = self.chaos_ns // rng.choice((2, 5, 10, 20))
        self.calls_mean = int(150 * 40 ** rng.random())
        self.kills_anywhere = self.durable and rng.random() < 0.4
        self.unread_bytes = rng.choice((2_000, limits.OUTCOMES_UNREAD_BYTES_MAX))
        self.pending_bytes = rng.choice((8_000, limits.PENDING_BYTES_MAX))
        self.unstored_bytes = rng.choice((2_000, 10_000, limits.UNSTORED_BYTES_MAX))
        self.connections = limits.CONNECTIONS_TO_ASK_MIN + rng.choice((1, 1, 2, 100))

    def draw_batches(self, host: SimHost) -> list[Batch]:
        batches = []
        number = 0
        for index in range(self.batches):
            name = f"b{index}"
            jobs = []
            for seq in range(1, max(2, self.jobs // self.batches + 1)):
                number += 1
                jobs.append(Planned(name, seq, number, draw_script(self.rng, self.style)))
            if index == 0 and self.durable and self.style.end_host:
                bad = jobs[0].script.acts[-1]._replace(what="end_host")
                script = jobs[0].script._replace(acts=(bad,), limits=None)
                jobs[0] = Planned(name, 1, jobs[0].number, script)
            batches.append(Batch(host, POOL, name, draw_batch_limits(self.rng), jobs))
        return batches


class Watcher:
    """The log of a dealer that nobody reads, except for what must be seen to happen."""

    def __init__(self, world: World, oracle: Oracle) -> None:
        self._world = world
        self._oracle = oracle

    def write(self, note: Note) -> None:
        if note.topic is Topic.CLIENT_LAPSED:
            self._world.faults.seen["lease_lapsed"] += 1
            self._oracle.lapsed(note.fields["pid"])
        if note.topic is Topic.OUT_OF_SERVICE:
            self._oracle.out_of_service()
        if note.topic is Topic.WORKER_STOPPED and note.fields["reason"] == "silent":
            self._oracle.called_silent(note.fields["pid"])
        if self._world.trace is not None:
            self._world.say(f"    dealer: {note.topic.value} {note.fields}")

    def say(self, level: int, text: str) -> None:
        self._world.say(f"    dealer: {text}")

    def warn(self, text: str) -> None:
        self._world.say(f"    dealer: {text}")


class Schedule:
    """Runs one."""

    def __init__(self, seed: int, deleted: Set[int] = frozenset(), *, tracing: bool = False) -> None:
        self.plan = plan = Plan(seed)
        self.faults = Faults(seed, dealer_may_end=plan.durable, deleted=deleted)
        self.world = World(seed, self.faults, tracing=tracing)
        self.host = SimHost(self.world, durable=plan.durable, private=plan.private)
        self.host.oracle.keep_apart(plan.delay_ns)
        self.batches = plan.draw_batches(self.host)
        self.trouble = Trouble(self.host, self.batches, plan.mean_ns, durable=plan.durable)
        self._calm_since_ns = 0
        self._ending = False
        self._over = False
        self._gave_up = False
        self._lives = 0

    def run(self) -> Result:
        world = self.world
        for batch in self.batches:
            world.at(world.now_ns + world.between(0, 20 * MILLISECOND), batch.start)
        self.trouble.start()
        world.at(START_NS + self.plan.chaos_ns, self._calm_down)
        try:
            with machine_of_the_schedule(self):
                while not self._over:
                    self._dealer_life()
                if not self._gave_up:
                    self.host.oracle.final()
        except Violation:
            pass
        return Result(
            world.seed,
            str(world.violation) if world.violation is not None else None,
            world.hash,
            self.faults.seen,
            self.faults.drawn,
            self.faults.fired,
            len(self.host.jobs),
            world.now_ns - START_NS,
            world.trace,
        )

    # --- lives of the dealer ---

    def _dealer_life(self) -> None:
        world = self.world
        self._lives += 1
        if self._lives > LIVES_MAX:
            world.fail("I10", f"{LIVES_MAX} dealers were not enough")
        plan = self.plan
        calls = int(world.rng.expovariate(1.0) * plan.calls_mean) if plan.kills_anywhere else 10**9
        platform = SimPlatform(
            self.host, durable=plan.durable, lives_for=calls, workers=plan.workers, spares=plan.spares
        )
        exit = None
        try:
            exit = self._live(platform)
        except Killed:
            pass
        except Violation:
            raise
        except TaskpoolError as error:
            world.say(f"the dealer gives up: {error}")
        except Exception:  # noqa: BLE001  # whatever it is, it is what the dealer crashes of
            self._crashed()
        if world.violation is not None:
            raise world.violation
        if not self.host.disk.clean:
            self.host.oracle.dealer_ended()
        self.host.dealer = None
        if exit is not None:
            self.faults.seen["pool_left_in_order"] += 1
            self.host.oracle.left_in_order(platform, exit)
            platform.left()
            self._left(exit)
        if not self._over:
            world.pass_to(world.now_ns + self.faults.amount(5 * MILLISECOND, 3 * SECOND))

    def _left(self, exit: Exit) -> None:
        """The dealer left because it wanted to."""
        plan = self.plan
        self.faults.seen["private_pool_left"] += plan.private
        if not plan.durable and exit.code is not ExitCode.OK:
            self._over = self._gave_up = True  # no worker can be started: what was accepted is lost with the pool
        else:
            kept = plan.durable or not plan.private
            # Of a batch without a job there is nothing to tell: its dealer leaves at each welcome.
            complete = self._is_complete() or (plan.private and self._is_empty())
            self._over = not kept or ((self._ending or plan.private) and complete)

    def _live(self, platform: SimPlatform) -> Exit:
        """Until the dealer leaves because it wants to. As `dealer.run`, with an eye on the core."""
        plan = self.plan
        options = DealerOptions(
            pool=POOL, workers=plan.workers, spares=plan.spares, private=plan.private, drain_timeout_ns=2 * SECOND
        )
        with ExitStack() as teardown:
            try:
                dealer = dealer_module.Dealer(options, Watcher(self.world, self.host.oracle), platform, teardown)  # type: ignore[arg-type]
                self._watch(dealer, platform)
                return dealer.loop.run()
            except (Killed, TaskpoolError, Violation):
                raise
            except Exception:  # noqa: BLE001  # before the teardown covers it
                self._crashed()
        raise AssertionError("not reached")

    def _crashed(self) -> NoReturn:
        if self.world.violation is not None:
            raise self.world.violation
        text = traceback.format_exc(limit=-4)
        self.world.fail("I5", f"the dealer crashes: {text}")

    def _watch(self, dealer: dealer_module.Dealer, platform: SimPlatform) -> None:
        core, plan, world = dealer.core, self.plan, self.world
        platform.core = core
        assert dealer._performer is not None
        platform.performer = dealer._performer
        platform.reply_queues = dealer._performer._reply_queues
        core.pool.backlog._jobs_max = plan.backlog_jobs
        limited = {"pending_max": plan.pending_max, "connections_max": plan.connections, "delay_ns": plan.delay_ns}
        core.pool.config = structs.replace(core.pool.config, **limited)
        handle, trim = core.handle, core.pool.backlog.trim
        handled = 0

        def watched(event: Event, now: Instant) -> list[Effect]:
            nonlocal handled
            handled += 1
            if isinstance(event, Restored):
                under_way = {(each.epoch, each.n) for each in event.in_flight}
                used = sum((epoch, report.n) in under_way for epoch, report in event.late)
                self.faults.seen["late_report_used"] += used
            if type(event) in _TOLD:
                platform.was_told(event)
            effects = handle(event, now)
            world.note(type(event).__name__, len(effects))
            if handled % plan.invariants_every == 0:
                invariants.check(core)
            return effects

        def watched_trim() -> list[Any]:
            trimmed = trim()
            self.faults.seen["backlog_trimmed"] += bool(trimmed)
            return trimmed

        core.handle = watched  # type: ignore[method-assign]
        core.pool.backlog.trim = watched_trim  # type: ignore[method-assign]

    # --- calm ---

    def _calm_down(self) -> None:
        """No more faults. What was stopped goes on, and what is wrong must right itself."""
        world = self.world
        self.faults.calm = True
        self._calm_since_ns = world.now_ns
        world.note("calm")
        self.host.end_pause()
        for worker in self.host.workers:
            worker.go_on()
        for batch in self.batches:
            if batch.process is not None:
                batch.process.go_on()
        self._look()

    def _look(self) -> None:
        world = self.world
        if self._over:
            return
        if world.now_ns > self._calm_since_ns + CALM_NS_MAX:
            self._not_over()
        if not self._ending and (world.now_ns - self._calm_since_ns) % (30 * SECOND) < LOOK_NS:
            self.trouble.end_of_pause()
        self._ending = self._is_complete()
        if self._ending and self.host.dealer is not None:
            self.host.dealer.signal("TERM")
        world.at(world.now_ns + LOOK_NS * (20 if self._ending else 1), self._look)

    def _is_complete(self) -> bool:
        journal_model = self.host.disk.journal_model.batches
        if self.host.commanders:
            return False
        return all(batch.done for batch in self.batches) and not any(batch.open for batch in journal_model.values())

    def _is_empty(self) -> bool:
        batches = self.host.disk.journal_model.batches
        return bool(batches) and all(batch.total == 0 for batch in batches.values())

    def _not_over(self) -> None:
        waiting = [batch.name for batch in self.batches if not batch.done]
        jobs = {
            f"{kept.job.record.batch}/{kept.job.record.seq}": str(kept.state)
            for kept in self.host.disk.journal_model.jobs.values()
            if kept.state in ("queued", "running")
        }
        self.world.fail("I10", f"not over {CALM_NS_MAX // SECOND} s after the last fault: {waiting}, jobs {jobs}")


@contextmanager
def machine_of_the_schedule(schedule: Schedule) -> Iterator[None]:
    """What the dealer asks the operating system past its platform; and limits as small as the schedule."""

    def fstat(fileno: int) -> SimpleNamespace:
        platform = schedule.host.dealer
        assert platform is not None
        return SimpleNamespace(st_ino=platform.inode(fileno))

    def getpid() -> int:
        return 999

    undo: list[tuple[object, str, object]] = []

    def put(where: object, name: str, what: object) -> None:
        undo.append((where, name, getattr(where, name)))
        setattr(where, name, what)

    put(reply_queues, "os", SimpleNamespace(fstat=fstat, close=lambda fd: None))
    put(dealer_module, "os", SimpleNamespace(getpid=getpid))
    put(limits, "OUTCOMES_IN_FLIGHT_MAX", schedule.plan.outcomes_in_flight)
    put(limits, "OUTCOMES_UNSENT_BYTES_MAX", schedule.plan.unstored_bytes)
    put(limits, "OUTCOMES_UNREAD_BYTES_MAX", schedule.plan.unread_bytes)
    put(limits, "PENDING_BYTES_MAX", schedule.plan.pending_bytes)
    put(limits, "HELD_NOTED_NS", HELD_NOTED_NS)
    put(limits, "UNSTORED_BYTES_MAX", schedule.plan.unstored_bytes)
    put(limits, "UNSTORED_REPORTS_BYTES_MAX", schedule.plan.unstored_bytes * 3 // 2)
    try:
        yield
    finally:
        for where, name, what in reversed(undo):
            setattr(where, name, what)


def run(seed: int, deleted: Set[int] = frozenset(), *, tracing: bool = False) -> Result:
    """One schedule, from its seed."""
    return Schedule(seed, deleted, tracing=tracing).run()


Runner = Callable[[int, Set[int]], Result]
