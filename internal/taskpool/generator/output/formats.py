"""An outcome as people and programs see it: the object of `--results` and `--output json`."""

from __future__ import annotations

import msgspec

from taskpool.clock import rfc3339, seconds
from taskpool.messages import JobError, Outcome, State

_encoder = msgspec.json.Encoder()


def to_json(batch: str, outcome: Outcome) -> bytes:
    """One JSON object on one line, newline included. What does not apply is null."""
    usage, output = outcome.usage, outcome.output
    ran = usage.started_wall_ns > 0
    record = {
        "batch": batch,
        "seq": outcome.seq,
        "run": outcome.run,
        "kind": outcome.kind,
        "label": outcome.label,
        "state": outcome.state,
        "value": None if outcome.value is None else msgspec.Raw(one_line(outcome.value)),
        "exit_status": outcome.exit_status,
        "signal": outcome.signal,
        "attempts": outcome.attempts,
        "crashes": outcome.crashes,
        "slot": outcome.slot,
        "pid": outcome.pid,
        "queued_at": _moment(outcome.queued_wall_ns),
        "started_at": _moment(usage.started_wall_ns),
        "finished_at": _moment(outcome.finished_wall_ns),
        "wait_seconds": seconds(outcome.wait_ns) if outcome.attempts else None,
        "run_seconds": seconds(usage.run_ns) if ran else None,
        "cpu_seconds": seconds(usage.cpu_ns) if ran else None,
        "max_rss_bytes": usage.max_rss_bytes or None,
        "stdout": output.stdout,
        "stderr": output.stderr,
        "stdout_file": output.stdout_file,
        "stderr_file": output.stderr_file,
        "error": None if outcome.error is None else _error(outcome.error),
    }
    return _encoder.encode(record) + b"\n"


def one_line(value: bytes) -> bytes:
    """JSON without line breaks. In JSON they are only ever blanks between words, so none is lost."""
    return value if b"\n" not in value else value.replace(b"\n", b" ")


def why(outcome: Outcome) -> str:
    """In a few words, why a job did not succeed."""
    words = str(outcome.state)
    if outcome.exit_status:
        words += f", exit status {outcome.exit_status}"
    if outcome.state is State.QUARANTINED:
        words += f" after {outcome.crashes} {'crash' if outcome.crashes == 1 else 'crashes'}"
    elif outcome.attempts > 1:
        words += f" after {outcome.attempts} attempts"
    if outcome.error is not None:
        return f"{words}: {': '.join(filter(None, (outcome.error.type, outcome.error.message.strip())))}"
    return words if outcome.signal is None else f"{words}: {signal_name(outcome.signal)}"


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11; real-time signals have numbers only."""
    from signal import Signals

    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _moment(wall_ns: int) -> str | None:
    return rfc3339(wall_ns) if wall_ns else None


def _error(error: JobError) -> dict[str, str | None]:
    return {"type": error.type, "message": error.message, "traceback": error.traceback}
