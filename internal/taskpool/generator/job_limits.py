"""What a job may use and how often it is tried, as written in options and in job objects alike.

`--retry-on exit:75` and `{"retry_on": "exit:75"}` are one thing with one parser: only the words that say
where it stood differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from signal import Signals
from typing import Any

import msgspec

from taskpool import limits
from taskpool.durations import parse_duration
from taskpool.errors import UsageError
from taskpool.messages import DEFAULT_LIMITS, Limits

KEYS = frozenset({"timeout", "retries", "backoff", "retry_on", "crash_limit", "priority"})

Where = Callable[[str], str]  # the words for a key: `--retries`, or `jobs.jsonl:3: field 'retries'`


def parse_limits(fields: Mapping[str, object], where: Where, base: Limits = DEFAULT_LIMITS) -> Limits:
    """`base` changed by the fields given. Raises UsageError naming the field and what was expected."""
    changes: dict[str, Any] = {}
    for key, value in fields.items():
        changes.update(_PARSERS[key](value, where(key)))
    return msgspec.structs.replace(base, **changes) if changes else base


def _timeout(value: object, where: str) -> dict[str, Any]:
    timeout_ns = parse_duration(value, where)
    if timeout_ns == 0:
        raise UsageError(f"{where}: a time-out of 0 lets no job finish; leave it out for none")
    return {"timeout_ns": timeout_ns}


def _retries(value: object, where: str) -> dict[str, Any]:
    return {"retries": _integer(value, where, 0, limits.RETRIES_MAX)}


def _priority(value: object, where: str) -> dict[str, Any]:
    return {"priority": _integer(value, where, -limits.PRIORITY_MAX, limits.PRIORITY_MAX)}


def _crash_limit(value: object, where: str) -> dict[str, Any]:
    if value == "unlimited":
        return {"crash_limit": limits.CRASH_LIMIT_UNLIMITED}
    return {"crash_limit": _integer(value, where, 1, limits.RETRIES_MAX, "an integer or 'unlimited',")}


def _backoff(value: object, where: str) -> dict[str, Any]:
    """`1s..60s`: the first delay and the longest. One duration alone is both."""
    if not isinstance(value, str) or ".." not in value:
        delay_ns = parse_duration(value, where)
        return {"backoff_min_ns": delay_ns, "backoff_max_ns": delay_ns}
    first, _, longest = value.partition("..")
    first_ns, longest_ns = parse_duration(first, where), parse_duration(longest, where)
    if first_ns > longest_ns:
        raise UsageError(f"{where}: expected SHORTEST..LONGEST, got {value!r}")
    return {"backoff_min_ns": first_ns, "backoff_max_ns": longest_ns}


def _retry_on(value: object, where: str) -> dict[str, Any]:
    """`exit:75,signal:KILL,timeout`: these and nothing else are tried again."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise UsageError(f"{where}: {_RETRY_ON_EXPECTED}, got {value!r}")
    exits: set[int] = set()
    signals: set[int] = set()
    on_timeout = False
    for word in words:
        name, _, argument = word.partition(":") if isinstance(word, str) else ("", "", "")
        if word == "timeout":
            on_timeout = True
        elif name == "exit" and _is_exit_status(argument):
            exits.add(int(argument))
        elif name == "signal" and (number := _signal_number(argument)) is not None:
            signals.add(number)
        else:
            raise UsageError(f"{where}: {_RETRY_ON_EXPECTED}, got {word!r}")
    return {
        "retry_exit": tuple(sorted(exits)),
        "retry_signal": tuple(sorted(signals)),
        "retry_timeout": on_timeout,
        "retry_failed": False,
    }


_RETRY_ON_EXPECTED = "expected exit:1..255, signal:NAME or timeout, separated by commas"


def _is_exit_status(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= 255


def _signal_number(text: str) -> int | None:
    """Of `KILL`, `SIGKILL` or `9`."""
    if text.isascii() and text.isdecimal():
        return int(text) if len(text) <= 2 and 1 <= int(text) <= 64 else None
    name = text.upper()
    try:
        return Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except KeyError:
        return None


def _integer(value: object, where: str, low: int, high: int, what: str = "an integer") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{where}: expected {what} {low}..{high}, got {value!r}")
    return value


_PARSERS: dict[str, Callable[[object, str], dict[str, Any]]] = {
    "timeout": _timeout,
    "retries": _retries,
    "backoff": _backoff,
    "retry_on": _retry_on,
    "crash_limit": _crash_limit,
    "priority": _priority,
}

assert _PARSERS.keys() == KEYS
