"""Which pools count as dead, and what is taken from them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from taskpool.errors import QueueLimit
from taskpool.identifiers import Epoch, Incarnation
from taskpool.ipc import dead_pools, names
from taskpool.ipc.memory import MemoryNamespace, MemoryQueueEnd
from taskpool.ipc.sizing import LOCK, Shape

HERE, ELSEWHERE = "ipc:[1]", "ipc:[2]"
POOL, OWN = "dead", "own"


class Stage:
    """A base of state directories, with one that a killed private pool has left."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.namespace = MemoryNamespace()
        self.directory = self.make(POOL)
        self.left = self.make_queues(POOL)
        (base / OWN).mkdir()

    def make(self, pool: str, journal: str | None = "journal.db") -> Path:
        directory = self.base / pool
        (directory / "spool").mkdir(parents=True)
        (directory / "spool" / "message").write_text("x")
        if journal is not None:
            (directory / journal).write_text("x")
        note = "null" if journal is None else f'"{directory / journal}"'
        (directory / "private.json").write_text(f'{{"batch": "{pool}", "journal": {note}}}')
        (directory / "pool.lock").touch()
        stale = names.StaleQueues(directory, Epoch(3))
        stale.begin(HERE)
        stale.note(Incarnation(1))
        return directory

    def make_queues(self, pool: str) -> list[MemoryQueueEnd]:
        made = [names.intake(pool), names.control(pool), names.events(pool)]
        made += [names.reply(pool, 0), names.reply(pool, 31), names.worker(pool, 3, 2)]
        ends = [self.namespace.create(name, Shape(2, 64)) for name in made]
        ends.append(self.namespace.create(names.lock(pool), LOCK))
        return ends

    def sweep(self, ipc_namespace: str = HERE) -> list[str]:
        return dead_pools.sweep(self.namespace, self.base / OWN, ipc_namespace)

    @property
    def linked(self) -> int:
        return sum(end.linked() for end in self.left)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "base")


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def hold(path: Path, cleanup: ExitStack) -> None:
    fd = os.open(path, os.O_RDWR)
    cleanup.callback(os.close, fd)
    fcntl.flock(fd, fcntl.LOCK_EX)


def test_a_dead_pool_loses_its_queues_and_its_spool_and_keeps_its_batch(stage: Stage) -> None:
    other = stage.namespace.create(names.intake("dead-2"), Shape(2, 64))
    assert stage.sweep() == [POOL]
    assert stage.linked == 0
    assert {path.name for path in stage.directory.iterdir()} >= {"journal.db", "private.json", "pool.lock"}
    assert not (stage.directory / "spool").exists()
    assert other.linked()
    assert stage.sweep() == [], "all is given back"


def test_several_dead_pools_are_swept_at_once(stage: Stage) -> None:
    stage.make("dead-2")
    stage.left += stage.make_queues("dead-2")
    assert sorted(stage.sweep()) == [POOL, "dead-2"]
    assert stage.linked == 0


def test_one_without_a_batch_to_go_on_with_goes_altogether_but_for_its_output(stage: Stage) -> None:
    for pool in ("none", "told"):
        stage.make(pool, journal=None)
    output = stage.base / "told" / "output" / "b" / "1.out"
    output.parent.mkdir(parents=True)
    output.write_text("a result names it")
    (stage.directory / "journal.db").unlink()  # killed before its journal was there
    assert sorted(stage.sweep()) == [POOL, "none", "told"]
    assert {path for path in stage.base.rglob("*") if path.is_file()} == {output}


def test_a_journal_of_its_own_place_keeps_the_batch(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("x")
    (stage.directory / "journal.db").unlink()
    (stage.directory / "private.json").write_text(f'{{"batch": "dead", "journal": "{tmp_path / "own"}"}}')
    assert stage.sweep() == [POOL]
    assert (stage.directory / "private.json").exists()
    (tmp_path / "own").unlink()  # as on a disk that is not mounted
    assert stage.sweep() == []
    assert (stage.directory / "private.json").exists()


@pytest.mark.parametrize("lock", [True, False])
def test_one_that_was_killed_before_it_had_begun_goes(stage: Stage, cleanup: ExitStack, lock: bool) -> None:
    for name in ("queues", "worker-queues", "journal.db", *(["pool.lock"] if not lock else [])):
        (stage.directory / name).unlink()
    with ExitStack() as generator:
        hold(stage.directory / "private.json", generator)
        assert stage.sweep() == []
    assert stage.sweep() == [POOL]
    assert not stage.directory.exists()


@pytest.mark.parametrize("name", ["private.json", "pool.lock"])
def test_a_pool_whose_generator_or_dealer_lives_is_left_alone(stage: Stage, cleanup: ExitStack, name: str) -> None:
    hold(stage.directory / name, cleanup)
    assert stage.sweep() == []
    assert stage.linked == len(stage.left)
    assert (stage.directory / "spool" / "message").exists()


def test_a_living_pool_of_the_same_name_with_another_directory_is_left_alone(stage: Stage) -> None:
    stage.left[-1].hold_notification_lock()  # by its dealer, in this namespace
    assert stage.sweep() == []
    assert stage.linked == len(stage.left)


def test_what_is_left_in_another_namespace_is_left_to_that_ones_dealers(stage: Stage) -> None:
    assert stage.sweep(ELSEWHERE) == []
    assert stage.linked == len(stage.left), "these queues are another pool's"
    assert stage.sweep() == [POOL]


@pytest.mark.parametrize("missing", ["private.json", "pool.lock", "queues"])
def test_only_a_private_pool_that_has_begun_is_swept(stage: Stage, missing: str) -> None:
    (stage.directory / missing).unlink()
    assert stage.sweep() == []
    assert stage.linked == len(stage.left)


def test_the_pool_that_is_about_to_start_is_not_swept(stage: Stage) -> None:
    assert dead_pools.sweep(stage.namespace, stage.directory, HERE) == []
    assert stage.linked == len(stage.left)


def test_no_link_is_followed(stage: Stage, tmp_path: Path) -> None:
    stage.directory.rename(tmp_path / POOL)
    (stage.base / POOL).symlink_to(tmp_path / POOL)
    assert stage.sweep() == []
    assert (tmp_path / POOL / "spool" / "message").exists()


@pytest.mark.parametrize("note", ["", "{", "[]", '{"journal": 5}'])
def test_a_damaged_note_keeps_no_other_pool_from_starting(stage: Stage, note: str) -> None:
    stage.make("dead-2")
    (stage.directory / "private.json").write_text(note)
    assert stage.sweep() == ["dead-2"]
    assert (stage.directory / "journal.db").exists()


def test_without_a_byte_for_a_lock_the_dead_are_swept_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, shape: Shape) -> MemoryQueueEnd:
        raise QueueLimit(name)

    stage.namespace.unlink(names.lock(POOL))
    monkeypatch.setattr(stage.namespace, "create", refuse)
    assert stage.sweep() == [POOL]
    assert stage.linked == 0


def test_the_dead_are_found_and_nothing_is_touched(stage: Stage, cleanup: ExitStack) -> None:
    assert dead_pools.find(stage.base, HERE) == [stage.directory]
    assert stage.linked == len(stage.left)
    hold(stage.directory / "private.json", cleanup)
    assert dead_pools.find(stage.base, HERE) == [], "its generator lives"


def test_what_has_a_batch_and_no_queues_is_not_dead(stage: Stage) -> None:
    assert dead_pools.sweep_all(stage.namespace, stage.base, HERE) == [POOL]
    assert stage.linked == 0
    assert dead_pools.find(stage.base, HERE) == []


def test_one_whose_note_is_damaged_is_not_found(stage: Stage) -> None:
    (stage.directory / "private.json").write_text("{")
    assert dead_pools.find(stage.base, HERE) == []


def test_a_named_pool_is_found_and_its_queues_are_taken_away(stage: Stage) -> None:
    (stage.directory / "private.json").unlink()
    assert dead_pools.find_named(stage.base, ELSEWHERE) == []
    assert dead_pools.find_named(stage.base, HERE) == [stage.directory]
    assert dead_pools.unlink_named(stage.namespace, stage.directory)
    assert stage.linked == 0
    assert (stage.directory / "journal.db").exists()
    assert dead_pools.find_named(stage.base, HERE) == []


def test_a_named_pool_whose_dealer_lives_is_left_alone(stage: Stage, cleanup: ExitStack) -> None:
    (stage.directory / "private.json").unlink()
    hold(stage.directory / "pool.lock", cleanup)
    assert dead_pools.find_named(stage.base, HERE) == []
    assert not dead_pools.unlink_named(stage.namespace, stage.directory)
    assert stage.linked == len(stage.left)


def test_a_private_pool_is_no_named_one(stage: Stage) -> None:
    assert dead_pools.find_named(stage.base, HERE) == []


def test_queues_of_a_pool_without_a_directory_are_taken_away_unless_a_dealer_has_it(stage: Stage) -> None:
    queues = [end.name for end in stage.left]
    stage.left[-1].hold_notification_lock()
    assert dead_pools.has_dealer(stage.namespace, POOL)
    assert not dead_pools.unlink_listed(stage.namespace, POOL, queues)
    assert stage.linked == len(stage.left)
    stage.left[-1].close()
    assert not dead_pools.has_dealer(stage.namespace, POOL)
    assert not dead_pools.has_dealer(stage.namespace, "never")
    assert dead_pools.unlink_listed(stage.namespace, POOL, queues)
    assert [end for end in stage.left[:-1] if end.linked()] == []


def test_a_base_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert dead_pools.sweep(MemoryNamespace(), tmp_path / "no" / OWN, HERE) == []
