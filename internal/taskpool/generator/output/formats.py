"""What outcomes and answers look like: JSON for programs, the job log's columns, words and tables for a person."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from taskpool.certificate import as_object, slot_shown
from taskpool.clock import rfc3339, seconds
from taskpool.generator.output.outcome_object import ErrorObject, OutcomeObject
from taskpool.kinds import KINDS
from taskpool.log import printable
from taskpool.messages import JobError, JobSpec, Outcome, State
from taskpool.procs.signals import signal_name

JOBLOG_HEADER = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
_SHORT_BYTES_MAX = 1024  # of a job's payload: it takes no more memory than its command line
_STOPPED = frozenset({State.TIMED_OUT, State.CANCELLED})

_encoder = msgspec.json.Encoder()
_INDENT = "  "
_NULL = msgspec.Raw(b"null")

# --- an outcome as JSON ----------------------------------------------------------------------------------


def to_json(batch: str, outcome: Outcome) -> bytes:
    """Return the object of `--results` and `--output json`: one line, newline included. What does not apply is null."""
    usage, output = outcome.usage, outcome.output
    ran = usage.started_wall_ns > 0  # a cancelled job may never have; zeros would look like measurements
    record = OutcomeObject(
        batch=batch,
        seq=outcome.seq,
        run=outcome.run,
        kind=outcome.kind,
        label=outcome.label,
        job=outcome.job or None,
        state=outcome.state,
        # As the job made it: decoding and encoding again could change a number's form.
        value=_NULL if outcome.value is None else msgspec.Raw(one_line(outcome.value)),
        exit_status=outcome.exit_status,
        signal=outcome.signal,
        attempts=outcome.attempts,
        crashes=outcome.crashes,
        slot=slot_shown(outcome.slot),
        pid=outcome.pid,
        queued_at=_moment(outcome.queued_wall_ns),
        started_at=_moment(usage.started_wall_ns),
        finished_at=_moment(outcome.finished_wall_ns),
        wait_seconds=seconds(outcome.wait_ns) if outcome.attempts else None,
        run_seconds=seconds(usage.run_ns) if ran else None,
        cpu_seconds=seconds(usage.cpu_ns) if ran else None,
        max_rss_bytes=usage.max_rss_bytes or None,  # 0: it was not measured
        stdout=output.stdout,
        stderr=output.stderr,
        stdout_file=output.stdout_file,
        stderr_file=output.stderr_file,
        error=None if outcome.error is None else _error(outcome.error),
        tries=[as_object(tried, signal_name) for tried in outcome.tries],
    )
    return _encoder.encode(record) + b"\n"


def one_line(value: bytes) -> bytes:
    """Return JSON without line breaks."""
    # A line break can only stand between two tokens: within a string JSON writes it as an escape.
    return value if b"\n" not in value else value.replace(b"\n", b" ")


def _moment(wall_ns: int) -> str | None:
    return rfc3339(wall_ns) if wall_ns else None


def _error(error: JobError) -> ErrorObject:
    return ErrorObject(type=error.type, message=error.message, traceback=error.traceback)


# --- `--joblog`: GNU parallel's job log, column for column -----------------------------------------------


class JobLog:
    """Makes one line for each job that ran."""

    def __init__(self) -> None:
        self._unfinished: dict[int, JobSpec | str] = {}

    def remember(self, first_seq: int, jobs: list[JobSpec]) -> None:
        """Keep the commands of these jobs until they end: outcomes do not carry them."""
        # Of a job with a long input, its line alone: there may be any number of them.
        for seq, job in enumerate(jobs, first_seq):
            self._unfinished[seq] = job if len(job.payload) <= _SHORT_BYTES_MAX else _command_line(job)

    def line(self, outcome: Outcome) -> bytes | None:
        """Return the job's line; None when it has not run."""
        spec = self._unfinished.pop(outcome.seq, None)
        return joblog_line(outcome, _command(spec, outcome)) if outcome.attempts else None


def joblog_line(outcome: Outcome, command: str) -> bytes:
    """Return one line of the job log, newline included."""
    usage = outcome.usage
    fields = (
        str(outcome.seq),
        ":",  # GNU parallel's name for this host; to it nothing is sent
        # A column must not be empty, even for a job whose start was not seen.
        f"{seconds(usage.started_wall_ns or outcome.finished_wall_ns):.3f}",
        f"{seconds(usage.run_ns):10.3f}",
        "0",
        str(_printed_bytes(outcome)),
        str(exit_value(outcome)),
        str(outcome.signal or 0),
        command.replace("\n", "\0"),  # as GNU parallel: one line must stay one line
    )
    return os.fsencode("\t".join(fields)) + b"\n"


def exit_value(outcome: Outcome) -> int:
    """Return the exit status; -1 for a job that was stopped; 1 for one that failed without a status."""
    # -1 whatever the program made of its SIGTERM: a script that reads the log must not take the job for finished.
    if outcome.state in _STOPPED:
        return -1
    if outcome.exit_status is not None:
        return outcome.exit_status
    # The signal has a column of its own, and with it GNU parallel's status is 0.
    return 0 if outcome.state is State.SUCCEEDED or outcome.signal else 1


def _printed_bytes(outcome: Outcome) -> int:
    output = outcome.output
    if output.stdout_file is not None:
        try:
            return os.stat(output.stdout_file).st_size
        except OSError:
            return 0  # a column of the log is not worth losing the outcome
    if output.stdout is not None:
        return len(output.stdout.encode())
    return len(outcome.value or b"")


def _command(spec: JobSpec | str | None, outcome: Outcome) -> str:
    if isinstance(spec, str):
        return spec
    if spec is None:  # of an earlier run of this program, or a new run of the job
        return outcome.job or outcome.label or outcome.kind
    return _command_line(spec)


def _command_line(spec: JobSpec) -> str:
    return KINDS[spec.kind].command_line(spec.payload)


# --- a dealer's answer, which is JSON, for a person ------------------------------------------------------
# It knows the shapes of JSON, not the words of the answers: a new field of the dealer needs no change here.


def lay_out(body: object) -> str:
    """Lay out an answer in one or more lines, newline included."""
    # A string is a Sequence too, and must not be laid out letter by letter.
    if isinstance(body, Mapping):
        lines = _mapping(body)
    elif isinstance(body, Sequence) and not isinstance(body, str):
        lines = _listing(body)
    else:
        lines = [_scalar(body)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _mapping(body: Mapping[object, object]) -> list[str]:
    """Put plain values first, aligned; then each value that has parts, under its name."""
    plain = {_words(key): _scalar(value) for key, value in body.items() if not _has_parts(value)}
    width = max(map(len, plain), default=0)
    lines = [f"{key:<{width}}  {value}" for key, value in plain.items()]
    for key, value in body.items():
        if isinstance(value, Mapping):
            lines += _section(key, _mapping(value)) if value else [f"{_words(key)}: none"]
        elif _has_parts(value) and isinstance(value, Sequence):
            lines += _section(key, _listing(value)) if value else [f"{_words(key)}: none"]
    return lines


def _section(key: object, lines: list[str]) -> list[str]:
    return [f"{_words(key)}:", *(_INDENT + line for line in lines)]


def _listing(items: Sequence[object]) -> list[str]:
    rows = [item for item in items if isinstance(item, Mapping)]
    # Mixed items share no columns.
    if len(rows) < len(items):
        return [_scalar(item) for item in items]
    return _table(rows)


def _table(rows: list[Mapping[object, object]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))  # of all rows, in the order of first mention
    cells = [[_words(column) for column in columns]]
    cells += [[_scalar(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]


def _has_parts(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str))


def _words(key: object) -> str:
    # Through `printable`, as every text that comes from outside: an escape sequence could rewrite the terminal.
    return printable(str(key)).replace("_", " ")


def _scalar(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return printable(str(value))
