"""`tp-generator top` at a real terminal, and where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, Signals

import pytest

from support.harness import OK, USAGE, Program, Stage, kill, program, until
from support.ledger import Ledger
from support.source_tree import PACKAGE
from support.tmux import SECONDS, Tmux

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.needs_tool("tmux")]
SIZES = [(80, 24), (200, 60)]


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only pools of this test are there to be shown."""
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.fixture
def dealer(stage: Stage) -> Iterator[Program]:
    started = stage.dealer("--workers", 1)
    yield started
    if started.popen.poll() is None:
        started.send(SIGTERM)
        started.wait(SECONDS)


def top(stage: Stage, *words: str) -> list[str]:
    return [program("tp-generator"), "top", "--pool", stage.pool, *words]


def submit(stage: Stage, ledger: Ledger, batch: str, *work: str) -> None:
    """Two jobs that wait at the ledger's gate, or do as told."""
    words = ["command", "--pool", stage.pool, "--batch", batch, "--detach", "--"]
    stage.generator(*words, *ledger.command(*work), ":::", "one", "two").ends(OK)


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.usefixtures("dealer")
def test_a_job_is_shown_and_cancelled_and_the_terminal_is_as_before(
    stage: Stage, ledger: Ledger, tmp_path: Path, columns: int, rows: int
) -> None:
    with ledger.gate(), Tmux(tmp_path, columns, rows) as tmux:
        submit(stage, ledger, "held", "gate")
        tmux.start(top(stage))
        screen = tmux.shows("held/1")
        lines = screen.splitlines()
        assert all(len(line) <= columns for line in lines)
        assert "sh " in next(line for line in lines if "held/1" in line), "what it runs"
        assert f"{stage.pool} running" in screen
        tmux.press("c")
        tmux.shows(f"y/n  Cancel job held/1 of pool {stage.pool}?")
        tmux.press("n")
        tmux.shows("nothing is cancelled")
        tmux.press("c", "y")
        tmux.shows("y/n  Really?")
        assert stage.ask("show", "held/1")["state"] == "running", "one confirmation cancels nothing"
        tmux.press("y")
        tmux.shows("cancel held/1: 0 cancelled, 1 stopping")
        tmux.shows("held/2")
        until(lambda: stage.ask("status")["finished"].get("cancelled") == 1, "the job to be cancelled", SECONDS)
        tmux.press("q")
        after = tmux.shows("ended with 0")
        assert "shown before" in after
        assert "held/2" not in after
        until(tmux.is_as_before, "the terminal to be as before", SECONDS)


@pytest.mark.usefixtures("dealer")
def test_it_follows_a_terminal_that_is_resized(stage: Stage, ledger: Ledger, tmp_path: Path) -> None:
    with ledger.gate(), Tmux(tmp_path, 80, 24) as tmux:
        submit(stage, ledger, "held", "gate")
        tmux.start(top(stage))
        tmux.shows("held/1")
        tmux.resize(200, 60)
        until(lambda: tmux.screen().splitlines()[59:60] not in ([], [""]), "the last of 60 lines", SECONDS)
        tmux.resize(39, 9)
        tmux.shows("top needs 40 columns and 10 lines")
        tmux.resize(80, 24)
        tmux.shows("held/1")
        tmux.press("q")
        tmux.shows("ended with 0")


@pytest.mark.usefixtures("dealer")
def test_a_pool_is_paused_and_goes_on(stage: Stage, tmp_path: Path) -> None:
    with Tmux(tmp_path, 80, 24) as tmux:
        tmux.start(top(stage))
        tmux.shows(f"{stage.pool} running")
        tmux.press("p")
        tmux.shows(f"{stage.pool} paused")
        assert stage.ask("status")["state"] == "paused"
        tmux.press("p")
        tmux.shows(f"{stage.pool} running")
        tmux.press("q")
        tmux.shows("ended with 0")


def test_deaths_are_told_with_their_cause(stage: Stage, ledger: Ledger, tmp_path: Path, dealer: Program) -> None:
    with Tmux(tmp_path, 200, 60) as tmux:
        tmux.start(top(stage))
        tmux.shows("none seen")
        submit(stage, ledger, "bad", "segv")
        tmux.shows("killed by SIGSEGV")
        submit(stage, ledger, "worse", "exit=7")
        screen = tmux.shows("exit status 7")
        assert "bad/1 try 1" in screen
        # A dealer that goes is told of, and one that comes is shown again.
        dealer.send(SIGTERM)
        dealer.wait(SECONDS)
        tmux.shows_no_more(f"{stage.pool} running")
        stage.dealer("--workers", 1)
        tmux.shows(f"{stage.pool} running")
        tmux.press("q")
        tmux.shows("ended with 0")


@pytest.mark.usefixtures("dealer")
def test_jobs_with_hostile_names_are_shown_as_text(stage: Stage, ledger: Ledger, tmp_path: Path) -> None:
    with ledger.gate(), Tmux(tmp_path, 80, 24) as tmux:
        evil = ["\x1b[2J\x1b]0;x\x07", "<img onerror>", "文字化け" * 30, "x" * 100_000]
        words = ["command", "--pool", stage.pool, "--batch", "evil", "--detach", "--"]
        stage.generator(*words, *ledger.command("gate"), *evil, ":::", "one").ends(OK)
        tmux.start(top(stage))
        screen = tmux.shows("evil/1")
        assert f"{stage.pool} running" in screen
        assert "q quit" in screen
        tmux.press("q")
        tmux.shows("ended with 0")


@pytest.mark.parametrize(("number", "code"), [(SIGTERM, 143), (SIGHUP, 143), (SIGINT, 130)])
@pytest.mark.usefixtures("dealer")
def test_a_signal_ends_it_and_the_terminal_is_as_before(
    stage: Stage, tmp_path: Path, number: Signals, code: int
) -> None:
    with Tmux(tmp_path, 80, 24) as tmux:
        tmux.start(top(stage))
        tmux.shows(f"{stage.pool} running")
        kill(tmux.child("top"), number)
        assert "shown before" in tmux.shows(f"ended with {code}")
        until(tmux.is_as_before, "the terminal to be as before", SECONDS)


@pytest.mark.skipif("TASKPOOL_BIN" in os.environ, reason="a bug is planted into sources")
@pytest.mark.usefixtures("dealer")
def test_a_crash_of_its_own_leaves_the_terminal_as_before(stage: Stage, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "lib" / "taskpool", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "lib" / "taskpool" / "generator" / "top" / "view.py"
    text = path.read_text()
    assert '        case "s":\n' in text
    path.write_text(
        text.replace('        case "s":\n', '        case "s":\n            raise RuntimeError("planted")\n')
    )
    with Tmux(tmp_path, 80, 24) as tmux:
        tmux.start(["env", f"PYTHONPATH={tmp_path / 'lib'}", "PYTHONDONTWRITEBYTECODE=1", *top(stage)])
        tmux.shows(f"{stage.pool} running")
        tmux.press("s")
        tmux.shows("RuntimeError: planted")
        until(tmux.is_as_before, "the terminal to be as before", SECONDS)


def test_all_pools_are_shown_as_they_come_and_go(stage: Stage, tmp_path: Path) -> None:
    with Tmux(tmp_path, 80, 24) as tmux:
        tmux.start([program("tp-generator"), "top"])
        tmux.shows("no pool of yours runs here")
        dealer = stage.dealer("--workers", 1)
        tmux.shows(f"{stage.pool} running")
        dealer.send(SIGTERM)
        dealer.wait(SECONDS)
        tmux.shows("no pool of yours runs here")
        tmux.press("q")
        tmux.shows("ended with 0")


@pytest.mark.usefixtures("dealer")
def test_without_a_terminal_it_says_what_to_use_instead(stage: Stage) -> None:
    asked = stage.generator("top", "--pool", stage.pool).ends(USAGE)
    assert "top needs a terminal" in asked.stderr
    assert f"tp-generator status --pool {stage.pool}" in asked.stderr
    assert asked.stdout == ""


@pytest.mark.parametrize(
    ("term", "why"), [("none-such", "nothing is known of such a terminal here"), ("dumb", "cannot place text")]
)
def test_a_terminal_that_is_no_use_is_refused(stage: Stage, tmp_path: Path, term: str, why: str) -> None:
    with Tmux(tmp_path, 200, 24) as tmux:
        tmux.start(["env", f"TERM={term}", *top(stage)])
        tmux.shows(why)
        tmux.shows("ended with 3")


def test_a_private_pool_is_shown_and_ends_as_ever(stage: Stage, ledger: Ledger, tmp_path: Path) -> None:
    with Tmux(tmp_path, 80, 24) as tmux:
        tmux.start([program("tp-generator"), "top"])
        with ledger.gate():
            run = stage.private("command", "--workers", "1", "--", *ledger.command("gate"), ":::", "one")
            tmux.shows(f"{stage.pool}/1")
        run.ends(OK, SECONDS)
        tmux.shows("no pool of yours runs here")
        tmux.press("q")
        tmux.shows("ended with 0")


@pytest.mark.usefixtures("dealer")
def test_it_can_be_stopped_and_goes_on(stage: Stage, tmp_path: Path) -> None:
    """By ^Z, which gives the terminal back meanwhile."""
    with Tmux(tmp_path, 80, 24) as tmux:
        tmux.press("set -m", "Enter")  # a shell without a prompt has no jobs by itself
        tmux.start(top(stage))
        tmux.shows(f"{stage.pool} running")
        tmux.press("C-z")
        tmux.shows("shown before")
        until(tmux.is_as_before, "the terminal to be as before", SECONDS)
        tmux.press("fg", "Enter")
        tmux.shows(f"{stage.pool} running")
        tmux.press("q")
        tmux.shows_no_more(f"{stage.pool} running")
        until(tmux.is_as_before, "the terminal to be as before", SECONDS)


def test_a_pool_that_is_not_there_is_an_error(stage: Stage, tmp_path: Path) -> None:
    with Tmux(tmp_path, 200, 24) as tmux:
        tmux.start(top(stage, "--dealer-timeout", "300ms"))
        assert "no dealer answers for pool" in tmux.shows("ended with 4")
        until(tmux.is_as_before, "the terminal to be as before", SECONDS)


@pytest.mark.usefixtures("dealer")
def test_a_dealer_that_does_not_answer_stops_no_key(stage: Stage, tmp_path: Path, dealer: Program) -> None:
    with Tmux(tmp_path, 80, 24) as tmux:
        tmux.start(top(stage))
        tmux.shows(f"{stage.pool} running")
        os.kill(dealer.pid, Signals.SIGSTOP)
        try:
            tmux.press("/")
            tmux.shows("Filter: ")
            tmux.press("Escape")
            tmux.shows("q quit")
            tmux.press("q")
            tmux.shows("ended with 0")
        finally:
            os.kill(dealer.pid, Signals.SIGCONT)
