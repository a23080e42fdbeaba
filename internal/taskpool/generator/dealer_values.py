"""Values of a private dealer's options, checked before it is started.

The dealer checks them too, and its error names the option alone: it gets them as flags, and knows neither the
taskpool.toml nor the variable that one has come from. Paths, and what only a pool's start can tell, are left to it.
"""

from __future__ import annotations

from argparse import Namespace

from taskpool import limits
from taskpool.durations import parse_duration
from taskpool.errors import UsageError
from taskpool.procs.cpus import worker_count

_DURATIONS = ("retain", "drain_timeout", "delay")


def check_dealer_values(args: Namespace) -> None:
    """Raises UsageError naming the option, the value and what is possible."""
    if args.workers is not None:
        worker_count(args.workers)
    if args.spares is not None:
        _check_spares(args.spares)
    for name in _DURATIONS:
        if (text := getattr(args, name)) is not None:
            parse_duration(text, f"--{name.replace('_', '-')}")


def _check_spares(text: str) -> None:
    # isascii, because isdecimal and int take the digits of every script.
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) <= limits.SPARES_MAX):
        raise UsageError(f"--spares {text}: expected 0 to {limits.SPARES_MAX} workers that are kept ready")
