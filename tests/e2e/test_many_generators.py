"""More generators than there is room for: they wait their turn and say so, and the dead leave their room at once."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import posix_ipc
import pytest

from support import programs
from support.harness import (
    ENVIRONMENT,
    OK,
    REFUSED,
    UNREACHABLE,
    Program,
    Stage,
    kill,
    opened,
    program,
    queue_exists,
    send_raw,
    until,
)
from support.ledger import Ledger

BYTES = 400_000  # more than half of what the smallest layout needs
NAMES = 32  # docs/protocol.md, 3
FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 230 && exec "$@"', "sh")
SOONER_THAN_A_LEASE = 20  # seconds; a lease is 30, and what is waited for takes one or two

pytestmark = pytest.mark.timeout(180)  # up to ten programs a test, and each wait has a deadline of its own

# Connected with so many batches, and without one so many times more, until it is killed.
HOLDER = """
import os, sys, time
from taskpool.client.connection import Connection, NoNotices
from taskpool.client.session import Session, SessionOptions
from taskpool.client.transport import Transport
from taskpool.clock import AwakeClock, SystemClock
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.sizing import Shape

pool, batches, questions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
clock = AwakeClock(SystemClock())
links = []
for number in range(batches + questions):
    batch = f"held{number}" if number < batches else None
    options = SessionOptions(pool=pool, client=1000 + number, pid=os.getpid(), batch=batch)
    transport = Transport(KernelNamespace(), pool, Shape(2, 512))
    links.append(Connection(Session(options, clock.now().mono), transport, NoNotices(), clock))
    links[-1].run_until(lambda: links[-1].session.welcome is not None)
    if number % 16 == 0:  # or the first are silent for too long on a busy machine
        for link in links:
            link.run_until(lambda: True)
print("held", flush=True)
while True:
    for link in links:
        link.run_until(lambda: True)
    time.sleep(1)
"""


@contextmanager
def held(stage: Stage, batches: int, questions: int = 0) -> Iterator[int]:
    """Have so many connections held by a process; gives its pid."""
    with programs.start(HOLDER, stage.pool, batches, questions) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder.pid
        finally:
            holder.kill()


def fib(stage: Stage, n: int, *options: str) -> Program:
    return stage.generator("fib", n, "--pool", stage.pool, *options)


def leave(dealer: Program) -> None:
    dealer.send(SIGTERM)
    dealer.ends(OK)
    assert "lapsed" not in dealer.stderr


# --- the dealer's connections ------------------------------------------------------------------------


def test_who_finds_no_connection_waits_its_turn(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 1, "--spares", 0, under=FEW_DESCRIPTORS)
    with held(stage, 24) as holder:
        runs = [fib(stage, n) for n in (10, 11)]
        for run in runs:
            run.says(
                r"Waiting up to 1m00s \(--dealer-timeout\) until another generator leaves: .* refuses: "
                "all 32 connections are taken; 8 of them are kept for commands and questions"
            )
        assert stage.ask("status")["workers"] == {"spare": 1}, "a question finds its place"
        late = fib(stage, 5, "--dealer-timeout", "0.5s").ends(REFUSED)
        assert "connections are taken; 8 of them are kept for commands and questions. So it was for 0.5s" in late.stderr
        assert "Waiting" not in fib(stage, 5, "--no-wait").ends(REFUSED).stderr
        kill(holder)
        assert [run.ends(OK).lines for run in runs] == [["55"], ["89"]]
        assert [run.stderr.count("Waiting") for run in runs] == [1, 1]
    leave(dealer)


def test_many_take_turns_in_the_one_place_that_is_left(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 1, "--spares", 0, under=FEW_DESCRIPTORS)
    with held(stage, 23):
        runs = [fib(stage, n) for n in range(8, 13)]
        assert [run.ends(OK).lines for run in runs] == [["21"], ["34"], ["55"], ["89"], ["144"]]
    leave(dealer)


def test_a_dealer_with_no_connection_left_is_well(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 1, under=FEW_DESCRIPTORS)
    with held(stage, 20, 12):
        checked = stage.start([program("tp-dealer"), "--health", "--pool", stage.pool]).ends(OK)
        assert "all 32 connections are taken" in checked.stderr
    leave(dealer)


# --- the bytes of queues -----------------------------------------------------------------------------


class Ballast:
    """Queues of this process, which take all the bytes but those of so many reply queues."""

    def __init__(self, pool: str) -> None:
        self._name = f"/tp.{pool}.ballast"
        self._queues = [self._make(4, 512) for _ in range(4)]  # as a reply queue in the smallest layout

    def fill(self) -> None:
        for maxmsg, msgsize in ((10, 8192), (10, 1024), (4, 512)):
            with suppress(OSError):
                while True:
                    self._queues.insert(0, self._make(maxmsg, msgsize))

    def free(self, replies: int) -> None:
        for _ in range(replies):
            self._queues.pop().close()

    def close(self) -> None:
        while self._queues:
            self._queues.pop().close()

    def _make(self, maxmsg: int, msgsize: int) -> posix_ipc.MessageQueue:
        made = posix_ipc.MessageQueue(self._name, posix_ipc.O_CREX, max_messages=maxmsg, max_message_size=msgsize)
        made.unlink()
        return made


@pytest.fixture
def ballast(pool: str) -> Iterator[Ballast]:
    """Lowers the limit of this process, which the programs inherit."""
    before = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (BYTES, before[1]))
    made = Ballast(pool)
    yield made
    made.close()
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, before)


def test_who_finds_no_bytes_for_its_queue_waits_its_turn(stage: Stage, ledger: Ledger, ballast: Ballast) -> None:
    dealer = stage.dealer("--workers", 3, "--spares", 0, ready=3)
    ballast.fill()
    ballast.free(2)
    options = ["--pool", stage.pool, "--", *ledger.command("gate"), ":::"]
    with ledger.gate():
        holders = [stage.generator("command", *options, job) for job in ("a", "b")]
        ledger.wait("start", 2)
        runs = [fib(stage, n) for n in (10, 11, 12)]
        for run in runs:
            run.says(
                r"Waiting up to 1m00s \(--dealer-timeout\) until it can have a reply queue: "
                f"queue /tp.{stage.pool}.reply.0 needs 2432 bytes of RLIMIT_MSGQUEUE, which is {BYTES} for all queues"
            )
        late = stage.generator("status", "--pool", stage.pool, "--dealer-timeout", "0.5s").ends(ENVIRONMENT)
        assert late.stderr.count("Waiting up to 0.5s") == 1
        assert "So it was for 0.5s; --dealer-timeout waits longer" in late.stderr
        assert "Waiting" not in fib(stage, 5, "--no-wait").ends(ENVIRONMENT).stderr
        kill(holders[0].pid)
        assert [run.ends(OK).lines for run in runs] == [["55"], ["89"], ["144"]]
        assert [run.stderr.count("Waiting") for run in runs] == [1, 1, 1]
    holders[1].ends(OK)
    holders[0].ends(-SIGKILL)
    assert ledger.jobs("end").keys() == {"a", "b"}
    leave(dealer)


# --- generators that die as they say hello -----------------------------------------------------------


def reply_queues(dealer: Program) -> list[str]:
    """The reply queues that the dealer has open."""
    found = []
    for entry in Path(f"/proc/{dealer.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return [link for link in found if ".reply." in link]


def test_a_generator_killed_with_its_hello_under_way_leaves_nothing(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 1)
    dealer.send(SIGSTOP)
    run = fib(stage, 10, "--batch", "b", "-v")
    run.says("Queue created")
    with opened(f"/tp.{stage.pool}.control") as control:
        until(lambda: control.current_messages == 1, "a hello")
    kill(run.pid)
    run.ends(-SIGKILL)
    dealer.send(SIGCONT)
    until(lambda: not queue_exists(f"/tp.{stage.pool}.reply.0"), "the loss of its queue's name", SOONER_THAN_A_LEASE)
    assert fib(stage, 10, "--batch", "b").ends(OK).lines == ["55"], "its batch is free"
    until(lambda: not reply_queues(dealer), "the end of its queue", SOONER_THAN_A_LEASE)
    leave(dealer)


def test_a_generator_killed_before_its_hello_leaves_no_name(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 1)
    dealer.send(SIGSTOP)
    with opened(f"/tp.{stage.pool}.control") as control:
        send_raw(f"/tp.{stage.pool}.control", [b"x"] * control.max_messages)
    run = fib(stage, 10, "-v")
    run.says("Queue created")
    kill(run.pid)
    run.ends(-SIGKILL)
    dealer.send(SIGCONT)
    until(lambda: not queue_exists(f"/tp.{stage.pool}.reply.0"), "the loss of its queue's name", SOONER_THAN_A_LEASE)
    leave(dealer)


def test_names_that_the_dead_have_taken_are_waited_for(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 1)
    dealer.send(SIGSTOP)
    for slot in range(NAMES):
        posix_ipc.MessageQueue(
            f"/tp.{stage.pool}.reply.{slot}", posix_ipc.O_CREX, max_messages=1, max_message_size=8
        ).close()
    run = fib(stage, 10)
    run.says("Waiting up to .* all 32 names for reply queues of pool")
    late = stage.generator("status", "--pool", stage.pool, "--dealer-timeout", "0.5s").ends(UNREACHABLE)
    assert "as many generators wait for its dealer to answer. So it was for 0.5s" in late.stderr
    dealer.send(SIGCONT)
    assert run.ends(OK).lines == ["55"]
    assert not any(queue_exists(f"/tp.{stage.pool}.reply.{slot}") for slot in range(NAMES))
    leave(dealer)
