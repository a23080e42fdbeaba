"""Where outcomes go: standard output and error, the results file, the job log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from taskpool.errors import ConfigurationError
from taskpool.generator.failures import describe
from taskpool.generator.output.formats import JOBLOG_HEADER, JobLog, one_line, to_json
from taskpool.generator.output.keep_order import KeepOrder
from taskpool.generator.output.output_dir import OutputDirectory
from taskpool.generator.output.resumable_file import ResumableFile
from taskpool.generator.output.stream import OutputStream, Piece, tagged
from taskpool.kinds import KINDS
from taskpool.messages import JobSpec, Outcome

# Of standard output. tagged: as value, and each line begins with the job's label; failure: a line for a person, of jobs
# that failed.
Form = Literal["value", "tagged", "json", "failure"]
OUT, ERR = 1, 2
_LOG = 3  # the job log, as a stream of pieces


class Files(NamedTuple):
    """Which files are written beside standard output, by their paths; None: it is not."""

    results: str | None = None
    joblog: str | None = None
    output_dir: str | None = None
    append: bool = False  # an earlier run of the batch has begun them
    links: bool = False  # see OutputDirectory


_NO_FILES = Files()


class Printer:
    """Takes a batch's outcomes and writes what was asked for, without waiting for slow readers."""

    def __init__(self, batch: str, form: Form, *, keep_order: bool = False, files: Files = _NO_FILES) -> None:
        """Open the files. Raises UsageError."""
        self._batch = batch
        self._form: Form = form
        self._order = KeepOrder() if keep_order else None
        self._streams = {OUT: OutputStream(OUT), ERR: OutputStream(ERR)}
        self._files: list[ResumableFile] = []
        # All are opened even if the batch turns out to be refused: opening changes none (see `begin`).
        self._folders: OutputDirectory | None = None
        if files.output_dir is not None:
            self._folders = OutputDirectory(files.output_dir, batch, append=files.append, links=files.links)
        self._results = self._open(files.results, files.append)
        log = self._open(files.joblog, files.append)
        self._joblog_file = log
        self._joblog = None if log is None else JobLog()
        # Files of jobs' output that an outcome object written here names: they must stay when the pool's state goes.
        self.referenced_files: set[Path] = set()
        self._files_due: list[Path] = []  # those whose content was queued

    @property
    def idle(self) -> bool:
        """Whether all that is due of the outcomes taken so far is written, so that they may be acknowledged."""
        return all(stream.idle for stream in self._unread())

    @property
    def congested(self) -> bool:
        """Whether a reader is so slow that no more outcomes should be taken."""
        return any(stream.congested for stream in self._unread())

    @property
    def on_terminal(self) -> bool:
        """Whether what is about to be written shows on a terminal."""
        return any(stream.terminal and not stream.idle for stream in self._streams.values())

    @property
    def pending(self) -> int:
        """How many bytes wait for readers."""
        return sum(stream.pending for stream in self._unread())

    @property
    def waits_for(self) -> list[int]:
        """The descriptors of which one is readable when `pump` has something to do."""
        return [fd for stream in self._unread() for fd in stream.waits_for]

    def begin(self) -> None:
        """Begin to write: the files are emptied, or gone on with. Raises ConfigurationError."""
        for file in self._files:
            file.begin(JOBLOG_HEADER if file is self._joblog_file else b"")
        if self._folders is not None:
            self._folders.begin()

    def remember(self, first_seq: int, jobs: list[JobSpec]) -> None:
        """Note jobs that were submitted with these numbers, for the job log."""
        if self._joblog is not None:
            self._joblog.remember(first_seq, jobs)

    def recall(self, outcome: Outcome) -> None:
        """Take an outcome that an earlier run has acknowledged. It has written it, unless --keep-order held it back."""
        if self._order is not None:
            record = to_json(self._batch, outcome) if self._form == "json" else b""
            self._order.recall(outcome.seq, [*self._log_pieces(outcome), *self._pieces(outcome, record)])

    def take(self, outcome: Outcome) -> None:
        """Write an outcome's lines and queue its output. Raises ConfigurationError when a file cannot be written."""
        # Encoded once for the file and the screen, and not at all when neither wants it.
        record = to_json(self._batch, outcome) if self._results is not None or self._form == "json" else b""
        if record:
            self.note_files(outcome)
        try:
            if self._results is not None:
                self._results.write(record)
            if self._folders is not None:
                self._folders.write(outcome)
            # Results get outcomes as they come: programs read them. What people read is ordered.
            pieces = [*self._log_pieces(outcome), *self._pieces(outcome, record)]
            self._put(pieces if self._order is None else self._order.put(outcome.seq, pieces))
        except OSError as error:
            raise self._unwritable(error) from error

    def note_files(self, outcome: Outcome) -> None:
        """Count the files of an outcome's output among those that written objects name."""
        for name in (outcome.output.stdout_file, outcome.output.stderr_file):
            if name is not None:
                self.referenced_files.add(Path(name))

    def take_printed_files(self) -> list[Path]:
        """Return, once, the files whose content was queued. When this object is idle, all of it is written."""
        printed, self._files_due = self._files_due, []
        return printed

    def announce(self, batch: str) -> None:
        """Queue the batch's id as a line of standard output."""
        self._streams[OUT].put(batch.encode() + b"\n")

    def pump(self) -> None:
        """Write what can be written without waiting. Raises OutputClosed, ConfigurationError."""
        # Files first: when standard output is closed, they still have what was taken.
        try:
            for file in self._files:
                file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        for stream in self._streams.values():
            stream.pump()

    @property
    def held(self) -> int:
        """How many jobs' outcomes --keep-order holds back."""
        return 0 if self._order is None else self._order.held

    def release_held(self) -> None:
        """Queue what --keep-order holds back, because no run prints it in its turn."""
        if self._order is not None:
            try:
                self._put(self._order.remaining())
            except OSError as error:
                raise self._unwritable(error) from error

    def close(self) -> None:
        """Close the files, and write no more. May be called twice."""
        for stream in self._streams.values():
            stream.close()
        if self._order is not None:
            self._order.close()
        for file in self._files:
            with suppress(OSError):  # an error of this kind was raised by `pump` before
                file.close()

    def _open(self, name: str | None, append: bool) -> ResumableFile | None:
        if name is None:
            return None
        file = ResumableFile(name, append=append)
        self._files.append(file)
        return file

    def _unread(self) -> Iterator[OutputStream]:
        """Everything that may have to wait for a reader."""
        yield from self._streams.values()
        yield from (file.stream for file in self._files if file.stream is not None)

    def _pieces(self, outcome: Outcome, record: bytes) -> list[Piece]:
        if self._form == "json":
            return [Piece(OUT, record)]
        if self._form == "failure":
            return [Piece(OUT, f"{describe(outcome)}\n".encode(errors="backslashreplace"))]
        pieces = value_pieces(outcome)
        return _tagged(pieces, outcome) if self._form == "tagged" else pieces

    def _log_pieces(self, outcome: Outcome) -> list[Piece]:
        line = None if self._joblog is None else self._joblog.line(outcome)
        return [] if line is None else [Piece(_LOG, line)]

    def _put(self, pieces: Iterable[Piece]) -> None:
        for stream, content, tag in pieces:
            if stream == _LOG:
                assert self._joblog_file is not None and isinstance(content, bytes)
                self._joblog_file.write(content)
                continue
            self._streams[stream].put(content, tag)
            if isinstance(content, Path):
                self._files_due.append(content)

    def _unwritable(self, error: OSError) -> ConfigurationError:
        folders = [] if self._folders is None else [self._folders.path]
        names = ", ".join([*(file.name for file in self._files), *folders])
        return ConfigurationError(f"cannot write {names}: {error.strerror}")


def value_pieces(outcome: Outcome) -> list[Piece]:
    """Return what a job prints when no objects are asked for: a program's own two streams, or a job's value."""
    # The value of a job inside a worker is its output. What it printed on the way goes to standard error: on standard
    # output it would stand between the values that another program reads.
    kind = KINDS.get(outcome.kind)  # None: the dealer is newer and has a kind that this program lacks
    inside = kind is None or kind.in_process
    pieces: list[Piece] = []
    if inside and outcome.value is not None:
        pieces.append(Piece(OUT, one_line(outcome.value) + b"\n"))
    output = outcome.output
    for stream, text, name in ((OUT, output.stdout, output.stdout_file), (ERR, output.stderr, output.stderr_file)):
        pieces += stream_pieces(ERR if inside else stream, text, name)
    return pieces


def _tagged(pieces: list[Piece], outcome: Outcome) -> list[Piece]:
    tag = f"{outcome.label or ''}\t".encode()
    return [
        Piece(stream, content, tag) if isinstance(content, Path) else Piece(stream, tagged(content, tag))
        for stream, content, _ in pieces
    ]


def stream_pieces(stream: int, text: str | None, name: str | None) -> list[Piece]:
    """Return what a job wrote to one of its streams, for one of ours: its text, or the file that holds it."""
    if name is not None:
        return [Piece(stream, Path(name))]
    return [Piece(stream, text.encode())] if text else []
