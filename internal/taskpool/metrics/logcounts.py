"""How many log messages were written, by level."""

from __future__ import annotations

import logging

LEVELS = ("debug", "info", "warning", "error")


class LogCounts(logging.Filter):
    """Hung onto a logger, it counts what passes and lets all of it pass."""

    def __init__(self) -> None:
        super().__init__()
        self.by_level = dict.fromkeys(LEVELS, 0)

    def filter(self, record: logging.LogRecord) -> bool:
        level = record.levelname.lower()
        self.by_level[level if level in self.by_level else "error"] += 1
        return True
