"""What an Executor refuses, and what it makes of the rest."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from taskpool import Executor
from taskpool.executor.options import call_limits, pool_options
from taskpool.messages import Limits


def chosen(**fields: Any) -> Any:
    none = {"max_workers": None, "pool": None, "journal": False, "batch": None, "worker_python": None}
    return pool_options(Limits(), **{**none, **fields})


def test_limits_are_those_of_the_base_where_nothing_else_is_said() -> None:
    base = call_limits(Limits(), timeout=1.5, retries=2, crash_limit=1, priority=-3)
    assert base == Limits(timeout_ns=1_500_000_000, retries=2, crash_limit=1, priority=-3)
    assert call_limits(base) == base
    assert call_limits(base, retries=0).retries == 0
    assert call_limits(base, retries=0).timeout_ns == base.timeout_ns


@pytest.mark.parametrize(
    ("fields", "error", "problem"),
    [
        ({"timeout": 0}, ValueError, "timeout=0: expected 0.001 to "),
        ({"timeout": float("nan")}, ValueError, "timeout=nan: expected"),
        ({"timeout": float("inf")}, ValueError, "timeout=inf: expected"),
        ({"timeout": "3"}, TypeError, "timeout='3': expected seconds"),
        ({"timeout": True}, TypeError, "timeout=True: expected seconds"),
        ({"retries": -1}, ValueError, "retries=-1: expected 0 to 1000000"),
        ({"retries": 1.0}, TypeError, r"retries=1.0: expected a whole number"),
        ({"crash_limit": 0}, ValueError, "crash_limit=0: expected 1 to"),
        ({"priority": 2**31}, ValueError, "priority=2147483648: expected -2147483647 to"),
        ({"memory_limit": 1}, ValueError, "memory_limit=1: expected 1 MiB or more"),
        ({"memory_limit": "2Q"}, ValueError, "memory_limit='2Q': expected an amount of memory"),
    ],
)
def test_wrong_limits(fields: dict[str, Any], error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        call_limits(Limits(), **fields)


@pytest.mark.parametrize(
    ("fields", "error", "problem"),
    [
        ({"max_workers": 0}, ValueError, "max_workers=0: expected 1 to 256"),
        ({"max_workers": True}, TypeError, "max_workers=True: expected a whole number"),
        ({"pool": "A"}, ValueError, "pool='A': expected up to 32 lower-case"),
        ({"pool": "a", "journal": True, "batch": "b"}, ValueError, "journal=True is for a private pool"),
        ({"pool": "a", "max_workers": 1}, ValueError, "max_workers=1 is for a private pool"),
        ({"journal": True}, ValueError, "batch=None: they go together: batch='ID' names"),
        ({"batch": "b"}, ValueError, "batch='b': they go together: only a journal keeps"),
        ({"journal": True, "batch": "-b"}, ValueError, "batch='-b': expected up to 64"),
        ({"worker_python": "/nowhere/python"}, ValueError, "there is no program /nowhere/tp-worker"),
    ],
)
def test_wrong_pools(fields: dict[str, Any], error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        chosen(**fields)


def test_the_worker_is_that_of_a_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "tp-worker"
    worker.touch(mode=0o755)
    assert chosen(worker_python=str(tmp_path / "python")).worker_exec == str(worker)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert chosen().worker_exec == str(worker)
    monkeypatch.setattr(sys, "executable", os.devnull)
    assert chosen().worker_exec is None


@pytest.mark.parametrize(
    ("fields", "error", "problem"),
    [
        ({"cluster": "nats://a"}, ValueError, "cluster='nats://a': this version"),
        ({"initializer": 3}, TypeError, "initializer=3: expected a function"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child=0: expected 1 or more"),
        ({"path": "lib"}, TypeError, "path='lib': expected a list"),
        ({"initializer": len, "initargs": (bytes(2_000_000),)}, ValueError, "initargs take 2000"),
        ({"memory_limit": 5}, ValueError, "memory_limit=5"),
    ],
)
def test_wrong_arguments_start_nothing(fields: dict[str, Any], error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        Executor(**fields)
