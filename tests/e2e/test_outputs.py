"""What comes out, in which form and order, and what happens when it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from support.harness import (
    ENVIRONMENT,
    FAILED,
    OK,
    QUARANTINED,
    TERMINATED,
    USAGE,
    Program,
    Stage,
    alive,
    dealer_of,
    kill,
    program,
    state_of,
    until,
    workers_of,
)
from support.ledger import Ledger
from taskpool.client.connection import Connection, NoNotices
from taskpool.client.opening import new_client_id
from taskpool.client.queries import BatchQueries
from taskpool.client.session import Session, SessionOptions
from taskpool.client.transport import Transport
from taskpool.clock import AwakeClock, SystemClock
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.sizing import Shape

OUTCOME_KEYS = {
    "batch",
    "seq",
    "run",
    "kind",
    "label",
    "job",
    "state",
    "value",
    "exit_status",
    "signal",
    "attempts",
    "crashes",
}
OUTCOME_KEYS |= {"slot", "pid", "queued_at", "started_at", "finished_at", "wait_seconds", "run_seconds", "cpu_seconds"}
OUTCOME_KEYS |= {"max_rss_bytes", "stdout", "stderr", "stdout_file", "stderr_file", "error", "tries"}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
JOBLOG_HEADER = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand"


def test_keep_order(stage: Stage) -> None:
    """The first job is the last to end; unordered it would be printed last."""
    delays = ["0.6", "0.01", "0.02", "0.03", "0.01"]
    script = 'sleep "$1"; echo "$TP_SEQ"'
    command = ["--shell", "--", f"sh -c '{script}' sh {{}}", ":::", *delays]
    ordered = stage.private("command", "--workers", 3, "--keep-order", *command).ends(OK)
    assert ordered.lines == ["1", "2", "3", "4", "5"]


def behind_the_first(ledger: Ledger) -> list[str]:
    """Jobs whose order matters; the first waits at the gate, and the others have much or little to say."""
    script = 'case $1 in a) flock -s "$2" true;; c) head -c 100000 /dev/zero | tr "\\0" c;; esac; echo "$1"'
    return ["--", "sh", "-c", script, "sh", "{}", str(ledger.directory / "gate"), ":::", *"abcde"]


def acknowledged(pool: str, batch: str) -> int:
    """How many outcomes the batch's reader has said it holds."""
    clock = AwakeClock(SystemClock())
    session = Session(SessionOptions(pool=pool, client=new_client_id(), pid=os.getpid()), clock.now().mono)
    transport = Transport(KernelNamespace(), pool, Shape(1, 8192))
    with closing(Connection(session, transport, NoNotices(), clock)) as connection:
        status = BatchQueries(connection, clock).batch(batch)
    return status.acknowledged if status is not None else 0


def in_order(run: Program, form: str) -> list[str]:
    if form == "json":
        return [f"{record['seq']}" for record in run.objects()]
    return [f"{' abcde'.index(line[-1])}" for line in run.lines]


@pytest.mark.parametrize("form", ["json", "value"])
def test_a_run_that_goes_on_prints_what_a_killed_one_held_back(stage: Stage, ledger: Ledger, form: str) -> None:
    """Their outcomes were acknowledged: the dealer does not send them by itself."""
    stage.dealer("--workers", 2, "--journal", stage.directory / "journal")
    common = ["--pool", stage.pool, "--batch", "b", "--keep-order", "--output", form]
    with ledger.gate():
        killed = stage.generator("command", *common, *behind_the_first(ledger))
        until(lambda: acknowledged(stage.pool, "b") == 4, "four outcomes that are acknowledged")
        kill(killed.pid)
        killed.wait()
    assert killed.stdout == ""
    again = stage.generator("command", *common, "--resume", *behind_the_first(ledger)).ends(OK)
    assert in_order(again, form) == list("12345")
    assert "5 jobs: 5 succeeded" in again.stderr
    third = stage.generator("command", *common, "--resume", *behind_the_first(ledger)).ends(OK)
    assert third.stdout == "", "all was printed"


@pytest.mark.parametrize("journal", [True, False])
def test_an_interrupted_run_holds_back_what_another_can_print(
    stage: Stage, ledger: Ledger, tmp_path: Path, journal: bool
) -> None:
    results = tmp_path / "results"
    options = ["--workers", 2, "--keep-order", "--results", results, "--drain-timeout", "1s"]
    options += [] if journal else ["--journal", "none"]
    with ledger.gate():
        run = stage.private("command", *options, *behind_the_first(ledger))
        until(lambda: results.exists() and results.read_text().count("\n") == 4, "four outcomes")
        run.send(SIGTERM)
        run.ends(TERMINATED)
    if not journal:
        assert in_order(run, "value") == list("2345")
        return
    assert run.stdout == ""
    assert "behind a job that has not ended: 4; --keep-order holds them back" in run.stderr
    again = stage.private("command", *options, "--resume", *behind_the_first(ledger)).ends(OK)
    assert in_order(again, "value") == list("12345")


def test_as_it_comes(stage: Stage, ledger: Ledger) -> None:
    script = 'if [ "$1" = last ]; then flock -s "$2" true; fi; echo "$1"'
    command = ["--", "sh", "-c", script, "sh", "{}", str(ledger.directory / "gate"), ":::", "last", "a", "b"]
    with ledger.gate():
        run = stage.private("command", "--workers", 2, *command)
        until(lambda: sorted(run.lines) == ["a", "b"], "the jobs that do not wait")
    assert run.ends(OK).lines[-1] == "last"


def test_outcome_objects(stage: Stage, tmp_path: Path) -> None:
    results = tmp_path / "results"
    jobs = [
        {"kind": "fib", "n": 10, "label": "ten"},
        {"kind": "command", "argv": ["sh", "-c", "echo out; echo err >&2; exit 3"]},
        {"kind": "python", "call": "math:factorial", "args": [-1]},
        {"kind": "command", "argv": ["printf", "\\377"]},
    ]
    text = "\n".join(map(json.dumps, jobs)).encode()
    run = stage.private("jobs", "--output", "json", "--results", results, "-", stdin=text).ends(FAILED)
    assert results.read_text() == run.stdout
    one, two, three, four = sorted(run.objects(), key=lambda job: job["seq"])
    for job in one, two, three, four:
        assert set(job) == OUTCOME_KEYS
        assert (job["batch"], job["run"], job["attempts"], job["crashes"]) == (stage.pool, 1, 1, 0)
        assert all(MOMENT.fullmatch(job[key]) for key in ("queued_at", "started_at", "finished_at"))
        assert min(job["wait_seconds"], job["run_seconds"], job["cpu_seconds"]) >= 0
    assert (one["state"], one["value"], one["label"], one["exit_status"]) == ("succeeded", 55, "ten", None)
    assert (two["state"], two["exit_status"], two["stdout"], two["stderr"]) == ("failed", 3, "out\n", "err\n")
    assert [job["job"] for job in (one, two, three)] == [
        "fib(10)",
        "sh -c 'echo out; echo err >&2; exit 3'",
        "math:factorial(-1)",
    ]
    assert three["state"] == "failed"
    assert three["error"]["type"] == "ValueError"
    assert four["stdout"] is None
    assert Path(four["stdout_file"]).read_bytes() == b"\xff"


def test_joblog(stage: Stage, tmp_path: Path) -> None:
    log = tmp_path / "joblog"
    command = ["--", "sh", "-c", 'if [ $1 = 9 ]; then kill -9 $$; fi; exit "$1"', "sh", ":::", "0", "7", "9"]
    stage.private("command", "--crash-limit", 1, "--joblog", log, *command).ends(QUARANTINED)
    header, *lines = log.read_text().splitlines()
    assert header == JOBLOG_HEADER
    rows = {int(line.split("\t")[0]): line.split("\t") for line in lines}
    assert {seq: (row[6], row[7]) for seq, row in rows.items()} == {1: ("0", "0"), 2: ("7", "0"), 3: ("0", "9")}
    assert all(row[8].startswith("sh -c ") for row in rows.values())
    assert all(float(row[2]) > 0 and float(row[3]) >= 0 for row in rows.values())


@pytest.mark.needs_tool("parallel")
def test_the_joblog_has_the_header_of_gnu_parallel(tmp_path: Path) -> None:
    log = tmp_path / "joblog"
    subprocess.run(["parallel", "--joblog", log, "true", ":::", "1"], capture_output=True, env={"HOME": str(tmp_path)})
    assert log.read_text().splitlines()[0] == JOBLOG_HEADER


def test_retries_print_the_last_try_only(stage: Stage) -> None:
    script = 'echo "try $TP_ATTEMPT"; [ "$TP_ATTEMPT" = 3 ]'
    run = stage.private("command", "--retries", 5, "--", "sh", "-c", script, ":::", "x").ends(OK)
    assert run.stdout == "try 3\n"


def test_dry_run_runs_nothing(stage: Stage, ledger: Ledger) -> None:
    run = stage.private("command", "--dry-run", "--", *ledger.command(), ":::", "a b", "c").ends(OK)
    assert len(run.lines) == 2
    assert "'a b'" in run.lines[0] or "a\\ b" in run.lines[0]
    assert ledger.lines() == []


def test_log_as_json(stage: Stage) -> None:
    run = stage.private("fib", "20", "--log-format", "json", "-v").ends(OK)
    records = [json.loads(line) for line in run.stderr.splitlines()]
    assert {record["who"].split()[0] for record in records} >= {"TaskGenerator", "Dealer", "Supervisor", "Worker"}


# --- descriptors that are closed, full, or never read ------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors(stage: Stage, tmp_path: Path, closed: str) -> None:
    results = tmp_path / "results"
    command = [program("tp-generator"), "fib", "--batch", stage.pool, "--results", str(results), "20-22"]
    stage.start(["sh", "-c", f'exec "$@" {closed}', "sh", *command]).ends(OK)
    assert sorted(json.loads(line)["value"] for line in results.read_text().splitlines()) == [6765, 10946, 17711]


def test_a_reader_that_leaves(stage: Stage) -> None:
    """`| head -1`: as any filter, it ends by SIGPIPE and leaves nothing."""
    run = stage.private("command", "--", "seq", ":::", *["200000"] * 20, stdout=subprocess.PIPE)
    assert run.popen.stdout is not None
    assert run.popen.stdout.readline() == b"1\n"
    run.popen.stdout.close()
    assert run.wait() in (-13, 141)
    assert "Traceback" not in run.stderr


def test_a_full_device(stage: Stage) -> None:
    command = [program("tp-generator"), "fib", "--batch", stage.pool, "20-22"]
    run = stage.start(["sh", "-c", 'exec "$@" >/dev/full', "sh", *command]).ends(ENVIRONMENT)
    assert "No space left on device" in run.stderr


@pytest.mark.parametrize("option", ["--results", "--joblog"])
def test_files_that_cannot_be_written(stage: Stage, tmp_path: Path, option: str) -> None:
    full = stage.private("fib", "--journal", "none", "20-22", option, "/dev/full").ends(ENVIRONMENT)
    assert "cannot write /dev/full: No space left on device" in full.stderr
    missing = stage.private("fib", "20-22", option, tmp_path / "no" / "file").ends(USAGE)
    assert f"cannot write {tmp_path / 'no' / 'file'}: " in missing.stderr


# --- a name that is used again ---------------------------------------------------------------------

LARGE = 'head -c 100000 /dev/zero | tr "\\0" "$1"'


def test_each_run_of_a_batch_keeps_the_outputs_that_its_records_name(stage: Stage) -> None:
    """As a job of every night runs it; in between by a person, who wants the output alone."""

    def run(letter: str, *options: object) -> list[str]:
        command = ["--workers", 1, *options, "--", "sh", "-c", LARGE, "sh", letter, ":::", "x"]
        return stage.private("command", *command).ends(OK).lines

    kept = {}
    for letter in "abc":
        (record,) = run(letter, "--output", "json")
        kept[json.loads(record)["stdout_file"]] = letter
        assert run(letter.upper()) == [letter.upper() * 100000]
    assert {name: Path(name).read_text() for name in kept} == {name: 100000 * kept[name] for name in kept}
    assert len(kept) == 3
    stage.generator("forget", stage.pool).ends(OK)  # the last one, which nothing names
    (directory,) = {Path(name).parent for name in kept}
    assert {str(path) for path in directory.iterdir()} == kept.keys(), "and nothing else"


@pytest.mark.parametrize("form", ["json", "value"])  # of the second run; the first one's records were written before
def test_a_batch_that_goes_on_keeps_what_its_earlier_run_has_told(stage: Stage, tmp_path: Path, form: str) -> None:
    gate = tmp_path / "gate"
    script = f'{LARGE}; if [ "$1" = b ]; then while [ ! -e {gate} ]; do sleep 0.05; done; fi'
    jobs = ["--", "sh", "-c", script, "sh", "{}", ":::", "a", "b"]
    first = stage.private("command", "--workers", 1, "--output", "json", *jobs)
    until(lambda: first.lines, "the first outcome")
    first.send(SIGTERM)
    first.ends(TERMINATED)
    gate.touch()
    second = stage.private("command", "--workers", 1, "--resume", "--output", form, *jobs).ends(OK)
    (record,) = first.objects()
    assert Path(record["stdout_file"]).read_text() == 100000 * "a"
    if form == "json":
        assert Path(second.objects()[0]["stdout_file"]).read_text() == 100000 * "b"


def bytes_kept(stage: Stage) -> list[int]:
    """The sizes of the files that hold output, those that hold none left out."""
    files = [path for path in (state_of(stage.pool) / "output").rglob("*") if path.is_file()]
    return [size for path in files if (size := path.stat().st_size)]


def large_until(ledger: Ledger) -> list[str]:
    """Each job prints its letter a hundred thousand times; the last one then waits at the gate."""
    script = f'{LARGE}; if [ "$1" = z ]; then flock -s "$2" true; fi'
    return ["--", "sh", "-c", script, "sh", "{}", str(ledger.directory / "gate"), ":::", *"abcdefghijz"]


def test_what_a_private_batch_has_printed_leaves_the_disk(stage: Stage, ledger: Ledger) -> None:
    """And after a kill it is not missed: at least the last of these outcomes was not acknowledged, and comes again."""
    with ledger.gate():
        first = stage.private("command", "--workers", 2, *large_until(ledger))
        until(lambda: len(first.stdout) == 10 * 100_000, "all outputs but the last")
        until(lambda: not bytes_kept(stage), "an empty disk, amid the batch")
        dealer = dealer_of(first)
        first.send(SIGKILL)
        first.wait()
        until(lambda: not alive(dealer), "the end of the dealer")
    second = stage.private("command", "--workers", 2, "--resume", *large_until(ledger)).ends(OK)
    assert Counter(first.stdout) == dict.fromkeys("abcdefghij", 100_000)
    assert Counter(second.stdout) == {"z": 100_000}
    assert not bytes_kept(stage)


def test_what_was_not_printed_stays_on_the_disk(stage: Stage, ledger: Ledger) -> None:
    with ledger.gate():
        first = stage.private("command", "--workers", 2, *large_until(ledger), stdout=subprocess.PIPE)
        until(lambda: len(bytes_kept(stage)) == 10, "outputs that a reader does not take")
        dealer = dealer_of(first)
        first.send(SIGKILL)
        first.wait()
        until(lambda: not alive(dealer), "the end of the dealer")
        assert len(bytes_kept(stage)) == 10
    second = stage.private("command", "--workers", 2, "--resume", *large_until(ledger)).ends(OK)
    assert Counter(second.stdout) == dict.fromkeys("abcdefghijz", 100_000)


@pytest.mark.parametrize("what", ["objects", "results", "journal"])
def test_what_something_names_that_stays_is_kept(stage: Stage, ledger: Ledger, tmp_path: Path, what: str) -> None:
    options: dict[str, list[object]] = {
        "objects": ["--output", "json"],
        "results": ["--results", tmp_path / "results"],
        "journal": ["--journal", tmp_path / "journal.db"],
    }
    run = stage.private("command", "--workers", 2, *options[what], *large_until(ledger)).ends(OK)
    assert run.stdout
    assert bytes_kept(stage) == [100_000] * 11


# --- a spool in trouble ----------------------------------------------------------------------------

SPILLED = 'head -c 20000 /dev/zero | tr "\\0" "$1"'  # more than a queue takes, and less than goes to a file


@pytest.mark.parametrize("how", ["removed", "moved away", "a file in the way", "a disk that is not there"])
def test_no_job_fails_because_the_spool_is_in_trouble(stage: Stage, ledger: Ledger, tmp_path: Path, how: str) -> None:
    state = tmp_path / "state"
    env = {"XDG_STATE_HOME": str(state)}
    dealer = stage.dealer("--workers", 2, env=env)
    spool = state / "taskpool" / stage.pool / "spool"
    script = f'flock -s "$2" true; {SPILLED}'
    gate = str(ledger.directory / "gate")
    letters = "abcdefgh"
    jobs = ["--output", "json", "--", "sh", "-c", script, "sh", "{}", gate, ":::", *letters]
    lasting = how in ("a file in the way", "a disk that is not there")
    with ledger.gate():
        run = stage.generator("command", "--pool", stage.pool, "--retries", 0, *jobs, env=env)
        until(lambda: stage.ask("status")["batches"], "the batch")
        spool.rename(tmp_path / "away")
        if how == "removed":
            shutil.rmtree(tmp_path / "away")
        elif how == "a file in the way":
            spool.touch()
        elif how == "a disk that is not there":
            spool.symlink_to("nowhere")
        if lasting:
            dealer.says(rf"the pool's spool {spool} must be there, writable, and have room; until then no job is")
            for worker in workers_of(dealer.pid):
                kill(worker)
    if lasting:
        dealer.says("is ready[\\s\\S]*must be there[\\s\\S]*is ready")
        assert not run.lines, "nothing can be told yet"
        spool.unlink()
        dealer.says("has room again")
    records = run.ends(OK).objects()
    assert {record["seq"]: record["stdout"] for record in records} == {
        seq: 20000 * letter for seq, letter in enumerate(letters, 1)
    }
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_an_outcome_has_the_slot_that_its_job_has_seen(stage: Stage) -> None:
    """From 1, as GNU parallel's {%}; of each try that did not succeed, too."""
    script = "echo $TP_SLOT {%}; test $TP_ATTEMPT = 2"
    words = ["--workers", 2, "--retries", 1, "--output", "json", "--shell", script, ":::", *"abcdef"]
    outcomes = stage.private("command", *words).ends(OK).objects()
    assert [each["stdout"].split()[:2] for each in outcomes] == [[str(each["slot"])] * 2 for each in outcomes]
    assert {each["slot"] for each in outcomes} <= {1, 2}
    assert {tried["slot"] for each in outcomes for tried in each["tries"]} <= {1, 2}
    assert all(len(each["tries"]) == 1 for each in outcomes)
