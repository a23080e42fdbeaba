"""The one error of a side of a comparison."""

from __future__ import annotations


class Wrong(Exception):
    """A side gave a wrong result, not all results, or none in time: it has no figure."""
