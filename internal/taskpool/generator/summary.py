"""The last words on a batch: one line for the human."""

from __future__ import annotations

from typing import NamedTuple

from taskpool.clock import seconds
from taskpool.durations import human
from taskpool.generator.totals import Totals
from taskpool.log import Fact
from taskpool.messages import State


class PoolFacts(NamedTuple):
    """What the dealer says of its pool; None: it did not say."""

    respawns: int | None = None
    cpus: int | None = None


def summary(totals: Totals, total: int, wall_ns: int, pool: PoolFacts) -> tuple[str, dict[str, Fact]]:
    """As text, and the same facts for programs."""
    by_state = {str(state): totals.by_state[state] for state in State if totals.by_state[state]}
    if missing := total - totals.finished:
        by_state["not run"] = missing
    states = ", ".join(f"{count} {state}" for state, count in by_state.items()) or "nothing to do"
    counted = [_count(totals.attempts, "attempt"), _count(totals.crashes, "crash", "crashes")]
    if pool.respawns is not None:
        counted.append(_count(pool.respawns, "respawn"))
    text = f"{_count(total, 'job')}: {states}; {', '.join(counted)}; {human(wall_ns)} wall"
    fields: dict[str, Fact] = {
        "jobs": total,
        **{words.replace("-", "_").replace(" ", "_"): count for words, count in by_state.items()},
        "attempts": totals.attempts,
        "crashes": totals.crashes,
        "respawns": pool.respawns,
        "wall_seconds": seconds(wall_ns),
        "cpu_seconds": seconds(totals.cpu_ns),
    }
    if pool.cpus and wall_ns:
        available_ns = wall_ns * pool.cpus
        share = round(100 * totals.cpu_ns / available_ns)
        text += f"; CPU {human(totals.cpu_ns)} of {human(available_ns)} available ({share}%)"
        fields["cpu_available_seconds"] = seconds(available_ns)
    return text, fields


def _count(number: int, singular: str, plural: str = "") -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
