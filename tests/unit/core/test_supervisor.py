"""The worker processes: started, replaced, given up, scaled; slots, user code, and workers that talk nonsense."""

from __future__ import annotations

import pytest
from msgspec import structs

from support.builders import EPOCH, World, work
from taskpool.clock import MILLISECOND, SECOND
from taskpool.core.effects import Topic
from taskpool.core.events import ReadyUnreadable, Reconfigured, Signalled, Spawned, SpawnFailed, TakenBack
from taskpool.errors import ExitCode
from taskpool.identifiers import Incarnation
from taskpool.limits import (
    BOOT_DEATHS_MAX,
    BOOT_DEATHS_WINDOW_NS,
    BOOT_HANGS_MAX,
    BOOT_KILLS_TOLERATED_MAX,
    BOOT_NS_MAX,
    OUT_OF_SERVICE_NS,
    RESPAWN_DELAY_NS_MAX,
    RESPAWN_DELAY_NS_MIN,
    WORKERS_MAX,
)
from taskpool.messages import End, Progress, Ready, Report, State


def states(world: World) -> dict[int, str]:
    return {int(worker.incarnation): worker.state.value for worker in world.core.supervisor.workers.values()}


# --- started --------------------------------------------------------------------------------------


def test_a_pool_starts_its_workers_and_spares() -> None:
    world = World(2, spares=1, boot=False)
    assert world.spawned() == [1, 2, 3]
    world.quiet()


def test_a_worker_works_when_it_is_ready_and_not_before() -> None:
    world = World(boot=False)
    world.batch(work())
    assert world.sent() == []
    world.ready(1)
    assert world.sent() == [(1, [1])]


def test_spares_wait_while_all_slots_are_taken() -> None:
    world = World(2, spares=1)
    world.batch(*[work()] * 4)
    assert world.sent() == [(1, [1]), (2, [2])]
    assert states(world)[3] == "spare"


def test_a_worker_takes_the_lowest_free_slot_and_keeps_it() -> None:
    world = World(3)
    world.batch(*[work()] * 8)
    world.start(2)
    world.die(2)
    for worker in (1, 3, 4):
        world.run(worker)
    slots = {outcome.pid: outcome.slot for outcome in world.outcomes()}
    assert slots == {101: 0, 103: 2, 104: 1}


def test_what_a_first_worker_has_to_say_is_said_once() -> None:
    world = World(2, boot=False)
    for incarnation in (1, 2):
        world.do(Ready(incarnation, EPOCH, 100 + incarnation, "1", ["fib"], ["fib is slow"]))
    assert [note["text"] for note in world.noted(Topic.WORKER_NOTE)] == ["fib is slow"]


def test_a_worker_of_another_version_is_told_once_and_works() -> None:
    world = World(2, boot=False, kinds=("fib",))
    world.batch(work(), work())
    for incarnation in (1, 2):
        world.do(Ready(incarnation, EPOCH, 100 + incarnation, "0.9", ["fib"], []))
    assert [note["text"] for note in world.noted(Topic.WORKER_NOTE)] == [
        "worker PID 101 is of version 0.9, this dealer of 1"
    ]
    assert world.sent() == [(1, [1]), (2, [2])]


def test_a_worker_that_lacks_a_kind_gets_no_work_and_ends_a_pool_that_never_had_another() -> None:
    world = World(boot=False, kinds=("fib", "command"))
    world.batch(work())
    world.do(Ready(1, EPOCH, 101, "0.9", ["fib", "tarot"], []))
    assert world.workers[1].told_to == ["KILL"]
    assert world.sent() == []
    assert world.exits() == [ExitCode.ENVIRONMENT]
    [note] = world.noted(Topic.OUT_OF_SERVICE)
    assert note["text"] == (
        "worker PID 101 does not know the kind command: it is of version 0.9, this dealer of version 1; "
        "see --worker-exec"
    )


def test_a_worker_that_cannot_be_understood_ends_a_pool_that_never_had_another() -> None:
    world = World(boot=False)
    world.batch(work())
    stale = ReadyUnreadable(Incarnation(1), EPOCH + 1, 101, "0.9", 4, 3)
    world.do(stale)
    assert world.workers[1].told_to == []
    world.do(structs.replace(stale, epoch=EPOCH))
    world.do(structs.replace(stale, epoch=EPOCH))
    assert world.workers[1].told_to == ["KILL"]
    assert world.sent() == []
    assert world.exits() == [ExitCode.ENVIRONMENT]
    [note] = world.noted(Topic.OUT_OF_SERVICE)
    assert note["text"] == (
        "worker PID 101 speaks protocol version 4 and is of version 0.9, this dealer speaks 3 and is of version 1; "
        "see --worker-exec"
    )


def test_one_that_comes_later_is_replaced_more_and_more_slowly() -> None:
    world = World(boot=False, kinds=("fib",))
    world.do(Ready(1, EPOCH, 101, "1", ["fib"], []))
    world.die(1)
    world.do(Ready(2, EPOCH, 102, "0.9", [], []))
    world.die(2, signal=9)
    assert world.spawned() == [1, 2]
    assert len(world.noted(Topic.RESPAWN_DELAYED)) == 1
    world.advance(2 * RESPAWN_DELAY_NS_MIN)
    assert world.spawned() == [3]
    assert world.exits() == []


def test_ready_is_said_once() -> None:
    world = World()
    world.batch(work(), work())
    world.ready(1)
    assert states(world) == {1: "busy"}


def test_a_word_from_another_life_is_stale() -> None:
    world = World(boot=False)
    world.do(Ready(1, EPOCH - 1, 101, "1", [], []))
    world.do(Ready(9, EPOCH, 109, "1", [], []))
    world.do(Progress(1, EPOCH - 1, [Report(1, End.SUCCEEDED), Report(2, End.SUCCEEDED)]))
    world.do(Progress(9, EPOCH, [], 1))
    assert world.core.pool.counters.stale_reports == 5
    assert states(world) == {1: "starting"}


# --- replaced -------------------------------------------------------------------------------------


def test_a_worker_that_dies_idle_is_replaced_at_once() -> None:
    world = World(spares=1)
    world.batch(work())
    world.run()
    world.forget()
    world.die(1)
    assert world.spawned() == [3]
    world.die(2, signal=9)
    assert world.spawned() == [4]
    assert world.core.pool.counters.worker_exits["signal", "SIGSEGV"] == 1
    assert world.core.pool.counters.worker_respawns == 2


@pytest.mark.parametrize(("status", "reason"), [(0, "clean"), (1, "error"), (3, "error"), (4, "error")])
def test_after_ready_every_exit_is_an_ordinary_one(status: int, reason: str) -> None:
    world = World()
    world.die(status=status)
    assert world.spawned() == [2]
    assert world.core.pool.counters.worker_exits[reason, ""] == 1
    assert world.exits() == []


def test_a_death_at_boot_delays_the_next_start_longer_each_time() -> None:
    world = World(boot=False)
    world.ready(1)
    world.die(1)
    least = RESPAWN_DELAY_NS_MIN
    for worker in (2, 3, 4):
        world.advance(BOOT_DEATHS_WINDOW_NS)
        world.forget()
        world.die(worker)
        delay = world.core.next_deadline_ns(world.now) - world.now.mono
        assert least <= delay <= least * 1.25
        world.advance(delay - 1)
        world.quiet()
        world.advance(1)
        assert world.spawned() == [worker + 1]
        least *= 2


def test_the_delay_has_a_limit() -> None:
    world = World(boot=False)
    world.ready(1)
    world.die(1)
    for worker in range(2, 14):
        world.die(worker, status=1)
        world.advance(max(0, world.core.next_deadline_ns(world.now) - world.now.mono))
        world.advance(BOOT_DEATHS_WINDOW_NS)
    world.die(14, status=1)
    assert world.core.next_deadline_ns(world.now) - world.now.mono <= RESPAWN_DELAY_NS_MAX * 1.25


def test_while_workers_fail_one_at_a_time_is_tried() -> None:
    world = World(3, boot=False)
    world.ready(1)
    world.forget()
    world.die(2)
    world.die(3)
    world.advance(SECOND)
    assert world.spawned() == [4]
    world.advance(SECOND)
    world.quiet()
    world.ready(4)
    assert world.spawned() == [5], "it works again"


@pytest.mark.parametrize("signal", [9, 15])
def test_a_kill_at_boot_is_somebodys_will(signal: int) -> None:
    world = World(boot=False)
    world.take_spawn()
    for worker in range(1, 20):
        world.die(worker, signal=signal)
        assert world.spawned() == [worker + 1]
    assert world.exits() == []


def test_no_end_of_kills_at_boot_is_the_machines_doing() -> None:
    """As with a memory limit that no worker fits: the dealer must neither spin nor be silent."""
    world = World(2, boot=False)
    world.ready(1)
    for worker in range(2, 2 + BOOT_KILLS_TOLERATED_MAX):
        world.take_spawn()
        world.die(worker, signal=9)
    assert world.spawned() == [2 + BOOT_KILLS_TOLERATED_MAX]
    world.die(2 + BOOT_KILLS_TOLERATED_MAX, signal=9)
    assert world.spawned() == [], "the next one has to wait"
    (note,) = world.noted(Topic.RESPAWN_DELAYED)
    assert "was killed by SIGKILL before it was ready. Perhaps out of memory" in note["text"]


def test_kills_at_boot_are_counted_from_the_last_worker_that_came_up() -> None:
    world = World(2, boot=False)
    for worker in range(1, 2 * BOOT_KILLS_TOLERATED_MAX, 2):
        world.die(worker, signal=9)
        world.ready(worker + 1)
        world.die(worker + 1)
    assert world.noted(Topic.RESPAWN_DELAYED) == []


def test_a_worker_that_is_never_ready_is_killed_and_counts() -> None:
    world = World(boot=False)
    world.ready(1)
    world.die(1)
    world.forget()
    world.advance(BOOT_NS_MAX - 1)
    world.quiet()
    world.advance(1)
    assert world.killed() == [(2, "KILL")]
    world.take_spawn()
    world.die(2, signal=9)
    assert len(world.noted(Topic.RESPAWN_DELAYED)) == 1
    assert world.core.pool.counters.worker_exits["boot", "SIGKILL"] == 1


def test_too_many_deaths_at_boot_put_the_pool_out_of_service() -> None:
    world = World(2, boot=False)
    world.ready(1)
    world.forget()
    for worker in range(2, 2 + BOOT_DEATHS_MAX):
        world.die(worker, signal=6, stderr_tail=" no libc \n")
        world.ping()
        if worker < 1 + BOOT_DEATHS_MAX:
            world.advance(RESPAWN_DELAY_NS_MIN << 4)
            assert world.spawned() == [worker + 1]
    (note,) = world.noted(Topic.OUT_OF_SERVICE)
    assert (
        note["text"]
        == "worker PID 106 was killed by SIGABRT before it was ready. The end of its standard error: no libc"
    )
    assert world.exits() == [], "worker 1 serves"
    world.advance(OUT_OF_SERVICE_NS - 1)
    assert world.spawned() == []
    world.advance(1)
    assert world.spawned() == [7]
    world.die(7, status=1)
    assert len(world.noted(Topic.OUT_OF_SERVICE)) == 1
    world.advance(OUT_OF_SERVICE_NS - 1)
    assert world.spawned() == [], "one that is tried and dies as well: out of service for as long again"
    world.advance(1)
    world.ready(8)
    assert not world.core.supervisor.respawn.out_of_service


@pytest.mark.parametrize("status", [3, 4])
def test_a_worker_that_says_it_cannot_boot_is_an_ordinary_death_where_others_could(status: int) -> None:
    world = World(2, boot=False)
    world.ready(1)
    world.forget()
    world.die(2, status=status)
    assert len(world.noted(Topic.RESPAWN_DELAYED)) == 1
    assert world.exits() == []


def test_a_pool_that_never_had_a_worker_gives_up() -> None:
    world = World(boot=False)
    world.die(1, status=3)
    assert world.exits() == [ExitCode.ENVIRONMENT]


def test_a_private_pool_gives_up_when_its_last_worker_is_gone() -> None:
    world = World(2, boot=False, private=True)
    world.ready(1)
    world.die(1)
    for worker in range(2, BOOT_DEATHS_MAX + 2):
        assert world.exits() == []
        world.die(worker, status=3)
        world.advance(max(0, world.core.next_deadline_ns(world.now) - world.now.mono))
    assert world.exits() == [ExitCode.ENVIRONMENT]


def test_a_named_pool_that_once_worked_waits() -> None:
    world = World(boot=False)
    world.ready(1)
    world.die(1)
    world.die(2, status=3)
    assert world.exits() == []


def test_a_worker_that_cannot_be_started_counts_as_dead_at_boot() -> None:
    world = World()
    world.spawn_error = "no such program"
    world.die(1)
    assert [note["text"] for note in world.noted(Topic.RESPAWN_DELAYED)] == ["no such program"]
    for _ in range(BOOT_DEATHS_MAX):
        world.advance(SECOND)
    assert world.core.supervisor.respawn.out_of_service
    assert states(world) == {}


# --- scaled ---------------------------------------------------------------------------------------


def test_more_workers_are_started_at_once() -> None:
    world = World()
    world.batch(*[work()] * 3)
    world.forget()
    assert world.command("scale", number=2) == {"workers_wanted": 3}
    assert world.spawned() == [2, 3]
    assert world.sent() == [(2, [2]), (3, [3])]
    assert [note["wanted"] for note in world.noted(Topic.SCALED)] == [3]


def test_fewer_workers_finish_what_they_have() -> None:
    world = World(3, spares=1)
    world.batch(*[work()] * 5)
    world.run(1)
    world.forget()
    assert world.command("scale", number=-2) == {"workers_wanted": 1}
    assert world.killed() == []
    world.start(2)
    world.report(2)
    assert world.killed() == [(2, "KILL")]
    world.die(2, signal=9)
    assert world.core.pool.counters.worker_exits["stopped", "SIGKILL"] == 1
    world.run(3)
    assert world.killed() == [(3, "KILL")]
    world.die(3, signal=9)
    assert world.spawned() == []
    assert states(world) == {1: "busy", 4: "spare"}
    assert world.noted(Topic.WORKER_STOPPED) == [], "as asked: nobody need be warned"


def test_idle_and_spare_workers_that_are_too_many_go_at_once() -> None:
    world = World(3, spares=2, boot=False)
    world.ready(1, 2, 4)
    world.batch(work(), work())
    world.run(2)
    world.run(1)
    world.forget()
    world.command("scale", number=-2)
    assert sorted(world.killed()) == [(2, "KILL"), (3, "KILL")]
    for worker in (2, 3):
        world.die(worker, signal=9)
    assert world.core.pool.counters.worker_exits["stopped", "SIGKILL"] == 2
    world.quiet()
    assert states(world) == {1: "idle", 4: "spare", 5: "starting"}


def test_a_pool_keeps_one_worker_and_has_a_maximum() -> None:
    world = World(2)
    assert world.command("scale", number=-10) == {"workers_wanted": 1}
    world.boot = False
    answer = world.command("scale", number=100_000)
    assert answer["workers_wanted"] == WORKERS_MAX


def test_a_pool_is_not_scaled_beyond_what_the_machine_has_room_for() -> None:
    world = World(2, workers_max=3, workers_limit="too few descriptors")
    world.boot = False
    world.forget()
    limit = "there is no room for 7: too few descriptors"
    assert world.command("scale", number=5) == {"workers_wanted": 3, "limit": limit}
    assert [(note["wanted"], note["limit"]) for note in world.noted(Topic.SCALED)] == [(3, limit)]
    assert world.spawned() == [3]
    world.do(Signalled("TTIN"))
    world.do(Reconfigured(workers=9, drain_timeout_ns=1))
    assert world.core.supervisor.wanted == 3


def test_a_worker_that_is_to_go_is_sent_nothing_more() -> None:
    world = World(2)
    world.batch(work(), batch="a")
    world.hello("b", client=2)
    world.submit(work(), batch="b", client=2)
    world.run(2, run_ns=5 * MILLISECOND)
    world.submit(work(), batch="b", client=2)
    world.forget()
    world.command("scale", number=-1)
    world.submit(work(), work(), batch="b", client=2)
    assert world.sent() == [(1, [3])], "worker 2 could hold the next one as well"


def test_a_slot_given_up_and_wanted_again_is_free_when_its_holder_is_gone() -> None:
    world = World(2)
    world.batch(*[work()] * 3)
    world.command("scale", number=-1)
    world.command("scale", number=1)
    world.forget()
    world.run(2)
    assert world.killed() == [(2, "KILL")]
    world.die(2, signal=9)
    assert world.sent() == [(3, [3])]
    world.run(3)
    assert world.outcomes()[-1].slot == 1


@pytest.mark.parametrize(("name", "wanted"), [("TTIN", 3), ("TTOU", 1)])
def test_scaled_by_a_signal(name: str, wanted: int) -> None:
    world = World(2)
    world.signal(name)
    assert world.core.supervisor.wanted == wanted


# --- user code ------------------------------------------------------------------------------------


def test_a_worker_that_loaded_user_code_serves_that_code_only() -> None:
    world = World(2)
    world.batch(work("python", affinity="/a"), work("python", affinity="/b"), work("python", affinity="/a"))
    assert world.sent() == [(1, [1]), (2, [2])]
    world.run(2)
    assert world.sent() == []
    assert world.killed() == [(2, "KILL")], "idle, and it suits nobody who waits"
    world.run(1)
    assert world.sent() == [(1, [3])]


def test_a_plain_job_waits_for_a_clean_worker() -> None:
    world = World()
    world.batch(work("python", affinity="/a"), work())
    world.run()
    assert world.killed() == [(1, "KILL")]
    world.die(1, signal=9)
    assert world.sent()[-1] == (2, [2])


def test_a_worker_of_plain_jobs_may_load_user_code() -> None:
    world = World()
    world.batch(work(), work("python", affinity="/a"))
    world.run()
    assert world.sent()[-1] == (1, [2])


# --- nonsense -------------------------------------------------------------------------------------


def nonsense(world: World, n: int = 1000, end: End = End.SUCCEEDED) -> None:
    world.do(Progress(1, EPOCH, [Report(n, end)]))


def test_a_worker_that_talks_nonsense_is_stopped_and_its_job_unharmed() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    world.start()
    world.forget()
    nonsense(world)
    nonsense(world)
    assert world.killed() == []
    nonsense(world)
    assert world.killed() == [(1, "KILL")]
    assert len(world.noted(Topic.WORKER_NOTE)) == 3
    world.die(signal=9)
    assert world.outcomes() == []
    assert world.sent() == [(2, [1])]


def test_what_only_the_dealer_can_say_is_nonsense() -> None:
    world = World()
    world.batch(work())
    world.start()
    nonsense(world, 1, End.CANCELLED)
    assert world.core.pool.counters.protocol_errors == 1
    world.report()
    assert world.ends() == [(1, State.SUCCEEDED)]


def test_a_report_before_the_start_is_nonsense() -> None:
    world = World()
    world.batch(work())
    nonsense(world, 1)
    assert world.core.pool.counters.protocol_errors == 1
    assert world.outcomes() == []


def test_a_start_of_what_was_never_sent_is_nonsense_and_a_late_one_is_stale() -> None:
    world = World()
    world.batch(work(), work())
    first = world.start()
    world.do(Progress(1, EPOCH, [], first))
    world.do(Progress(1, EPOCH, [], 99))
    counters = world.core.pool.counters
    assert (counters.stale_reports, counters.protocol_errors) == (2, 1)


def test_a_report_of_another_workers_attempt_is_stale() -> None:
    world = World(2)
    world.batch(work(), work())
    world.start(1)
    world.start(2)
    nonsense(world, 2)
    assert world.core.pool.counters.stale_reports == 1
    assert world.outcomes() == []


def test_a_second_report_is_stale() -> None:
    world = World()
    world.batch(work())
    world.run()
    nonsense(world, 1)
    counters = world.core.pool.counters
    assert (counters.stale_reports, counters.protocol_errors) == (1, 0)
    assert world.ends() == [(1, State.SUCCEEDED)]


def test_a_report_that_comes_after_its_worker_is_forgotten_is_stale() -> None:
    world = World()
    world.batch(work())
    world.start()
    world.die()
    nonsense(world, 1)
    assert world.core.pool.counters.stale_reports == 1


def test_frames_taken_back_from_nobody() -> None:
    world = World()
    world.batch(work())
    world.do(TakenBack(Incarnation(9), (1,)))
    world.do(TakenBack(Incarnation(1), (77,)))
    assert states(world) == {1: "busy"}


def test_a_spawn_that_failed_after_all_is_forgotten() -> None:
    world = World(boot=False)
    world.do(Spawned(Incarnation(1), 500))
    world.do(SpawnFailed(Incarnation(1), "gone"))
    assert states(world) == {}
    world.advance(100 * MILLISECOND)
    assert world.spawned() == [1, 2]


def test_workers_that_hang_at_boot_put_the_pool_out_of_service_however_slowly() -> None:
    world = World(boot=False)
    for worker in range(1, BOOT_HANGS_MAX + 1):
        world.advance(BOOT_NS_MAX)
        world.die(worker, signal=9)
        world.advance(max(0, world.core.next_deadline_ns(world.now) - world.now.mono))
    assert world.exits() == [ExitCode.ENVIRONMENT]
