"""A file of lines that is written anew, or goes on where an earlier run of the batch was killed."""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import closing, suppress

from taskpool.errors import ConfigurationError, UsageError
from taskpool.generator.output.stream import OutputClosed, OutputStream, write_out
from taskpool.limits import OUTCOMES_IN_FLIGHT_MAX
from taskpool.procs.writer import STUCK_NS, never_blocks

# Written and not acknowledged before the run was killed: at most what was in flight, with room to spare.
_AGAIN_LINES_MAX = 2 * OUTCOMES_IN_FLIGHT_MAX


class ResumableFile:
    """Lines in the order in which they are written. They wait in memory until `flush`.

    With `append`, a line that the end of the file already has is not written again.
    """

    def __init__(self, name: str, *, append: bool) -> None:
        """Open the file and leave what it holds until `begin`. Raises UsageError."""
        # Opened before the jobs are submitted, so that a path that cannot be written is refused before anything runs.
        self.name = name
        self._append = append
        self._again: set[bytes] = set()
        self._regular = os.path.isfile(name) or not os.path.exists(name)
        how, mode = (os.O_RDWR, "r+b") if self._regular else (os.O_WRONLY, "wb")
        try:
            self._file = open(os.open(name, how | os.O_CREAT | os.O_CLOEXEC, 0o666), mode)  # noqa: SIM115 - see close
        except OSError as error:
            raise UsageError(f"cannot write {name}: {error.strerror}") from error
        # A pipe or a terminal, whose reader is not waited for.
        self.stream = None if never_blocks(self._file.fileno()) else OutputStream(self._file.fileno())

    def begin(self, header: bytes = b"") -> None:
        """Make the file ready for lines; `header` is for one without content. Raises ConfigurationError."""
        # Only now is it emptied: a run that is refused must not cost what an earlier one wrote.
        try:
            if self._regular and self._append:
                self._go_on()
            elif self._regular:
                self._file.truncate(0)
            if not self._regular or self._file.tell() == 0:
                self._put(header)
        except OSError as error:
            raise ConfigurationError(f"cannot write {self.name}: {error.strerror}") from error

    def write(self, line: bytes) -> None:
        """Add one line, with its end. Raises OSError."""
        # A run that was killed after it wrote and before it acknowledged is sent the same outcomes once more, and they
        # make the same lines.
        if line in self._again:
            self._again.discard(line)
        else:
            self._put(line)

    def flush(self) -> None:
        """Hand the lines to the kernel, to a reader those for which it has room. Raises OSError, ConfigurationError."""
        if self.stream is None:
            self._file.flush()
            return
        try:
            self.stream.pump()
        except OutputClosed as error:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error

    def close(self) -> None:
        """Write what waits, unless its reader is stuck, and close the file. May be called twice. Raises OSError."""
        if self.stream is not None and not self._file.closed:
            with suppress(OutputClosed, ConfigurationError), closing(self.stream):  # `flush` has raised it before
                write_out(self.stream, stuck_ns=STUCK_NS)
        self._file.close()

    def _put(self, data: bytes) -> None:
        if self.stream is None:
            self._file.write(data)
        else:
            self.stream.put(data)

    def _go_on(self) -> None:
        last = deque(self._file, _AGAIN_LINES_MAX)
        # A last line without its end was cut off by a kill; its outcome was not acknowledged, and comes again whole.
        if last and not last[-1].endswith(b"\n"):
            self._file.seek(-len(last.pop()), os.SEEK_END)
            self._file.truncate()
        self._file.seek(0, os.SEEK_END)
        self._again.update(last)
