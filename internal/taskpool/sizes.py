"""Read and write amounts of memory as people do: `1048576`, `512M`, `1.5GiB`."""

from __future__ import annotations

import re

from taskpool import limits
from taskpool.errors import UsageError

_UNITS = "KMGT"  # powers of 1024, as memory is counted: systemd, Slurm and container engines read them so too
_TEXT = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)(?:([KMGT])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
EXPECTED = "expected an amount of memory such as 512M, 1.5G or 1048576 (bytes)"


def parse_size(value: object, where: str) -> int:
    """Return the bytes of a text, or of a plain number. Raises UsageError that starts with `where`."""
    # A bool is an int in Python: `true` in a job's JSON would be a limit of one byte.
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise UsageError(f"{where}: {EXPECTED}, got {value!r}")
    size = _bytes(value.strip()) if isinstance(value, str) else value
    if size is None:
        raise UsageError(f"{where}: {EXPECTED}, got {value!r}")
    if not 0 <= size <= limits.MEMORY_BYTES_MAX:
        raise UsageError(f"{where}: {value!r} is out of range; the largest is {human_size(limits.MEMORY_BYTES_MAX)}")
    return size


def _bytes(text: str) -> int | None:
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    number, unit = match.groups()
    factor = 1024 ** (_UNITS.index(unit.upper()) + 1) if unit else 1
    # A float has 53 bits: whole numbers go through int, so that none is rounded.
    return round(float(number) * factor) if "." in number else int(number) * factor


def human_size(size: int) -> str:
    """Format an amount of memory for people: `900 B`, `512 MiB`, `1.5 GiB`."""
    scaled, unit = float(size), "B"
    for letter in _UNITS:
        if scaled < 1024:
            break
        scaled, unit = scaled / 1024, f"{letter}iB"
    return f"{scaled:.0f} {unit}" if scaled == int(scaled) or scaled >= 100 else f"{scaled:.1f} {unit}"
