"""`kill -9` of a worker: how soon its job runs again, and what the peers do.

A job kills its own worker after it has written down the time, which all processes of a machine share; when it runs
again it says how long ago that was. So nothing of what is measured is the pool's own word, but for the row that says
so.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext

from bench.errors import Wrong
from bench.figures import MILLISECONDS, Target
from bench.peer import redis_server
from bench.pool import pool, resent_milliseconds
from bench.setting import WORKERS, Setting
from bench.trial import Row, Side, Trial, Turn
from bench.trials.commands import CALL_SECONDS_MAX, await_finished, spooler
from bench.trials.throughput import BROKERED, missing
from bench.trials.waiting import frozen_side
from support.source_tree import ROOT

KILLS = 10  # a round
LEAST_KILLS = 2

# The peers that survive it: kills a round, and what is measured of them.
SURVIVORS = {
    "pebble": (10, "failure told"),
    "loky": (5, "runs again, submitted anew"),
    "dask": (3, "runs again"),
    "celery": (1, "runs again"),
    "rq": (5, "runs again"),
}
OTHERS = ("ProcessPoolExecutor", "multiprocessing", "joblib")
COMMANDS = 10
SCRIPT = 'if [ "$1" = 0 ]; then kill -9 $$; fi; echo "$1"'

INCLUDES = "from just before the worker's SIGKILL until its job runs again"


def trials(setting: Setting) -> list[Trial]:
    kills = setting.scaled(KILLS, LEAST_KILLS)
    again = Side("taskpool, with a spare", runs_again(setting, kills, workers=WORKERS, spares=1))
    return [
        of_ours(setting, kills, again),
        *(survivor(setting, peer, again) for peer in SURVIVORS),
        *(other(setting, peer) for peer in OTHERS),
        *of_commands(setting),
    ]


def of_ours(setting: Setting, kills: int, again: Side) -> Trial:
    spawn = Side("taskpool, no spare", runs_again(setting, kills, workers=1, spares=0))
    sides = {
        "resent": Side("taskpool, sent again", resent(setting, kills)),
        "again": again,
        "spawn": spawn,
        "frozen": frozen_side(setting, lambda frozen: runs_again(frozen, kills, workers=1, spares=0)),
    }
    seen, death = "death seen to sent again", "death to run again"
    p50, p99 = Target("ours", 1), Target("ours", 10)
    rows = [
        Row("death-resent-p50", f"{seen}, p50", MILLISECONDS, "resent", target=p50),
        Row("death-resent-p99", f"{seen}, p99", MILLISECONDS, "resent", target=p99, quantile=0.99),
        Row("death-spare", f"{death}, by a spare", MILLISECONDS, "again", target=Target("ours", 5)),
        Row("death-spawn", f"{death}, no spare left", MILLISECONDS, "spawn"),
        Row("death-spawn-frozen", f"{death}, no spare left, frozen", MILLISECONDS, "frozen", target=Target("ours", 60)),
    ]
    return Trial(sides, rows, f"{kills} kills a round; sent again: by the dealer's own log; run again: {INCLUDES}")


def other(setting: Setting, peer: str) -> Trial:
    row = Row(f"death-{peer}", "a worker killed by -9", MILLISECONDS, peer="peer")
    return Trial(
        {"peer": Side(peer, told(setting, peer), missing(setting, peer))}, [row], "one kill; nothing to measure"
    )


def survivor(setting: Setting, peer: str, again: Side) -> Trial:
    kills, measured = SURVIVORS[peer]
    kills = setting.scaled(kills, 1)

    def turn() -> list[float]:
        milliseconds = ask(setting, peer, kills)["milliseconds"]
        if len(milliseconds) != kills:
            raise Wrong(f"{len(milliseconds)} of {kills} kills told")
        return [float(each) for each in milliseconds]

    sides = {"again": again, "peer": Side(peer, turn, missing(setting, peer))}
    row = Row(f"death-{peer}", f"theirs: {measured}", MILLISECONDS, "again", "peer")
    return Trial(sides, [row], f"their kills a round: {kills}; {INCLUDES}, or until its caller is told that it failed")


def ask(setting: Setting, peer: str, kills: int) -> dict[str, list[float] | str]:
    with redis_server(setting.work) if peer in BROKERED else nullcontext("") as address:
        env = {"TP_BENCH_REDIS": address}
        return setting.peers.ask("deaths", peer, kills, WORKERS, setting.work, env=env)  # type: ignore[no-any-return]


def told(setting: Setting, peer: str) -> Turn:
    return lambda: str(ask(setting, peer, 1)["text"])


# --- our deaths ------------------------------------------------------------------------------------


def resent(setting: Setting, kills: int) -> Turn:
    def turn() -> list[float]:
        _, log = kill_workers(setting, kills, WORKERS, 1)
        found = resent_milliseconds(log)
        if len(found) != kills:
            raise Wrong(f"the log has {len(found)} jobs sent again after {kills} kills")
        return found

    return turn


def runs_again(setting: Setting, kills: int, *, workers: int, spares: int) -> Turn:
    return lambda: kill_workers(setting, kills, workers, spares)[0]


def kill_workers(setting: Setting, kills: int, workers: int, spares: int) -> tuple[list[float], str]:
    """Return the milliseconds from each death until the job runs again, and the dealer's log."""
    milliseconds = []
    with pool(setting.programs, "-v", workers=workers, spares=spares) as started:
        with started.stream("python", "bench.peers.killer:die_once", "--path", str(ROOT / "tests")) as stream:
            for number in range(kills):
                mark = setting.work / f"ours-{number}-{time.monotonic_ns()}"
                _, outcome = stream.run_one(json.dumps([str(mark)]))
                milliseconds.append(int(outcome) / 1e6)
                # The next death finds what this one found: every worker ready, and every spare there again.
                started.await_ready_ever(workers + spares + number + 1)
        log = started.log
    return milliseconds, log


# --- programs that start programs ------------------------------------------------------------------


def of_commands(setting: Setting) -> list[Trial]:
    """What becomes of a command that dies by SIGKILL, and of those behind it."""
    commands = {
        "xargs": ["xargs", f"-P{WORKERS}", "-n1", "sh", "-c", SCRIPT, "sh"],
        "parallel": ["parallel", "--will-cite", "-q", f"-j{WORKERS}", "sh", "-c", SCRIPT, "sh"],
    }
    sides = {peer: Side(peer, command_dies(setting, command)) for peer, command in commands.items()}
    sides["tsp"] = Side("task-spooler", lambda: spooled_command_dies(setting))
    return [
        Trial(
            {"peer": side._replace(missing=setting.peers.missing(peer))},
            [Row(f"death-{peer}", "a command killed by -9", MILLISECONDS, peer="peer")],
            f"the first of {COMMANDS} commands kills itself; without options that ask for a second try",
        )
        for peer, side in sides.items()
    ]


def command_dies(setting: Setting, command: Sequence[str]) -> Turn:
    numbers = "".join(f"{number}\n" for number in range(COMMANDS))

    def turn() -> str:
        done = subprocess.run(
            command, env=setting.peers.env, input=numbers, capture_output=True, text=True, timeout=CALL_SECONDS_MAX
        )
        return (
            f"{len(done.stdout.split())} of {COMMANDS - 1} others ran, the killed one once; exit code {done.returncode}"
        )

    return turn


def spooled_command_dies(setting: Setting) -> str:
    with spooler(setting) as tsp:
        for number in range(COMMANDS):
            tsp("-n", "sh", "-c", SCRIPT, "sh", str(number))
        codes = await_finished(tsp, COMMANDS)
    return f"{codes.count(0)} of {COMMANDS - 1} others ran, the killed one once; listed with exit code {min(codes)}"
