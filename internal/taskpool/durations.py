"""Read and write durations as people do: `90`, `500ms`, `1.5s`, `5m`, `1h30m`."""

from __future__ import annotations

import re

from taskpool import limits
from taskpool.clock import SECOND
from taskpool.errors import UsageError

# Digits are limited so that a long number is refused here, and not after float() has made it infinite. re.ASCII: \d
# would match the digits of every script.
_NUMBER = r"\d{1,9}(?:\.\d+)?"
_PARTS = re.compile(rf"(?:({_NUMBER})h)?(?:({_NUMBER})m)?(?:({_NUMBER})s)?(?:({_NUMBER})ms)?", re.ASCII)
_PLAIN = re.compile(r"\d{1,12}(?:\.\d+)?", re.ASCII)
EXPECTED = "expected a duration such as 90 (seconds), 500ms, 1.5s, 2m or 1h30m"


def parse_duration(value: object, where: str) -> int:
    """Return the nanoseconds of a text, or of a plain number of seconds. Raises UsageError that starts with `where`."""
    # bool is an int to Python, but `timeout = true` in a configuration file is no duration.
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UsageError(f"{where}: {EXPECTED}, got {value!r}")
    seconds = _seconds(value) if isinstance(value, str) else float(value)
    if seconds is None:
        raise UsageError(f"{where}: {EXPECTED}, got {value!r}")
    if not 0 <= seconds <= limits.TIMEOUT_NS_MAX / SECOND:  # written so that NaN is refused
        raise UsageError(f"{where}: {value!r} is out of range; the longest is {limits.TIMEOUT_NS_MAX // SECOND}s")
    return round(seconds * SECOND)


def _seconds(text: str) -> float | None:
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return float(text)
    match = _PARTS.fullmatch(text)  # all parts are optional, so it matches the empty text too
    if not text or match is None:
        return None
    hours, minutes, seconds, milliseconds = map(float, match.groups(default="0"))
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def human(duration_ns: int) -> str:
    """Format a duration for people, in two units at most: `0.3s`, `12s`, `5m10s`, `2h05m`."""
    seconds = duration_ns / SECOND
    if seconds < 9.95:  # from here on one decimal would be rounded to `10.0s`
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
