"""Connections of generators: how many there can be, and who comes in when one leaves."""

from __future__ import annotations

import pytest

from support.builders import World, work
from taskpool import limits
from taskpool.core.events import ClientLost
from taskpool.messages import Bye, Refused, State, Welcome

TO_ASK = limits.CONNECTIONS_TO_ASK_MIN
PLACES = TO_ASK + 2  # for two batches at a time


@pytest.fixture
def full() -> World:
    """A pool whose places for batches are taken, by the generators 1 and 2."""
    world = World(connections_max=PLACES)
    for client in (1, 2):
        world.hello(f"b{client}", client)
        assert is_welcomed(world, client)
    return world


def is_welcomed(world: World, client: int) -> bool:
    (answer,) = world.told(client)
    if isinstance(answer, Welcome):
        return True
    assert isinstance(answer, Refused)
    assert (answer.reason, answer.first_seq) == ("full", 0)
    assert world.released() == [client], "its queue is let go"
    return False


def test_a_hello_beyond_the_places_is_refused_and_leaves_nothing(full: World) -> None:
    full.hello("b3", 3)
    (answer,) = full.told(3)
    assert answer.text == "all 10 connections are taken; 8 of them are kept for commands and questions"
    assert full.core.pool.clients.keys() == {1, 2}
    assert full.core.pool.batches.keys() == {"b1", "b2"}
    assert full.core.pool.counters.refusals["full"] == 1


def test_some_places_are_kept_for_those_that_ask(full: World) -> None:
    for client in range(3, 3 + TO_ASK):
        full.hello(None, client)
        assert is_welcomed(full, client)
    full.hello(None, 100)
    (answer,) = full.told(100)
    assert answer.text == "all 10 connections are taken"


def test_questions_may_take_all_places() -> None:
    world = World(connections_max=PLACES)
    for client in range(PLACES):
        world.hello(None, client)
        assert is_welcomed(world, client)
    world.hello("b", 100)
    assert not is_welcomed(world, 100)


@pytest.mark.parametrize("end", [Bye, ClientLost])
def test_a_place_is_free_as_soon_as_its_generator_has_gone(full: World, end: type) -> None:
    full.do(end(1))
    full.released()
    full.hello("b3", 3)
    assert is_welcomed(full, 3)
    full.hello("b1", 4)
    assert not is_welcomed(full, 4)


@pytest.mark.parametrize("end", [Bye, ClientLost])
def test_who_has_gone_when_the_store_answers_is_not_let_in(end: type) -> None:
    world = World(journaled=True, slow_store=True)
    world.hello("b", 1)
    world.hello("b", 2)
    world.do(end(1))
    assert world.released() == [1], "nor is its queue kept"
    world.answer()
    assert world.told(1) == []
    assert is_welcomed(world, 2)
    assert world.core.pool.clients.keys() == {2}


def test_who_has_a_place_keeps_it(full: World) -> None:
    full.hello("b1", 1)
    assert is_welcomed(full, 1), "it has called again"
    full.submit(work(), batch="b1", client=1)
    full.run()
    assert full.ends(1) == [(1, State.SUCCEEDED)]


def test_a_batch_is_had_from_a_silent_holder_in_its_own_place(full: World) -> None:
    full.advance(limits.REPLY_OVERDUE_NS)
    full.hello("b1", 3)
    assert full.released() == [1]
    assert is_welcomed(full, 3)
    assert full.core.pool.clients.keys() == {2, 3}


def test_a_pool_that_drains_says_so_first(full: World) -> None:
    full.core.shutdown.drain(full.now)
    full.hello("b3", 3)
    (answer,) = full.told(3)
    assert answer.reason == "draining"
