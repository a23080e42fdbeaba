"""What a pool leaves behind, looked for by name: /dev/mqueue need not be mounted.

It imports nothing of the package: what is looked for must not move with a mistake that makes it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import posix_ipc

REPLY_SLOTS = 32  # docs/protocol.md


def unlink_queues(pool: str, epochs: int, incarnations: int) -> list[str]:
    """Remove the queues of the pool that still have a name; return their names."""
    names = [f"/tp.{pool}.{role}" for role in ("intake", "control", "events", "lock")]
    names += [f"/tp.{pool}.reply.{slot}" for slot in range(REPLY_SLOTS)]
    names += [f"/tp.{pool}.{epoch}.w{n}" for epoch in range(1, epochs + 1) for n in range(1, incarnations + 1)]
    left = []
    for name in names:
        with suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_message_queue(name)
            left.append(name)
    return left


def processes_of(pool: str) -> dict[int, str]:
    """Processes of this user that were started for the pool: by their mark, or by an argument."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            marked = f"\0TP_WORKER={pool}/".encode() in b"\0" + (entry / "environ").read_bytes()
            named = pool.encode() in (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            continue
        if marked or named:
            found[int(entry.name)] = command_line(int(entry.name))
    return found


def command_line(pid: int) -> str:
    """What the process was started with, for people."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(gone)"
