"""Jobs that take more memory than they may, or than there is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from support.harness import FAILED, OK, QUARANTINED, USAGE, Stage, kill, until
from taskpool.procs.control_group import mounted, own_groups

MIB = 1024 * 1024
# Holds so many MiB, and waits for its end.
HOLD = "import sys, time; block = bytearray(int(sys.argv[1]) << 20); time.sleep(600)"
# The same in two processes, each with a half.
HOLD_IN_TWO = f"import os; os.fork(); {HOLD}"
# What it takes is shared with eight children, which write to none of it.
SHARE = """
import os, sys, time
block = bytearray(int(sys.argv[1]) << 20)
end = os.pipe()
for _ in range(8):
    if not os.fork():
        os.close(end[1])
        os.read(end[0], 1)
        os._exit(0)
time.sleep(0.5)
"""


def outcomes(results: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, results.read_text().splitlines()), key=lambda each: int(each["seq"]))


@pytest.mark.parametrize("script", [HOLD, HOLD_IN_TWO], ids=["one process", "two processes"])
def test_a_command_that_takes_too_much_is_ended_and_no_other(stage: Stage, tmp_path: Path, script: str) -> None:
    size = 200 if script is HOLD else 100
    good = ["/bin/sh", "-c", "echo good"]
    jobs = [good, ["python3", "-c", script, str(size)], good, good]
    lines = "\n".join(json.dumps({"kind": "command", "argv": each}) for each in jobs).encode()
    results = tmp_path / "results"
    options = ("--workers", 2, "--mem-limit", "120M", "--results", results)
    program = stage.private("jobs", *options, "-", stdin=lines).ends(FAILED)
    assert "Job 2 failed (out of memory): python3 -c" in program.stderr
    assert "more than its limit of 120 MiB, and was killed" in program.stderr
    assert "Failures: 1 × out of memory" in program.stderr
    first, ended, *others = outcomes(results)
    assert [each["state"] for each in (first, *others)] == ["succeeded"] * 3
    assert (ended["state"], ended["error"]["type"], ended["crashes"]) == ("failed", "OutOfMemory", 0)
    (tried,) = ended["tries"]
    assert (tried["out_of_memory"], tried["memory_limit_bytes"], tried["signal_name"]) == (True, 120 * MIB, "SIGKILL")


def test_memory_that_processes_share_counts_once(stage: Stage) -> None:
    stage.private("command", "--mem-limit", "150M", "--", "python3", "-c", SHARE, ":::", 60).ends(OK)


def test_each_try_after_one_without_enough_memory_has_more(stage: Stage, tmp_path: Path) -> None:
    results = tmp_path / "results"
    script = "import sys, time; block = bytearray(150 << 20); time.sleep(0.3)"
    limits = ("--mem-limit", "50M", "--mem-escalate", "x2,max=180M", "--retries", 2)
    stage.private("command", *limits, "--results", results, "--", "python3", "-c", script, ":::", 1).ends(OK)
    (outcome,) = outcomes(results)
    assert [each["memory_limit_bytes"] for each in outcome["tries"]] == [50 * MIB, 100 * MIB]


def test_it_has_more_at_most_up_to_the_maximum_and_after_kill_9(stage: Stage, tmp_path: Path) -> None:
    options = ("--workers", 1, "--journal", tmp_path / "journal.db")
    dealer = stage.dealer(*options)
    limits = ("--mem-limit", "40M", "--mem-escalate", "x2,max=70M", "--retries", 3, "--backoff", "1s")
    call = ("--", "python3", "-c", HOLD, ":::", 300)
    stage.generator("command", "--pool", stage.pool, "--batch", "b", "--detach", *limits, *call).ends(OK)
    until(lambda: stage.ask("show", "b/1").get("tries"), "a try in vain")
    kill(dealer.pid)
    dealer.wait()
    stage.dealer(*options)
    stage.generator("wait", "b", "--pool", stage.pool).ends(FAILED)
    (outcome,) = stage.generator("results", "b", "--json", "--pool", stage.pool).ends(OK).objects()
    assert [each["memory_limit_bytes"] // MIB for each in outcome["tries"]] == [40, 70, 70, 70]


def test_a_python_job_can_allocate_no_more(stage: Stage, tmp_path: Path) -> None:
    """And the next one in the same process can."""
    (tmp_path / "eater.py").write_text("def eat(mib): return len(bytearray(mib << 20))\n")
    results = tmp_path / "results"
    options = ("--workers", 1, "--spares", 0, "--path", tmp_path, "--mem-limit", "100M", "--results", results)
    stage.private("python", *options, "eater:eat", stdin=b"[50]\n[300]\n[50]\n").ends(FAILED)
    first, ended, last = outcomes(results)
    assert first["value"] == last["value"] == 50 * MIB and first["pid"] == last["pid"]
    assert (ended["state"], ended["error"]["type"]) == ("failed", "OutOfMemory")
    assert "within its memory limit of 100 MiB" in ended["error"]["message"]
    assert "MemoryError" in ended["error"]["traceback"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--mem-limit", "0"], "--mem-limit: a memory limit of 0 lets no job run"),
        (["--mem-limit", "5Q"], "--mem-limit: expected an amount of memory such as 512M"),
        (["--mem-escalate", "x2", "--retries", "1"], "--mem-escalate: there is no memory limit to raise"),
        (["--mem-limit", "1G", "--mem-escalate", "x2"], "--mem-escalate: no try comes after the first"),
        (["--mem-limit", "1G", "--mem-escalate", "x1", "--retries", "1"], "--mem-escalate: expected xN from x1.1"),
        (["--mem-limit", "2G", "--mem-escalate", "x2,max=1G", "--retries", "1"], "max=1 GiB is not more than"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(stage: Stage, options: list[str], complaint: str) -> None:
    assert complaint in stage.private("command", *options, "--", "true", ":::", "1").ends(USAGE).stderr


# --- the kernel's own verdict -------------------------------------------------------------------------


def is_empty(members: Path) -> bool:
    return not members.read_text()


@pytest.fixture
def small_group(tmp_path: Path) -> Iterator[Path]:
    """A control group in which memory runs out, of the first version or the second."""
    for controllers, group in own_groups():
        unified = not controllers
        directory = mounted(group, "cgroup2") if unified else mounted(group, "cgroup", "memory")
        if directory is None or not (unified or "memory" in controllers):
            continue
        directory = directory / f"tp.test.{os.getpid()}"
        try:
            directory.mkdir()
        except OSError:
            continue
        try:
            (directory / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(250 * MIB))
        except OSError:
            directory.rmdir()
            continue
        yield directory
        members = directory / "cgroup.procs"
        until(partial(is_empty, members), "the end of all in the group")
        directory.rmdir()
        return
    pytest.skip("no control group with a memory limit can be made here")


def test_the_kernel_is_asked_who_has_sent_sigkill(stage: Stage, tmp_path: Path, small_group: Path) -> None:
    (tmp_path / "eater.py").write_text(
        "import os, signal\ndef eat(): bytearray(600 << 20)\ndef kill(): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    results = tmp_path / "results"
    jobs: list[dict[str, Any]] = [
        {"kind": "python", "call": "eater:kill", "path": [str(tmp_path)]},
        {"kind": "python", "call": "eater:eat", "path": [str(tmp_path)]},
        {"kind": "command", "argv": ["python3", "-c", HOLD, "600"]},
        {"kind": "command", "argv": ["/bin/sh", "-c", "kill -KILL $$"]},
    ]
    lines = "\n".join(map(json.dumps, jobs)).encode()
    join = ["/bin/sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(small_group)]
    dealer = stage.dealer("--workers", 1, "--spares", 0, under=join)
    options = ("--pool", stage.pool, "--crash-limit", 1, "--results", results)
    stage.generator("jobs", *options, "-", stdin=lines).ends(QUARANTINED)
    dealer.send(SIGTERM)
    dealer.ends(OK)
    told = [[each["out_of_memory"] for each in outcome["tries"]] for outcome in outcomes(results)]
    assert [set(each) for each in told] == [{False}, {True}, {True}, {False}]
