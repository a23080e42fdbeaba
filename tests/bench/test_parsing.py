"""What is read from the output of programs and from /proc, and the arithmetic around it."""

from __future__ import annotations

import pytest

from bench.machine import cpu_model
from bench.peer import Peers
from bench.peers import work
from bench.pool import READY, resent_milliseconds
from bench.trials.commands import SUCCEEDED, finished
from bench.trials.cpu import fibonacci, nearest_n
from bench.trials.waiting import resident_megabytes
from support.source_tree import ROOT

LOG = """\
[Supervisor] Worker PID 71 is ready
[Dealer] Sent job 8 -> work:die_once
[Supervisor] Worker PID 71 killed by SIGKILL
[Recovery] Resent job 8 after crash of 71 to worker PID 72, 0.58 ms after its death was seen
[Supervisor] Worker PID 73 is ready
[Dealer] Received result for job 8: "[Supervisor] Worker PID 1 is ready now" from worker PID [72]
[Recovery] Resent job 9 after crash of 72 to worker PID 73, 12.00 ms after its death was seen
"""

CPUINFO = "processor\t: 0\nvendor_id\t: Abacus\nmodel name\t: Abacus 3: the fast one\nprocessor\t: 1\n"

SPOOLED = """\
ID   State      Output               E-Level  Times(r/u/s)   Command [run=2/2]
2    running    stdout                                       sleep 5
4    queued     stdout                                       finished 5
0    finished   stdout               0        0.00/0.00/0.00 true
1    finished   stdout               -1       0.01/0.00/0.00 sh -c kill -9 $$
"""


def test_the_log_says_how_soon_a_job_was_sent_again() -> None:
    assert resent_milliseconds(LOG) == [0.58, 12.0]
    assert resent_milliseconds("") == []


def test_the_log_says_who_is_ready() -> None:
    assert len(READY.findall(LOG)) == 2


def test_the_line_in_the_readme_is_one_of_these() -> None:
    """The wording is public; when it changes, the bench has to be told."""
    assert len(resent_milliseconds((ROOT / "README.md").read_text())) == 1


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("[TaskGenerator] 12 jobs: 12 succeeded; 20 attempts, 8 crashes", ("12", "12")),
        ("[TaskGenerator] 1 job: 1 succeeded; 1 attempt", ("1", "1")),
        ("[TaskGenerator] 3 jobs: 2 succeeded, 1 failed; 3 attempts", None),
    ],
)
def test_the_last_line_of_a_generator(line: str, counts: tuple[str, str] | None) -> None:
    found = SUCCEEDED.search(f"[Dealer] and so on\n{line}\n")
    assert (found and found.groups()) == counts


def test_the_exit_codes_of_spooled_jobs() -> None:
    assert finished(SPOOLED) == [0, -1]


def test_the_name_of_the_processor() -> None:
    assert cpu_model(CPUINFO) == "Abacus 3: the fast one"
    assert cpu_model("processor\t: 0\n") is None


def test_memory_is_in_millions_of_bytes() -> None:
    assert resident_megabytes("VmPeak:\t 99 kB\nVmRSS:\t 15000 kB\nRssAnon:\t 7 kB\n") == 15.36


@pytest.mark.parametrize(("seconds", "n"), [(13.6, 30), (9.9, 29), (16.18, 30), (0.001, 12), (12.73, 30), (12.71, 29)])
def test_the_nearest_number_is_nearest_by_ratio(seconds: float, n: int) -> None:
    """fib(30) takes 16.18 and fib(29) 10: the middle is at 12.72."""
    assert nearest_n(seconds, lambda n: 10 * 1.618 ** (n - 29)) == n


def test_expected_results_are_the_kernels() -> None:
    assert [fibonacci(n) for n in range(10)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]
    assert fibonacci(45) == 1134903170


@pytest.mark.parametrize(("count", "jobs"), [(20_000, 200), (1_000, 50), (40, 10)])
def test_a_warm_up_is_a_twentieth(count: int, jobs: int) -> None:
    assert work.warm_up_jobs(count) == jobs


def test_a_peer_that_is_missing_names_its_package() -> None:
    peers = Peers("python", ROOT, {"rq": "3"})
    assert peers.missing("rq") is None
    assert peers.missing("rq", "redis-server") == "apt-get install redis-server"
    assert peers.missing("tsp") == "apt-get install task-spooler"
    assert peers.missing("loky") == "pip install loky (make bench does)"
