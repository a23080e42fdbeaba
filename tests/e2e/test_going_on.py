"""Going on with a batch: from any directory, with any bytes, and counting what this run does."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGTERM

import pytest

from support.harness import FAILED, HALTED, INTERRUPTED, OK, USAGE, Program, Stage, programs_directory
from support.ledger import Ledger

JOBS = ["a", "b", "c", "d"]


def begun(stage: Stage, ledger: Ledger, start: Callable[[], Program]) -> Program:
    """Start a run whose jobs wait at the gate, and interrupt it when the first one runs; that one ends."""
    with ledger.gate():
        run = start()
        ledger.wait("start", 1)
        run.send(SIGINT)
        run.says(r"\[Dealer\] Draining: ")  # from now on it sends no job
    return run.ends(INTERRUPTED)


def printed(run: Program) -> str:
    return run.says(r"To resume: (.*)$")[1]


def in_shell(stage: Stage, command: str, shell: str = "sh", **how: object) -> Program:
    path = f"{programs_directory()}{os.pathsep}{os.environ['PATH']}"
    return stage.start([shell, "-c", command], env={"PATH": path, **how.pop("env", {})}, **how)  # type: ignore[dict-item]


# --- from any directory ----------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "here" / "sub").mkdir(parents=True)
    return tmp_path / "here"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def words_of(form: str, stage: Stage, ledger: Ledger, here: Path) -> list[str]:
    """A command line whose jobs write down their name in the file `ran` of the directory they run in."""
    script = 'pwd >>"$0/places"; exec "$@"'
    work = ["sh", "-c", script, str(ledger.directory), *ledger.command("gate")]
    common = ["--batch", stage.pool, "--workers", "1", "-v"]
    match form:
        case "command":
            return ["command", *common, "--", *work, ":::", *JOBS]
        case "relative paths":
            files = ["--results", "out", "--joblog=log", "--journal", "own", "--cwd", "sub"]
            return ["command", *common, *files, "--", *work, ":::", *JOBS]
        case "jobs":
            jobs = [{"kind": "command", "cwd": "sub", "argv": [w.replace("{}", job) for w in work]} for job in JOBS]
            (here / "jobs").write_text("".join(json.dumps(job) + "\n" for job in jobs))
            return ["jobs", *common, "jobs"]
        case _:
            raise AssertionError(form)


@pytest.mark.parametrize("how", ["printed", "typed again"])
@pytest.mark.parametrize("form", ["command", "relative paths", "jobs"])
def test_a_private_batch_goes_on_from_elsewhere(
    stage: Stage, ledger: Ledger, here: Path, elsewhere: Path, form: str, how: str
) -> None:
    words = words_of(form, stage, ledger, here)
    run = begun(stage, ledger, lambda: stage.generator(*words, cwd=here))
    if how == "printed":
        again = in_shell(stage, printed(run), cwd=elsewhere).ends(OK)
    else:
        again = stage.generator(words[0], "--resume", *words[1:], cwd=elsewhere).ends(OK)
    assert "4 jobs: 4 succeeded (1 in earlier runs); 3 attempts" in again.stderr
    place = here if form == "command" else here / "sub"
    assert (ledger.directory / "places").read_text() == f"{place}\n" * len(JOBS)
    assert list(elsewhere.iterdir()) == []
    if form == "relative paths":
        assert len((here / "out").read_text().splitlines()) == len(JOBS)
        assert len((here / "log").read_text().splitlines()) == len(JOBS) + 1


def test_python_jobs_from_elsewhere(stage: Stage, ledger: Ledger, here: Path, elsewhere: Path) -> None:
    (here / "sub" / "work.py").write_text(
        "import fcntl, os\n"
        "def go(lines, gate, job):\n"
        "    with open(lines, 'a') as file: file.write(f'start {job} 0\\n')\n"
        "    with open(gate) as file: fcntl.flock(file, fcntl.LOCK_SH)\n"
        "    return os.getcwd()\n"
    )
    arguments = here / "arguments"
    arguments.write_text(
        "".join(json.dumps([str(ledger.path), str(ledger.directory / "gate"), j]) + "\n" for j in JOBS)
    )
    words = ["python", "--batch", stage.pool, "--workers", "1", "-v", "--path", "sub", "work:go"]
    with arguments.open() as opened:
        run = begun(stage, ledger, lambda: stage.generator(*words, cwd=here, stdin=opened.fileno()))
    again = in_shell(stage, printed(run), cwd=elsewhere).ends(OK)  # with the standard input that it names
    assert set(map(json.loads, run.lines + again.lines)) == {str(here)}
    assert len(run.lines + again.lines) == len(JOBS)


def test_standard_input_from_a_pipe_is_asked_for_again_while_it_lacks_jobs(stage: Stage, ledger: Ledger) -> None:
    data = "".join(f"{job}\n" for job in JOBS).encode()
    words = ["command", "--batch", stage.pool, "--workers", "1", "-v", "--", *ledger.command("gate")]
    reader, writer = os.pipe()
    os.write(writer, data[: len(data) // 2])
    try:
        run = begun(stage, ledger, lambda: stage.generator(*words, stdin=reader))
    finally:
        os.close(writer)
        os.close(reader)
    assert "came from standard input" in run.stderr
    other = in_shell(stage, printed(run), stdin=data[1:]).ends(USAGE)
    assert "the input has changed" in other.stderr
    in_shell(stage, printed(run), stdin=data).ends(OK)
    # At least once: the refused run went on with what the pool had, and was stopped as a job of it may have ended.
    assert ledger.jobs("end").keys() == {*JOBS}


def test_standard_input_that_was_read_to_its_end_is_not_asked_for_again(stage: Stage, ledger: Ledger) -> None:
    data = "".join(f"{job}\n" for job in JOBS).encode()
    words = ["command", "--batch", stage.pool, "--workers", "1", "-v", "--", *ledger.command("gate")]
    run = begun(stage, ledger, lambda: stage.generator(*words, stdin=data))
    assert "came from standard input" not in run.stderr
    in_shell(stage, printed(run)).ends(OK)
    assert ledger.jobs("end") == dict.fromkeys(JOBS, 1)


def test_a_directory_that_is_gone_is_named_and_costs_only_what_needs_it(
    stage: Stage, ledger: Ledger, here: Path, elsewhere: Path
) -> None:
    options = ["--batch", stage.pool, "--workers", "1", "-v", "--cwd", str(elsewhere)]
    words = ["command", *options, "--", *ledger.command("gate"), ":::", *JOBS]
    run = begun(stage, ledger, lambda: stage.generator(*words, cwd=here))
    shutil.rmtree(here)
    again = in_shell(stage, printed(run), cwd=elsewhere).ends(OK)
    assert f"was begun in {here}: No such file or directory" in again.stderr
    assert ledger.jobs("end") == dict.fromkeys(JOBS, 1)


def test_a_batch_in_a_named_pool_goes_on_from_elsewhere(
    stage: Stage, ledger: Ledger, here: Path, elsewhere: Path
) -> None:
    dealer = stage.dealer("--workers", 1)
    words = ["command", "--pool", stage.pool, "--batch", "b", "--", *ledger.command("gate"), ":::", *JOBS]
    with ledger.gate():
        run = stage.generator(*words, cwd=here)
        ledger.wait("start", 1)
        run.send(SIGINT)
        run.ends(INTERRUPTED)
        typed = stage.generator(words[0], "--resume", *words[1:], cwd=elsewhere).ends(USAGE)
        assert re.search("job 1 .*director", typed.stderr)
    in_shell(stage, printed(run), cwd=elsewhere).ends(OK)
    assert ledger.jobs("end") == dict.fromkeys(JOBS, 1)
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_the_environment_is_that_in_which_the_batch_was_begun(stage: Stage, ledger: Ledger) -> None:
    script = 'printf "%s %s %s\\n" "$OF_THE_BATCH" "${ADDED-unset}" "$DISPLAY" >>"$0/seen"; exec "$@"'
    work = ["sh", "-c", script, str(ledger.directory), *ledger.command("gate")]
    words = ["command", "--batch", stage.pool, "--workers", "1", "-v", "--", *work, ":::", "a", "b"]
    first = {"OF_THE_BATCH": "one", "DISPLAY": ":1"}
    run = begun(stage, ledger, lambda: stage.generator(*words, env=first))
    in_shell(stage, printed(run), env={"OF_THE_BATCH": "two", "ADDED": "x", "DISPLAY": ":2"}).ends(OK)
    assert (ledger.directory / "seen").read_text() == "one unset :1\none unset :2\n"


# --- with any bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(
    "argument", [b"w\xff", b"\xc3", b"\xc3\xa9\xff\xfe x", b"\x1b[31m", b"a\nb", b"\r", b"'\"$x`\\%d", b"", b"--batch"]
)
def test_the_printed_command_says_the_same_bytes(stage: Stage, ledger: Ledger, argument: bytes, shell: str) -> None:
    out = ledger.directory / "said"
    script = 'printf "%s" "$1" >>"$0/said"; shift; exec "$@"'
    work = ["sh", "-c", script, str(ledger.directory), os.fsdecode(argument), *ledger.command("gate")]
    words = ["command", "--batch", stage.pool, "--workers", "1", "-v", *work, ":::", "a", "b"]  # and without a --
    # Not by `generator`, whose words are texts: these are bytes.
    start = [str(programs_directory() / "tp-generator"), *words]
    run = begun(stage, ledger, lambda: stage.start(start))
    line = printed(run)
    assert line.isprintable()
    in_shell(stage, line, shell).ends(OK)
    assert out.read_bytes() == argument * 2


# --- what this run does ----------------------------------------------------------------------------


@pytest.mark.parametrize("halt", ["now,fail=1", "soon,fail=1", "now,fail=2", "soon,fail=30%"])
def test_only_this_runs_failures_halt_it(stage: Stage, ledger: Ledger, halt: str) -> None:
    """Jobs 1 to 3 fail. Whichever of them have when it halts, those that failed then are no reason to halt again."""
    script = 'case "$1" in [123]) exit 1;; esac'
    words = ["command", "--workers", "1", "--spares", "0", "--halt", halt, "--"]
    words += ["sh", "-c", script, "sh", "{}", ":::", *map(str, range(1, 9))]
    run = stage.private(*words).ends(HALTED)
    lives = 1
    while (code := (run := stage.private(words[0], "--resume", *words[1:])).wait()) == HALTED:
        lives += 1
        assert lives <= 3, "each life halts for a failure of its own"
    assert code == FAILED
    assert "8 jobs: 5 succeeded, 3 failed (" in run.stderr


def test_the_summary_of_a_run_that_had_nothing_to_do(stage: Stage) -> None:
    words = ["command", "--", "sh", "-c", "exit {}", ":::", "0", "3"]
    stage.private(*words).ends(FAILED)
    again = stage.private(words[0], "--resume", *words[1:]).ends(FAILED)
    assert "2 jobs: 1 succeeded, 1 failed (2 in earlier runs); 0 attempts, 0 crashes" in again.stderr
    assert re.search(r"CPU 0\S* of", again.stderr) or "CPU" not in again.stderr
