"""The fib kind and its kernel, as plain Python and compiled."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from conftest import need_tools
from support.attempts import context
from taskpool.errors import MessageError, UsageError
from taskpool.kinds import fib, fib_kernel
from taskpool.kinds.base import Result
from taskpool.kinds.fib import FIB
from taskpool.messages import End

FIRST = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55]


def payloads(*words: str) -> list[int]:
    parser = argparse.ArgumentParser()
    FIB.add_arguments(parser)
    return [msgspec.msgpack.decode(payload) for payload in FIB.jobs(parser.parse_args(words), iter(()))]


# --- running --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "expected"), [*enumerate(FIRST), (20, 6765)])
def test_the_value_is_the_number(n: int, expected: int, tmp_path: Path) -> None:
    result = FIB.run(FIB.parse({"n": n}, "line 1"), context(tmp_path))
    assert result == Result(End.SUCCEEDED, value=b"%d" % expected)


def test_a_pure_python_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fib, "COMPILED", False)
    assert len(FIB.notes()) == 1
    assert "a C compiler and Cython" in FIB.notes()[0]
    monkeypatch.setattr(fib, "COMPILED", True)
    assert FIB.notes() == []


def test_compiled_is_read_off_the_kernel() -> None:
    assert (Path(fib_kernel.__file__).suffix == ".so") == fib.COMPILED


# --- the kernel -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_compiled_kernel_is_the_same_function_and_much_faster(tmp_path: Path) -> None:
    need_tools("cc")
    kernel = compiled_kernel(tmp_path)
    assert [kernel.fib(n) for n in range(len(FIRST))] == FIRST
    assert kernel.fib(25) == 75025
    # Measured: 60 to 85 times faster.
    assert cpu_seconds(lambda: kernel.fib(25)) < cpu_seconds(lambda: pure_kernel().fib(25)) / 5


def compiled_kernel(directory: Path) -> ModuleType:
    source = Path(fib.__file__).parent
    for suffix in (".py", ".pxd"):
        shutil.copy(source / f"fib_kernel{suffix}", directory)
    build = [sys.executable, "-m", "Cython.Build.Cythonize", "-3", "--inplace", "fib_kernel.py"]
    done = subprocess.run(build, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (library,) = directory.glob("fib_kernel*.so")
    return load("fib_kernel", library)


def pure_kernel() -> ModuleType:
    return load("pure_fib_kernel", Path(fib.__file__).parent / "fib_kernel.py")


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cpu_seconds(work: Callable[[], object]) -> float:
    import time

    best = 60.0
    for _ in range(3):
        before = time.process_time()
        work()
        best = min(best, time.process_time() - before)
    return best


# --- checked on arrival ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [-1, 93, 1.0, "1", True, None, [1]])
def test_parse_names_the_place_the_field_and_the_value(n: object) -> None:
    with pytest.raises(UsageError) as refused:
        FIB.parse({"n": n}, "jobs.jsonl line 3")
    assert str(refused.value) == f"jobs.jsonl line 3: field 'n': expected an integer 0..92, got {n!r}"


def test_parse_refuses_missing_and_unknown_fields() -> None:
    with pytest.raises(UsageError, match=r"line 1: field 'n' is missing: expected an integer 0\.\.92"):
        FIB.parse({}, "line 1")
    with pytest.raises(UsageError, match="line 1: field 'm' is unknown: expected n or a field that every job may have"):
        FIB.parse({"n": 1, "m": 2, "k": 3}, "line 1")


@pytest.mark.parametrize("value", [-1, 93, 1.5, "1", None, [1], True])
def test_check_refuses_what_parse_refuses(value: object) -> None:
    with pytest.raises(MessageError, match="fib: "):
        FIB.check(msgspec.msgpack.encode(value))


def test_words_for_people() -> None:
    payload = FIB.parse({"n": 40}, "line 1")
    assert FIB.describe(payload) == "fib(40)"
    assert FIB.command_line(payload) == "fib 40"
    assert FIB.affinity(payload) == ""


# --- the command line -----------------------------------------------------------------------------


def test_numbers_and_ranges() -> None:
    assert payloads("40-45") == [40, 41, 42, 43, 44, 45]
    assert payloads("1", "7-7", "0-2") == [1, 7, 0, 1, 2]
    assert payloads("1-2", "--repeat", "3") == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize("word", ["93", "1-93", "-", "1-", "a", "1-2-3", "5-1", "1.5", "\u0661", "", "9" * 5000])
def test_other_words_are_usage_errors_that_name_the_word(word: str) -> None:
    with pytest.raises(UsageError) as refused:
        payloads("--", word)
    assert repr(word) in str(refused.value)


def test_repeat_must_be_positive() -> None:
    with pytest.raises(UsageError, match="--repeat: expected 1 or more, got 0"):
        payloads("1", "--repeat", "0")
