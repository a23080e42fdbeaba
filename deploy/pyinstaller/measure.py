"""What a build costs: bytes on disk, a worker's start from exec to `ready`, its memory.

Run in the development environment: `.venv/bin/python deploy/pyinstaller/measure.py dist/taskpool`. It plays the
dealer's part with real queues, so that what is measured is a real start.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from taskpool.codec import decode
from taskpool.identifiers import Epoch, Incarnation
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.queue import QueueEnd
from taskpool.ipc.sizing import Shape
from taskpool.messages import Ready
from taskpool.procs import reap
from taskpool.procs.spawn import find_worker, scrubbed, spawn_worker

IMAGE = "taskpool"  # the name under which a container image would be found
READY_SECONDS_MAX = 20.0
QUEUE = Shape(4, 1024)
MIB = 1024 * 1024


class Start(NamedTuple):
    """One worker's start."""

    pid: int  # as the worker itself says
    spawned_pid: int
    ready_ms: float  # from exec to its `ready` in our hands
    rss_bytes: int  # resident, as it waits for its first job
    cpu_ms: float  # user and system: hardly changes with the machine's load


def start_worker(program: list[str]) -> Start:
    """Start one, wait for its `ready`, kill it. Raises TimeoutError when it says nothing."""
    post = KernelNamespace()
    pool, epoch, incarnation = f"m{os.getpid()}", Epoch(1), Incarnation(1)
    queues = [post.create(name, QUEUE) for name in (names.events(pool), names.worker(pool, epoch, incarnation))]
    identity = ["--pool", pool, "--epoch", str(epoch), "--incarnation", str(incarnation)]
    with tempfile.TemporaryDirectory() as spool, open(f"{spool}/words", "a+b") as words:
        command = [*program, *identity, "--dealer-pid", str(os.getpid()), "--spool", spool]
        try:
            begin = time.perf_counter()
            pid = spawn_worker(command, scrubbed(os.environ), capture_fd=words.fileno(), log_fd=words.fileno())
            try:
                ready = _await_ready(queues[0])
                ready_ms = (time.perf_counter() - begin) * 1000
                rss_bytes = _resident_bytes(pid)
            finally:
                os.kill(pid, signal.SIGKILL)
                cpu_ms = reap.reap(pid).cpu_ns / 1e6
        except TimeoutError as error:
            words.seek(0)
            raise TimeoutError(f"{program[0]}: {error}; it said: {words.read().decode() or 'nothing'}") from None
        finally:
            for queue in queues:
                queue.unlink()
                queue.close()
    return Start(ready.pid, pid, ready_ms, rss_bytes, cpu_ms)


def _await_ready(events: QueueEnd) -> Ready:
    if not select.select([events], [], [], READY_SECONDS_MAX)[0]:
        raise TimeoutError(f"not ready after {READY_SECONDS_MAX} s")
    ready = decode(events.receive())
    assert isinstance(ready, Ready), ready
    return ready


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def tree_bytes(directory: Path) -> int:
    """Of a folder's files, links not followed."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())


def image_bytes() -> int | None:
    """Of the container image; None where there is no engine or no image."""
    for engine in ("podman", "docker"):
        if shutil.which(engine) is None:
            continue
        asked = subprocess.run(
            [engine, "image", "inspect", "--format", "{{.Size}}", IMAGE], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            return int(asked.stdout)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="the folder of the three programs")
    parser.add_argument("--runs", type=int, default=25, help="worker starts to take the median of (default: 25)")
    args = parser.parse_args()
    image = image_bytes()
    print(f"image          {f'{image / MIB:.1f} MiB' if image is not None else 'none built'}")
    print(f"bundle         {tree_bytes(args.bundle) / MIB:.1f} MiB, {sum(1 for _ in args.bundle.rglob('*'))} entries")
    for archive in sorted([*args.bundle.parent.glob("*.tar.gz"), *args.bundle.parent.glob("*.deb")]):
        print(f"{'package':14} {archive.stat().st_size / MIB:.1f} MiB  {archive.name}")
    program = find_worker(str(args.bundle / "tp-worker"))
    start_worker(program)  # the first one reads the disk
    starts = [start_worker(program) for _ in range(args.runs)]
    times = sorted(start.ready_ms for start in starts)
    print(
        f"worker start   {statistics.median(times):.1f} ms from exec to ready "
        f"(median of {args.runs}; {times[0]:.1f} to {times[-1]:.1f}), "
        f"{statistics.median(start.cpu_ms for start in starts):.1f} ms of CPU"
    )
    print(f"worker memory  {statistics.median(start.rss_bytes for start in starts) / MIB:.1f} MiB resident")
    return 0


if __name__ == "__main__":
    sys.exit(main())
