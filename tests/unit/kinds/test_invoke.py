"""Functions of all sorts of modules as jobs, well-behaved and not."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.attempts import context
from taskpool import limits
from taskpool.kinds.base import JobTimedOut, Result
from taskpool.kinds.python import PYTHON
from taskpool.messages import End, JobError

MODULE = """
import sys

class Odd(Exception):
    def __str__(self):
        raise KeyError("no text")

class Beyond(BaseException):
    pass

class Tools:
    @staticmethod
    def double(n):
        return 2 * n

VALUE = 3

def give(value=None, **rest):
    return {"value": value, **rest}

def inner(n):
    return 1 // n

def fail():
    return inner(0)

def chained():
    try:
        inner(0)
    except ZeroDivisionError as error:
        raise RuntimeError("while dividing") from error

def leave(code=None):
    sys.exit(code)

def odd():
    raise Odd

def beyond():
    raise Beyond("far")

def interrupt():
    raise KeyboardInterrupt

class OddText(str):
    def encode(self, *how):
        raise SystemExit(3)

class OddlyTold(Exception):
    def __str__(self):
        return OddText("odd")

class Meta(type):
    @property
    def __module__(cls):
        raise SystemExit(4)

class OddlyNamed(Exception, metaclass=Meta):
    pass

class OddClass(Exception):
    @property
    def __class__(self):
        raise SystemExit(5)

class Leaver(Exception):
    def __str__(self):
        raise SystemExit(3)

class Untellable(Exception):
    def __str__(self):
        raise OddlyNamed

class Notes(Exception):
    __notes__ = property(lambda self: sys.exit(6))

class OddCode(int):
    def __and__(self, other):
        raise KeyError

def throw(name):
    raise globals()[name]("x")

def odd_syntax(*fields):
    raise SyntaxError("hello", *fields)

def leave_oddly(name):
    sys.exit(globals()[name](7))

def needs_more():
    import numpy_that_nobody_has

def result(name):
    return {
        "set": {1}, "nan": float("nan"), "bytes": b"x",
        "keys": {(1, 2): 3}, "surrogate": "\\ud800", "tuple": (1, "\\u00e9"),
    }[name]

def large(size):
    return "x" * size

def circle():
    value = []
    value.append(value)
    return value

def deep():
    return deep()
"""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """A worker keeps what a job has loaded; a test must not."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A directory with a module `user_code`."""
    directory = tmp_path / "code"
    directory.mkdir()
    (directory / "user_code.py").write_text(MODULE)
    return directory


def call(state: Path, name: str, *args: object, path: Path | None = None, **kwargs: object) -> Result:
    job: dict[str, object] = {"call": name, "args": list(args), "kwargs": kwargs, "path": [str(path)] if path else []}
    payload = PYTHON.parse(job, "line 1")
    PYTHON.check(payload)
    return PYTHON.run(payload, context(state))


def failed(result: Result) -> JobError:
    assert result.end is End.FAILED
    assert result.value is None
    assert result.error is not None
    return result.error


# --- values ---------------------------------------------------------------------------------------


def test_the_value_is_json(tmp_path: Path, user: Path) -> None:
    assert call(tmp_path, "math:factorial", 5) == Result(End.SUCCEEDED, value=b"120")
    result = call(tmp_path, "user_code:give", [1, None, "\u00fc"], path=user, more=True)
    assert result.value is not None
    assert json.loads(result.value) == {"value": [1, None, "\u00fc"], "more": True}
    assert call(tmp_path, "user_code:result", "tuple", path=user).value == b'[1, "\\u00e9"]'
    assert call(tmp_path, "user_code:result", "surrogate", path=user).value == b'"\\ud800"'


def test_integers_of_any_size(tmp_path: Path) -> None:
    assert call(tmp_path, "operator:add", 10**40, 1).value == str(10**40 + 1).encode()


def test_a_function_inside_a_class_and_a_package(tmp_path: Path, user: Path) -> None:
    assert call(tmp_path, "user_code:Tools.double", 4, path=user).value == b"8"
    assert call(tmp_path, "os.path:basename", "a/b").value == b'"b"'


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("set", "the result, of type set, is not JSON: Object of type set is not JSON serializable"),
        ("nan", "the result, of type float, is not JSON: Out of range float values"),
        ("bytes", "the result, of type bytes, is not JSON: "),
        ("keys", "the result, of type dict, is not JSON: keys must be str"),
    ],
)
def test_a_value_that_is_no_json(tmp_path: Path, user: Path, what: str, text: str) -> None:
    error = failed(call(tmp_path, "user_code:result", what, path=user))
    assert error.message.startswith(text)
    assert error.traceback is None


def test_a_value_that_is_too_large(tmp_path: Path, user: Path) -> None:
    most = limits.VALUE_BYTES_MAX - len('""')
    assert call(tmp_path, "user_code:large", most, path=user).end is End.SUCCEEDED
    error = failed(call(tmp_path, "user_code:large", most + 1, path=user))
    assert error.message == (
        "the result is 4194305 bytes of JSON, more than the 4194304 that a result may have; "
        "write it to a file and return the path"
    )


def test_a_value_that_holds_itself(tmp_path: Path, user: Path) -> None:
    assert "Circular reference" in failed(call(tmp_path, "user_code:circle", path=user)).message


# --- failures -------------------------------------------------------------------------------------


def test_an_exception_with_the_frames_of_the_jobs_own_code(tmp_path: Path, user: Path) -> None:
    error = failed(call(tmp_path, "user_code:fail", path=user))
    assert (error.type, error.message) == ("ZeroDivisionError", "integer division or modulo by zero")
    assert error.traceback is not None
    assert "in fail" in error.traceback
    assert "in inner" in error.traceback
    assert "taskpool" not in error.traceback
    assert error.traceback.endswith("ZeroDivisionError: integer division or modulo by zero\n")


def test_what_an_exception_came_from(tmp_path: Path, user: Path) -> None:
    error = failed(call(tmp_path, "user_code:chained", path=user))
    assert error.type == "RuntimeError"
    assert error.traceback is not None
    assert "ZeroDivisionError" in error.traceback
    assert "direct cause" in error.traceback


@pytest.mark.parametrize(
    ("function", "type_", "message"),
    [
        ("odd", "user_code.Odd", "(its text cannot be had: KeyError)"),
        ("beyond", "user_code.Beyond", "far"),
        ("interrupt", "KeyboardInterrupt", ""),
        ("deep", "RecursionError", "maximum recursion depth exceeded"),
    ],
)
def test_exceptions_of_every_class_are_the_jobs(
    tmp_path: Path, user: Path, function: str, type_: str, message: str
) -> None:
    error = failed(call(tmp_path, f"user_code:{function}", path=user))
    assert (error.type, error.message) == (type_, message)
    assert error.traceback is not None


@pytest.mark.parametrize(
    ("name", "type_", "message"),
    [
        ("Leaver", "user_code.Leaver", "(its text cannot be had: SystemExit)"),
        ("Untellable", "user_code.Untellable", "(its text cannot be had: OddlyNamed)"),
        ("OddlyTold", "user_code.OddlyTold", "odd"),
        ("OddlyNamed", "(its text cannot be had: SystemExit)", "x"),
        ("OddClass", "user_code.OddClass", "x"),
        ("Notes", "user_code.Notes", "x"),
    ],
)
def test_an_exception_that_cannot_be_told_is_a_failure(
    tmp_path: Path, user: Path, name: str, type_: str, message: str
) -> None:
    error = failed(call(tmp_path, "user_code:throw", name, path=user))
    assert (error.type, error.message) == (type_, message)
    assert type(error.message) is str
    assert error.traceback is not None
    assert 'in throw\n    raise globals()[name]("x")' in error.traceback


@pytest.mark.parametrize("fields", [["abcdef"], [[1, 2, 3, 4]], [["file", "1", {}, 5]], [["f", 1, 2, "x", "y", "z"]]])
def test_a_syntax_error_with_odd_fields_is_a_failure(tmp_path: Path, user: Path, fields: list[object]) -> None:
    error = failed(call(tmp_path, "user_code:odd_syntax", *fields, path=user))
    assert error.type in (
        "SyntaxError",
        "TypeError",
        "ValueError",
        "IndexError",
    )  # it refuses some
    assert error.traceback is not None
    assert "in odd_syntax" in error.traceback


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [("Leaver", 1, "(its text cannot be had: SystemExit)"), ("OddCode", 7, "exit status 7"), ("OddText", 1, "7")],
)
def test_sys_exit_with_what_cannot_be_told(tmp_path: Path, user: Path, name: str, status: int, message: str) -> None:
    result = call(tmp_path, "user_code:leave_oddly", name, path=user)
    assert failed(result) == JobError("SystemExit", message)
    assert result.exit_status == status


def test_arguments_that_do_not_fit_the_function(tmp_path: Path) -> None:
    error = failed(call(tmp_path, "math:factorial"))
    assert error.type == "TypeError"
    assert error.traceback is None


@pytest.mark.parametrize("code", [None, 0, False, 256])
def test_sys_exit_with_success(tmp_path: Path, user: Path, code: object) -> None:
    result = call(tmp_path, "user_code:leave", code, path=user)
    assert result == Result(End.SUCCEEDED, value=b"null", exit_status=0)


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [(3, 3, "exit status 3"), (-1, 255, "exit status 255"), (True, 1, "exit status 1"), ("no disk", 1, "no disk")],
)
def test_sys_exit_with_failure(tmp_path: Path, user: Path, code: object, status: int, message: str) -> None:
    result = call(tmp_path, "user_code:leave", code, path=user)
    assert failed(result) == JobError("SystemExit", message)
    assert result.exit_status == status


def test_a_time_out_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def past_its_deadline(_: int) -> int:
        raise JobTimedOut

    monkeypatch.setattr("math.factorial", past_its_deadline)
    with pytest.raises(JobTimedOut):
        call(tmp_path, "math:factorial", 5)


# --- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("no_such_module", "No module named 'no_such_module'; --path DIR adds a directory of modules"),
        ("no_such.module", "No module named 'no_such'; --path DIR adds"),
        ("math.deeper", "No module named 'math.deeper'; 'math' is not a package; --path DIR adds"),
    ],
)
def test_a_module_that_is_missing(tmp_path: Path, module: str, text: str) -> None:
    error = failed(call(tmp_path, f"{module}:f"))
    assert error.type == "ModuleNotFoundError"
    assert error.message.startswith(text)
    assert error.traceback is None


def test_in_a_frozen_program_the_cure_is_another_worker(
    tmp_path: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert "--worker-exec VENV/bin/tp-worker" in failed(call(tmp_path, "no_such_module:f")).message
    error = failed(call(tmp_path, "user_code:needs_more", path=user))
    assert error.message.startswith("No module named 'numpy_that_nobody_has'; this worker is a frozen program")
    assert error.traceback is not None
    assert "in needs_more" in error.traceback


def test_a_function_that_is_missing_or_none(tmp_path: Path, user: Path) -> None:
    error = failed(call(tmp_path, "math:factory"))
    assert (error.type, error.message) == ("AttributeError", "module 'math' has no attribute 'factory'")
    assert error.traceback is None
    error = failed(call(tmp_path, "user_code:VALUE", path=user))
    assert error.message == "user_code:VALUE cannot be called: it is of type int"


def test_a_module_that_fails_to_load(tmp_path: Path, user: Path) -> None:
    (user / "broken.py").write_text("def f(:\n")
    (user / "leaving.py").write_text("raise SystemExit(5)\n")
    (user / "failing.py").write_text("import user_code\nuser_code.fail()\n")
    assert failed(call(tmp_path, "broken:f", path=user)).type == "SyntaxError"
    assert call(tmp_path, "leaving:f", path=user).exit_status == 5
    error = failed(call(tmp_path, "failing:f", path=user))
    assert error.traceback is not None
    assert "importlib" not in error.traceback
    assert "failing.py" in error.traceback


def test_the_path_goes_ahead_of_the_workers_own_and_only_once(tmp_path: Path, user: Path) -> None:
    (user / "json.py").write_text("def who(): return 'mine'\n")
    del sys.modules["json"]
    before = len(sys.path)
    try:
        assert call(tmp_path, "user_code:give", path=user).end is End.SUCCEEDED
        assert call(tmp_path, "user_code:give", path=user).end is End.SUCCEEDED
    finally:
        sys.modules["json"] = json
    assert sys.path[0] == str(user)
    assert len(sys.path) == before + 1
