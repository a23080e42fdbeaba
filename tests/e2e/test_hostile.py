"""A program that may open a queue may write anything into it, or take its name away: the pool works on."""

from __future__ import annotations

import os
import random
from collections import Counter
from signal import SIGTERM

import posix_ipc
import pytest

from support.harness import OK, Stage, queue_exists, send_raw, tell, until, workers_of
from support.ledger import Ledger
from support.pages import free_port, samples
from taskpool.codec import encode, encode_tasks
from taskpool.messages import (
    Ack,
    Answer,
    Bye,
    Close,
    Command,
    End,
    Frame,
    Hello,
    JobSpec,
    Ping,
    Progress,
    Ready,
    Report,
    Spilled,
    Submit,
    Welcome,
)

GARBAGE = 1_500  # messages for each queue
ROLES = ("intake", "control", "events")
SHORT = 400  # bytes: fits the smallest of the queues


def garbage(seed: int) -> list[bytes]:
    """Random bytes, half of them behind a right version byte, and damaged copies of real messages."""
    lot = random.Random(seed)
    real = encode(Submit(1, "b", 1, [JobSpec("fib", b"\x91\x05")]))
    found = []
    for number in range(GARBAGE):
        data = lot.randbytes(lot.randrange(SHORT)) if number % 3 else bytearray(real)
        if number % 3 == 0:
            data[lot.randrange(2, len(data))] ^= 1 << lot.randrange(8)  # type: ignore[index]
            data = bytes(data) + b"\xc1"  # a byte MessagePack never uses: refused, whatever the flipped bit made
        found.append(bytes([1]) + data if number % 3 == 1 else bytes(data))
    return found


def misplaced() -> dict[str, list[bytes]]:
    """Messages that are right, in a queue where they are not."""
    from_worker = [Ready(1, 1, 1, "0", ["fib"]), Progress(1, 1, [], 1)]
    from_generator = [Ack(1, "b", 1), Ping(1), Bye(1), Command(1, "drain"), Hello(1, 0, 1)]
    submissions = [Submit(1, "b", 1, [JobSpec("fib", b"\x91\x05")]), Close(1, "b", 1)]
    from_dealer = [Welcome(1, 1, 1, "/"), Answer(1, "drain", True, b"{}")]
    frame = Frame(1, 1, 1, 0, "b", encode_tasks([]))
    missing = Spilled("0" * 32, 10, b"\0" * 32)
    wrong = {
        "intake": [*from_worker, *from_generator, *from_dealer, frame, missing],
        "control": [*from_worker, *submissions, *from_dealer, frame, missing],
        "events": [*from_generator, *submissions, *from_dealer, frame, missing],
    }
    return {role: [encode(message) for message in messages] for role, messages in wrong.items()}


@pytest.mark.slow
def test_foreign_messages_are_counted_and_nothing_else(stage: Stage, ledger: Ledger) -> None:
    seed = int(os.environ.get("TASKPOOL_SEED", "0")) or int.from_bytes(os.urandom(4))
    tell(f"TASKPOOL_SEED={seed} makes the same garbage")
    port = free_port()
    dealer = stage.dealer("--workers", 2, "--metrics", f"127.0.0.1:{port}")
    names = [str(number) for number in range(1, 101)]
    options = ["--pool", stage.pool, "--output", "json"]
    run = stage.generator("command", *options, "--", *ledger.command("sleep=0.02"), ":::", *names)
    ledger.wait("end", 1)
    sent = 0
    for role in ROLES:
        messages = misplaced()[role] * 10 + garbage(seed)
        send_raw(f"/tp.{stage.pool}.{role}", messages)
        sent += len(messages)
    run.ends(OK)
    assert {(job["state"], job["attempts"]) for job in run.objects()} == {("succeeded", 1)}
    assert ledger.jobs("end") == Counter(names)
    until(lambda: refused(port) >= sent, f"{sent} messages that are counted as refused")
    assert refused(port) == sent
    dealer.send(SIGTERM)
    dealer.ends(OK)


def refused(port: int) -> float:
    return sum(samples(port, "taskpool_submissions_refused_total").values())


def test_strangers_that_say_they_are_workers(stage: Stage, ledger: Ledger) -> None:
    """Ready and reports of workers there are not, or are others: they are not believed."""
    dealer = stage.dealer("--workers", 2, "--spares", 0, ready=2)
    workers = workers_of(dealer.pid)
    strangers: list[Ready | Progress] = []
    for incarnation in (1, 2, 3, 999):
        strangers += [Ready(incarnation, epoch, os.getpid(), "9", ["fib"]) for epoch in (1, 2)]
    reports = [Report(n, End.SUCCEEDED, b'"forged"') for n in range(1, 20)]
    strangers += [Progress(incarnation, epoch, reports, 1) for incarnation, epoch in ((999, 1), (1, 2), (2, 7))]
    names = [str(number) for number in range(1, 41)]
    run = stage.generator(
        "command", "--pool", stage.pool, "--output", "json", "--", *ledger.command("sleep=0.02"), ":::", *names
    )
    ledger.wait("start", 1)
    send_raw(f"/tp.{stage.pool}.events", [encode(stranger) for stranger in strangers] * 20)
    run.ends(OK)
    assert {(job["state"], job["value"], job["attempts"]) for job in run.objects()} == {("succeeded", None, 1)}
    assert ledger.jobs("end") == Counter(names)
    assert workers_of(dealer.pid) == workers
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_queues_that_lose_their_names_are_made_again(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 2)
    for role in ROLES:
        posix_ipc.unlink_message_queue(f"/tp.{stage.pool}.{role}")
    for role in ROLES:
        until(lambda: queue_exists(f"/tp.{stage.pool}.{role}"), f"a new {role}")  # noqa: B023
        dealer.says(rf"/tp\.{stage.pool}\.{role}\b.*unlinked; recreated")
    assert stage.generator("fib", "20", "--pool", stage.pool).ends(OK).lines == ["6765"]
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_a_run_survives_the_loss_of_all_queue_names(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 2)
    names = [str(number) for number in range(1, 61)]
    options = ["--pool", stage.pool, "--output", "json"]
    run = stage.generator("command", *options, "--", *ledger.command("sleep=0.1"), ":::", *names)
    ledger.wait("end", 4)
    for role in ROLES:
        posix_ipc.unlink_message_queue(f"/tp.{stage.pool}.{role}")
    run.ends(OK)
    assert sorted(job["seq"] for job in run.objects()) == list(range(1, 61))
    assert {job["state"] for job in run.objects()} == {"succeeded"}
    assert ledger.jobs("end") == Counter(names)
    until(lambda: all(queue_exists(f"/tp.{stage.pool}.{role}") for role in ROLES), "new queues")
    dealer.send(SIGTERM)
    dealer.ends(OK)
