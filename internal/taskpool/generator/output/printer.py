"""Where outcomes go: standard output and error, the results file, the job log."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from taskpool.errors import ConfigurationError
from taskpool.generator.output.formats import one_line, to_json
from taskpool.generator.output.joblog import HEADER, JobLog
from taskpool.generator.output.keep_order import KeepOrder
from taskpool.generator.output.resumable_file import ResumableFile
from taskpool.generator.output.stream import OutputStream, Piece
from taskpool.kinds import KINDS
from taskpool.messages import JobSpec, Outcome

Form = Literal["value", "json"]
OUT, ERR = 1, 2


class Printer:
    """Takes a batch's outcomes and writes what was asked for, without waiting for slow readers."""

    def __init__(
        self,
        batch: str,
        form: Form,
        *,
        keep_order: bool = False,
        results: str | None = None,
        joblog: str | None = None,
        append: bool = False,
    ) -> None:
        """`append`: to the two files, because an earlier run of the batch has begun them. Raises UsageError."""
        self._batch = batch
        self._form: Form = form
        self._order = KeepOrder() if keep_order else None
        self._flows = {OUT: OutputStream(OUT), ERR: OutputStream(ERR)}
        self._files: list[ResumableFile] = []
        self._results = self._open(results, append)
        log = self._open(joblog, append)
        self._joblog_file = log
        self._joblog = None if log is None else JobLog(log)
        self.referred: set[Path] = set()  # files of output that an outcome object written here points to

    @property
    def idle(self) -> bool:
        """Everything taken so far is out of our hands, as far as it is due."""
        return all(flow.idle for flow in self._flows.values())

    @property
    def congested(self) -> bool:
        """Somebody reads so slowly that no more outcomes should be taken."""
        return any(flow.congested for flow in self._flows.values())

    @property
    def on_terminal(self) -> bool:
        """What is about to be written shows where the human looks."""
        return any(flow.terminal and not flow.idle for flow in self._flows.values())

    @property
    def writable(self) -> list[int]:
        """The descriptors to wait on for room."""
        return [flow.fd for flow in self._flows.values() if not flow.idle]

    def begin(self) -> None:
        """The batch is ours to run: what the files held is written over, or gone on with. Raises ConfigurationError."""
        for file in self._files:
            file.begin(HEADER if file is self._joblog_file else b"")

    def remember(self, first_seq: int, jobs: list[JobSpec]) -> None:
        """These jobs were submitted, with these numbers."""
        if self._joblog is not None:
            self._joblog.remember(first_seq, jobs)

    def skip(self, seq: int) -> None:
        """An earlier run has printed this job."""
        if self._order is not None:
            self._put(self._order.put(seq, []))

    def take(self, outcome: Outcome) -> None:
        """Raises ConfigurationError when a file cannot be written."""
        record = to_json(self._batch, outcome) if self._results is not None or self._form == "json" else b""
        if record:
            self._refer(outcome)
        try:
            if self._results is not None:
                self._results.write(record)
            if self._joblog is not None:
                self._joblog.write(outcome)
        except OSError as error:
            raise self._unwritable(error) from error
        pieces = [Piece(OUT, record)] if self._form == "json" else value_pieces(outcome)
        self._put(pieces if self._order is None else self._order.put(outcome.seq, pieces))

    def announce(self, batch: str) -> None:
        """Prints the batch's id, on a line."""
        self._flows[OUT].put(batch.encode() + b"\n")

    def pump(self) -> None:
        """Writes what can be written without waiting. Raises OutputClosed, ConfigurationError."""
        try:
            for file in self._files:
                file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        for flow in self._flows.values():
            flow.pump()

    def release(self) -> None:
        """No outcome comes any more: what --keep-order holds back is printed as it is."""
        if self._order is not None:
            self._put(self._order.rest())

    def close(self) -> None:
        """Closes the files. May be called twice."""
        if self._order is not None:
            self._order.close()
        for file in self._files:
            with suppress(OSError):  # an error of this kind was told by `pump` before
                file.close()

    def _open(self, name: str | None, append: bool) -> ResumableFile | None:
        if name is None:
            return None
        file = ResumableFile(name, append=append)
        self._files.append(file)
        return file

    def _put(self, pieces: Iterable[Piece]) -> None:
        for stream, content in pieces:
            self._flows[stream].put(content)

    def _refer(self, outcome: Outcome) -> None:
        for name in (outcome.output.stdout_file, outcome.output.stderr_file):
            if name is not None:
                self.referred.add(Path(name))

    def _unwritable(self, error: OSError) -> ConfigurationError:
        names = ", ".join(file.name for file in self._files)
        return ConfigurationError(f"cannot write {names}: {error.strerror}")


def value_pieces(outcome: Outcome) -> list[Piece]:
    """What a job prints when no objects are asked for.

    A program's own two streams; for jobs inside a worker their value is the output, and what they printed
    on the way is for the human.
    """
    kind = KINDS.get(outcome.kind)
    inside = kind is None or kind.in_process
    pieces: list[Piece] = []
    if inside and outcome.value is not None:
        pieces.append(Piece(OUT, one_line(outcome.value) + b"\n"))
    output = outcome.output
    for stream, text, name in ((OUT, output.stdout, output.stdout_file), (ERR, output.stderr, output.stderr_file)):
        pieces += stream_pieces(ERR if inside else stream, text, name)
    return pieces


def stream_pieces(stream: int, text: str | None, name: str | None) -> list[Piece]:
    """What a job wrote to one of its streams, for one of ours: its text, or the name of the file that holds it."""
    if name is not None:
        return [Piece(stream, Path(name))]
    return [Piece(stream, text.encode())] if text else []
