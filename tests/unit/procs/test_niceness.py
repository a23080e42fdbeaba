"""The niceness that a process is started with: what is one, and that this process keeps its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from taskpool.errors import UsageError
from taskpool.procs.niceness import HIGHEST, parse_niceness, run_at


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_a_process_has_the_niceness_of_the_thread_that_started_it() -> None:
    before = own()
    assert run_at(HIGHEST, lambda: subprocess.run(["nice"], stdout=subprocess.PIPE, check=True).stdout) == b"19\n"
    assert own() == before


def test_what_a_call_raises_is_the_callers() -> None:
    with pytest.raises(KeyError, match="x"):
        run_at(own(), lambda: dict[str, int]()["x"])


@pytest.mark.parametrize("text", ["19", "+19"])
def test_what_is_a_niceness(text: str) -> None:
    assert parse_niceness(text) == HIGHEST


@pytest.mark.parametrize("text", ["20", "-21", "100", "9" * 5000, "", "x", "1.5", "--5", "5 ", "٥"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--nice .*: expected a niceness from -20 \(most CPU\) to 19 \(least\)$"):
        parse_niceness(text)


def test_a_lower_one_without_the_right_is_refused_by_name() -> None:
    """In a process without it: a limit of its own, and no capability where the tests run as root."""
    code = "import resource as r; r.setrlimit(r.RLIMIT_NICE, (0, 0)); from taskpool.procs import niceness as n\n"
    code += "try: n.parse_niceness('-5')\nexcept Exception as e: print(e)"
    under = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run([*under, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.startswith(f"--nice -5: below the niceness {own()} of this process, which takes CAP_SYS_NICE")
    assert "`ulimit -e 25`" in done.stdout
