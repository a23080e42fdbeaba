"""The names of queues, legal and illegal, and those that a killed dealer left."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from taskpool import limits
from taskpool.errors import ExitCode, QueueGone, QueueMissing, UsageError
from taskpool.identifiers import Epoch, Incarnation
from taskpool.ipc import names
from taskpool.ipc.memory import MemoryNamespace, MemoryQueueEnd
from taskpool.ipc.sizing import LOCK, Shape

LONGEST_QUEUE_NAME = 255  # NAME_MAX; mq_overview(7)


@pytest.mark.parametrize("pool", ["a", "0", "default", "a-b-", "x" * 32])
def test_a_legal_pool_name_is_returned(pool: str) -> None:
    assert names.check_pool_name(pool) == pool


@pytest.mark.parametrize("pool", ["", "-a", "A", "a.b", "a/b", "a b", "a\n", "a\0", "ä", "..", "x" * 33])
def test_any_other_pool_name_is_refused_by_its_value(pool: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(pool))) as caught:
        names.check_pool_name(pool)
    assert caught.value.exit_code == ExitCode.USAGE


def test_names_are_those_of_the_protocol() -> None:
    assert names.intake("demo") == "/tp.demo.intake"
    assert names.control("demo") == "/tp.demo.control"
    assert names.events("demo") == "/tp.demo.events"
    assert names.lock("demo") == "/tp.demo.lock"
    assert names.worker("demo", epoch=3, incarnation=17) == "/tp.demo.3.w17"
    assert names.reply("demo", slot=0) == "/tp.demo.reply.0"


def test_no_two_queues_of_any_two_pools_share_a_name() -> None:
    pools = ("a", "a-1", "1", "reply")
    made = [name(pool) for pool in pools for name in (names.intake, names.control, names.events, names.lock)]
    made += [names.worker(pool, epoch, n) for pool in pools for epoch in (1, 11) for n in (1, 11)]
    made += [names.reply(pool, slot) for pool in pools for slot in range(limits.REPLY_SLOTS_MAX)]
    assert len(set(made)) == len(made)


def test_the_longest_name_is_one_the_kernel_takes() -> None:
    assert len(names.worker("x" * 32, 2**63, 2**63)) < LONGEST_QUEUE_NAME


@pytest.mark.parametrize("slot", [-1, limits.REPLY_SLOTS_MAX])
def test_a_reply_slot_out_of_range_is_a_bug(slot: int) -> None:
    with pytest.raises(AssertionError):
        names.reply("demo", slot)


# --- queues that a killed dealer left --------------------------------------------------------------


def test_the_queues_of_workers_that_were_starting_lose_their_names(tmp_path: Path) -> None:
    namespace = MemoryNamespace()
    dealer = names.StaleQueues(tmp_path, Epoch(4))
    ends = {}
    for number in (1, 2, 64, 65, 66, 200):
        dealer.note(Incarnation(number))
        ends[number] = namespace.create(names.worker("demo", 4, number), Shape(2, 256))
    other = namespace.create(names.worker("other", 4, 1), Shape(2, 256))
    names.StaleQueues(tmp_path).sweep(namespace, "demo")
    assert not any(end.linked() for end in ends.values())
    assert other.linked()


def test_a_note_is_overwritten_by_a_shorter_one(tmp_path: Path) -> None:
    namespace = MemoryNamespace()
    names.StaleQueues(tmp_path, Epoch(1_000_000)).note(Incarnation(2**40))
    names.StaleQueues(tmp_path, Epoch(5)).note(Incarnation(1))
    left = namespace.create(names.worker("demo", 5, 1), Shape(2, 256))
    names.StaleQueues(tmp_path).sweep(namespace, "demo")
    assert not left.linked()


@pytest.mark.parametrize("text", [None, "", "5", "5 x", "1 2 3", "\xff\xfe"])
def test_without_a_note_nothing_is_swept(tmp_path: Path, text: str | None) -> None:
    namespace = MemoryNamespace()
    left = namespace.create(names.worker("demo", 5, 1), Shape(2, 256))
    if text is not None:
        (tmp_path / "worker-queues").write_text(text, encoding="latin-1")
    names.StaleQueues(tmp_path).sweep(namespace, "demo")
    assert left.linked()


# --- the lock queue, and all of a dead pool's ------------------------------------------------------


def test_the_lock_queue_is_held_by_one_and_adopted_from_the_dead() -> None:
    namespace = MemoryNamespace()
    held = names.hold_lock(namespace, "demo")
    assert held is not None
    assert names.hold_lock(namespace, "demo") is None
    held.close()  # as by a kill: it keeps its name
    again = names.hold_lock(namespace, "demo")
    assert again is not None
    assert again.linked()


def test_a_lock_queue_that_cannot_be_held_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(end: MemoryQueueEnd) -> None:
        raise QueueGone(end.name)

    monkeypatch.setattr(MemoryQueueEnd, "hold_notification_lock", refuse)
    namespace = MemoryNamespace()
    with pytest.raises(QueueGone):
        names.hold_lock(namespace, "demo")
    with pytest.raises(QueueMissing):
        namespace.open(names.lock("demo"), send=True, receive=False)
    found = namespace.create(names.lock("demo"), LOCK)
    with pytest.raises(QueueGone):
        names.hold_lock(namespace, "demo")
    assert found.linked(), "it is another's"


def test_the_note_of_the_namespace_stays_as_long_as_a_queue_has_its_name(tmp_path: Path) -> None:
    namespace = MemoryNamespace()
    stale = names.StaleQueues(tmp_path, Epoch(1))
    assert stale.begun_in() is None
    stale.begin("ipc:[4026531839]")
    end = namespace.create(names.control("demo"), Shape(1, 1))
    stale.end(namespace, "demo")
    assert stale.begun_in() == "ipc:[4026531839]"
    end.unlink()
    stale.end(namespace, "demo")
    assert stale.begun_in() is None
    stale.end(namespace, "demo")
