"""The pool of a self-test: started, fed, struck, and asked for its records. Nothing is judged here."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from taskpool.clock import MILLISECOND, SECOND, AwakeClock, SystemClock
from taskpool.durations import human
from taskpool.errors import ConfigurationError, ExitCode
from taskpool.generator.output.console import Console
from taskpool.generator.selftest import programs, records
from taskpool.generator.selftest.plan import WORKERS, Blow, Plan
from taskpool.generator.selftest.programs import Process
from taskpool.generator.selftest.records import Execution, Journal, Recorded
from taskpool.generator.selftest.workload import LINES, MARKS, STRUCK
from taskpool.generator.signals import raise_if_stopped
from taskpool.private.notes import private_pool_name
from taskpool.procs.signals import Wakeup

_LOOK_NS = 20 * MILLISECOND
_ASK_NS_MAX = 60 * SECOND
# Of one job. It crashes twice or times out at most fifty times; else it is run again for the few blows at dealers.
EXECUTIONS_MAX = 100


class Evidence(NamedTuple):
    """What a self-test has to be judged by."""

    exit_status: int | None  # of the generator; None: it did not end by itself
    struck: list[Blow]
    executions: list[Execution]
    told: list[Recorded]
    journal: Journal
    left: list[str]  # behind the pool's end, except for its directory
    given_up: str = ""  # why; empty: it was not
    said: str = ""  # the last line of the programs' log that is an error


class Patience(NamedTuple):
    """How long a self-test waits."""

    quiet_ns: int  # while nothing at all happens
    dealer_timeout: str | None = None  # the option, as it was typed


class Trial:
    """One run. `directory` is for the records; the pool's state lies where a pool's state lies."""

    def __init__(self, plan: Plan, batch: str, directory: Path, patience: Patience, wakeup: Wakeup) -> None:
        self.plan = plan
        self.batch = batch
        self.pool = private_pool_name(batch)
        self.directory = directory
        self._patience_ns = patience.quiet_ns
        self._dealer_timeout = patience.dealer_timeout
        self._wakeup = wakeup
        self._clock = AwakeClock(SystemClock())
        self._env = programs.environment()
        self._struck: list[Blow] = []
        self._given_up = ""
        (directory / MARKS).mkdir()
        (directory / STRUCK).mkdir()
        (directory / LINES).touch(0o600)

    def run(self, console: Console) -> Evidence:
        """Run the pool to its end. Raises ConfigurationError when it does not start, Interrupted."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            generator = self._start(reader)
        finally:
            os.close(reader)
        try:
            self._feed_and_strike(generator, writer, console)
            os.close(writer)
            writer = -1
            # What is behind its input is quick: what it waits for was struck, or is tried again.
            ended = self._await(generator, generator.has_ended, "the end of the batch")
        finally:
            if writer >= 0:
                os.close(writer)
            generator.end()
        return self._evidence(generator.status if ended else None)

    def _start(self, stdin: int) -> Process:
        words = [programs.find(programs.GENERATOR), "jobs", "-", "--batch", self.batch, "--config", "none"]
        words += ["--results", str(self._results), "--output", "json", "--progress", "none"]
        words += ["--workers", str(WORKERS), "--spares", "1"]
        if self._dealer_timeout is not None:
            words.append(f"--dealer-timeout={self._dealer_timeout}")
        # Both programs log into one file: the dealer writes to the standard error of its generator.
        return Process(words, self.directory / "printed", self._log, stdin=stdin, env=self._env)

    @property
    def _results(self) -> Path:
        return self.directory / "results"

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    # --- jobs and blows ---

    def _feed_and_strike(self, generator: Process, writer: int, console: Console) -> None:
        for each in self.plan.rounds:
            # All at once, and never waiting: a round is smaller than a pipe.
            lines = b"".join(msgspec.json.encode(job.fields) + b"\n" for job in each.jobs)
            with suppress(BrokenPipeError):  # it has ended: seen below
                os.write(writer, lines)
            if each.blow is not None and not self._strike(generator, each.blow, console):
                return

    def _strike(self, generator: Process, blow: Blow, console: Console) -> bool:
        """Let a blow fall while its victim runs; False: it never ran."""
        # Looked at and struck in one step: between the two a process could end, and its number be given away.
        found: list[int] = []

        def can_be_struck() -> bool:
            found[:] = [self._runs(blow.victim)]
            if found[0] and blow.target == "dealer":
                found[:] = [programs.child_of(generator.pid, "--private") or 0]
            return bool(found[0])

        if not self._await(generator, can_be_struck, f"job {blow.victim} to run"):
            return False
        (self.directory / STRUCK / blow.victim).touch(0o600)
        with suppress(ProcessLookupError):
            os.kill(found[0], blow.signal)
        self._struck.append(blow)
        console.detail(f"Sent {blow.signal.name} to the {blow.target}, PID {found[0]}, while {blow.victim} ran")
        return True

    def _runs(self, job: str) -> int:
        """Return the process in which a job runs; 0: it does not."""
        lines = [line for line in records.executions(self.directory) if line.job == job]
        last = lines[-1] if lines else None
        # Its process may have been lost since, with a dealer.
        return last.pid if last is not None and last.word == "start" and programs.belongs_to(last.pid, self.pool) else 0

    def _await(self, generator: Process, condition: Callable[[], bool], what: str) -> bool:
        """Wait for something; False: the generator has ended, or nothing at all has happened for too long.

        Raises Interrupted.
        """
        before, since = self._progress(), self._clock.now().mono
        while not condition():
            if generator.wait(_LOOK_NS, (self._wakeup,)):
                return condition()
            raise_if_stopped(self._wakeup)
            now = self._clock.now().mono
            if (progress := self._progress()) != before:
                before, since = progress, now
                self._given_up = self._endless()
            elif now - since > self._patience_ns:
                self._given_up = f"nothing happened for {human(self._patience_ns)} (--patience); missing: {what}"
            if self._given_up:
                return False
        return True

    def _endless(self) -> str:
        """Say which job runs again and again, which would go on for ever."""
        job, times = max(
            records.count(records.executions(self.directory), "start").items(), key=itemgetter(1), default=("", 0)
        )
        return f"job {job} is executed again and again, {times} times so far" if times > EXECUTIONS_MAX else ""

    def _progress(self) -> tuple[int, ...]:
        """Return what grows while anything happens."""
        files = (self.directory / LINES, self._results, self._log)
        return tuple(path.stat().st_size if path.exists() else 0 for path in files)

    # --- its records ---

    def _evidence(self, exit_status: int | None) -> Evidence:
        """Gather it. Raises ConfigurationError when there is none, because no pool starts here."""
        executions, journal, said = records.executions(self.directory), self._journal(), self._last_error()
        # A host on which no pool starts is for `doctor`: the product was not tested.
        if exit_status == ExitCode.ENVIRONMENT and not (executions or journal.outcomes or journal.waiting):
            raise ConfigurationError(f"the pool of the self-test did not start: {said}")
        dealers = 1 + sum(blow.target == "dealer" for blow in self._struck)
        left = programs.left_of(self.pool, dealers)
        told = records.told(self._results)
        return Evidence(exit_status, self._struck, executions, told, journal, left, self._given_up, said)

    def _journal(self) -> Journal:
        command = [programs.find(programs.DEALER), "journal"]
        status, _, said = programs.ask([*command, "check", "--pool", self.pool], self.directory, self._env, _ASK_NS_MAX)
        problem = "" if status == ExitCode.OK else f"`tp-dealer journal check` ends with {status}: {said}"
        status, data, said = programs.ask(
            [*command, "export", "--pool", self.pool], self.directory, self._env, _ASK_NS_MAX
        )
        if status != ExitCode.OK:
            problem = problem or f"`tp-dealer journal export` ends with {status}: {said}"
        return records.read_journal(data, problem)

    def forget(self) -> str:
        """Remove the pool's state; return what is wrong when something stays."""
        words = [programs.find(programs.GENERATOR), "forget", self.batch]
        status, _, said = programs.ask(words, self.directory, self._env, _ASK_NS_MAX)
        if status != ExitCode.OK:
            return f"`tp-generator forget {self.batch}` ends with {status}: {said}"
        path = programs.directory_of(self.pool)
        return f"the directory {path}" if path.exists() else ""

    def _last_error(self) -> str:
        """Return the last error in the log, with what the dealer said before."""
        lines = self._log.read_text(errors="backslashreplace").splitlines()
        last = next((at for at, line in reversed([*enumerate(lines)]) if line.startswith("tp-generator: ")), None)
        if last is None:
            return ""
        dealer = next((line for line in reversed(lines[:last]) if line.startswith(("[Dealer] ", "tp-dealer: "))), "")
        return "; ".join(filter(None, (lines[last], dealer)))


def no_core_files() -> None:
    """Have no process that is started from here leave a core file: those that are killed by SIGSEGV would."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
