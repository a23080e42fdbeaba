"""Calls on their way into the pool."""

from __future__ import annotations

import functools
import os
import pickle
import sys
from pathlib import Path

import pytest

from taskpool import limits
from taskpool.executor.call import Call, Function, Setup, make
from taskpool.kinds import parts, pickling
from taskpool.kinds.call import CALL


def made(*args: object, setup: Setup = Setup()) -> Call:  # noqa: B008 - a tuple
    return make(Function.of(os.path.join), args, {}, setup, None)


def test_a_call_is_a_job_with_the_programs_own_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", os.path.dirname(os.__file__), "/none/python311.zip", "/mine/../mine", "lib"])
    call = made("a", setup=Setup(b"setup", ("/first",), 3))
    spec, file = call.job(tmp_path, "b", sync=False)
    assert file is None
    assert spec.kind == "call"
    CALL.check(spec.payload)
    payload = CALL.decode(spec.payload)
    assert payload.title == "posixpath.join"
    here = os.fsencode(tmp_path)
    assert payload.path == (b"/first", here, b"/mine", here + b"/lib")
    assert (payload.setup, payload.calls_max) == (b"setup", 3)
    assert pickling.loads(payload.function) is os.path.join
    assert pickling.loads(payload.call) == (("a",), {})


@pytest.mark.parametrize("sync", [False, True])
def test_a_large_call_goes_into_a_file(tmp_path: Path, sync: bool) -> None:
    call = made(bytes(limits.CALL_INLINE_BYTES_MAX))
    spec, file = call.job(tmp_path, "b", sync=sync)
    assert file is not None
    assert file.parent == tmp_path / "output" / "b"
    payload = CALL.decode(spec.payload)
    assert list(map(bytes, parts.read(file, payload.sizes))) == [call.function, call.arguments]
    assert file.stat().st_mode & 0o777 == 0o600
    assert (payload.function, payload.call, payload.file) == (b"", b"", os.fsencode(file))
    assert payload.sync is sync
    CALL.check(spec.payload)


def test_large_buffers_are_taken_as_they_are_when_the_call_is_made(tmp_path: Path) -> None:
    block = bytearray(b"a" * limits.CALL_INLINE_BYTES_MAX)
    call = made(pickle.PickleBuffer(block))
    block[:1] = b"b"
    assert len(call.arguments) < 1000
    spec, file = call.job(tmp_path, "b", sync=False)
    assert file is not None
    function, arguments, *buffers = parts.read(file, CALL.decode(spec.payload).sizes)
    (loaded,), _ = pickling.loads(arguments, buffers=buffers)
    assert (pickling.loads(function), bytes(loaded[:2]), len(loaded)) == (os.path.join, b"aa", len(block))


def test_a_short_buffer_is_in_the_pickle(tmp_path: Path) -> None:
    call = made(pickle.PickleBuffer(bytearray(pickling.BUFFER_BYTES_MIN)))
    assert (len(call.arguments) > pickling.BUFFER_BYTES_MIN, call.buffers) == (True, ())
    assert call.job(tmp_path, "b", sync=False)[1] is None


def test_a_chunk_has_the_title_of_its_function() -> None:
    function = Function.of_chunks(len)
    assert function.title == "builtins.len"
    assert pickling.loads(function.pickle)([("a",), ("bc",)]) == [1, 2]


def test_equal_calls_have_equal_keys() -> None:
    keys = [made("a").key, made("b").key, made("a", setup=Setup(b"x")).key, made("a", setup=Setup(path=("/p",))).key]
    assert len(set(keys)) == 4
    assert made("a").key == keys[0]
    large = [made(pickle.PickleBuffer(bytearray(limits.CALL_INLINE_BYTES_MAX) + end)).key for end in (b"a", b"b", b"a")]
    assert large[0] == large[2] != large[1]


@pytest.mark.parametrize(
    ("function", "title"),
    [
        (functools.partial(os.path.join, "a"), "posixpath.join"),
        (len, "builtins.len"),
        (str.upper, "?.str.upper"),
        (Path("/x").joinpath, f"{Path.joinpath.__module__}.PurePath.joinpath"),  # another one since 3.13
    ],
)
def test_titles(function: object, title: str) -> None:
    assert Function.of(function).title == title  # type: ignore[arg-type]
