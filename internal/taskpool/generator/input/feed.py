"""Where a batch's jobs come from: arguments, a file, or a pipe.

What can be read twice, arguments and regular files, is checked to its end before anything runs, so that a mistake in
the last line costs nothing. A pipe is read as it comes; at a bad line reading stops, and what was read before it runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from taskpool import limits
from taskpool.client.submissions import SUBMIT_HEADER_BYTES, encoded_bytes
from taskpool.errors import UsageError
from taskpool.generator.input.lines import Lines, is_regular
from taskpool.kinds.source import Source
from taskpool.messages import JobSpec

KEPT_BYTES_MAX = 32 * 1024 * 1024  # what may be kept of the jobs that were checked; of more, each is made again
_JOB_OBJECT_BYTES = 256  # of memory, beside its payload and label


class Feed:
    """The jobs of one batch, a frame at a time."""

    def __init__(
        self, jobs: Iterator[JobSpec | None], lines: Lines | None, total: int | None, *, expands: bool = False
    ) -> None:
        """`lines` are those that `jobs` takes, None when none has to be read for them. `expands`: as in Source."""
        self.total = total  # how many there will be, when that is known beforehand
        self.ended = False
        self.error: UsageError | None = None  # why it ended early
        self._lines = lines
        self._regular = lines is not None and is_regular(lines.fd)
        self._jobs = jobs
        self._expands = expands
        self._takes_line = lines is not None  # the next item does
        self._next: JobSpec | None = None
        self._taken = 0

    @classmethod
    def ended_before(cls) -> Feed:
        """Return a feed without jobs: the pool has all of them."""
        feed = cls(iter(()), None, None)
        feed.stop()
        return feed

    @property
    def waits_for(self) -> int | None:
        """Give the descriptor that has to be readable before there is another job; None: no need to wait."""
        lines = self._lines
        if lines is None or self._regular or self.ended or lines.ready or self._next is not None:
            return None
        if not self._takes_line:
            return None
        return lines.fd

    def fill(self) -> None:
        """Read what waits on the descriptor."""
        assert self._lines is not None
        try:
            self._lines.fill()
        except UsageError as error:
            self._stop(error)

    def stop(self) -> None:
        """End the feed: no more jobs are wanted."""
        self._stop(None)

    def take(self, bytes_max: int) -> list[JobSpec]:
        """Take the next jobs that are there and fit one message of so many bytes: at least one, if any is there."""
        room = bytes_max - SUBMIT_HEADER_BYTES
        jobs: list[JobSpec] = []
        while len(jobs) < limits.SUBMIT_JOBS_MAX and (job := self._peek()) is not None:
            room -= encoded_bytes(job)
            if jobs and room < 0:  # a job that fits no message goes alone, through the spool
                break
            jobs.append(job)
            self._next = None
        return jobs

    def _peek(self) -> JobSpec | None:
        """Give the next job, without taking it; None when it is not there yet, or never will be."""
        while self._next is None and not self.ended:
            if self._takes_line and not self._has_line():
                break
            try:
                self._next = next(self._jobs)
            except StopIteration:
                self._stop(None)
            except UsageError as error:
                self._stop(error)
            else:
                self._takes_line = self._lines is not None and (self._next is None or not self._expands)
                self._count_next()
        return self._next

    def _has_line(self) -> bool:
        """Whether the next job can be made now. A regular file is read for it: that never waits for long."""
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


def open_feed(source: Source) -> Feed:
    """Open the feed of a source. Raises UsageError for what is found wrong before anything runs."""
    if source.fd is None:
        kept, total = _read_ahead(source.make_jobs(iter(())), to_end=not source.multiplies)
        return Feed(source.make_jobs(iter(())) if kept is None else iter(kept), None, total)
    lines = _lines_of(source)
    jobs = source.make_jobs(lines)  # wrong arguments are told before a terminal is
    _refuse_terminal(source.fd, source.name)
    if not is_regular(source.fd):
        return Feed(jobs, lines, None, expands=source.expands)
    start = os.lseek(source.fd, 0, os.SEEK_CUR)  # a shell may have read the first lines of what it hands on
    whole = _whole(_lines_of(source))
    kept, total = _read_ahead(source.make_jobs(whole), to_end=not source.multiplies)
    if kept is not None:
        return Feed(iter(kept), None, total)
    os.lseek(source.fd, start, os.SEEK_SET)
    return Feed(jobs, lines, total, expands=source.expands)


def preview(source: Source) -> Iterator[JobSpec]:
    """Make every job, read to the end, for --dry-run. Raises UsageError."""
    lines: Iterator[bytes] = iter(()) if source.fd is None else _whole(_lines_of(source))
    jobs = source.make_jobs(lines)
    if source.fd is not None:
        _refuse_terminal(source.fd, source.name)
    return (job for job in jobs if job is not None)


def _lines_of(source: Source) -> Lines:
    assert source.fd is not None
    return Lines(source.fd, source.name, source.delimiter, None if source.cutter is None else source.cutter())


def _refuse_terminal(fd: int, name: str) -> None:
    # A command that sits and waits for typed lines looks like one that hangs.
    if os.isatty(fd):
        raise UsageError(f"the jobs are to come from {name}, which is a terminal: give arguments, a file or a pipe")


def too_large(job: JobSpec, number: int) -> UsageError | None:
    """Give the error for a job that no message can carry; None: it is fine."""
    if len(job.payload) <= limits.PAYLOAD_BYTES_MAX:
        return None
    return UsageError(
        f"job {number}: its arguments take {len(job.payload)} bytes; the most is {limits.PAYLOAD_BYTES_MAX}: "
        "pass the name of a file instead"
    )


def _read_ahead(jobs: Iterator[JobSpec | None], *, to_end: bool) -> tuple[list[JobSpec] | None, int | None]:
    """Check and count all jobs. Returns them too, or None when they are too many to be kept. Raises UsageError.

    Without `to_end`, those that are too many to be kept are neither checked nor counted.
    """
    kept: list[JobSpec] | None = []
    room = KEPT_BYTES_MAX
    number = 0
    for job in jobs:
        if job is None:
            continue
        number += 1
        if (error := too_large(job, number)) is not None:
            raise error
        room -= encoded_bytes(job) + _JOB_OBJECT_BYTES
        if kept is not None:
            kept.append(job)
        if room < 0:
            # A file of any size has to fit: from here on only the count is of use, and each job is made once more.
            kept = None
            if not to_end:
                return None, None
    return kept, number


def _whole(lines: Lines) -> Iterator[bytes]:
    """Give every line up to the end, waiting for them."""
    while not lines.ended:
        lines.fill()
        while lines.ready and not lines.ended:
            yield next(lines)
    yield from lines
