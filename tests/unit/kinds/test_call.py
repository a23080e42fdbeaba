"""Pickled calls, as a worker runs them."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import programs
from support.attempts import context
from taskpool import limits
from taskpool.errors import MessageError
from taskpool.kinds import parts, pickling
from taskpool.kinds.base import Context, JobTimedOut, Result
from taskpool.kinds.call import Call, Payload, call_each, file_of, read_value
from taskpool.messages import End

HERE = (sys.version_info[0], sys.version_info[1])
set_up: list[object] = []


def divide(a: int, b: int) -> float:
    return a / b


def give(value: object) -> object:
    return value


def change(buffer: memoryview) -> pickle.PickleBuffer:
    buffer[:1] = b"x"
    return pickle.PickleBuffer(buffer)


def make_short_buffers() -> list[pickle.PickleBuffer]:
    return [pickle.PickleBuffer(bytearray(pickling.BUFFER_BYTES_MIN)) for _ in range(2)]


def lock() -> object:
    import threading

    return threading.Lock()


class Picky(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)


def be_picky() -> None:
    raise Picky(7, "said")


def leave() -> None:
    sys.exit("gone")


def time_out() -> None:
    raise JobTimedOut


def fail_to_set_up() -> None:
    raise KeyError("model")


@pytest.fixture
def call() -> Iterator[Call]:
    """The kind as a new worker has it."""
    yield Call()
    set_up.clear()


def payload(called: Any, /, *args: object, **fields: Any) -> bytes:
    data = {"function": pickling.dumps(called), "call": pickling.dumps((args, {}))}
    return Call().encode(Payload(**{"title": "f", "python": HERE, **data} | fields))


def value_of(result: Result) -> Any:
    assert result.value is not None
    pickled, *buffers = read_value(result.value)
    return pickling.loads(pickled, buffers=buffers)


def test_a_call_gives_its_value(call: Call, tmp_path: Path) -> None:
    data = payload(divide, 1, 4)
    call.check(data)
    result = call.run(data, context(tmp_path))
    assert (result.end, value_of(result), result.last) == (End.SUCCEEDED, 0.25, False)


def test_the_function_of_the_call_before_is_not_unpickled_again(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    loads = pickling.loads

    def note(data: bytes, *rest: Any) -> Any:
        loaded.append(data)
        return loads(data, *rest)

    monkeypatch.setattr(pickling, "loads", note)
    for data in (payload(divide, 1, 4), payload(divide, 1, 2), payload(give, 3), payload(divide, 1, 4)):
        assert call.run(data, context(tmp_path)).end is End.SUCCEEDED
    functions = [pickling.dumps(function) for function in (divide, give, divide)]
    assert [data for data in loaded if data in functions] == functions


def test_an_exception_comes_back_with_its_traceback(call: Call, tmp_path: Path) -> None:
    result = call.run(payload(divide, 1, 0), context(tmp_path))
    assert result.end is End.FAILED
    assert isinstance(value_of(result), ZeroDivisionError)
    assert result.error is not None
    assert result.error.type == "ZeroDivisionError"
    assert result.error.traceback is not None
    assert "in divide" in result.error.traceback
    assert "kinds/call.py" not in result.error.traceback


def test_sys_exit_is_the_calls_own_exception(call: Call, tmp_path: Path) -> None:
    error = value_of(call.run(payload(leave), context(tmp_path)))
    assert isinstance(error, SystemExit)
    assert error.code == "gone"


def test_a_time_out_passes(call: Call, tmp_path: Path) -> None:
    with pytest.raises(JobTimedOut):
        call.run(payload(time_out), context(tmp_path))


def test_a_result_that_cannot_be_pickled_fails_its_call(call: Call, tmp_path: Path) -> None:
    result = call.run(payload(lock), context(tmp_path))
    assert result.end is End.FAILED
    error = value_of(result)
    assert isinstance(error, TypeError)
    assert "the result, of type lock, cannot be pickled: TypeError: cannot pickle '_thread.lock' object" in str(error)


def test_an_exception_that_cannot_be_pickled_is_told(call: Call, tmp_path: Path) -> None:
    result = call.run(payload(be_picky), context(tmp_path))
    assert (result.end, result.value) == (End.FAILED, None)
    assert result.error is not None
    assert "said (the exception itself cannot be pickled: TypeError: " in result.error.message
    assert "in be_picky" in (result.error.traceback or "")


@pytest.mark.parametrize("sync", [False, True])
def test_what_is_large_goes_through_files(call: Call, tmp_path: Path, sync: bool) -> None:
    large = os.urandom(limits.CALL_INLINE_BYTES_MAX)
    file = tmp_path / "call"
    function = pickling.dumps(give)
    held = [function, pickling.dumps(((large,), {}))]
    file.write_bytes(b"".join(parts.padded(held)))
    data = payload(give, function=b"", call=b"", file=bytes(file), sizes=(*map(len, held),), sync=sync)
    call.check(data)
    result = call.run(data, context(tmp_path))
    assert result.value is not None
    assert len(result.value) < 1000
    assert (file_of(result.value) or "").startswith(str(tmp_path))
    assert value_of(result) == large
    assert file_of(b'"YQ=="') is None


def test_buffers_are_mapped_and_not_copied(call: Call, tmp_path: Path) -> None:
    block = bytes(limits.CALL_INLINE_BYTES_MAX)
    file = tmp_path / "call"
    buffers: list[memoryview] = []
    held = [pickling.dumps(change), pickling.dumps(((pickle.PickleBuffer(bytearray(block)),), {}), buffers)]
    file.write_bytes(b"".join(parts.padded([*held, *buffers])))
    sizes = (*map(len, held), *map(len, buffers))
    result = call.run(payload(change, function=b"", call=b"", file=bytes(file), sizes=sizes), context(tmp_path))
    changed = value_of(result)
    assert isinstance(changed, memoryview)  # of the file: it is not in the pickle
    assert changed == b"x" + block[1:]
    changed[1:2] = b"y"
    assert value_of(result)[:3] == b"x\0\0"  # each that reads has its own
    assert block in file.read_bytes()


def test_a_result_of_short_buffers_is_in_its_value(call: Call, tmp_path: Path) -> None:
    result = call.run(payload(make_short_buffers), context(tmp_path))
    assert file_of(result.value or b"") is None
    assert value_of(result) == [bytes(pickling.BUFFER_BYTES_MIN)] * 2


def test_another_python_is_refused(call: Call, tmp_path: Path) -> None:
    result = call.run(payload(give, 1, python=(3, 99)), context(tmp_path))
    assert result.end is End.FAILED
    assert result.error is not None
    assert "the program runs Python 3.99 and the worker Python 3." in result.error.message


def test_the_initializer_runs_once_in_a_process(call: Call, tmp_path: Path) -> None:
    kept = []
    context_: Context = context(tmp_path)._replace(keep=lambda: kept.append(1))
    setup = pickling.dumps((note_set_up, ("ready",)))
    for _ in range(2):
        assert call.run(payload(divide, 1, 1, setup=setup), context_).end is End.SUCCEEDED
    assert set_up == ["ready"]
    assert kept == [1]
    call.run(payload(divide, 1, 1, setup=setup), context_._replace(batch="another"))
    assert set_up == ["ready", "ready"]


def note_set_up(text: str) -> None:
    set_up.append(text)


def test_an_initializer_that_fails_fails_the_call_and_is_tried_again(call: Call, tmp_path: Path) -> None:
    setup = pickling.dumps((fail_to_set_up, ()))
    for _ in range(2):
        result = call.run(payload(divide, 1, 1, setup=setup), context(tmp_path))
        assert str(value_of(result)) == "the worker's initializer failed: KeyError: 'model'"
        assert result.error is not None
        assert "in fail_to_set_up" in (result.error.traceback or "")


def test_the_last_of_a_process_is_marked(call: Call, tmp_path: Path) -> None:
    data = payload(divide, 1, 1, calls_max=2)
    assert [call.run(data, context(tmp_path)).last for _ in range(2)] == [False, True]


def test_processes_are_shared_by_calls_of_the_same_path_and_initializer(call: Call) -> None:
    assert call.affinity(payload(give, 1)) == call.affinity(payload(divide, 1)) == ""
    assert call.affinity(payload(give, 1, path=(b"/a", b"/b"))) == "/a:/b"
    assert call.affinity(payload(give, 1, setup=b"a")) != call.affinity(payload(give, 1, setup=b"b"))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"call": b""}, "expected two pickles or the file"),
        ({"function": b"", "call": b""}, "expected two pickles or the file"),
        ({"file": b"/f"}, "expected two pickles or the file"),
        ({"function": b"", "call": b"", "file": b"f", "sizes": (1, 1)}, "expected an absolute path, got b'f'"),
        ({"path": (b"lib",)}, "expected an absolute path, got b'lib'"),
        ({"calls_max": -1}, "expected 0 or more, got -1"),
        ({"function": b"", "call": b"", "file": b"/f", "sizes": (1, 1, -1)}, "expected 0 or more, got -1"),
        (
            {"function": b"", "call": b"", "file": b"/f", "sizes": (1,)},
            "expected the sizes of the parts of a file, got 1",
        ),
        ({"sizes": (1, 1)}, "expected the sizes of the parts of a file, got 2"),
    ],
)
def test_what_no_executor_makes_is_refused(call: Call, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(MessageError, match=problem):
        call.check(payload(give, 1, **fields))


@pytest.mark.parametrize("value", [b"3", b"{}", b'"%"', b"[", b"null", b'{"file":"f"}'])
def test_no_value_of_a_call(value: bytes) -> None:
    with pytest.raises(MessageError, match="no value of a call"):
        read_value(value)


def test_words_for_people(call: Call) -> None:
    data = payload(give, 1, title="script.give\n")
    assert call.title(data) == "script.give\\n"
    assert call.describe(data) == "call(script.give\\n)"
    assert call.command_line(data) == "call script.give\\n"


def test_a_chunk_is_a_list_of_results() -> None:
    assert call_each(divide, [(1, 1), (1, 2)]) == [1.0, 0.5]


# --- what `__main__` defines ---------------------------------------------------------------------------------

SENDER = """
import sys
from taskpool.kinds import pickling
model = None
cache = {}
class Point:
    def __init__(self, x): self.x = x
def helper(x): return Point(x)
def start(): global model; model = 5
def work(x):
    cache[x] = True
    return helper((x, model, len(cache)))
calls = [(start, ()), (work, (1,)), (work, (2,))]
for function, args in calls:
    print(pickling.dumps((function, args)).hex())
cache = {"more": 1}
print(pickling.dumps((work, (3,))).hex())
print(pickling.dumps((lambda a: a + 1, (4,))).hex())
print(pickling.dumps(sum).hex())
"""


def test_functions_of_main_share_what_they_set() -> None:
    lines = [bytes.fromhex(line) for line in programs.run(SENDER).splitlines()]

    def run(data: bytes, owner: str = "batch") -> Any:
        function, args = pickling.loads(data, owner)
        return function(*args)

    assert run(lines[0]) is None
    first, second = run(lines[1]), run(lines[2])
    assert (first.x, second.x) == ((1, 5, 1), (2, 5, 2))
    assert type(first).__name__ == "Point"
    assert type(first) is type(second)
    assert run(lines[3]).x == (3, 5, 2)  # the program has changed `cache` since
    assert run(lines[1], "another").x == (1, None, 1)  # another program's
    assert run(lines[4]) == 5
    assert lines[5] == pickling.dumps(sum)


def test_the_same_program_makes_the_same_bytes() -> None:
    # But for classes that are sent along, which are numbered at random.
    code = SENDER.replace("return helper(", "return (").split('cache = {"more"', maxsplit=1)[0]
    assert programs.run(code) == programs.run(code)
