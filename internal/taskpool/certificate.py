"""How one attempt ended that did not succeed: what is kept of it, and the object that a program reads.

The core makes one at each end that it counts. It goes through the journal with the job's counts, and ends in the
outcome. Both sides show it in the same words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta, Struct, structs

from taskpool import limits
from taskpool.clock import rfc3339, seconds
from taskpool.messages import End, ExitStatus, Report, SignalNumber, Try

_SIGKILL = 9
_ENDS = [end.value for end in End if end is not End.SUCCEEDED]

# Types of what programs read. A JSON Schema is made of them: what it says of a field is said here.
Count = Annotated[int, Meta(ge=0)]
Slot = Annotated[int, Meta(ge=1, description="of its worker, from 1")]
Seconds = Annotated[float, Meta(ge=0)]
Moment = Annotated[str, Meta(description="RFC 3339, UTC", extra_json_schema={"format": "date-time"})]


class TryObject(Struct, kw_only=True, frozen=True):
    """An attempt that did not succeed. What does not apply, or is not known, is null."""

    attempt: Annotated[int, Meta(ge=1, description="which of its run")]
    end: Annotated[str, Meta(extra_json_schema={"enum": _ENDS})]
    exit_status: ExitStatus | None
    signal: SignalNumber | None
    signal_name: str | None
    core_dumped: bool | None
    out_of_memory: Annotated[bool | None, Meta(description="null: it cannot be told")]
    memory_limit_bytes: Count | None
    started_at: Moment | None
    wall_seconds: Seconds | None
    cpu_seconds: Seconds | None
    max_rss_bytes: Count | None
    pid: Count | None
    slot: Slot | None
    host: Annotated[str | None, Meta(description="null: this one")]
    error: str | None
    stderr_tail: Annotated[str | None, Meta(description="the last lines of its standard error")]


OUT_OF_MEMORY = "OutOfMemory"
"""The type of a report's error where a job was ended by its memory limit, or could allocate no more."""


def certificate(no: int, report: Report, pid: int, slot: int | None, memory_limit_bytes: int = 0) -> Try:
    """Make what is kept of try number `no` of a run. `pid` and `slot` are its worker's; 0: not known, or none."""
    error = report.error
    words = "" if error is None else ": ".join(filter(None, (error.type, error.message.strip())))
    return Try(
        no=no,
        end=report.end,
        exit_status=report.exit_status,
        signal=report.signal,
        core_dumped=report.core_dumped,
        out_of_memory=_out_of_memory(report),
        usage=report.usage,
        pid=pid or None,
        slot=slot,
        stderr_tail=tail(report.stderr_tail or report.output.stderr),
        error=words[: limits.TRY_ERROR_CHARS_MAX] or None,
        memory_limit_bytes=memory_limit_bytes or None,
    )


def _out_of_memory(report: Report) -> bool | None:
    """Whether memory ran out; None where that cannot be told: SIGKILL is how the kernel ends a process for it, and how
    people end one for any reason. What saw that end has asked the kernel."""
    if report.error is not None and report.error.type in (OUT_OF_MEMORY, "MemoryError"):
        return True
    return report.out_of_memory if report.signal == _SIGKILL else False


def tail(text: str | None) -> str | None:
    """Return the last lines of a text; None when there is nothing in it."""
    if not text:
        return None
    most = limits.TRY_TAIL_BYTES_MAX
    end = text.rstrip()[-most:].encode("utf-8", "replace")[-most:].decode("utf-8", "ignore")
    return "\n".join(end.split("\n")[-limits.TRY_TAIL_LINES_MAX :]) or None


def as_fields(tried: Try, signal_name: Callable[[int], str]) -> dict[str, Any]:
    """Return it as a JSON object. What does not apply, or is not known, is null."""
    return structs.asdict(as_object(tried, signal_name))


def as_object(tried: Try, signal_name: Callable[[int], str]) -> TryObject:
    """Return what a program reads of it. What does not apply, or is not known, is null."""
    usage = tried.usage
    ran = usage.started_wall_ns > 0
    return TryObject(
        attempt=tried.no,
        end=tried.end.value,
        exit_status=tried.exit_status,
        signal=tried.signal,
        signal_name=None if tried.signal is None else signal_name(tried.signal),
        core_dumped=tried.core_dumped if tried.signal is not None else None,
        out_of_memory=tried.out_of_memory,
        memory_limit_bytes=tried.memory_limit_bytes,
        started_at=rfc3339(usage.started_wall_ns) if ran else None,
        wall_seconds=seconds(usage.run_ns) if ran else None,
        cpu_seconds=seconds(usage.cpu_ns) if ran else None,
        max_rss_bytes=usage.max_rss_bytes or None,  # 0: it was not measured
        pid=tried.pid,
        slot=slot_shown(tried.slot),
        host=None,
        error=tried.error,
        stderr_tail=tried.stderr_tail,
    )


def slot_shown(slot: int | None) -> int | None:
    """Return the number that people know a slot by: from 1, as {%} and TP_SLOT have it; inside it is from 0."""
    return None if slot is None else slot + 1


def remembered(tries: tuple[Try, ...], one_more: Try) -> tuple[Try, ...]:
    """Return the tries of a run that are kept: the last ones."""
    return (*tries, one_more)[-limits.TRIES_KEPT_MAX :]
