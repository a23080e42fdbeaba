"""While a batch waits, whoever started it knows what for, and what comes next."""

from __future__ import annotations

from signal import SIGINT, SIGKILL, SIGTERM

from support.harness import INTERRUPTED, OK, Stage, kill
from support.ledger import Ledger


def names(count: int) -> list[str]:
    return [":::", *map(str, range(1, count + 1))]


def test_a_pool_that_is_paused_says_so_and_when_it_goes_on(stage: Stage, ledger: Ledger) -> None:
    stage.dealer("--workers", 1)
    stage.ask("pause")
    run = stage.generator("command", "--pool", stage.pool, "--", *ledger.command(""), *names(2))
    run.says(f"Pool '{stage.pool}' is paused: .* until `tp-generator unpause --pool {stage.pool}`")
    assert ledger.count("start") == 0
    stage.ask("unpause")
    run.ends(OK)
    assert ledger.count("end") == 2


def test_a_dealer_that_leaves_says_what_becomes_of_the_jobs(stage: Stage, ledger: Ledger) -> None:
    journal = str(stage.directory / "journal.db")
    dealer = stage.dealer("--workers", 1, "--journal", journal, "--drain-timeout", "300s")
    with ledger.gate():
        run = stage.generator("command", "--pool", stage.pool, "--", *ledger.command("gate"), *names(2))
        ledger.wait("start", 1)
        dealer.send(SIGTERM)
        run.says("is leaving: jobs that run end first, the others wait for its next dealer")
    dealer.ends(OK)
    run.says(rf"PID {dealer.pid}, does not answer\. Waiting up to 1m00s .*; what it had accepted is in its journal")
    following = stage.dealer("--workers", 1, "--journal", journal)
    run.says(f"answers, PID {following.pid}")
    run.ends(OK)
    assert ledger.count("end") == 2


def test_a_killed_dealer_is_missed(stage: Stage, ledger: Ledger) -> None:
    journal = str(stage.directory / "journal.db")
    dealer = stage.dealer("--workers", 1, "--journal", journal)
    with ledger.gate():
        run = stage.generator("command", "--pool", stage.pool, "--", *ledger.command("gate"), *names(1))
        ledger.wait("start", 1)
        kill(dealer.pid, SIGKILL)
        run.says(rf"PID {dealer.pid}, does not answer\. Waiting up to 1m00s \(--dealer-timeout\)")
        stage.dealer("--workers", 1, "--journal", journal)
    run.ends(OK)


def test_the_first_ctrl_c_says_what_the_next_one_does(stage: Stage, ledger: Ledger) -> None:
    with ledger.gate():
        run = stage.private("command", "--workers", 1, "--", *ledger.command("gate"), *names(3))
        ledger.wait("start", 1)
        run.send(SIGINT)
        run.says("Interrupted: jobs that run may end, and no other starts. Ctrl-C again stops them")
        run.send(SIGINT)
        run.says("Interrupted again: the jobs that run are stopped. A third Ctrl-C does not wait for that")
        run.ends(INTERRUPTED)
    assert ledger.count("end") == 0


def test_progress_for_programs_says_what_runs_and_ends_complete(stage: Stage, ledger: Ledger) -> None:
    with ledger.gate():
        options = ["--workers", 2, "--progress", "json"]
        run = stage.private("command", *options, "--", *ledger.command("gate"), *names(3))
        run.says('"finished":0,"total":3,"running":2,')
    run.ends(OK)
    run.says(r'"finished":3,"total":3,"running":null,"failed":0,"states":\{"succeeded":3\}')
