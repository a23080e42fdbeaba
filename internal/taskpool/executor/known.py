"""Calls of an earlier run of the program, by what they are: so that a run that goes on submits none twice.

A file beside the journal has the key of each call, in the order of the jobs. It is written before a job is submitted,
so it may have more keys than the pool has jobs, never fewer, unless power was lost: then the calls it lacks run again.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from pathlib import Path

from taskpool.executor.call import KEY_BYTES
from taskpool.messages import Outcome, State


class KnownCalls:
    """The n-th submission of the same call is the same job: calls are claimed in the order of their jobs."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises OSError."""
        # O_APPEND: `begin` reads by pread(2), which leaves the position where it is, at the start.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._by_key: defaultdict[bytes, deque[int]] = defaultdict(deque)
        self.outcomes: dict[int, Outcome] = {}  # of jobs that have ended and are not claimed yet, by number

    def begin(self, accepted: int) -> None:
        """Take what is there of the jobs that the pool has accepted; forget the rest. Raises OSError."""
        size = os.fstat(self._fd).st_size
        # A key for each job, or the next one would be taken for another's.
        os.truncate(self._fd, accepted * KEY_BYTES)
        data = os.pread(self._fd, min(size, accepted * KEY_BYTES), 0)
        for seq in range(1, len(data) // KEY_BYTES + 1):
            key = data[(seq - 1) * KEY_BYTES : seq * KEY_BYTES]
            outcome = self.outcomes.get(seq)
            # Zeros are what truncate(2) has filled up with: which call that job was is not known.
            # What was cancelled was not wanted then; where it is submitted again, it is.
            if any(key) and (outcome is None or outcome.state is not State.CANCELLED):
                self._by_key[key].append(seq)

    def claim(self, key: bytes) -> int | None:
        """Return the job that this call has from an earlier run, once; None: it has none."""
        waiting = self._by_key.get(key)
        return waiting.popleft() if waiting else None

    def add(self, keys: list[bytes]) -> None:
        """Note the calls that are submitted next. Raises OSError."""
        os.write(self._fd, b"".join(keys))

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
