"""`batches` and `forget`: which batches there are, here and in running pools, and removing those that are kept."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec

from taskpool import limits
from taskpool.client.opening import new_client_id, open_connection
from taskpool.client.queries import BatchQueries
from taskpool.client.session import ConnectTimeouts, SessionOptions
from taskpool.clock import SECOND, AwakeClock, SystemClock, rfc3339
from taskpool.durations import human, parse_duration
from taskpool.errors import ExitCode, TaskpoolError, UsageError
from taskpool.generator.options import connect_timeouts
from taskpool.generator.output.console import Console
from taskpool.generator.output.formats import lay_out
from taskpool.generator.output.stream import Piece, write_pieces
from taskpool.ipc.names import check_pool_name
from taskpool.private import forget as forgetting
from taskpool.private import notes
from taskpool.private.notes import KeptBatch
from taskpool.procs.pool_lock import is_held
from taskpool.procs.state_dir import PRIVATE_NOTE, pools_directory

_BATCH = re.compile(limits.BATCH_ID_PATTERN)
_STDOUT = 1
_ANSWER_NS = 2 * SECOND  # how long a pool that is just one of many may take to answer

Row = dict[str, Any]


def batches(args: Namespace, console: Console) -> ExitCode:
    """Print a line for each batch. Raises TaskpoolError when the one pool that was named does not answer."""
    if args.pool is not None:
        rows = _in_pool(check_pool_name(args.pool), connect_timeouts(args), console)
    else:
        rows = [*_private(console), *_named(console)]
    if args.json:
        text = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    else:
        shown = [_for_people(row) for row in rows]
        text = lay_out({"batches": shown}).encode() if shown else b""
    write_pieces([Piece(_STDOUT, text)])
    return ExitCode.OK


def forget(args: Namespace, console: Console) -> ExitCode:
    """Remove what is kept of batches. Raises UsageError for one that is not kept, PoolInUse for one that runs."""
    older_ns = None if args.older_than is None else parse_duration(args.older_than, "--older-than")
    chosen = [forgetting.find(_checked(batch)) for batch in args.target]  # all of them, before one is removed
    if args.succeeded or older_ns is not None:
        now = SystemClock().now().wall
        chosen += [kept for kept in notes.kept_batches() if _is_wanted(kept, args.succeeded, older_ns, now)]
    elif not chosen:
        raise UsageError("forget: expected BATCH, --succeeded or --older-than TIME, got none of them")
    for kept in {kept.note.batch: kept for kept in chosen}.values():
        stay = forgetting.forget(kept)
        outputs = f"; {stay} files of output stay, which its results name" if stay else ""
        console.info(f"Batch {kept.note.batch} is forgotten{outputs}")
    return ExitCode.OK


def _is_wanted(kept: KeptBatch, succeeded: bool, older_ns: int | None, now_wall_ns: int) -> bool:
    if kept.running or (succeeded and kept.state != "succeeded"):
        return False
    return older_ns is None or now_wall_ns - kept.used_wall_ns >= older_ns


def _checked(batch: str) -> str:
    if not _BATCH.match(batch):
        raise UsageError(f"forget: expected BATCH, the id of a batch, got {batch!r}")
    return batch


# --- rows -----------------------------------------------------------------------------------------


def _private(console: Console) -> Iterator[Row]:
    """Yield the private batches that are kept or run."""
    for kept in notes.kept_batches():
        row = _row(kept)
        if kept.running:
            row |= _counts_of_running(kept, console)
        yield row


def _row(kept: KeptBatch) -> Row:
    summary = kept.summary
    return {
        "batch": kept.note.batch,
        "pool": None,
        "state": kept.state,
        "jobs": None if summary is None else summary.jobs,
        "open": None if summary is None else summary.jobs - sum(summary.states.values()),
        "states": {} if summary is None else summary.states,
        "used_at": rfc3339(kept.used_wall_ns),
        "age_seconds": max(0, SystemClock().now().wall - kept.used_wall_ns) // SECOND,
        "bytes": kept.bytes,
    }


def _counts_of_running(kept: KeptBatch, console: Console) -> Row:
    try:
        found = _in_pool(notes.private_pool_name(kept.note.batch), ConnectTimeouts(_ANSWER_NS, _ANSWER_NS), console)
    except TaskpoolError:  # it is only coming up, or about to leave
        return {}
    return next(({"jobs": row["jobs"], "open": row["open"]} for row in found if row["batch"] == kept.note.batch), {})


def _named(console: Console) -> Iterator[Row]:
    """Yield the batches of the named pools that run here."""
    try:
        directories = sorted(pools_directory().iterdir())
    except OSError:
        return
    for path in directories:
        if (path / PRIVATE_NOTE).exists() or not is_held(path):
            continue
        try:
            yield from _in_pool(path.name, ConnectTimeouts(_ANSWER_NS, _ANSWER_NS), console)
        except TaskpoolError as error:
            console.warning(f"pool {path.name}: {error}")


def _in_pool(pool: str, timeouts: ConnectTimeouts, console: Console) -> list[Row]:
    """Return what a running pool knows of its batches. Raises DealerUnreachable."""
    clock = AwakeClock(SystemClock())
    options = SessionOptions(pool=pool, client=new_client_id(), pid=os.getpid(), timeouts=timeouts, collect_pages=True)
    with closing(open_connection(options, console, clock)) as connection:
        queries = BatchQueries(connection, clock)
        rows = []
        for name in queries.batches():
            if (status := queries.batch(name)) is not None:
                state = "ended" if status.finished else "running"
                rows.append(_EMPTY | {"batch": name, "pool": pool, "state": state, "jobs": status.accepted})
                rows[-1]["open"] = status.open
        queries.close()
    return rows


_EMPTY: Row = {
    "batch": "",
    "pool": None,
    "state": "",
    "jobs": None,
    "open": None,
    "states": {},
    "used_at": None,
    "age_seconds": None,
    "bytes": None,
}


def _for_people(row: Row) -> Row:
    """Return a row with what a person reads in place of numbers, and a mark for what is not known."""
    states = ", ".join(f"{count} {state}" for state, count in row["states"].items())
    age, size = row["age_seconds"], row["bytes"]
    return {
        "batch": row["batch"],
        "pool": row["pool"] or "private",
        "state": row["state"],
        "jobs": "?" if row["jobs"] is None else row["jobs"],
        "open": "?" if row["open"] is None else row["open"],
        "outcomes": states or "?",
        "age": "?" if age is None else human(age * SECOND),
        "size": "?" if size is None else f"{size / 1024 / 1024:.1f}M",
    }
