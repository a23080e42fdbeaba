"""Which calls an earlier run has submitted."""

from __future__ import annotations

from pathlib import Path

from taskpool.executor.call import KEY_BYTES
from taskpool.executor.known import KnownCalls
from taskpool.messages import Outcome, State

A, B, C = (bytes([n]) * KEY_BYTES for n in (1, 2, 3))


def outcome(seq: int, state: State) -> Outcome:
    return Outcome(no=seq, seq=seq, run=1, kind="call", label=None, state=state, attempts=1, crashes=0)


def known(path: Path, accepted: int, *outcomes: Outcome) -> KnownCalls:
    calls = KnownCalls(path)
    calls.outcomes = {each.seq: each for each in outcomes}
    calls.begin(accepted)
    return calls


def test_the_nth_of_equal_calls_is_the_nth_job(tmp_path: Path) -> None:
    first = known(tmp_path / "calls", 0)
    assert first.claim(A) is None
    first.add([A, B])
    first.add([A])
    first.close()
    first.close()
    second = known(tmp_path / "calls", 3)
    assert [second.claim(key) for key in (B, A, A, A, B, C)] == [2, 1, 3, None, None, None]
    second.close()


def test_what_the_pool_has_not_accepted_is_forgotten(tmp_path: Path) -> None:
    first = known(tmp_path / "calls", 0)
    first.add([A, B])
    first.close()
    second = known(tmp_path / "calls", 1)
    assert second.claim(B) is None
    second.add([C])
    second.close()
    third = known(tmp_path / "calls", 2)
    assert [third.claim(key) for key in (A, C, B)] == [1, 2, None]
    third.close()


def test_keys_that_a_loss_of_power_has_taken_are_of_no_call(tmp_path: Path) -> None:
    first = known(tmp_path / "calls", 0)
    first.add([A])
    first.close()
    second = known(tmp_path / "calls", 3)
    second.add([B])
    second.close()
    third = known(tmp_path / "calls", 4)
    assert [third.claim(key) for key in (A, B, bytes(KEY_BYTES))] == [1, 4, None]
    third.close()


def test_what_was_cancelled_is_not_claimed(tmp_path: Path) -> None:
    first = known(tmp_path / "calls", 0)
    first.add([A, A])
    first.close()
    second = known(tmp_path / "calls", 2, outcome(1, State.CANCELLED), outcome(2, State.FAILED))
    assert [second.claim(A), second.claim(A)] == [2, None]
    second.close()
