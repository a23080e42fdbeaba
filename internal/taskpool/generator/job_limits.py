"""What a job may use and how often it is tried.

`--retry-on exit:75` and `{"retry_on": "exit:75"}` are one thing: `LimitFields` declares each limit as people write it,
and options, job objects and the JSON Schema are made of that. `messages.Limits` is what becomes of it on the wire.
A new limit is a field in both, and, when it is written in another form than it is sent, its reader in `_READERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from signal import Signals
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from taskpool import limits
from taskpool.clock import SECOND
from taskpool.durations import EXPECTED, human, parse_duration
from taskpool.errors import UsageError
from taskpool.kinds.base import WrongField, read_fields
from taskpool.messages import DEFAULT_LIMITS, Limits
from taskpool.sizes import EXPECTED as SIZE_EXPECTED
from taskpool.sizes import human_size, parse_size

Where = Callable[[str], str]  # the words for a key: `--retries`, or `jobs.jsonl:3: field 'retries'`

# The forms of the texts, for the schema: what parse_duration and _read_retry_on take, as far as a pattern can tell.
_NUMBER = r"[0-9]{1,12}(\.[0-9]+)?"
_PART = r"[0-9]{1,9}(\.[0-9]+)?"
_DURATION = rf"\s*({_NUMBER}|(?=[0-9])({_PART}h)?({_PART}m)?({_PART}s)?({_PART}ms)?)\s*"
_EXIT_STATUS = "(0{0,2}[1-9]|0?[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5])"
_SIGNAL = "(0?[1-9]|[1-5][0-9]|6[0-4]|[A-Za-z][A-Za-z0-9]*)"
_ENDS = f"(timeout|exit:{_EXIT_STATUS}|signal:{_SIGNAL})"
# Ranges of durations written as text are beyond a pattern: parse_duration has the last word.
_SECONDS_MAX = limits.TIMEOUT_NS_MAX // SECOND

_SIZE = "^[0-9]{1,18}(\\.[0-9]{1,9})?([KMGTkmgt]?[Ii]?[Bb]?)$"
_GROWTH_EXPECTED = f"xN from x1.1 to x{limits.MEMORY_GROWTH_PERCENT_MAX // 100}, or xN,max=SIZE"

_GIVEN, _KILL = rf"{_SIGNAL},[0-9][0-9.hms]*[hms]", "(KILL|SIGKILL|9)"
_SEQUENCE_EXPECTED = "SIGNAL,TIME,SIGNAL,TIME,... as in INT,5s,TERM,2s,KILL"
_DURATION_EXPECTED = EXPECTED.removeprefix("expected ")
_RETRY_ON_EXPECTED = "exit:1..255, signal:NAME or timeout, separated by commas"


class LimitFields(Struct, forbid_unknown_fields=True, kw_only=True):
    """The limits as written, in options and in job objects. UNSET: what the batch has.

    The outermost Meta of a field says it all: `description` is the help of its option, `extra` has its metavar.
    """

    timeout: Annotated[
        float | str | UnsetType,
        Meta(
            description="end a try that runs longer (default: none)",
            examples=["1h30m", 90],
            extra={"expected": _DURATION_EXPECTED, "metavar": "TIME"},
            extra_json_schema={
                "pattern": f"^(?=.*[1-9]){_DURATION}$",
                "exclusiveMinimum": 0,
                "maximum": _SECONDS_MAX,
            },
        ),
    ] = UNSET
    retries: Annotated[
        Annotated[int, Meta(ge=0, le=limits.RETRIES_MAX)] | UnsetType,
        Meta(
            description="tries after the first, of jobs that failed (0)",
            examples=[2],
            extra={"expected": f"an integer 0..{limits.RETRIES_MAX}", "metavar": "N"},
        ),
    ] = UNSET
    backoff: Annotated[
        float | str | UnsetType,
        Meta(
            description="wait before a retry, doubling: 1s..60s",
            examples=["1s..60s", 5],
            extra={"expected": f"{_DURATION_EXPECTED}, or SHORTEST..LONGEST", "metavar": "MIN..MAX"},
            extra_json_schema={
                "pattern": rf"^{_DURATION}(\.\.{_DURATION})?$",
                "minimum": 0,
                "maximum": _SECONDS_MAX,
            },
        ),
    ] = UNSET
    retry_on: Annotated[
        str | Annotated[list[Annotated[str, Meta(pattern=f"^{_ENDS}$")]], Meta(min_length=1)] | UnsetType,
        Meta(
            description="retry only after these: exit:75,signal:KILL,timeout",
            examples=["exit:75,signal:KILL,timeout", ["exit:75", "timeout"]],
            extra={"expected": _RETRY_ON_EXPECTED, "metavar": "LIST"},
            extra_json_schema={"pattern": f"^{_ENDS}(,{_ENDS})*$"},
        ),
    ] = UNSET
    crash_limit: Annotated[
        Annotated[int, Meta(ge=1, le=limits.RETRIES_MAX)] | Literal["unlimited"] | UnsetType,
        Meta(
            description=f"crashes after which a job is quarantined ({limits.CRASH_LIMIT_DEFAULT})",
            examples=[1, "unlimited"],
            extra={"expected": f"an integer 1..{limits.RETRIES_MAX}, or 'unlimited'", "metavar": "N|unlimited"},
        ),
    ] = UNSET
    priority: Annotated[
        Annotated[int, Meta(ge=-limits.PRIORITY_MAX, le=limits.PRIORITY_MAX)] | UnsetType,
        Meta(
            description="higher runs first (0)",
            examples=[10],
            extra={"expected": f"an integer {-limits.PRIORITY_MAX}..{limits.PRIORITY_MAX}", "metavar": "N"},
        ),
    ] = UNSET
    mem_limit: Annotated[
        int | str | UnsetType,
        Meta(
            description="end a try that takes more memory; of a command, all its processes together (none)",
            examples=["512M", "1.5G", 1048576],
            extra={"expected": SIZE_EXPECTED.removeprefix("expected "), "metavar": "SIZE"},
            extra_json_schema={"pattern": _SIZE, "minimum": 1, "maximum": limits.MEMORY_BYTES_MAX},
        ),
    ] = UNSET
    mem_escalate: Annotated[
        str | UnsetType,
        Meta(
            description="more memory for the next try after one that ran out of it: x2,max=16G",
            examples=["x2", "x1.5,max=16G"],
            extra={"expected": _GROWTH_EXPECTED, "metavar": "xN,max=SIZE"},
            extra_json_schema={"pattern": rf"^x{_NUMBER}(,max={_SIZE[1:-1]})?$"},
        ),
    ] = UNSET
    term_seq: Annotated[
        str | UnsetType,
        Meta(
            description="how a command is ended, KILL comes last in any case (TERM,2s,KILL)",
            examples=["TERM,10s,KILL", "INT,5s,TERM,2s"],
            extra={"expected": _SEQUENCE_EXPECTED, "metavar": "SIGNAL,TIME..."},
            extra_json_schema={"pattern": f"^({_GIVEN}(,{_GIVEN})*(,{_KILL})?|{_KILL})$"},
        ),
    ] = UNSET


_GROWTH = re.compile(rf"x({_NUMBER.replace('(', '(?:', 1)})(?:,max=(\S+))?", re.ASCII)
_GROWTH_PERCENT_MIN = 110

KEYS = frozenset(LimitFields.__struct_fields__)


def parse_limits(given: Mapping[str, object], where: Where, base: Limits = DEFAULT_LIMITS) -> Limits:
    """Change `base` by the fields given. Raises UsageError naming the field and what was expected."""
    try:
        read_fields(LimitFields, given)
    except WrongField as wrong:
        raise UsageError(f"{where(wrong.name)}{wrong.problem}") from None
    changes: dict[str, Any] = {}
    for key, value in given.items():  # checked, and as it was written: errors quote it
        reader = _READERS.get(key)
        changes.update({key: value} if reader is None else reader(value, where(key)))
    if not changes:
        return base
    wanted = msgspec.structs.replace(base, **changes)
    if "mem_escalate" in given or "mem_limit" in given:
        _check_growth(wanted, where("mem_escalate"))
    return wanted


def _check_growth(wanted: Limits, where: str) -> None:
    """Refuse what would never act."""
    if not wanted.memory_growth_percent:
        return
    if not wanted.memory_bytes:
        raise UsageError(f"{where}: there is no memory limit to raise; add {option_name('mem_limit')} SIZE")
    if not wanted.retries:
        raise UsageError(f"{where}: no try comes after the first; add {option_name('retries')} N")
    if wanted.memory_bytes_max and wanted.memory_bytes_max <= wanted.memory_bytes:
        most, first = human_size(wanted.memory_bytes_max), human_size(wanted.memory_bytes)
        raise UsageError(f"{where}: max={most} is not more than the memory limit of the first try, {first}")


class LimitOption(NamedTuple):
    """How a limit looks on a command line."""

    name: str
    metavar: str
    help: str
    is_integer: bool


def limit_options() -> Iterator[LimitOption]:
    """The options that the limits have, in the order of their declaration."""
    for field in msgspec.structs.fields(LimitFields):
        (meta,) = field.type.__metadata__
        is_integer = field.name not in _READERS  # what has no form of its own as text
        yield LimitOption(option_name(field.name), meta.extra["metavar"], meta.description, is_integer)


def option_name(key: str) -> str:
    """Give the option that is named as a job object's field is."""
    return f"--{key.replace('_', '-')}"


# --- texts ----------------------------------------------------------------------------------------
# Readers take the value as written and the words for its place, and give fields of `messages.Limits`.


def _read_timeout(value: object, where: str) -> dict[str, Any]:
    timeout_ns = parse_duration(value, where)
    if timeout_ns == 0:
        raise UsageError(f"{where}: a time-out of 0 lets no job finish; leave it out for none")
    return {"timeout_ns": timeout_ns}


def _read_crash_limit(value: object, where: str) -> dict[str, Any]:
    return {"crash_limit": limits.CRASH_LIMIT_UNLIMITED if value == "unlimited" else value}


def _read_backoff(value: object, where: str) -> dict[str, Any]:
    """`1s..60s`: the first delay and the longest. One duration alone is both."""
    if not isinstance(value, str) or ".." not in value:
        delay_ns = parse_duration(value, where)
        return {"backoff_min_ns": delay_ns, "backoff_max_ns": delay_ns}
    first, _, longest = value.partition("..")
    first_ns, longest_ns = parse_duration(first, where), parse_duration(longest, where)
    if first_ns > longest_ns:
        raise UsageError(f"{where}: expected SHORTEST..LONGEST, got {value!r}")
    return {"backoff_min_ns": first_ns, "backoff_max_ns": longest_ns}


def _read_retry_on(value: str | list[str], where: str) -> dict[str, Any]:
    """`exit:75,signal:KILL,timeout`: these and nothing else are tried again."""
    exits: set[int] = set()
    signals: set[int] = set()
    on_timeout = False
    for word in value.split(",") if isinstance(value, str) else value:
        name, _, argument = word.partition(":")
        if word == "timeout":
            on_timeout = True
        elif name == "exit" and _is_exit_status(argument):
            exits.add(int(argument))
        elif name == "signal" and (number := _signal_number(argument)) is not None:
            signals.add(number)
        else:
            raise UsageError(f"{where}: expected {_RETRY_ON_EXPECTED}, got {word!r}")
    return {
        # Sorted, so that one rule has one spelling, and equal batches send equal limits.
        "retry_exit": tuple(sorted(exits)),
        "retry_signal": tuple(sorted(signals)),
        "retry_timeout": on_timeout,
        "retry_failed": False,
    }


def _read_term_seq(value: object, where: str) -> dict[str, Any]:
    """`TERM,10s,KILL`: each signal with the time that it is given. A number alone is milliseconds to GNU parallel and
    seconds to us, so it needs its unit."""
    words = value.split(",") if isinstance(value, str) else []
    if words and _signal_number(words[-1]) == Signals.SIGKILL:
        words = words[:-1]
        if not words:
            return {"term_sequence": ((int(Signals.SIGKILL), 0),)}
    numbers = [_signal_number(word) for word in words[::2]]
    pauses = words[1::2]
    if not words or None in numbers or len(pauses) != len(numbers) or len(numbers) > limits.TERM_SIGNALS_MAX:
        raise UsageError(f"{where}: expected {_SEQUENCE_EXPECTED}, {limits.TERM_SIGNALS_MAX} at most, got {value!r}")
    if bare := next((pause for pause in pauses if pause.strip().isdecimal()), None):
        raise UsageError(f"{where}: {bare!r} has no unit: give {bare}s, or {bare}ms as GNU parallel takes it")
    sequence = tuple((number, parse_duration(pause, where)) for number, pause in zip(numbers, pauses, strict=True))
    if sum(pause_ns for _, pause_ns in sequence) > limits.TERM_SEQUENCE_NS_MAX:
        raise UsageError(f"{where}: {value!r} takes longer than {human(limits.TERM_SEQUENCE_NS_MAX)} altogether")
    return {"term_sequence": sequence}


def _is_exit_status(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= 255


def _signal_number(text: str) -> int | None:
    """Give the number of `KILL`, `SIGKILL` or `9`; None: there is no such signal on this machine."""
    if text.isascii() and text.isdecimal():
        return int(text) if len(text) <= 2 and 1 <= int(text) <= 64 else None
    name = text.upper()
    try:
        return Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except KeyError:
        return None


def _read_mem_limit(value: object, where: str) -> dict[str, Any]:
    size = parse_size(value, where)
    if size == 0:
        raise UsageError(f"{where}: a memory limit of 0 lets no job run; leave it out for none")
    return {"memory_bytes": size}


def _read_mem_escalate(value: object, where: str) -> dict[str, Any]:
    """`x2,max=16G`: the factor from one try to the next, and the most there will be."""
    match = _GROWTH.fullmatch(value) if isinstance(value, str) else None
    percent = round(float(match[1]) * 100) if match else 0
    if match is None or not _GROWTH_PERCENT_MIN <= percent <= limits.MEMORY_GROWTH_PERCENT_MAX:
        raise UsageError(f"{where}: expected {_GROWTH_EXPECTED}, got {value!r}")
    size_max = parse_size(match[2], f"{where}: max") if match[2] else 0
    return {"memory_growth_percent": percent, "memory_bytes_max": size_max}


_READERS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "timeout": _read_timeout,
    "backoff": _read_backoff,
    "retry_on": _read_retry_on,
    "crash_limit": _read_crash_limit,
    "mem_limit": _read_mem_limit,
    "mem_escalate": _read_mem_escalate,
    "term_seq": _read_term_seq,
}

assert _READERS.keys() <= KEYS
