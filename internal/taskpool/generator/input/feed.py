"""Where a batch's jobs come from: arguments, a file, or a pipe.

A regular file is read through once before anything runs, so that a mistake in its last line costs
nothing. A pipe is read as it comes; at a bad line reading stops, and what was read before it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache

from taskpool import limits
from taskpool.codec import encode
from taskpool.errors import UsageError
from taskpool.generator.input.lines import Lines, is_regular
from taskpool.messages import JobSpec, Limits

Source = Callable[[Iterator[bytes] | None], Iterator[JobSpec | None]]
"""Makes jobs from lines: exactly one item for each line taken, None for a line that holds no job."""

SUBMIT_HEADER_BYTES = 96  # version, tag, client, batch, first_seq and list header of a Submit


class _Asked(Exception):
    """A source wanted a line."""


class _Tripwire:
    """Lines that nobody may read."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        raise _Asked


class Feed:
    """The jobs of one batch, a frame at a time."""

    def __init__(self, source: Source, lines: Lines | None, total: int | None) -> None:
        self.total = total  # how many there will be, when that is known beforehand
        self.ended = False
        self.error: UsageError | None = None  # why it ended early
        self._lines = lines
        self._regular = lines is not None and is_regular(lines.fd)
        self._jobs = source(lines)
        self._next: JobSpec | None = None
        self._taken = 0

    @property
    def waits_for(self) -> int | None:
        """The descriptor that has to be readable before there is another job; None: no need to wait."""
        lines = self._lines
        if lines is None or self._regular or self.ended or lines.ready or self._next is not None:
            return None
        return lines.fd

    def fill(self) -> None:
        """Reads what waits on the descriptor."""
        assert self._lines is not None
        try:
            self._lines.fill()
        except UsageError as error:
            self._stop(error)

    def stop(self) -> None:
        """No more jobs are wanted."""
        self._stop(None)

    def take(self, bytes_max: int) -> list[JobSpec]:
        """The next jobs that are there and fit one message of so many bytes: at least one, if any is there."""
        room = bytes_max - SUBMIT_HEADER_BYTES
        jobs: list[JobSpec] = []
        while len(jobs) < limits.SUBMIT_JOBS_MAX and (job := self._peek()) is not None:
            room -= encoded_bytes(job)
            if jobs and room < 0:
                break
            jobs.append(job)
            self._next = None
        return jobs

    def _peek(self) -> JobSpec | None:
        """The next job, without taking it; None when it is not there yet, or never will be."""
        while self._next is None and not self.ended:
            if not self._has_line():
                break
            try:
                self._next = next(self._jobs)
            except StopIteration:
                self._stop(None)
            except UsageError as error:
                self._stop(error)
            else:
                self._count_next()
        return self._next

    def _has_line(self) -> bool:
        lines = self._lines
        if lines is None:
            return True
        while self._regular and not lines.ready and not self.ended:
            self.fill()
        return lines.ready and not self.ended

    def _count_next(self) -> None:
        if self._next is None:
            return
        self._taken += 1
        if (error := too_large(self._next, self._taken)) is not None:
            self._stop(error)

    def _stop(self, error: UsageError | None) -> None:
        if not self.ended:
            self.ended, self.error, self._next = True, error, None


def open_feed(source: Source, fd: int, name: str) -> Feed:
    """The feed of a source that may read lines from `fd`.

    Raises UsageError for what is found wrong before anything runs.
    """
    if not _reads_lines(source):
        return Feed(source, None, _count(source(None)))
    _refuse_terminal(fd, name)
    if not is_regular(fd):
        return Feed(source, Lines(fd, name), None)
    start = os.lseek(fd, 0, os.SEEK_CUR)
    total = _count(source(_whole(Lines(fd, name))))
    os.lseek(fd, start, os.SEEK_SET)
    return Feed(source, Lines(fd, name), total)


def preview(source: Source, fd: int, name: str) -> Iterator[JobSpec]:
    """Every job, read to the end, for --dry-run. Raises UsageError."""
    lines = None
    if _reads_lines(source):
        _refuse_terminal(fd, name)
        lines = _whole(Lines(fd, name))
    return (job for job in source(lines) if job is not None)


def _refuse_terminal(fd: int, name: str) -> None:
    if os.isatty(fd):
        raise UsageError(f"the jobs are to come from {name}, which is a terminal: give arguments, a file or a pipe")


def too_large(job: JobSpec, number: int) -> UsageError | None:
    """What is to be said of a job that no message can carry; None: it is fine."""
    if len(job.payload) <= limits.PAYLOAD_BYTES_MAX:
        return None
    return UsageError(
        f"job {number}: its arguments take {len(job.payload)} bytes; the most is {limits.PAYLOAD_BYTES_MAX}: "
        "pass the name of a file instead"
    )


def encoded_bytes(job: JobSpec) -> int:
    """The most that a job takes in a Submit."""
    label = 1 if job.label is None else 3 + 4 * len(job.label)
    own = 1 if job.limits is None else _limits_bytes(job.limits)
    return 8 + len(job.kind) + len(job.payload) + label + own


@lru_cache(maxsize=64)
def _limits_bytes(wanted: Limits) -> int:
    return len(encode(wanted))


def _reads_lines(source: Source) -> bool:
    """Found out by asking for the first job with nothing but a tripwire to read from."""
    try:
        next(source(_Tripwire()), None)
    except _Asked:
        return True
    return False


def _count(jobs: Iterator[JobSpec | None]) -> int:
    number = 0
    for job in jobs:
        if job is not None:
            number += 1
            if (error := too_large(job, number)) is not None:
                raise error
    return number


def _whole(lines: Lines) -> Iterator[bytes]:
    """Every line up to the end, waiting for them."""
    while not lines.ended:
        lines.fill()
        while lines.ready and not lines.ended:
            yield next(lines)
    yield from lines
