"""2,000 real files, hashed while workers are killed all the time: the same lines as sha256sum alone."""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import pytest

from support.harness import OK, Program, Stage, dealer_of, kill, tell, until, workers_of

FILES = 2_000
PLACES = ("/usr/include", "/usr/lib/python3", "/usr/lib", "/usr/share", "/etc")
FILE_BYTES_MAX = 1_000_000  # it is about many jobs, not about long ones
KILL_PERIOD_SECONDS = 0.05
KILLS_MIN = 100  # the last file is kept back for so long, or a fast machine would be done before
KILLS_MAX = 200  # a new worker costs more than a hash: killed for ever at this pace, they get nothing done


def real_files() -> list[str]:
    """The first files there are, headers before all others; in the same order each time."""
    files = list(islice(_readable(), FILES))
    if len(files) < FILES:
        pytest.skip(f"only {len(files)} files in {', '.join(PLACES)}")
    return files


def _readable() -> Iterator[str]:
    seen: set[str] = set()
    for headers in (True, False):
        for place in PLACES:
            for root, directories, names in os.walk(place):
                directories.sort()
                for path in (os.path.join(root, name) for name in sorted(names)):
                    if path.endswith(".h") is headers and path not in seen and _is_fit(path):
                        seen.add(path)
                        yield path


def _is_fit(path: str) -> bool:
    usual = os.path.isfile(path) and not os.path.islink(path) and not set("\n\r\\") & set(path)
    return usual and os.access(path, os.R_OK) and os.path.getsize(path) <= FILE_BYTES_MAX


def ready(run: Program) -> set[int]:
    return set(map(int, re.findall(r"Worker PID (\d+) is ready", run.stderr)))


@contextmanager
def killer(run: Program, seed: int) -> Iterator[list[int]]:
    """Kill a random worker of the run every 50 ms, but none that still starts, as a pool in which most workers die
    before they are ready gives up; yields the list of the killed."""
    stop, victims, choice = threading.Event(), list[int](), random.Random(seed)
    dealer = dealer_of(run)

    def work() -> None:
        while not stop.wait(KILL_PERIOD_SECONDS) and run.popen.poll() is None and len(victims) < KILLS_MAX:
            if workers := ready(run) & set(workers_of(dealer)):
                victim = choice.choice(sorted(workers))
                if kill(victim):
                    victims.append(victim)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield victims
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.needs_tool("sha256sum")
def test_hashes_of_real_files_while_workers_are_killed(stage: Stage) -> None:
    files = real_files()
    expected = subprocess.run(["sha256sum", *files], capture_output=True, text=True).stdout.splitlines()
    seed = int.from_bytes(os.urandom(4))
    tell(f"random.Random({seed}) chooses whom to kill")
    run = stage.private(
        "command", "-v", "--workers", 4, "--spares", 2, "--crash-limit", "unlimited", "--", "sha256sum", "{}",
        stdin=subprocess.PIPE,
    )  # fmt: skip
    assert run.popen.stdin is not None
    with killer(run, seed) as victims, run.popen.stdin as pipe:
        pipe.write("\n".join(files[:-1]).encode())
        pipe.flush()
        until(lambda: len(victims) >= KILLS_MIN, f"{KILLS_MIN} workers killed", 240)
        pipe.write(f"\n{files[-1]}".encode())
        pipe.close()
        run.ends(OK, 280)
    tell(f"{len(victims)} workers were killed")
    assert sorted(run.lines) == sorted(expected)
    assert len(run.lines) == len(set(run.lines)) == FILES
