"""Text in the columns of a terminal, whatever it holds. Pure.

What is shown comes from jobs of any origin: escape sequences would act on the terminal, characters that are two columns
wide or none would shift what stands beside them, and a text may be megabytes long.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_BARS = " ▁▂▃▄▅▆▇█"
_NO_COLUMN = frozenset({"Mn", "Me", "Cf"})  # marks that stand on the character before them; marks of direction
_MARKS_MAX = 2  # of one character: more of them reach into the lines above
_UNITS = ("", "K", "M", "G", "T", "P")


def fit(text: str, columns: int) -> str:
    """Return the text as it is shown in exactly so many columns: cut, with `~` for what is cut, or filled up."""
    if columns <= 0:
        return ""
    kept: list[str] = []
    used = marks = 0
    # A character takes a column at least, unless it is a mark: what is behind four times the room is never seen.
    for char in text[: 4 * columns + 4]:
        shown = char if char.isprintable() else _escaped(char)
        if unicodedata.category(char) in _NO_COLUMN:
            marks += 1
            if kept and marks <= _MARKS_MAX and unicodedata.category(char) != "Cf":
                kept.append(char)
            continue
        wide, marks = width(shown), 0
        if used + wide > columns:
            return _cut("".join(kept), columns)
        kept.append(shown)
        used += wide
    if len(text) > 4 * columns + 4:
        return _cut("".join(kept), columns)
    return "".join(kept) + " " * (columns - used)


def width(text: str) -> int:
    """Return how many columns a text takes that is printable."""
    return sum(_width_of(char) for char in text)


def human_bytes(size: int | None) -> str:
    """Return a size in at most five columns: `1.2G`; a mark for one that is not known."""
    if size is None:
        return "-"
    number, unit = float(size), 0
    while number >= 1000 and unit + 1 < len(_UNITS):
        number, unit = number / 1024, unit + 1
    return f"{number:.0f}{_UNITS[unit]}" if number >= 10 or not unit else f"{number:.1f}{_UNITS[unit]}"


def human_seconds(seconds: float | None) -> str:
    """Return a duration in at most seven columns: `12.3s`, `4:05`, `3h07`, `12d04`."""
    # NaN too: it is a number in no answer of ours, and what comes from a queue may be anything.
    if seconds is None or not 0 <= seconds < 1e9:
        return "-"
    whole = int(seconds)
    if seconds < 60:
        return f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}"


def human_rate(rate: float | None) -> str:
    """Return jobs a second, in at most five columns."""
    if rate is None:
        return "-"
    return f"{rate:.2f}" if rate < 9.95 else f"{rate:.1f}" if rate < 999.5 else f"{human_bytes(int(rate)).lower()}"


def sparkline(values: Sequence[float], columns: int) -> str:
    """Return the newest values as bars, the newest at the right; the highest one is a whole bar."""
    recent = values[-columns:] if columns > 0 else ()
    most = max(recent, default=0.0)
    # What is not nothing is seen, however small it is beside the highest.
    bars = [_BARS[max(1 if value else 0, round(value / most * (len(_BARS) - 1)))] if most else " " for value in recent]
    return "".join(bars).rjust(max(columns, 0))


def _width_of(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.category(char) in _NO_COLUMN:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode()


def _cut(text: str, columns: int) -> str:
    """Leave room for the mark: a wide character may have to go for it."""
    while width(text) > columns - 1:
        text = text[:-1]
    return text + " " * (columns - 1 - width(text)) + "~"
