"""Small Python programs as real processes: for what a test must not do to its own process."""

from __future__ import annotations

import os
import select
import subprocess
import sys

DEADLINE_SECONDS = 20.0


def start(code: str, *args: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """`python -c code args...` with our package importable and pipes on its three descriptors."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {}),
    )


def run(code: str, *args: object, env: dict[str, str] | None = None) -> str:
    """What the program prints. It must end well and in time."""
    with start(code, *args, env=env) as program:
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
