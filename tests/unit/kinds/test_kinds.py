"""What holds for every kind of job."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpool import messages
from taskpool.errors import MessageError, UsageError
from taskpool.kinds import KINDS, Kind, kind

GOOD_JOBS: dict[str, dict[str, object]] = {
    "fib": {"n": 1},
    "command": {"argv": ["true"]},
    "python": {"call": "math:factorial", "args": [5]},
}

each_kind = pytest.mark.parametrize("each", KINDS.values(), ids=list(KINDS))


def test_kinds_are_found_by_name() -> None:
    assert list(KINDS) == ["fib", "command", "python"]
    assert all(kind(name) is module for name, module in KINDS.items())
    with pytest.raises(UsageError, match="unknown kind 'shell'; this program knows fib, command, python"):
        kind("shell")


@each_kind
def test_a_parsed_job_passes_the_door_and_is_told_in_one_short_line(each: Kind) -> None:
    payload = each.parse(GOOD_JOBS[each.NAME], "line 1")
    each.check(payload)
    assert each.describe(payload).startswith(f"{each.NAME}(")
    assert "\n" not in each.describe(payload)
    assert each.command_line(payload)
    assert each.affinity(payload) == ""
    messages.JobSpec(each.NAME, payload)
    assert each.SUMMARY
    assert "\n" not in each.SUMMARY


@each_kind
def test_parse_leaves_the_job_as_it_was(each: Kind) -> None:
    job = dict(GOOD_JOBS[each.NAME])
    each.parse(job, "line 1")
    assert job == GOOD_JOBS[each.NAME]


@each_kind
def test_unknown_fields_are_named(each: Kind) -> None:
    with pytest.raises(UsageError, match="line 9: unknown field 'retires'"):
        each.parse({**GOOD_JOBS[each.NAME], "retires": 3}, "line 9")


@each_kind
@given(payload=st.binary(max_size=60))
def test_check_raises_nothing_but_message_errors(each: Kind, payload: bytes) -> None:
    survives(each, payload)


@each_kind
@given(data=st.data())
def test_check_stands_a_good_payload_with_bytes_changed(each: Kind, data: st.DataObject) -> None:
    payload = bytearray(each.parse(GOOD_JOBS[each.NAME], "line 1"))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    survives(each, bytes(payload))


@each_kind
@pytest.mark.parametrize("payload", [b"", b"\x91" * 100_000, b"\xdf\xff\xff\xff\xff", b"\xc1", b"\x90", b"\xc0"])
def test_check_refuses_garbage(each: Kind, payload: bytes) -> None:
    with pytest.raises(MessageError):
        each.check(payload)


def survives(each: Kind, payload: bytes) -> None:
    """Refused with a MessageError, or good enough for everything that follows."""
    try:
        each.check(payload)
    except MessageError:
        return
    each.describe(payload)
    each.command_line(payload)
    each.affinity(payload)


def test_a_worker_does_not_load_what_only_some_jobs_need() -> None:
    script = "import sys, taskpool.kinds; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True)
    loaded = set(done.stdout.decode().split())
    assert "taskpool.kinds.command" in loaded
    assert not loaded & {"argparse", "json", "logging", "random", "shutil", "subprocess", "tempfile", "traceback"}
