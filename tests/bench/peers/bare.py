"""The bare work, shared out between processes that need no pool: `python -m bench.peers.bare N COUNT PROCESSES`.

Each process imports the kernel and says so; the clock runs from the word to begin until the last has said its
results. So the start of the interpreters is excluded, as the start of a pool's workers is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TextIO, cast

from bench.peers import work


def share(n: int, count: int) -> int:
    """Do one process's share of the jobs."""
    for _ in range(work.warm_up_jobs(count)):
        work.fib(n)
    say("ready")
    sys.stdin.readline()
    say(json.dumps([work.fib(n) for _ in range(count)]))
    return 0


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def start(command: list[str]) -> tuple[subprocess.Popen[str], TextIO, TextIO]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    return process, cast(TextIO, process.stdin), cast(TextIO, process.stdout)


def main() -> int:
    n, count, processes = map(int, sys.argv[1:4])
    if processes == 0:
        return share(n, count)
    command = [sys.executable, "-m", "bench.peers.bare", str(n)]
    shares = [count // processes + (number < count % processes) for number in range(processes)]
    started = [start([*command, str(jobs), "0"]) for jobs in shares]
    for _, _, lines in started:
        lines.readline()
    began = time.perf_counter()
    for _, words, _ in started:
        words.write("go\n")
        words.flush()
    said = [lines.readline() for _, _, lines in started]
    seconds = time.perf_counter() - began
    for process, _, _ in started:
        process.communicate()
    json.dump({"seconds": seconds, "results": [result for line in said for result in json.loads(line)]}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
