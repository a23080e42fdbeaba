"""One point of the sweep: a small pool in a directory of its own, one program struck, all started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from proof import sweep_oracle as judge
from proof.sweep_stage import Process, Traced, Warm, attach, family_of, threads_of, wait_for
from proof.sweep_trace import KILL, Point, reference_options
from support.harness import program
from support.ledger import WORKLOAD, Ledger
from taskpool.procs.spawn import TEMPLATE_FLAG

BATCH = "sweep"
DISTURBED_MAX = 4  # runs of one point: other pools of this user on this host may have taken the bytes for queues ...
DISTURBED_SECONDS = 5.0  # ... and end some time
LIVES_MAX = 6  # of a dealer in one run; it is struck once
LARGE = "x" * 9000  # fits no queue: it goes through the spool, in all directions


@dataclass
class Result:
    """What one point came to."""

    key: str
    reached: bool = False
    ended: int | None = None  # how the struck program ended, if the strike ended it
    executions: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class TooLate(Exception):
    """The run has not converged within its deadline."""


class Run:
    """`point` None: the reference run, traced whole. `program` is the one that is traced."""

    def __init__(self, directory: Path, pool: str, who: str, point: Point | None, seconds: float) -> None:
        self.directory = directory
        self.pool = pool
        self.who = who
        self.point = point
        self.trace = directory / "trace"
        self.logs = directory / "printed"
        self.logs.mkdir(parents=True)
        self.ledger = Ledger(directory / "ledger")
        self.result = Result(point.key if point else f"{who} reference")
        self._env = os.environ | {"XDG_STATE_HOME": str(directory / "state")}
        self._deadline = time.monotonic() + seconds
        self._dealer: Process | None = None
        self._lives = 0
        self._generators = 0
        self._started: list[Process] = []
        self._phase = "start"
        (directory / "jobs").write_text("".join(f"{json.dumps(job)}\n" for job in self._jobs()))

    def run(self) -> Result:
        began = time.monotonic()
        try:
            self._scenario()
            self._judge()
        except TooLate:
            where = [process.tell_where() for process in self._started if isinstance(process, Warm)]
            self.result.problems.append(f"not converged in time; phase: {self._phase}; {' '.join(filter(None, where))}")
        finally:
            for process in self._started:
                process.close()
            self._clear()
        self.result.reached = self._reached()
        self.result.seconds = round(time.monotonic() - began, 2)
        return self.result

    # --- what happens ---

    def _jobs(self) -> list[dict[str, object]]:
        """Six jobs of three kinds: plain ones, one that is large on its way in and out, one that prints a lot."""
        script = str(WORKLOAD / "job.sh")
        jobs: list[dict[str, object]] = [{"kind": "fib", "n": 5, "label": "fib"}]
        for name, value in (("small", "small"), ("large", LARGE)):
            arguments = [str(self.ledger.directory), name, "", value]
            jobs.append({"kind": "python", "call": "workload:work", "args": arguments, "label": name})
            jobs[-1]["path"] = [str(WORKLOAD)]
        for name, work in (("quiet", "echo=1"), ("noisy", "print=70000")):
            jobs.append({"kind": "command", "argv": ["sh", script, str(self.ledger.directory), name, work]})
            jobs[-1]["label"] = name
        return [*jobs, {"kind": "fib", "n": 6, "label": "fib2"}]

    def _scenario(self) -> None:
        self._dealer = self._start_dealer()
        if self.who == "writer":
            self._attach_to_writer()
        self._phase = "jobs"
        while not self._good_end(self._tend(self._start_generator())):
            pass
        self._phase = "results"
        asked = self._warm(["tp-generator", "results", BATCH, "--pool", self.pool, "--output", "json"])
        code = self._tend(asked)
        if code not in judge.codes_of_batch(self._jobs_may_fail):
            self.result.problems.append(f"results: exit code {code}: {_tail(asked)}")
        self.results = asked.out
        self._answered = self._dealer
        self._phase = "leaving"
        self._leave()

    def _leave(self) -> None:
        """TERM; if it is struck on its way out, one more life must come up and leave in order."""
        while True:
            dealer = self._dealer
            assert dealer is not None
            if self._ask_to_leave(dealer) == 0:
                return
            self._note_end(dealer)
            self._dealer = self._start_dealer()

    def _ask_to_leave(self, dealer: Process) -> int | None:
        """Once it is up. Its exit code."""
        self._await(lambda: dealer is self._answered or self._said_hello(dealer) or dealer.poll() is not None)
        if dealer.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(dealer.pid, signal.SIGTERM)
        self._await(lambda: dealer.poll() is not None)
        return dealer.poll()

    def _tend(self, client: Process) -> int:
        """Wait for a client, and start the dealer again whenever it ends meanwhile."""
        while (code := client.poll()) is None:
            self._await_briefly()
            dealer = self._dealer
            if dealer is not None and dealer.poll() is not None:
                self._note_end(dealer)
                self._dealer = self._start_dealer()
        return code

    def _good_end(self, code: int) -> bool:
        """Whether the generator need not be started again."""
        generator = self._generator
        struck = self.who == "generator" and self.point is not None and self._generators == 1
        if code in judge.codes_of_batch(self._jobs_may_fail):
            return True
        if not struck or self._generators > LIVES_MAX:
            self.result.problems.append(f"generator {self._generators}: exit code {code}: {_tail(generator)}")
            return True
        self._note_strike("generator", code, generator)
        return False

    def _note_end(self, dealer: Process) -> None:
        code = dealer.poll()
        assert code is not None
        struck = self.who in ("dealer", "writer") or self._jobs_may_fail  # a worker that cannot boot ends its dealer
        if struck and self._lives == 1 and self.point is not None:
            self._note_strike("dealer", code, dealer)
        else:
            self.result.problems.append(f"dealer, life {self._lives}: ended with {code}: {_tail(dealer)}")
        if self._lives >= LIVES_MAX:
            raise TooLate

    def _note_strike(self, name: str, code: int, process: Process) -> None:
        assert self.point is not None
        self.result.ended = code
        problem = judge.ending(name, code, process.err.read_text(errors="replace"), self.point)
        if problem:
            self.result.problems.append(problem)

    # --- programs ---

    def _start_dealer(self) -> Process:
        self._lives += 1
        workers = "1" if self.who == "worker" else "2"
        words = ["tp-dealer", "--pool", self.pool, "--workers", workers, "--spares", "0", "--metrics", "none"]
        if self.who in ("worker", "template"):
            words += ["--worker-exec", self._wrapper()]
        if self.who == "dealer" and self._lives == 1:
            return self._add(Traced(self._strace(), words, self.logs, self._env))
        return self._warm(words)

    def _start_generator(self) -> Process:
        self._generators += 1
        words = ["tp-generator", "jobs", str(self.directory / "jobs"), "--pool", self.pool, "--batch", BATCH]
        words += ["--resume=or-begin", "--dealer-timeout", "60s", "--progress", "none", "--output", "json"]
        words += ["--results", str(self.directory / "kept")]
        if self.who == "generator" and self._generators == 1:
            self._generator: Process = self._add(Traced(self._strace(), words, self.logs, self._env))
        else:
            self._generator = self._warm(words)
        return self._generator

    def _wrapper(self) -> str:
        """A worker program that strikes the first worker, or the first template, of the first life only."""
        path = self.directory / "tp-worker"
        worker, options = program("tp-worker"), " ".join(self._strace())
        first, no_template = f"--epoch 1 {TEMPLATE_FLAG} ", ""
        if self.who == "worker":
            first, no_template = "--epoch 1 --incarnation 1 ", f"*{TEMPLATE_FLAG}*) exit 2;; "
        path.write_text(
            "#!/bin/sh\n"
            f'case "$*" in {no_template}*"{first}"*) exec strace -D {options} {worker} "$@";; esac\n'
            f'exec {worker} "$@"\n'
        )
        path.chmod(0o700)
        return str(path)

    def _attach_to_writer(self) -> None:
        dealer = self._dealer
        assert dealer is not None
        self._await(lambda: threads_of(dealer.pid) or dealer.poll() is not None)
        for tid in threads_of(dealer.pid)[:1]:
            self._tracer = attach(self._strace(), tid, self.logs)

    def _strace(self) -> list[str]:
        options = self.point.strace(self.directory, self.pool) if self.point else reference_options()
        return ["-o", str(self.trace), *options]

    def _warm(self, words: list[str]) -> Process:
        return self._add(Warm(words, self.logs, self._env))

    def _add(self, process: Process) -> Process:
        self._started.append(process)
        return process

    # --- waiting and judging ---

    def _said_hello(self, dealer: Process) -> bool:
        return re.search(rb"Pool \S+, epoch \d", dealer.err.read_bytes()) is not None

    def _await(self, condition: Callable[[], object]) -> None:
        if not wait_for(condition, max(0.0, self._deadline - time.monotonic())):
            raise TooLate

    def _await_briefly(self) -> None:
        if time.monotonic() > self._deadline:
            raise TooLate
        time.sleep(0.004)

    @property
    def _jobs_may_fail(self) -> bool:
        """An error inside a worker may be that of the job it runs."""
        return self.who == "worker" and self.point is not None and self.point.fault != KILL

    def _judge(self) -> None:
        checked = self._warm(["tp-dealer", "journal", "check", "--pool", self.pool])
        self._await(lambda: checked.poll() is not None)
        if checked.poll() != 0:
            self.result.problems.append(f"journal check: {checked.poll()} {checked.out.read_text()} {_tail(checked)}")
        problems = judge.outcomes(self.results, self.ledger, may_fail=self._jobs_may_fail)
        problems += judge.kept(self.directory / "kept", self.results)
        problems += judge.tracebacks(self.logs)
        left = judge.queues_of(self.pool)
        if self.point is not None and self.point.call == "mq_unlink" and self.point.fault != KILL:
            left = []  # the name stays because its removal was refused
        if not wait_for(lambda: not family_of(self.pool, self.directory), 3):
            left += [f"process {pid}" for pid in family_of(self.pool, self.directory)]
        self.result.problems += problems + [f"left behind: {each}" for each in left]
        self.result.executions = sum(self.ledger.jobs("start").values())

    def _reached(self) -> bool:
        if self.point is None:
            return True
        with suppress(OSError):
            calls = self.trace.read_text(errors="replace").count(f"{self.point.call}(")
            return calls >= self.point.when
        return False

    def _clear(self) -> None:
        for pid in family_of(self.pool, self.directory):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        judge.queues_of(self.pool)


def run_point(base: Path, pool: str, point: Point, seconds: float) -> Result:
    """One point. Its directory stays when something was wrong."""
    result = Result(point.key)
    for attempt in range(DISTURBED_MAX):
        directory = base / f"{pool}{'x' * attempt}"
        result = Run(directory, directory.name, point.program, point, seconds).run()
        if not result.problems:
            shutil.rmtree(directory, ignore_errors=True)
        if not result.problems or not _disturbed(directory, point):
            return result
        time.sleep(DISTURBED_SECONDS)
    return result


def _disturbed(directory: Path, point: Point) -> bool:
    """Whether a limit that is shared with others was hit, and not by us."""
    if point.fault == "EMFILE":
        return False
    said = (path.read_text(errors="replace") for path in (directory / "printed").glob("*.err"))
    return any("bytes of RLIMIT_MSGQUEUE, which is" in text for text in said)


def run_reference(base: Path, pool: str, who: str, seconds: float) -> tuple[Path, Path, Result]:
    """The run without a fault: its trace, its directory, and what it came to."""
    run = Run(base / pool, pool, who, None, seconds)
    result = run.run()
    return run.trace, run.directory, result


def _tail(process: Process) -> str:
    return process.err.read_text(errors="replace")[-600:].strip()
