"""The lines of a screen, made of what is known of pools and of what a person has chosen. Pure.

Every line has exactly as many columns as the screen, and there are exactly as many lines, so the terminal behind it
only has to put them where they belong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

from taskpool.errors import counted
from taskpool.generator.top.cells import fit, human_bytes, human_rate, human_seconds, sparkline
from taskpool.generator.top.model import BatchRow, Death, JobRow, Model, PoolRow
from taskpool.generator.top.view import Question, Section, View, batches_of, jobs_of

ROWS_MIN, COLUMNS_MIN = 10, 40
_POOLS_SHARE = 4  # of the lines, at most one in so many is for pools
_LEAST = 3  # lines of batches, and of deaths, that many jobs leave to them
_POOL_COLUMNS = 12
_KEYS = "q quit  s sort  / filter  tab jobs, batches  p pause  c cancel"

_Row = TypeVar("_Row")


class Style(Enum):
    """How a line looks; the terminal knows colours."""

    PLAIN = "plain"
    HEAD = "head"
    CHOSEN = "chosen"
    GOOD = "good"
    BAD = "bad"
    NOTE = "note"


class Line(NamedTuple):
    """One line of the screen."""

    text: str
    style: Style = Style.PLAIN


class Size(NamedTuple):
    """Of a screen, in characters."""

    rows: int
    columns: int


def screen(model: Model, view: View, size: Size, clock: str = "") -> list[Line]:
    """Return the lines of the whole screen. `clock`: the time of day, for its corner."""
    if size.rows < ROWS_MIN or size.columns < COLUMNS_MIN:
        text = f"top needs {COLUMNS_MIN} columns and {ROWS_MIN} lines"
        return [Line(fit(text if not row else "", size.columns)) for row in range(size.rows)]
    lines = [_head(model, size.columns, clock), *_pools(model, size), _speed(model, size.columns)]
    room = size.rows - len(lines) - 1  # the last line is for what is asked and told
    jobs, batches = jobs_of(model, view), batches_of(model, view)
    deaths = sorted((death for pool in model for death in pool.deaths), key=lambda death: death.ended_at, reverse=True)
    shares = _share(room - 3, (len(jobs), len(batches), len(deaths)))  # each has a line of headings
    several = len(model) > 1
    lines += _jobs(jobs, view, shares[0], size.columns, several=several)
    lines += _batches(batches, view, shares[1], size.columns, several=several)
    lines += _deaths(deaths, shares[2], size.columns, several=several)
    lines += [Line(" " * size.columns)] * (size.rows - 1 - len(lines))
    return [*lines[: size.rows - 1], _last(view, size.columns)]


# --- pools ----------------------------------------------------------------------------------------


def _head(model: Model, columns: int, clock: str) -> Line:
    busy, slots = sum(len(pool.jobs) for pool in model), sum(pool.workers_wanted for pool in model)
    text = f"taskpool top  {counted(len(model), 'pool')}, {busy} of {counted(slots, 'slot')} busy"
    if not model:
        text = "taskpool top  no pool of yours runs here: tp-dealer --pool NAME starts one"
    return Line(fit(text, columns - len(clock) - 1) + " " + clock, Style.HEAD)


def _pools(model: Model, size: Size) -> list[Line]:
    most = max(1, size.rows // _POOLS_SHARE)
    shown = model if len(model) <= most else model[: most - 1]
    lines = [_pool(pool, size.columns) for pool in shown]
    if len(shown) < len(model):
        lines.append(Line(fit(f" and {counted(len(model) - len(shown), 'pool')} more", size.columns), Style.NOTE))
    return lines


def _pool(pool: PoolRow, columns: int) -> Line:
    if pool.problem:
        return Line(fit(f" {pool.name}: {pool.problem}", columns), Style.BAD)
    if not pool.state:
        return Line(fit(f" {pool.name}: asked", columns), Style.NOTE)
    # Those that are mostly nothing are told when they are not: a line of 80 columns has no room for all.
    more = (("delayed", pool.delayed), ("failed", pool.failed), ("quarantined", pool.quarantined))
    rest = "".join(f"  {number} {name}" for name, number in more if number)
    text = (
        f" {pool.name} {pool.state}  workers {pool.workers}/{pool.workers_wanted}+{pool.spares}  "
        f"{pool.queued} queued  {pool.running} running  {pool.finished} done{rest}"
    )
    if pool.out_of_service:
        return Line(fit(f" {pool.name}: workers die at their start, see its log{text}", columns), Style.BAD)
    return Line(fit(text, columns), Style.PLAIN if pool.state == "running" else Style.NOTE)


def _speed(model: Model, columns: int) -> Line:
    rate = sum(pool.rate for pool in model)
    text = f" {human_rate(rate)} jobs/s "
    length = max((len(pool.rates) for pool in model), default=0)
    # Pools that were seen later have fewer: aligned at the newest.
    sums = [sum(pool.rates[-at] for pool in model if len(pool.rates) >= at) for at in range(length, 0, -1)]
    return Line(fit(text, 16) + sparkline(sums, columns - 16), Style.GOOD)


# --- tables ---------------------------------------------------------------------------------------


def _share(room: int, wanted: Sequence[int]) -> list[int]:
    """Share lines among jobs, batches and deaths: the later ones keep a few, jobs get the rest."""
    jobs, batches, deaths = wanted
    # Batches and deaths get what jobs leave free, and a few lines in any case.
    for_deaths = min(deaths, max(_LEAST, room - jobs - batches))
    for_batches = min(batches, max(_LEAST, room - jobs - for_deaths))
    for_jobs = max(0, room - for_batches - for_deaths)
    return [for_jobs, max(0, min(for_batches, room)), max(0, min(for_deaths, room - for_batches))]


def _window(rows: Sequence[_Row], chosen: int, lines: int) -> tuple[Sequence[_Row], int]:
    """Return the rows that are seen, so that the chosen one is among them, and the number of the first."""
    first = max(0, min(chosen - lines // 2, len(rows) - lines))
    return rows[first : first + lines], first


def _table(rows: Sequence[_Row], view: View, lines: int, chosen: bool, text: Callable[[_Row], str]) -> list[Line]:
    seen, first = _window(rows, view.place if chosen else 0, lines)
    return [
        Line(text(row), Style.CHOSEN if chosen and first + number == view.place else Style.PLAIN)
        for number, row in enumerate(seen)
    ]


def _heading(text: str, rest: str, shown: int, there: int, columns: int) -> Line:
    more = f"  ({there - shown} more)" if there > shown else ""
    return Line(fit(f"{text}{rest}{more}", columns), Style.HEAD)


def _jobs(rows: Sequence[JobRow], view: View, lines: int, columns: int, *, several: bool) -> list[Line]:
    name = max(10, min(24, columns // 5))
    pool = _POOL_COLUMNS if several else 0

    def text(row: JobRow) -> str:
        cpu = "-" if row.cpu_percent is None else f"{row.cpu_percent:.0f}"
        left = f"{row.slot or '-':>4} {row.pid:>7} {fit(row.pool, pool)}{' ' if pool else ''}{fit(row.job, name)} "
        used = f"{human_seconds(row.seconds):>7} {cpu:>5} {human_bytes(row.rss_bytes):>5} "
        what = row.what if row.started else f"(sent) {row.what}"
        return fit(left + used + fit(what, max(0, columns - len(left) - len(used))), columns)

    heads = f"SLOT     PID {'POOL'.ljust(pool + 1) if pool else ''}{'JOB'.ljust(name)}    TIME  CPU%   RSS "
    sorted_by = f"WHAT  by {view.sort.value}" + (f", with {view.filter!r}" if view.filter else "")
    heading = _heading(heads, sorted_by, min(lines, len(rows)), len(rows), columns)
    return [heading, *_table(rows, view, lines, view.section is Section.JOBS, text)]


def _batches(rows: Sequence[BatchRow], view: View, lines: int, columns: int, *, several: bool) -> list[Line]:
    pool = _POOL_COLUMNS if several else 0

    def text(row: BatchRow) -> str:
        of = f"{row.done}/{row.accepted}+" if row.total is None else f"{row.done}/{row.total}"
        failed = f"{row.failed}" if row.all_looked_at else f"{row.failed}+"
        figures = f"{of:>17} {_bar(row):>12} {human_rate(row.rate):>6} {human_seconds(row.left_seconds):>7} {failed:>7}"
        name = fit(row.batch, max(8, columns - pool - len(figures) - 4))
        return fit(f" {fit(row.pool, pool)}{' ' if pool else ''}{name} {figures}", columns)

    figures = "        DONE/JOBS              JOBS/S    LEFT  FAILED"
    name = "BATCH".ljust(max(8, columns - pool - len(figures) - 4))
    heads = f" {'POOL'.ljust(pool + 1) if pool else ''}{name} {figures}"
    heading = _heading(heads, "", min(lines, len(rows)), len(rows), columns)
    return [heading, *_table(rows, view, lines, view.section is Section.BATCHES, text)]


def _bar(row: BatchRow) -> str:
    if not row.total:
        return ""
    # Bounded: what a dealer tells of a batch need not add up.
    full = max(0, min(10, 10 * row.done // row.total))
    return f"[{'#' * full}{'.' * (10 - full)}]"


def _deaths(rows: Sequence[Death], lines: int, columns: int, *, several: bool) -> list[Line]:
    pool = _POOL_COLUMNS if several else 0

    def text(row: Death) -> str:
        at = row.ended_at[11:19] or "        "
        where = f"{fit(row.pool, pool)} " if pool else ""
        return fit(f" {fit(at, 8)} {where}{fit(f'{row.job} try {row.attempt}', 24)} {row.cause}", columns)

    heading = _heading(" LAST DEATHS (UTC)", "" if rows else "  none seen", min(lines, len(rows)), len(rows), columns)
    return [heading, *(Line(text(row), Style.BAD) for row in rows[:lines])]


# --- the last line --------------------------------------------------------------------------------


def _last(view: View, columns: int) -> Line:
    if view.question is not None:
        return Line(fit(f" {_asked(view.question)}", columns), Style.BAD)
    if view.typing:
        return Line(fit(f" Filter: {view.filter}_  (enter: keep it, esc: none)", columns), Style.NOTE)
    if view.message:
        return Line(fit(f" {view.message}", columns), Style.NOTE)
    return Line(fit(f" {_KEYS}", columns), Style.NOTE)


def _asked(question: Question) -> str:
    request = question.request
    what = f"job {request.batch}/{request.seq}" if request.seq else f"the whole batch {request.batch}"
    # The keys come first: a batch may have a long name, and the end of a line is what is cut.
    if question.asked == 1:
        return f"y/n  Cancel {what} of pool {request.pool}?"
    return f"y/n  Really? What runs of it is ended, for good: {what}"
