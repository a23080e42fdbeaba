"""What a job of the self-test does, inside a worker: it writes itself down, misbehaves as planned, and answers.

Rules of this file:
1. A line is appended in one write, so the order of lines is the order of events.
2. An execution holds a lock on its job's own file for as long as its process lives: another execution of the same job
   that finds it taken says so. The size of that file says how many executions there were before.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import zlib
from typing import NoReturn

LINES = "lines"
MARKS = "marks"  # a file for each job
STRUCK = "struck"  # a file for each victim that was struck


def run(directory: str, job: str, deed: str, times: int) -> str:
    """Do the job. Its first `times` executions misbehave."""
    mark = os.open(f"{directory}/{MARKS}/{job}", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(directory, "overlap", job)
        before = os.fstat(mark).st_size
        # In this order: one that is killed between the two has started, and counts as none of those that misbehave.
        _say(directory, "start", job)
        os.write(mark, b".")
        if before < times:
            _misbehave(directory, job, deed)
        _say(directory, "end", job)
    finally:
        os.close(mark)
    return answer(job)


def answer(job: str) -> str:
    """Return the value of a job, which no other job has."""
    return f"{job}:{zlib.crc32(job.encode()):08x}"


def _say(directory: str, word: str, job: str) -> None:
    lines = os.open(f"{directory}/{LINES}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.write(lines, f"{word} {job} {os.getpid()}\n".encode())
    os.close(lines)


def _misbehave(directory: str, job: str, deed: str) -> None:
    match deed:
        case "segv":
            _die(signal.SIGSEGV)
        case "kill":
            _die(signal.SIGKILL)
        case "hang":
            _wait()
        case "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            _wait()
        case "raise":
            raise ValueError("as planned")
        case "victim":
            # Looked at once: what has begun to wait is struck, and what begins after that works.
            if not os.path.exists(f"{directory}/{STRUCK}/{job}"):
                _wait()


def _die(number: signal.Signals) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would be left behind
    os.kill(os.getpid(), number)


def _wait() -> NoReturn:
    while True:
        signal.pause()
