"""The dealer's log: notes of the core become lines for a person, or JSON objects for a program.

A line names the event, its object, the cause and the consequence. The wording of the job lines is public, and scripts
match it: `[Dealer] Sent job 1 -> fib(40)`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from taskpool.clock import SECOND, Clock
from taskpool.core.effects import Note, Topic
from taskpool.core.metric import MetricSet, computed, counter
from taskpool.errors import MessageError, counted
from taskpool.kinds import KINDS
from taskpool.log import Fact, Format, render
from taskpool.procs.writer import LineWriter

Fields = dict[str, Any]

LOGGER = "taskpool.dealer"
LEVELS = ("debug", "info", "warning", "error")
WARNINGS_PERIOD_NS = 10 * SECOND
WARNINGS_PER_PERIOD_MAX = 10


class LogCounters(MetricSet):
    """What was written to the log. Give `count` to a logger as a filter."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    by_level: Counter[str] = counter(
        "taskpool_log_messages_total", "Log messages written, by level.", labels={"level": LEVELS}
    )

    @computed(
        "counter", "taskpool_log_lines_dropped_total", "Log lines that standard error did not take, or not in time."
    )
    def lines_dropped(self) -> int:
        return self._writer.dropped

    def count(self, record: logging.LogRecord) -> bool:
        level = record.levelname.lower()
        # The labels are a closed set: a level that a library invents counts as an error rather than not at all.
        self.by_level[level if level in LEVELS else "error"] += 1
        return True  # as a filter, it lets everything pass


class WarningLimit:
    """Pass on the first warnings of a period; count the others, and report the count with the next one.

    For warnings that other processes can cause as often as they like. A log is read by people, and its disk is finite.
    """

    def __init__(self, warn: Callable[[str], None], clock: Clock) -> None:
        self._warn = warn
        self._clock = clock
        self._period_ends_ns = 0
        self._written = 0  # in this period
        self._suppressed = 0  # since the last one written

    def __call__(self, text: str) -> None:
        now = self._clock.now().mono
        if now >= self._period_ends_ns:
            self._period_ends_ns = now + WARNINGS_PERIOD_NS
            self._written = 0
        if self._written >= WARNINGS_PER_PERIOD_MAX:
            self._suppressed += 1
            return
        self._written += 1
        if self._suppressed:
            self._warn(f"{self._suppressed} similar warnings suppressed")
            self._suppressed = 0
        self._warn(text)


class DealerLog:
    """Write lines to stderr through `logging`, as the HTTP server does too. No line is ever waited for."""

    def __init__(self, fmt: Format, level: int, writer: LineWriter) -> None:
        writer.use_format(fmt)
        self._writer = writer
        self._log = logging.getLogger(LOGGER)
        self._log.setLevel(level)
        self._log.propagate = False  # the root logger's handlers would write each line a second time
        self._log.handlers = [_Handler(fmt, writer)]

    def relay(self) -> int:
        """Return the descriptor to which workers write their lines; call it once."""
        return self._writer.relay()

    def counters(self) -> LogCounters:
        """Return what counts the lines from now on."""
        return LogCounters(self._writer)

    def write(self, note: Note) -> None:
        """Write a note of the core."""
        # Before the line is made: with the usual level most notes are dropped here, several for each job.
        if not self._log.isEnabledFor(note.level):
            return
        who, line = _LINES[note.topic]
        facts = {name: _fact(name, value) for name, value in note.fields.items()}
        self._say(int(note.level), who, line(note.fields), {"event": note.topic.value, **facts})

    def say(self, level: int, text: str, who: str = "Dealer", **facts: Fact) -> None:
        """Write a line of the shell itself."""
        self._say(level, who, text, facts)

    def warn(self, text: str) -> None:
        self.say(logging.WARNING, text)

    def _say(self, level: int, who: str, text: str, facts: Mapping[str, Fact]) -> None:
        self._log.log(level, "%s", text, extra={"who": who, "facts": facts})


class _Formatter(logging.Formatter):
    """Render a record as all programs of the pool do."""

    def __init__(self, fmt: Format) -> None:
        super().__init__()
        self._fmt: Format = fmt

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        who, facts = getattr(record, "who", "Dealer"), getattr(record, "facts", {})
        return render(self._fmt, who, record.getMessage(), facts, level).rstrip("\n")  # type: ignore[arg-type]


class _Handler(logging.Handler):
    """Hand each record on as one line."""

    def __init__(self, fmt: Format, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer
        self.setFormatter(_Formatter(fmt))

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.put(self.format(record).encode(errors="backslashreplace") + b"\n")


def _fact(name: str, value: Any) -> Fact:
    # Some notes carry the job itself, so that its name is put together only for lines that are written.
    if name == "job" and not isinstance(value, str):
        return f"{value.batch.name}/{value.seq}"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str | int | float) or value is None else str(value)


def _job_text(fields: Fields) -> str:
    """Say what a job does, as its kind puts it."""
    spec = fields["job"].spec
    try:
        return KINDS[spec.kind].describe(spec.payload)
    except (KeyError, MessageError):  # from a journal that another version wrote
        return f"{spec.kind}(...)"


def _causes(fields: Fields) -> str:
    """Say of what a job had too many: crashes, or ends of the whole dealer that it ran through."""
    exits: int = fields["unclean_exits"]
    return f"{exits} unclean ends of its dealer in a row" if exits else counted(fields["crashes"], "crash", "crashes")


def _reported(fields: Fields) -> str:
    seq, pid = fields["seq"], fields["pid"]
    if fields["end"] != "succeeded":
        how = fields["signal"] or (f"exit status {fields['exit_status']}" if fields["exit_status"] is not None else "")
        return f"Job {seq} {fields['end']} on worker PID [{pid}]" + (f": {how}" if how else "")
    value = fields["value"]
    text = value.decode("utf-8", "replace") if value is not None else "done"  # from a worker, so it may be any bytes
    return f"Received result for job {seq}: {text} from worker PID [{pid}]"


def _exited(fields: Fields) -> str:
    if fields["signal"]:
        return f"Worker PID {fields['pid']} killed by {fields['signal']}"
    return f"Worker PID {fields['pid']} exited with status {fields['status']}"


def _status(fields: Fields) -> str:
    jobs, finished = fields["jobs"], fields["finished"]
    head = f"pool {fields['pool']} {fields['state']}, epoch {fields['epoch']}, workers {fields['workers']}"
    running = "".join(f"; slot {line['slot']}: {line['job']} for {line['seconds']:.1f} s" for line in fields["running"])
    return f"{head}, jobs {jobs}, finished {finished}, quarantined {fields['quarantined']}{running}"


# The source in brackets, and the line behind it. Both are public for the lines about workers and jobs.
_LINES: Mapping[Topic, tuple[str, Callable[[Fields], str]]] = {
    Topic.BATCH_OPENED: ("Dealer", lambda f: f"Batch {f['batch']} opened by generator PID {f['pid']}"),
    Topic.BATCH_CLOSED: ("Dealer", lambda f: f"Batch {f['batch']} closed with {counted(f['total'], 'job')}"),
    Topic.JOBS_ACCEPTED: ("Dealer", lambda f: f"Received {counted(f['jobs'], 'job')} of batch {f['batch']}"),
    Topic.SUBMISSION_REFUSED: ("Dealer", lambda f: f"Refused a submission to batch {f['batch']}: {f['text']}"),
    Topic.WORKER_SPAWNED: ("Supervisor", lambda f: f"Spawned worker PID {f['pid']}"),
    Topic.WORKER_READY: ("Supervisor", lambda f: f"Worker PID {f['pid']} is ready"),
    Topic.WORKER_NOTE: ("Supervisor", lambda f: str(f["text"])),
    Topic.WORKER_EXITED: ("Supervisor", _exited),
    Topic.WORKER_STOPPED: ("Supervisor", lambda f: f"Stopping worker PID {f['pid']} ({f['reason']}, SIG{f['signal']})"),
    Topic.JOB_SENT: ("Dealer", lambda f: f"Sent job {f['job'].seq} -> {_job_text(f)}"),
    Topic.JOB_RESENT: (
        "Recovery",
        lambda f: (
            f"Resent job {f['job'].seq} after crash of {f['crashed_pid']}"
            f" to worker PID {f['pid']}, {f['took_ns'] / 1e6:.2f} ms after its death was seen"
        ),
    ),
    Topic.JOB_REPORTED: ("Dealer", _reported),
    Topic.JOB_RETRIED: ("Dealer", lambda f: f"Job {f['job']} {f['end']}: next try in {f['delay_ns'] / SECOND:g} s"),
    Topic.JOB_QUARANTINED: ("Dealer", lambda f: f"Job {f['job']} is quarantined after {_causes(f)}"),
    Topic.STALE_REPORT: ("Dealer", lambda f: f"Dropped a stale report of attempt {f['attempt']} from PID {f['pid']}"),
    Topic.RESPAWN_DELAYED: ("Supervisor", lambda f: f"{f['text']}; trying again a little later"),
    Topic.OUT_OF_SERVICE: ("Supervisor", lambda f: f"{f['text']}; no worker is started for {f['seconds']:g} s"),
    Topic.CLIENT_LAPSED: ("Dealer", lambda f: f"Generator PID {f['pid']} is silent: its outcomes are kept"),
    Topic.DISK: ("Dealer", lambda f: str(f["text"])),
    Topic.DRAINING: (
        "Dealer",
        lambda f: f"Draining: {counted(f['running'], 'job runs', 'jobs run')}, {f['queued']} wait",
    ),
    Topic.PAUSED: ("Dealer", lambda f: "Paused: no job is sent" if f["paused"] else "Resumed"),
    Topic.SCALED: ("Dealer", lambda f: f"Workers wanted: {f['wanted']}" + (f"; {f['limit']}" if f["limit"] else "")),
    Topic.STATUS: ("Dealer", _status),
    Topic.STALLED: ("Dealer", lambda f: f"Event loop stalled {f['seconds']:.1f} s; deadlines extended"),
    Topic.EXITING: ("Dealer", lambda f: str(f["text"])),
}
