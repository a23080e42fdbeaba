"""Signals: what a dealer and a generator do about them, and what is left when one of them is killed."""

from __future__ import annotations

import re
from signal import SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, Signals

import pytest

from support.harness import (
    INTERRUPTED,
    OK,
    REFUSED,
    TERMINATED,
    UNREACHABLE,
    Program,
    Stage,
    alive,
    dealer_of,
    kill,
    marked,
    until,
    workers_of,
)
from support.ledger import Ledger

JOBS = 6
RUNNING = 2


def submit(stage: Stage, ledger: Ledger, work: str, jobs: int = JOBS) -> None:
    """Jobs in the named pool; returns when as many run as there are workers."""
    names = map(str, range(1, jobs + 1))
    stage.generator("command", "--pool", stage.pool, "--detach", "--", *ledger.command(work), ":::", *names).ends(OK)
    ledger.wait("start", min(jobs, RUNNING))


def gone(stage: Stage, dealer: int) -> None:
    """The dealer, its workers and their jobs are no more."""
    until(lambda: not alive(dealer) and not marked(stage.pool), f"the end of dealer {dealer} and all it started", 20)


# --- the dealer --------------------------------------------------------------------------------------------


def test_term_lets_running_jobs_finish(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", RUNNING, "--drain-timeout", "40s")
    with ledger.gate():
        submit(stage, ledger, "gate")
        dealer.send(SIGTERM)
        dealer.says("Draining")
    dealer.ends(TERMINATED)  # there is no journal: what did not run is lost, and that must be told
    assert ledger.count("start") == ledger.count("end") == RUNNING


def test_term_with_nothing_left_to_lose(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", RUNNING, "--drain-timeout", "40s")
    with ledger.gate():
        submit(stage, ledger, "gate", RUNNING)
        dealer.send(SIGTERM)
        dealer.says("Draining")
    dealer.ends(OK)
    assert ledger.count("end") == RUNNING


def test_term_stops_what_does_not_finish_in_time(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", RUNNING, "--drain-timeout", "0.3s")
    submit(stage, ledger, "sleep=3600")
    dealer.send(SIGTERM)
    dealer.ends(TERMINATED)
    assert ledger.count("end") == 0
    gone(stage, dealer.pid)


def test_int_once_waits_without_a_limit(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", RUNNING, "--drain-timeout", "0.1s")
    with ledger.gate():
        submit(stage, ledger, "gate")
        dealer.send(SIGINT)
        dealer.says("Draining")
        refused = stage.generator("fib", "20", "--pool", stage.pool, "--no-wait").wait()
        assert dealer.popen.poll() is None
    assert refused == REFUSED
    dealer.ends(INTERRUPTED)
    assert ledger.count("end") == RUNNING


def test_int_twice_stops_running_jobs(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", RUNNING)
    submit(stage, ledger, "sleep=3600")
    dealer.send(SIGINT)
    dealer.says("Draining")
    dealer.send(SIGINT)
    dealer.ends(INTERRUPTED)
    gone(stage, dealer.pid)


def test_int_three_times_leaves_at_once(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", RUNNING)
    submit(stage, ledger, "sleep=3600")
    dealer.send(SIGINT)
    dealer.says("Draining")
    until(lambda: kill_repeatedly(dealer), "the dealer's end", 20)
    assert dealer.wait() in (INTERRUPTED, -SIGINT)  # the last one may come when it hears no signals any more
    gone(stage, dealer.pid)


def kill_repeatedly(dealer: Program) -> bool:
    """Send one more SIGINT; returns whether the process had ended. Two that come together count as one."""
    if dealer.popen.poll() is not None:
        return True
    dealer.send(SIGINT)
    return False


def test_quit_stops_at_once(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", RUNNING, "--drain-timeout", "40s")
    submit(stage, ledger, "sleep=3600")
    dealer.send(SIGQUIT)
    dealer.ends(TERMINATED)
    gone(stage, dealer.pid)


def test_signals_that_do_not_stop_a_dealer(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 2)
    dealer.send(SIGUSR1)
    dealer.says(rf"\[Dealer\] pool {stage.pool} running, epoch \d+, workers ")
    dealer.send(SIGTTIN)
    dealer.says("Workers wanted: 3")
    dealer.send(SIGTTOU)
    dealer.says("Workers wanted: 2")
    dealer.send(SIGHUP)
    assert stage.generator("fib", "20", "--pool", stage.pool).ends(OK).lines == ["6765"]
    dealer.send(SIGTERM)
    dealer.ends(OK)


# --- the generator -----------------------------------------------------------------------------------------


def private_run(stage: Stage, ledger: Ledger, work: str, *options: object) -> tuple[Program, int]:
    """A generator with a private pool whose two workers are busy, and its dealer."""
    names = map(str, range(1, JOBS + 1))
    command = ["--", *ledger.command(*work.split()), ":::", *names]
    run = stage.private("command", "--workers", RUNNING, "--journal", "none", *options, *command)
    ledger.wait("start", RUNNING)
    return run, dealer_of(run)


@pytest.mark.parametrize(("number", "code"), [(SIGINT, INTERRUPTED), (SIGTERM, TERMINATED)])
def test_a_generator_told_to_end_lets_running_jobs_finish(
    stage: Stage, ledger: Ledger, number: Signals, code: int
) -> None:
    with ledger.gate():
        run, dealer = private_run(stage, ledger, "gate", "-v", "--drain-timeout", "40s")
        run.send(number)
        run.says("Draining")
    run.ends(code)
    gone(stage, dealer)
    assert ledger.count("start") == ledger.count("end") == RUNNING
    assert re.search(rf"{JOBS} jobs: {RUNNING} succeeded, {JOBS - RUNNING} not run", run.stderr), run.stderr


def test_a_second_ctrl_c_stops_running_jobs(stage: Stage, ledger: Ledger) -> None:
    run, dealer = private_run(stage, ledger, "sleep=3600", "-v")
    run.send(SIGINT)
    run.says("Draining")
    run.send(SIGINT)
    run.ends(INTERRUPTED)
    gone(stage, dealer)
    assert ledger.count("end") == 0


def test_a_third_ctrl_c_leaves_even_a_dealer_that_hears_nothing(stage: Stage, ledger: Ledger) -> None:
    run, dealer = private_run(stage, ledger, "sleep=3600", "--journal", stage.directory / "journal")
    kill(dealer, SIGSTOP)
    until(lambda: kill_repeatedly(run), "the generator's end", 30)
    assert run.wait() in (INTERRUPTED, -SIGINT)  # the last one may come when it hears no signals any more
    assert "To resume: " in run.stderr
    assert f"{JOBS} of {JOBS} jobs did not run" in run.stderr
    gone(stage, dealer)


def test_a_killed_generator_takes_its_private_pool_along(stage: Stage, ledger: Ledger) -> None:
    run, dealer = private_run(stage, ledger, "grandchild sleep=3600")
    workers = workers_of(dealer)
    assert workers
    run.send(SIGKILL)
    run.ends(-SIGKILL)
    gone(stage, dealer)
    assert not any(alive(pid) for pid in (*workers, *ledger.pids("grandchild")))


def test_a_killed_private_dealer_is_told_and_takes_its_workers_along(stage: Stage, ledger: Ledger) -> None:
    run, dealer = private_run(stage, ledger, "sleep=3600")
    kill(dealer)
    run.ends(UNREACHABLE)
    assert "was killed by SIGKILL" in run.stderr
    assert f"{JOBS} jobs without an outcome" in run.stderr
    gone(stage, dealer)


@pytest.mark.parametrize("number", [SIGKILL, SIGINT])
def test_jobs_of_a_named_pool_live_on_without_their_generator(stage: Stage, ledger: Ledger, number: Signals) -> None:
    dealer = stage.dealer("--workers", RUNNING)
    names = map(str, range(1, JOBS + 1))
    with ledger.gate():
        run = stage.generator("command", "--pool", stage.pool, "--", *ledger.command("gate"), ":::", *names)
        ledger.wait("start", RUNNING)
        run.send(number)
        run.ends(-SIGKILL if number is SIGKILL else INTERRUPTED)
    ledger.wait("end", JOBS)
    dealer.send(SIGTERM)
    dealer.ends(OK)
    assert set(ledger.jobs("end").values()) == {1}
