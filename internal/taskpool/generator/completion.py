"""`tp-generator --complete KIND POOL WORD`: what a shell offers for a word, a line each.

It is asked at each press of a key, so it is quick and quiet: what does not answer at once has nothing to offer.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import closing

from taskpool.client.opening import new_client_id, open_connection
from taskpool.client.queries import BatchQueries
from taskpool.client.session import ConnectTimeouts, SessionOptions
from taskpool.clock import MILLISECOND, AwakeClock, SystemClock
from taskpool.errors import TaskpoolError
from taskpool.generator import settings
from taskpool.generator.output.console import Console
from taskpool.generator.parser import build_parser
from taskpool.ipc.names import check_pool_name
from taskpool.private.notes import known_ids
from taskpool.procs.pool_lock import is_held
from taskpool.procs.state_dir import PRIVATE_NOTE, pools_directory

_ANSWER_NS = 300 * MILLISECOND
_JOBS_MAX = 100  # more are no help to a person


def offers(words: Sequence[str], console: Console) -> list[str]:
    """Return what begins with the word. `console` is told nothing."""
    kind, pool, word = [*words, "", "", ""][:3]
    try:
        # A list: of an iterator, what fails would fail outside this `try`.
        return [offer for offer in _all(kind, pool, word, console) if offer.startswith(word)]
    except (TaskpoolError, OSError):
        return []


def _all(kind: str, pool: str, word: str, console: Console) -> Iterator[str]:
    match kind:
        case "pools" | "states":
            yield from _pools(running=kind == "pools")
        case "kept":
            yield from known_ids()
        case "batches":
            yield from _batches(pool, console)
        case "jobs":
            yield from _jobs(pool, word, console)


def _pools(*, running: bool) -> Iterator[str]:
    for path in sorted(pools_directory().iterdir()):
        # A private pool is offered as its batch (`kept`). One that is down can still be started, or its journal read.
        if not (path / PRIVATE_NOTE).exists() and (is_held(path) or not running):
            yield path.name


def _batches(pool: str, console: Console) -> Iterator[str]:
    with closing(_queries(pool, console)) as queries:
        yield from queries.batches()


def _jobs(pool: str, word: str, console: Console) -> Iterator[str]:
    """Yield `BATCH/` for each batch, and behind that the jobs whose numbers begin as the word says."""
    batch, slash, begin = word.partition("/")
    # In two steps: the jobs of all batches may be millions.
    if not slash:
        yield from (f"{name}/" for name in _batches(pool, console))
        return
    with closing(_queries(pool, console)) as queries:
        status = queries.batch(batch)
    if status is not None:
        found = (seq for seq in range(1, status.accepted + 1) if str(seq).startswith(begin))
        for seq, _ in zip(found, range(_JOBS_MAX), strict=False):
            yield f"{batch}/{seq}"


def _queries(pool: str, console: Console) -> BatchQueries:
    name = pool or _usual_pool()
    timeouts = ConnectTimeouts(_ANSWER_NS, _ANSWER_NS)
    options = SessionOptions(
        pool=check_pool_name(name), client=new_client_id(), pid=os.getpid(), timeouts=timeouts, collect_pages=True
    )
    clock = AwakeClock(SystemClock())
    return BatchQueries(open_connection(options, console, clock), clock)


def _usual_pool() -> str:
    found = settings.below(build_parser(), Namespace(subcommand="status", config=None), lambda _: None)
    return found["pool"].value if "pool" in found else "default"
