"""A file of lines that is written anew, or goes on where an earlier run of the batch was killed."""

from __future__ import annotations

import os
from collections import deque

from taskpool.errors import ConfigurationError, UsageError
from taskpool.limits import OUTCOMES_IN_FLIGHT_MAX

_AGAIN_LINES_MAX = 2 * OUTCOMES_IN_FLIGHT_MAX  # written, and not acknowledged before the run was killed


class ResumableFile:
    """Lines in the order in which they are written. They wait in memory until `flush`.

    What the file holds is untouched until `begin`: a run that is refused must not cost what an earlier one wrote.

    With `append`, what the end of the file already has is not written again: an earlier run that was killed after
    it wrote and before it acknowledged gets the same outcomes, and with them the same lines, once more. A last line
    without its end was never acknowledged either, and goes.
    """

    def __init__(self, name: str, *, append: bool) -> None:
        """Raises UsageError."""
        self.name = name
        self._append = append
        self._again: set[bytes] = set()
        self._regular = os.path.isfile(name) or not os.path.exists(name)
        how, mode = (os.O_RDWR, "r+b") if self._regular else (os.O_WRONLY, "wb")
        try:
            self._file = open(os.open(name, how | os.O_CREAT | os.O_CLOEXEC, 0o666), mode)  # noqa: SIM115 - see close
        except OSError as error:
            raise UsageError(f"cannot write {name}: {error.strerror}") from error

    def begin(self, header: bytes = b"") -> None:
        """From here on there is something to write; `header` for a file without content. Raises ConfigurationError."""
        try:
            if self._regular and self._append:
                self._go_on()
            elif self._regular:
                self._file.truncate(0)
            if not self._regular or self._file.tell() == 0:
                self._file.write(header)
        except OSError as error:
            raise ConfigurationError(f"cannot write {self.name}: {error.strerror}") from error

    def write(self, line: bytes) -> None:
        """One line, with its end. Raises OSError."""
        if line in self._again:
            self._again.discard(line)
        else:
            self._file.write(line)

    def flush(self) -> None:
        """Raises OSError."""
        self._file.flush()

    def close(self) -> None:
        """May be called twice. Raises OSError."""
        self._file.close()

    def _go_on(self) -> None:
        last = deque(self._file, _AGAIN_LINES_MAX)
        if last and not last[-1].endswith(b"\n"):
            self._file.seek(-len(last.pop()), os.SEEK_END)
            self._file.truncate()
        self._file.seek(0, os.SEEK_END)
        self._again.update(last)
