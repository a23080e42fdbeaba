"""The chaos run: a journaled pool whose dealer, workers and generators are killed at random instants.

Three generators submit to one pool. What is killed is started again, the dealer by a loop as a service manager
would, a generator with the same command and --resume. At the end the ledger that the jobs wrote, and what the pool
says when it is asked for everything once more, are compared.

    make chaos JOBS=10000 DEALER_KILLS=200 WORKER_KILLS=2000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM, default_int_handler, signal
from typing import Any

from support.harness import children_of, kill, program, templates_of, workers_of
from support.ledger import WORKLOAD, Ledger

GENERATORS = 3
WORKERS = 4
DEALER_WAIT = "120s"  # how long a generator waits for a dealer that is being killed all the time


@dataclass
class Plan:
    """How much happens. The instants are drawn from the seed; which process is hit at them is the machine's choice."""

    jobs: int
    dealer_kills: int
    worker_kills: int
    generator_kills: int
    seed: int
    job_seconds: float = 0.02


@dataclass
class Audit:
    """What the run comes to, in Jepsen's words."""

    attempted: int = 0
    accepted: int = 0  # their generators were told
    unknown: int = 0  # not recorded, and their generators were never told whether they were accepted
    done: int = 0
    lost: int = 0
    recorded_twice: int = 0
    overlapping: int = 0
    executed_more_than_once: int = 0
    executions: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        facts = {name: value for name, value in vars(self).items() if name != "problems"}
        return "\n".join(f"{name.replace('_', ' '):>24}: {value}" for name, value in facts.items())


class Chaos:
    """One run, in a directory of its own."""

    def __init__(self, plan: Plan, pool: str, directory: Path) -> None:
        self.plan = plan
        self.pool = pool
        self.directory = directory
        self.ledger = Ledger(directory / "ledger")
        self._random = random.Random(plan.seed)
        self._env = os.environ | {"XDG_STATE_HOME": str(directory / "state")}
        self._over = threading.Event()
        self._dealer: subprocess.Popen[bytes] | None = None
        self._generators: list[subprocess.Popen[bytes] | None] = [None] * GENERATORS
        self._kills: Counter[str] = Counter()
        self._codes: dict[int, int] = {}

    # --- the run ---

    def run(self, deadline_seconds: float) -> Audit:
        """Everything, from the first start to the audit."""
        began = time.monotonic()
        shares = self._write_jobs()
        threads = [threading.Thread(target=self._keep_dealer)]
        threads += [threading.Thread(target=self._keep_generator, args=(n, shares[n])) for n in range(GENERATORS)]
        for thread in threads:
            thread.start()
        try:
            self._kill_at_random(began + deadline_seconds)
            for thread in threads[1:]:
                thread.join(max(1.0, began + deadline_seconds - time.monotonic()))
            stuck = [n for n in range(GENERATORS) if n not in self._codes]
            audit = self._judge(shares)
            audit.problems += [f"generator {n} did not end in time" for n in stuck]
        finally:
            self._stop(threads)
        audit.seconds = round(time.monotonic() - began, 1)
        return audit

    def _write_jobs(self) -> list[list[str]]:
        """Each generator's jobs; a job's name is unique over all of them."""
        shares: list[list[str]] = [[] for _ in range(GENERATORS)]
        for number in range(self.plan.jobs):
            shares[number % GENERATORS].append(f"j{number}")
        for n, names in enumerate(shares):
            lines = (json.dumps(self._job(name)) for name in names)
            (self.directory / f"jobs{n}").write_text("".join(f"{line}\n" for line in lines))
        return shares

    def _job(self, name: str) -> dict[str, object]:
        spin = self._random.random() * 2 * self.plan.job_seconds
        arguments = [str(self.ledger.directory), name, f"spin={spin:.4f}", name]
        work = {"kind": "python", "call": "workload:work", "args": arguments, "path": [str(WORKLOAD)]}
        return {**work, "label": name, "crash_limit": "unlimited"}

    def _keep_dealer(self) -> None:
        log = (self.directory / "dealer.log").open("ab")
        command = [program("tp-dealer"), "--pool", self.pool, "--workers", str(WORKERS), "--metrics", "none"]
        while not self._over.is_set():
            self._dealer = subprocess.Popen(command, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self._dealer.wait()
        log.close()

    def _keep_generator(self, n: int, names: list[str]) -> None:
        command = [program("tp-generator"), "jobs", str(self.directory / f"jobs{n}"), "--pool", self.pool]
        command += ["--batch", f"chaos{n}", "--resume=or-begin", "--dealer-timeout", DEALER_WAIT, "--progress", "none"]
        command += ["--output", "json", "--results", str(self.directory / f"results{n}")]
        with (self.directory / f"generator{n}.log").open("ab") as log:
            while not self._over.is_set():
                started = subprocess.Popen(
                    command, env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
                )
                self._generators[n] = started
                code = started.wait()
                if code != -SIGKILL:
                    self._codes[n] = code
                    return

    def _kill_at_random(self, deadline: float) -> None:
        """Kills spread evenly over the run: the next victim's sort is drawn by what is left to do."""
        left = {
            "dealer": self.plan.dealer_kills,
            "worker": self.plan.worker_kills,
            "generator": self.plan.generator_kills,
        }
        pause = self._pause()
        while any(left.values()) and len(self._codes) < GENERATORS and time.monotonic() < deadline:
            time.sleep(self._random.expovariate(1 / pause))  # not a wait for anything: the instants are the test
            sort = self._random.choices(list(left), weights=list(left.values()))[0]
            if self._kill_one(sort):
                left[sort] -= 1
                self._kills[sort] += 1

    def _pause(self) -> float:
        """The mean time between kills that spends all of them while the jobs last, with time for the vain ones."""
        kills = self.plan.dealer_kills + self.plan.worker_kills + self.plan.generator_kills
        cpu_seconds = self.plan.jobs * self.plan.job_seconds / min(WORKERS, len(os.sched_getaffinity(0)))
        return max(0.01, min(0.25, 0.7 * cpu_seconds / max(1, kills)))

    def _kill_one(self, sort: str) -> bool:
        victims: list[int] = []
        dealer = self._dealer
        if sort == "generator":
            victims = [each.pid for each in self._generators if each is not None and each.poll() is None]
        elif dealer is not None and dealer.poll() is None:
            # What workers are copied from is struck as one of them.
            victims = [dealer.pid] if sort == "dealer" else [*workers_of(dealer.pid), *templates_of(dealer.pid)]
            if sort == "dealer" and not children_of(dealer.pid):
                return False  # it has hardly started: that would be the same instant again and again
        return bool(victims) and kill(self._random.choice(victims))

    # --- the judgement ---

    def _judge(self, shares: list[list[str]]) -> Audit:
        audit = Audit(kills=dict(self._kills))
        starts = self.ledger.jobs("start")
        ends = self.ledger.jobs("end")
        audit.attempted = sum(map(len, shares))
        audit.executions = sum(starts.values())
        audit.executed_more_than_once = sum(count > 1 for count in starts.values())
        audit.overlapping = self.ledger.count("overlap")
        for n, names in enumerate(shares):
            self._judge_batch(audit, n, names, starts, ends)
        return audit

    def _judge_batch(self, audit: Audit, n: int, names: list[str], starts: Counter[str], ends: Counter[str]) -> None:
        """The pool's record of one batch against what was submitted and what the jobs say."""
        if self._codes.get(n) != 0:
            audit.problems.append(f"generator {n} ended with {self._codes.get(n)}")
        recorded = self._ask_for_results(n)
        states = Counter(outcome["label"] for outcome in recorded)
        audit.done += sum(outcome["state"] == "succeeded" for outcome in recorded)
        audit.recorded_twice += sum(count > 1 for count in states.values())
        missing = [name for name in names if name not in states]
        if self._codes.get(n) == 0:  # it leaves so only when all was accepted
            audit.accepted += len(names)
            audit.lost += len(missing)
            audit.problems += [f"lost: {name}" for name in missing[:5]]
        else:
            audit.accepted += len(states)
            audit.unknown += len(missing)
        for outcome in recorded:
            name = outcome["label"]
            if outcome["state"] != "succeeded":
                audit.problems.append(f"{name} is {outcome['state']}: {outcome['error']}")
            elif not starts[name] or not ends[name]:
                audit.problems.append(f"{name} succeeded and never ran")
            elif outcome["value"] != name:
                audit.problems.append(f"{name} has the value of {outcome['value']}")

    def _ask_for_results(self, n: int) -> list[dict[str, Any]]:
        command = [program("tp-generator"), "results", f"chaos{n}", "--pool", self.pool, "--output", "json"]
        answer = subprocess.run(command, env=self._env, capture_output=True, timeout=120, check=False)
        return [json.loads(line) for line in answer.stdout.splitlines()]

    def _stop(self, threads: list[threading.Thread]) -> None:
        self._over.set()
        for started in (self._dealer, *self._generators):
            if started is not None and started.poll() is None:
                started.send_signal(SIGTERM)
        for thread in threads:
            thread.join(30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--dealer-kills", type=int, default=200)
    parser.add_argument("--worker-kills", type=int, default=2_000)
    parser.add_argument("--generator-kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--job-seconds", type=float, default=0.05)
    parser.add_argument("--deadline", type=float, default=3600.0)
    args = parser.parse_args()
    signal(SIGTERM, default_int_handler)  # ended by TERM too, it ends what it started
    plan = Plan(args.jobs, args.dealer_kills, args.worker_kills, args.generator_kills, args.seed, args.job_seconds)
    directory = Path(tempfile.mkdtemp(prefix="tp-chaos-"))
    sys.stdout.write(f"seed {plan.seed}, in {directory}\n")
    audit = Chaos(plan, f"chaos-{os.getpid()}", directory).run(args.deadline)
    planned = {"dealer": args.dealer_kills, "worker": args.worker_kills, "generator": args.generator_kills}
    for sort, count in planned.items():
        if audit.kills.get(sort, 0) < count:
            audit.problems.append(f"{audit.kills.get(sort, 0)} of {count} {sort} kills: the jobs were done before")
    sys.stdout.write(audit.text() + "\n")
    for problem in audit.problems[:20]:
        sys.stdout.write(f"PROBLEM {problem}\n")
    good = not (audit.problems or audit.lost or audit.recorded_twice or audit.overlapping)
    if good:
        shutil.rmtree(directory)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
