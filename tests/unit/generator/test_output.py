"""Where outcomes go, and what they look like there."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskpool.clock import SECOND
from taskpool.errors import ConfigurationError
from taskpool.generator.output.console import Console, Progress
from taskpool.generator.output.formats import JOBLOG_HEADER, exit_value, joblog_line, present, to_json, why
from taskpool.generator.output.keep_order import KeepOrder
from taskpool.generator.output.printer import value_pieces
from taskpool.generator.output.stream import OutputClosed, OutputStream, Piece
from taskpool.generator.totals import PoolFacts, Totals
from taskpool.messages import JobError, Outcome, Output, State, Usage

MOMENT = 1_700_000_000 * SECOND


def outcome(seq: int = 1, state: State = State.SUCCEEDED, **changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "no": seq,
        "seq": seq,
        "run": 1,
        "kind": "fib",
        "label": None,
        "state": state,
        "attempts": 1,
        "crashes": 0,
        "queued_wall_ns": MOMENT,
        "finished_wall_ns": MOMENT + 3 * SECOND,
        "wait_ns": SECOND,
        "usage": Usage(started_wall_ns=MOMENT + SECOND, run_ns=2 * SECOND, cpu_ns=SECOND, max_rss_bytes=4096),
    }
    return Outcome(**{**fields, **changes})


# --- outcome objects ----------------------------------------------------------------------------------


def test_the_outcome_object_field_for_field() -> None:
    text = to_json("b", outcome(value=b"[1,\n2]", output=Output(stdout="hi"), error=JobError("E", "m")))
    assert text.endswith(b"\n") and text.count(b"\n") == 1
    assert list(json.loads(text).items()) == [
        ("batch", "b"),
        ("seq", 1),
        ("run", 1),
        ("kind", "fib"),
        ("label", None),
        ("state", "succeeded"),
        ("value", [1, 2]),
        ("exit_status", None),
        ("signal", None),
        ("attempts", 1),
        ("crashes", 0),
        ("slot", None),
        ("pid", None),
        ("queued_at", "2023-11-14T22:13:20.000000Z"),
        ("started_at", "2023-11-14T22:13:21.000000Z"),
        ("finished_at", "2023-11-14T22:13:23.000000Z"),
        ("wait_seconds", 1.0),
        ("run_seconds", 2.0),
        ("cpu_seconds", 1.0),
        ("max_rss_bytes", 4096),
        ("stdout", "hi"),
        ("stderr", None),
        ("stdout_file", None),
        ("stderr_file", None),
        ("error", {"type": "E", "message": "m", "traceback": None}),
    ]


def test_what_never_ran_has_no_times() -> None:
    record = json.loads(to_json("b", outcome(state=State.CANCELLED, attempts=0, usage=Usage())))
    missing = ("started_at", "wait_seconds", "run_seconds", "cpu_seconds", "max_rss_bytes", "value")
    assert [record[key] for key in missing] == [None] * len(missing)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": State.FAILED, "exit_status": 3}, "failed, exit status 3"),
        ({"state": State.QUARANTINED, "signal": 11, "crashes": 3}, "quarantined after 3 crashes: SIGSEGV"),
        ({"state": State.FAILED, "attempts": 2, "error": JobError("E", " m ")}, "failed after 2 attempts: E: m"),
        ({"state": State.TIMED_OUT, "signal": 64}, "timed-out: SIGRTMAX"),
        ({"state": State.TIMED_OUT, "signal": 40}, "timed-out: signal 40"),
    ],
)
def test_why(changes: dict[str, Any], words: str) -> None:
    assert why(outcome(**changes)) == words


def test_a_value_is_a_line_and_what_its_job_printed_is_for_the_human() -> None:
    assert value_pieces(outcome(value=b"5", output=Output(stdout="noise", stderr="more"))) == [
        Piece(1, b"5\n"),
        Piece(2, b"noise"),
        Piece(2, b"more"),
    ]


def test_a_command_prints_its_own_streams() -> None:
    printed = outcome(kind="command", output=Output(stdout="out", stderr_file="/err"))
    assert value_pieces(printed) == [Piece(1, b"out"), Piece(2, Path("/err"))]


# --- job log ------------------------------------------------------------------------------------------


def test_the_job_log_is_gnu_parallels() -> None:
    assert JOBLOG_HEADER == b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
    line = joblog_line(outcome(7, State.FAILED, exit_status=3, output=Output(stdout="abü")), "echo 'a\nb\udcff'")
    assert line == b"7\t:\t1700000001.000\t     2.000\t0\t4\t3\t0\techo 'a\0b\xff'\n"


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({}, 0),
        ({"state": State.FAILED}, 1),
        ({"state": State.FAILED, "exit_status": 9}, 9),
        ({"state": State.TIMED_OUT, "exit_status": 0}, -1),
        ({"state": State.CANCELLED}, -1),
        ({"state": State.QUARANTINED, "signal": 11}, 0),
    ],
)
def test_exit_values(changes: dict[str, Any], value: int) -> None:
    assert exit_value(outcome(**changes)) == value


# --- order --------------------------------------------------------------------------------------------


def put(order: KeepOrder, seq: int, text: bytes) -> list[bytes | Path]:
    return [piece.content for piece in order.put(seq, [Piece(1, text)])]


@pytest.mark.parametrize("memory", [0, 3, 1000])
def test_order_is_kept_in_memory_and_beyond(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.generator.output.keep_order.MEMORY_BYTES_MAX", memory)
    order = KeepOrder()
    assert put(order, 3, b"three") == []
    assert list(order.put(2, [])) == []
    assert list(order.put(5, [Piece(1, b"five"), Piece(2, Path("/x"))])) == []
    assert put(order, 1, b"one") == [b"one", b"three"]
    assert put(order, 4, b"four") == [b"four", b"five", Path("/x")]
    assert put(order, 2, b"again") == [b"again"]
    assert put(order, 9, b"nine") == [] and put(order, 8, b"eight") == []
    assert [piece.content for piece in order.remaining()] == [b"eight", b"nine"]
    order.close()


# --- slow and dead readers ----------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def test_a_reader_that_does_not_read_blocks_nobody(pipe: tuple[int, int], tmp_path: Path) -> None:
    reader, writer = pipe
    data, file_data = os.urandom(300_000), os.urandom(200_000)
    path = tmp_path / "output"
    path.write_bytes(file_data)
    stream = OutputStream(writer)
    stream.put(data)
    stream.put(path)
    stream.put(b"end")
    got = b""
    for _ in range(10_000):
        stream.pump()
        if stream.idle:
            break
        got += os.read(reader, 65_536)
    while select.select([reader], [], [], 0)[0]:
        got += os.read(reader, 65_536)
    assert got == data + file_data + b"end"


def test_a_long_backlog_is_congestion(pipe: tuple[int, int]) -> None:
    stream = OutputStream(pipe[1])
    assert not stream.congested
    stream.put(b"x" * 2_000_000)
    stream.pump()
    assert stream.congested and not stream.idle


def test_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    stream = OutputStream(pipe[1])
    os.close(pipe[0])
    stream.put(b"x")
    with pytest.raises(OutputClosed):
        stream.pump()


def test_a_full_disk_is_told() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        stream = OutputStream(fd)
        stream.put(b"x")
        with pytest.raises(ConfigurationError, match="No space left"):
            stream.pump()
    finally:
        os.close(fd)


def test_output_that_cannot_be_read_is_told(pipe: tuple[int, int], tmp_path: Path) -> None:
    stream = OutputStream(pipe[1])
    stream.put(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="missing"):
        stream.pump()


# --- the human ----------------------------------------------------------------------------------------


def read_all(fd: int) -> str:
    return os.read(fd, 65_536).decode()


def test_the_bar_is_taken_away_for_a_line_and_drawn_again(pipe: tuple[int, int]) -> None:
    console = Console(fd=pipe[1])
    console.bar("[##..]")
    console.info("hello")
    console.hide_bar()
    console.detail("not without -v")
    assert read_all(pipe[0]) == "[##..]\r\x1b[K[TaskGenerator] hello\n[##..]\r\x1b[K"


def test_a_closed_standard_error_is_nobodys_death(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    Console(fd=pipe[1]).error("x")


def test_quiet_leaves_errors(pipe: tuple[int, int]) -> None:
    console = Console(verbosity=-1, fd=pipe[1])
    console.info("a")
    console.warning("b")
    console.error("c")
    assert read_all(pipe[0]) == "tp-generator: c\n"


def test_progress_as_json(pipe: tuple[int, int]) -> None:
    totals = Totals()
    totals.add(outcome(state=State.FAILED))
    progress = Progress("json", Console(fd=pipe[1]), totals, started=0)
    progress.show(4, SECOND // 2)
    progress.show(4, SECOND)
    assert json.loads(read_all(pipe[0])) == {
        "type": "progress",
        "finished": 1,
        "total": 4,
        "failed": 1,
        "crashes": 0,
        "elapsed_seconds": 1.0,
    }


def test_progress_as_a_bar(pipe: tuple[int, int]) -> None:
    totals = Totals()
    totals.add(outcome())
    progress = Progress("bar", Console(fd=pipe[1]), totals, started=0)
    progress.show(3, 10 * SECOND)
    assert read_all(pipe[0]) == "[##########....................] 1/3 done, 10s, 20s left"
    progress.show(None, 20 * SECOND)
    assert read_all(pipe[0]).endswith("1/? done, 20s")


def test_the_tally_counts_a_job_by_its_last_run() -> None:
    totals = Totals()
    totals.add(outcome(2, State.QUARANTINED, attempts=3, crashes=3))
    totals.add(outcome(1))
    assert (totals.finished, totals.failed) == (2, 1)
    totals.add(outcome(2))
    assert (totals.finished, totals.failed, totals.by_state[State.SUCCEEDED]) == (2, 0, 2)
    assert (totals.attempts, totals.crashes, totals.cpu_ns) == (5, 3, 3 * SECOND)


def test_the_summary() -> None:
    totals = Totals()
    totals.add(outcome(1))
    totals.add(outcome(2, State.TIMED_OUT, crashes=1))
    text, fields = totals.summary(3, 4 * SECOND, PoolFacts(respawns=1, cpus=2))
    assert text == (
        "3 jobs: 1 succeeded, 1 timed-out, 1 not run; 2 attempts, 1 crash, 1 respawn; 4.0s wall; "
        "CPU 2.0s of 8.0s available (25%)"
    )
    assert fields["timed_out"] == 1 and fields["cpu_available_seconds"] == 8.0
    assert "respawn" not in totals.summary(2, SECOND, PoolFacts())[0]


def test_an_answer_laid_out_for_a_person() -> None:
    body = {
        "pool": "demo",
        "paused": False,
        "jobs": {"queued": 3},
        "running": [{"pid": 1, "job": "a/1"}, {"pid": 20, "seconds": 1.5}],
        "batches": [],
        "evil": "\x1b[2J",
    }
    assert present(body) == (
        "pool    demo\n"
        "paused  no\n"
        "evil    \\x1b[2J\n"
        "jobs:\n"
        "  queued  3\n"
        "running:\n"
        "  pid  job  seconds\n"
        "  1    a/1  -\n"
        "  20   -    1.5\n"
        "batches: none\n"
    )
    assert present([1, None]) == "1\n-\n" and present("x") == "x\n"
