"""How often Python looks for objects that refer to each other in a circle: rarely in programs whose jobs make none."""

from __future__ import annotations

import gc

# A look takes time for each object that is young: by default one comes with 700 new ones, which waiting jobs and their
# rows are in a millisecond, and none of them is ever garbage by a circle. Of the libraries (the HTTP server's requests,
# exceptions with their frames) some make circles, hence not never.
_THRESHOLDS = (50_000, 20, 100)


def collect_rarely() -> None:
    """Look rarely from now on, and never again at what is there. For a program that runs no code of users."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
