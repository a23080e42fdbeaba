"""Small Python programs as real processes: for what a test must not do to its own process."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence

DEADLINE_SECONDS = 20.0


def start(
    code: str, *args: object, env: dict[str, str] | None = None, under: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """`python -c code args...` with our package importable and pipes on its three descriptors; `under` execs it."""
    return subprocess.Popen(
        [*under, sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {}),
    )


def run(code: str, *args: object, env: dict[str, str] | None = None, under: Sequence[str] = ()) -> str:
    """What the program prints. It must end well and in time."""
    with start(code, *args, env=env, under=under) as program:
        try:
            printed, complaint = program.communicate(timeout=DEADLINE_SECONDS)
        finally:
            program.kill()
    assert program.returncode == 0, complaint
    return printed


def dies(pidfd: int) -> bool:
    """Whether the process, anybody's child, is dead before the deadline."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(DEADLINE_SECONDS * 1000))
