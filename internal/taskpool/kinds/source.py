"""Where the jobs of one command line come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from taskpool.messages import JobSpec

STDIN = 0

MakeJobs = Callable[[Iterator[bytes]], Iterator[JobSpec | None]]


class Cutter(Protocol):
    """Cuts what is read into pieces that need not be lines. Raises UsageError."""

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Take what comes next; give the pieces that it completes."""

    def end(self) -> Iterable[bytes]:
        """Give what is left."""


class Source(NamedTuple):
    """Jobs, and the file whose lines they are made of."""

    make_jobs: MakeJobs
    """Gives exactly one item for each line taken, None for a line that holds no job. Raises UsageError at once for
    what is wrong before the first line. May be called again, with the same lines."""
    fd: int | None = None  # None: made of no lines
    name: str = ""  # of the file, for errors
    delimiter: bytes = b"\n"  # what ends a line
    expands: bool = False
    """Whether a line may make several jobs, or be one of several that make a job. Then None among the items says that
    the next one takes a line, and any other that it takes none."""
    multiplies: bool = False  # there may be far more jobs than lines and arguments
    cutter: Callable[[], Cutter] | None = None  # makes what takes the place of `delimiter`
    reads_stdin: bool = False  # as another of its inputs, to its end, before anything is made
