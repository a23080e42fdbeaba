"""What a person has chosen to see, and what a key does. Pure: a key makes a new view, and perhaps a request."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from taskpool.generator.top.model import BatchRow, JobRow, Model, Request

_FILTER_CHARS_MAX = 64
_SEARCHED_CHARS_MAX = 4_096  # of a text: it may be megabytes, and is looked at with each key
_YES = frozenset("yY")


class Section(Enum):
    """Where the cursor is."""

    JOBS = "jobs"
    BATCHES = "batches"


class Sort(Enum):
    """By what jobs are sorted; the largest first, but for slots and names."""

    SLOT = "slot"
    TIME = "time"
    CPU = "cpu"
    MEMORY = "memory"
    JOB = "job"


class Question(NamedTuple):
    """What has to be confirmed, twice."""

    request: Request
    asked: int = 1  # the first or the second time


class View(NamedTuple):
    """What is chosen. A row is chosen by its key, so that the cursor stays on it while rows come and go."""

    section: Section = Section.JOBS
    cursor: tuple[str, str] | None = None
    place: int = 0  # where the cursor was, for when its row is gone
    sort: Sort = Sort.SLOT
    filter: str = ""
    typing: bool = False  # keys go into the filter
    question: Question | None = None
    message: str = ""
    quit: bool = False


Pressed = tuple[View, Request | None]


def jobs_of(model: Model, view: View) -> list[JobRow]:
    """Return the jobs that are shown, in their order."""
    # Python sorts stably: rows that are equal keep their places from one refresh to the next.
    rows = [row for pool in model for row in pool.jobs if _matches(view, row.pool, row.job, row.what)]
    match view.sort:
        case Sort.SLOT:
            return sorted(rows, key=lambda row: (row.pool, row.slot))
        case Sort.TIME:
            return sorted(rows, key=lambda row: -row.seconds)
        case Sort.CPU:
            return sorted(rows, key=lambda row: -(row.cpu_percent or 0.0))
        case Sort.MEMORY:
            return sorted(rows, key=lambda row: -(row.rss_bytes or 0))
        case Sort.JOB:
            return sorted(rows, key=lambda row: row.key)


def batches_of(model: Model, view: View) -> list[BatchRow]:
    """Return the batches that are shown: those that are not done before those that are."""
    rows = [row for pool in model for row in pool.batches if _matches(view, row.pool, row.batch)]
    return sorted(rows, key=lambda row: row.total is not None and row.done >= row.total)


def rows_of(model: Model, view: View) -> Sequence[JobRow | BatchRow]:
    """Return the rows among which the cursor moves."""
    return jobs_of(model, view) if view.section is Section.JOBS else batches_of(model, view)


def follow(view: View, model: Model) -> View:
    """Keep the cursor on its row; where that is gone, on the one that has come to its place."""
    rows = rows_of(model, view)
    keys = [row.key for row in rows]
    if not keys:
        return view._replace(cursor=None, place=0)
    if view.cursor in keys:
        return view._replace(place=keys.index(view.cursor))
    place = min(view.place, len(keys) - 1)
    return view._replace(cursor=keys[place], place=place)


def press(view: View, key: str, model: Model) -> Pressed:
    """Return the view behind a key, and what is asked of a pool. Keys: a character, or a name such as `up`."""
    view = view._replace(message="")
    # Before all other keys: while a question stands, `q` is an answer to it, which is no.
    if view.question is not None:
        return _answer(view, view.question, key)
    if view.typing:
        return follow(_type(view, key), model), None
    match key:
        case "q" | "Q":
            return view._replace(quit=True), None
        case "s":
            sorts = list(Sort)
            return view._replace(sort=sorts[(sorts.index(view.sort) + 1) % len(sorts)]), None
        case "/":
            return view._replace(typing=True), None
        case "escape":
            return follow(view._replace(filter=""), model), None
        case "tab":
            other = Section.BATCHES if view.section is Section.JOBS else Section.JOBS
            return follow(view._replace(section=other, cursor=None, place=0), model), None
        case "up" | "k" | "down" | "j" | "page up" | "page down":
            return _move(view, key, model), None
        case "p":
            return _pause(view, model)
        case "c":
            return _cancel(view, model)
    return view, None


def _matches(view: View, *texts: str) -> bool:
    wanted = view.filter.casefold()
    return not wanted or any(wanted in text[:_SEARCHED_CHARS_MAX].casefold() for text in texts)


def _move(view: View, key: str, model: Model) -> View:
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -10, "page down": 10}
    rows = rows_of(model, view)
    if not rows:
        return view
    place = max(0, min(view.place + steps[key], len(rows) - 1))
    return view._replace(place=place, cursor=rows[place].key)


def _type(view: View, key: str) -> View:
    match key:
        case "enter":
            return view._replace(typing=False)
        case "escape":
            return view._replace(typing=False, filter="")
        case "backspace":
            return view._replace(filter=view.filter[:-1])
    if len(key) == 1 and key.isprintable() and len(view.filter) < _FILTER_CHARS_MAX:
        return view._replace(filter=view.filter + key)
    return view


def _pause(view: View, model: Model) -> Pressed:
    """Pause the pool that the cursor is in, or the only one; or let it go on."""
    name = view.cursor[0] if view.cursor is not None else model[0].name if len(model) == 1 else None
    pool = next((pool for pool in model if pool.name == name), None)
    # One that drains lets no job begin whatever is asked, and one that has not answered may do either.
    if pool is None or pool.state not in ("running", "paused"):
        return view._replace(message="no pool is chosen that could be paused: move the cursor to a row of it"), None
    return view, Request(pool.name, "unpause" if pool.state == "paused" else "pause")


def _cancel(view: View, model: Model) -> Pressed:
    """Ask whether to cancel what the cursor is on."""
    row = next((row for row in rows_of(model, view) if row.key == view.cursor), None)
    if row is None:
        return view._replace(message="nothing is chosen that could be cancelled"), None
    if isinstance(row, BatchRow):
        return view._replace(question=Question(Request(row.pool, "cancel", row.batch))), None
    # What a dealer calls a job is not to be trusted: int() of a long text takes time that grows with its square.
    batch, _, seq = row.job.rpartition("/")
    if not batch or not (seq.isascii() and seq.isdecimal() and len(seq) <= 16):
        return view._replace(message=f"{row.job!r} is no job that could be cancelled"), None
    return view._replace(question=Question(Request(row.pool, "cancel", batch, int(seq)))), None


def _answer(view: View, question: Question, key: str) -> Pressed:
    if key not in _YES:
        return view._replace(question=None, message="nothing is cancelled"), None
    if question.asked == 1:
        return view._replace(question=question._replace(asked=2)), None
    return view._replace(question=None), question.request
