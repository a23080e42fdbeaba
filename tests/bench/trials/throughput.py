"""No-op jobs: what a job costs beside its work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from bench.errors import Wrong
from bench.figures import JOBS_PER_SECOND, Target
from bench.peer import redis_server
from bench.pool import Stream, pool
from bench.setting import WORKERS, Setting
from bench.trial import Row, Side, Trial, Turn
from support.source_tree import ROOT

NOOP_JOBS = 20_000
SUBMIT_JOBS = 10_000
FEWER_JOBS = {"pebble": 2_000, "loky": 2_000, "joblib": 2_000, "dask": 1_000, "celery": 1_000, "rq": 400}
BROKERED = ("celery", "rq")
NEEDS = {"dask": ("dask", "distributed"), "celery": ("celery", "redis", "redis-server"), "rq": ("rq", "redis-server")}
LEAST_JOBS = 40

JOURNALS: Mapping[str, Sequence[str]] = {"full": ("--journal-sync", "full"), "none": ("--journal", "none")}

CLOCK = (
    "both sides started and warmed up; ours: from the first job written to the pipe of a tp-generator of a named pool "
    "to the last outcome that it prints; theirs: from the first submission to the last result in the caller's hands"
)
ONE_BY_ONE = "each job submitted by itself (joblib: in batches as it likes), results in memory"
DURABLE = "each job submitted by itself, jobs and results in a redis-server with appendfsync always; acks_late"


def trials(setting: Setting) -> list[Trial]:
    return [noop(setting), *(submit(setting, peer, jobs) for peer, jobs in sizes().items())]


def sizes() -> dict[str, int]:
    return {"ProcessPoolExecutor": SUBMIT_JOBS, **FEWER_JOBS}


def noop(setting: Setting) -> Trial:
    jobs = setting.scaled(NOOP_JOBS, LEAST_JOBS)
    sides = {
        "none": Side("taskpool, no journal", ours(setting, jobs, "none")),
        "full": Side("taskpool, journal", ours(setting, jobs, "full")),
        "pool": Side("multiprocessing.Pool", theirs(setting, "multiprocessing", jobs)),
    }
    what = f"{jobs:,} no-ops"
    rows = [
        Row("noop-none", f"{what}, no journal", JOBS_PER_SECOND, "none", "pool", Target("ratio", 2)),
        Row("noop-full", f"{what}, journal full", JOBS_PER_SECOND, "full", "pool", Target("ratio", 1)),
    ]
    return Trial(sides, rows, f"{CLOCK}, by imap_unordered(chunksize=1)")


def submit(setting: Setting, peer: str, jobs: int) -> Trial:
    jobs = setting.scaled(jobs, LEAST_JOBS)
    sides = {
        "full": Side("taskpool, journal", ours(setting, jobs, "full")),
        "peer": Side(peer, theirs(setting, peer, jobs), missing(setting, peer)),
    }
    target = Target("ratio", 5) if peer == "ProcessPoolExecutor" else None
    row = Row(f"submit-{peer}", f"{jobs:,} no-ops, journal full", JOBS_PER_SECOND, "full", "peer", target)
    return Trial(sides, [row], f"{CLOCK}; {DURABLE if peer in BROKERED else ONE_BY_ONE}")


def missing(setting: Setting, peer: str) -> str | None:
    """Say what to install for a Python peer; None when it is here."""
    standard = peer in ("multiprocessing", "ProcessPoolExecutor")
    return None if standard else setting.peers.missing(*NEEDS.get(peer, (peer,)))


def ours(setting: Setting, jobs: int, journal: str) -> Turn:
    def turn() -> list[float]:
        with noop_stream(setting, journal) as stream:
            stream.warm_up("[0]", jobs)
            seconds, printed = stream.run([f"[{number}]" for number in range(jobs)])
        check(sorted(map(int, printed)), list(range(jobs)))
        return [jobs / seconds]

    return turn


@contextmanager
def noop_stream(setting: Setting, journal: str) -> Iterator[Stream]:
    """Start a pool and a generator of no-op jobs, each a line with its number in brackets."""
    job = ("python", "bench.peers.work:nothing", "--path", str(ROOT / "tests"))
    with pool(setting.programs, *JOURNALS[journal], workers=WORKERS) as started, started.stream(*job) as stream:
        yield stream


def theirs(setting: Setting, peer: str, jobs: int) -> Turn:
    def turn() -> list[float]:
        with redis_server(setting.work) if peer in BROKERED else nullcontext("") as address:
            said = setting.peers.ask("throughput", peer, "nothing", jobs, WORKERS, env={"TP_BENCH_REDIS": address})
        check(sorted(said["results"]), list(range(jobs)))
        return [jobs / float(said["seconds"])]

    return turn


def check(results: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raises Wrong unless every job has given its result, once."""
    if list(results) != list(expected):
        raise Wrong(f"{len(results)} results for {len(expected)} jobs, or a wrong one among them")
