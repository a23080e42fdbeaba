"""`--joblog`: GNU parallel's job log, column for column."""

from __future__ import annotations

import os

from taskpool.clock import seconds
from taskpool.generator.output.resumable_file import ResumableFile
from taskpool.kinds import KINDS
from taskpool.messages import JobSpec, Outcome, State

HEADER = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
_STOPPED = frozenset({State.TIMED_OUT, State.CANCELLED})


class JobLog:
    """Writes one line for each job that ran. Remembers the commands of the jobs that have not ended."""

    def __init__(self, file: ResumableFile) -> None:
        self._file = file
        self._waiting: dict[int, JobSpec] = {}

    def remember(self, first_seq: int, jobs: list[JobSpec]) -> None:
        """Outcomes do not carry the command: it has to be kept here."""
        self._waiting.update(enumerate(jobs, first_seq))

    def write(self, outcome: Outcome) -> None:
        spec = self._waiting.pop(outcome.seq, None)
        if outcome.attempts:
            self._file.write(joblog_line(outcome, _command(spec, outcome)))


def joblog_line(outcome: Outcome, command: str) -> bytes:
    """One line. The host is `:`, GNU parallel's name for this one, and nothing was sent to it."""
    usage = outcome.usage
    fields = (
        str(outcome.seq),
        ":",
        f"{seconds(usage.started_wall_ns or outcome.finished_wall_ns):.3f}",
        f"{seconds(usage.run_ns):10.3f}",
        "0",
        str(_printed_bytes(outcome)),
        str(exit_value(outcome)),
        str(outcome.signal or 0),
        command.replace("\n", "\0"),  # as GNU parallel: one line must stay one line
    )
    return os.fsencode("\t".join(fields)) + b"\n"


def exit_value(outcome: Outcome) -> int:
    """The exit status; -1 for a job that was stopped; 1 for one that failed without a status."""
    if outcome.state in _STOPPED:
        return -1
    if outcome.exit_status is not None:
        return outcome.exit_status
    return 0 if outcome.state is State.SUCCEEDED or outcome.signal else 1


def _printed_bytes(outcome: Outcome) -> int:
    output = outcome.output
    if output.stdout_file is not None:
        try:
            return os.stat(output.stdout_file).st_size
        except OSError:
            return 0
    if output.stdout is not None:
        return len(output.stdout.encode())
    return len(outcome.value or b"")


def _command(spec: JobSpec | None, outcome: Outcome) -> str:
    if spec is None:  # a run that somebody asked for again
        return outcome.label or outcome.kind
    return KINDS[spec.kind].command_line(spec.payload)
