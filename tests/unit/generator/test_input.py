"""Where jobs come from: durations, limits, job files, feeds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest

from taskpool import limits
from taskpool.client.submissions import SUBMIT_HEADER_BYTES, encoded_bytes
from taskpool.clock import SECOND
from taskpool.codec import encode
from taskpool.errors import UsageError
from taskpool.generator.input.feed import Feed, open_feed, preview
from taskpool.generator.input.jobs_file import parse_job, read_jobs
from taskpool.generator.input.lines import Lines
from taskpool.generator.job_limits import parse_limits
from taskpool.generator.parser import build_parser
from taskpool.generator.source import source_of
from taskpool.kinds.source import MakeJobs, Source
from taskpool.messages import DEFAULT_LIMITS, JobSpec, Limits, Submit


def option(key: str) -> str:
    return f"--{key}"


# --- limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({}, {}),
        ({"timeout": "1m30s"}, {"timeout_ns": 90 * SECOND}),
        ({"timeout": 0.5}, {"timeout_ns": SECOND // 2}),
        ({"timeout": "500ms"}, {"timeout_ns": SECOND // 2}),
        ({"timeout": "1.5h"}, {"timeout_ns": 5400 * SECOND}),
        ({"timeout": "1m1.5s250ms"}, {"timeout_ns": 61_750_000_000}),
        ({"retries": 3, "priority": -2}, {"retries": 3, "priority": -2}),
        ({"backoff": "1s..60s"}, {"backoff_min_ns": SECOND, "backoff_max_ns": 60 * SECOND}),
        ({"backoff": 2}, {"backoff_min_ns": 2 * SECOND, "backoff_max_ns": 2 * SECOND}),
        ({"crash_limit": "unlimited"}, {"crash_limit": 0}),
        (
            {"retry_on": "exit:75,exit:4,signal:KILL,signal:11"},
            {"retry_exit": (4, 75), "retry_signal": (9, 11), "retry_timeout": False, "retry_failed": False},
        ),
        ({"retry_on": ["timeout"]}, {"retry_timeout": True, "retry_failed": False}),
    ],
)
def test_limits_as_written(fields: dict[str, object], changes: dict[str, Any]) -> None:
    assert parse_limits(fields, option) == Limits(**changes)


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout": "10 parsecs"},
        {"timeout": 0},
        {"timeout": True},
        {"timeout": "99999999999"},
        {"timeout": 10**400},  # more than a float holds
        {"retries": -1},
        {"retries": "3"},
        {"crash_limit": 0},
        {"crash_limit": "never"},
        {"backoff": "60s..1s"},
        {"backoff": ".."},
        {"retry_on": "exit:0"},
        {"retry_on": "exit:256"},
        {"retry_on": "signal:NOPE"},
        {"retry_on": "signal:65"},
        {"retry_on": ""},
        {"retry_on": []},
        {"retry_on": [1]},
        {"priority": 2**40},
    ],
)
def test_wrong_limits_name_the_option_and_the_value(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"^--{next(iter(fields))}: "):
        parse_limits(fields, option)


def test_a_jobs_limits_start_from_the_batchs() -> None:
    base = Limits(retries=2, timeout_ns=SECOND)
    assert parse_limits({"timeout": 9}, option, base) == Limits(retries=2, timeout_ns=9 * SECOND)


# --- job files ----------------------------------------------------------------------------------------


def test_a_job_line_with_generic_keys() -> None:
    line = b'{"kind": "fib", "n": 5, "label": "five", "timeout": "10s", "priority": 3}'
    job = parse_job(line, "f:1", Limits(retries=1))
    assert (job.kind, job.label) == ("fib", "five")
    assert job.limits == Limits(retries=1, timeout_ns=10 * SECOND, priority=3)


def test_a_job_without_limits_of_its_own_has_the_batchs() -> None:
    assert parse_job(b'{"kind": "fib", "n": 5}', "f:1", Limits(retries=1)).limits is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not JSON"),
        (b"[1]", "expected a JSON object, got list"),
        (b'{"n": 5}', "field 'kind'"),
        (b'{"kind": "sing"}', "unknown kind 'sing'"),
        (b'{"kind": "fib", "n": 93}', "field 'n'"),
        (b'{"kind": "fib", "n": 5, "colour": 1}', "'colour' is unknown: expected n or"),
        (b'{"kind": "fib", "n": 5, "timeout": "x"}', "field 'timeout'"),
        (b'{"kind": "fib", "n": 5, "label": 3}', "field 'label'"),
        (b'{"kind": "fib", "n": 5, "needs": [1]}', "field 'needs' is not supported"),
        (b'{"kind": "fib", "n": 5, "after": 1}', "field 'after' is not supported"),
        (b'{"kind": "fib", "n": 5, "mem_limit": "1Q"}', "field 'mem_limit': expected an amount of memory"),
        (b'{"kind": "fib", "n": 5, "mem_escalate": "x2"}', "no memory limit to raise"),
        (b"[" * 100_000, "not JSON"),
        (b'{"kind": "\xff"}', "not JSON"),
    ],
)
def test_a_bad_line_is_named(line: bytes, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_job(line, "jobs.jsonl:7", DEFAULT_LIMITS)
    assert str(caught.value).startswith("jobs.jsonl:7: ")
    assert words in str(caught.value)


# --- feeds --------------------------------------------------------------------------------------------


def objects(lines: Iterator[bytes]) -> Iterator[JobSpec | None]:
    return read_jobs(lines, "in", DEFAULT_LIMITS)


def three(lines: Iterator[bytes]) -> Iterator[JobSpec]:
    """A source that reads no lines."""
    return iter([JobSpec(kind="fib", payload=bytes([n])) for n in range(3)])


FIB = b'{"kind": "fib", "n": 5}\n'


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def test_a_source_of_arguments_never_waits_for_input() -> None:
    feed = open_feed(Source(three))
    assert feed.total == 3 and feed.waits_for is None
    assert len(feed.take(4096)) == 3
    assert feed.take(4096) == [] and feed.ended


def test_a_pipe_gives_jobs_as_their_lines_end(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    feed = open_feed(Source(objects, reader, "in"))
    assert feed.total is None and feed.waits_for == reader
    os.write(writer, FIB + b"\n" + FIB[:5])
    feed.fill()
    assert len(feed.take(4096)) == 1
    assert feed.take(4096) == [] and not feed.ended
    os.write(writer, FIB[5:-1])  # the last line needs no newline
    os.close(writer)
    while feed.waits_for is not None:
        feed.fill()
    assert len(feed.take(4096)) == 1
    assert feed.take(4096) == [] and feed.ended and feed.error is None


def test_a_line_may_make_several_jobs_or_be_one_of_several(pipe: tuple[int, int]) -> None:
    def make_jobs(lines: Iterator[bytes]) -> Iterator[JobSpec | None]:
        while True:
            yield None
            line = next(lines, None)
            if line is None:
                break
            yield from (JobSpec("fib", bytes([number])) for number in line)
        yield JobSpec("fib", b"last")

    reader, writer = pipe
    feed = open_feed(Source(make_jobs, reader, "in", delimiter=b";;", expands=True))
    os.write(writer, b"abc;")
    feed.fill()
    assert feed.take(4096) == [] and feed.waits_for == reader
    os.write(writer, b";;;de;;f")
    feed.fill()
    assert [job.payload for job in feed.take(SUBMIT_HEADER_BYTES + 20)] == [b"a"]
    assert feed.waits_for is None  # of the same line there is more
    assert [job.payload for job in feed.take(4096)] == [b"b", b"c", b"d", b"e"]
    assert feed.waits_for == reader and not feed.ended
    os.close(writer)
    while feed.waits_for is not None:
        feed.fill()
    assert [job.payload for job in feed.take(4096)] == [b"f", b"last"]
    assert feed.take(4096) == [] and feed.ended


def test_of_endless_combinations_only_some_are_checked_beforehand() -> None:
    endless = (JobSpec("fib", bytes(1000)) for _ in count())
    feed = open_feed(Source(lambda lines: chain(endless), multiplies=True))
    assert feed.total is None
    assert len(feed.take(4096)) == 3


def test_a_pipe_with_a_bad_line_keeps_what_came_before(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, FIB + b"oops\n" + FIB)
    feed = open_feed(Source(objects, reader, "in"))
    feed.fill()
    assert len(feed.take(4096)) == 1
    assert feed.ended and "in:2" in str(feed.error)


def test_a_file_is_checked_to_its_last_line_first(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    path.write_bytes(FIB * 1000 + b"oops")
    with open(path, "rb") as file, pytest.raises(UsageError, match="in:1001"):
        open_feed(Source(objects, file.fileno(), "in"))


def test_a_file_is_counted_and_read_from_where_it_stood(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    path.write_bytes(b"skipped\n" + FIB * 5000)
    with open(path, "rb", buffering=0) as file:
        file.seek(len(b"skipped\n"))
        feed = open_feed(Source(objects, file.fileno(), "in"))
        assert feed.total == 5000 and feed.waits_for is None
        taken = 0
        while jobs := feed.take(4096):
            taken += len(jobs)
    assert taken == 5000 and feed.ended


def counting(source: MakeJobs, taken: list[bytes]) -> MakeJobs:
    """The same source, noting every line it takes."""

    def make_jobs(lines: Iterator[bytes]) -> Iterator[JobSpec | None]:
        def noted() -> Iterator[bytes]:
            for line in lines:
                taken.append(line)
                yield line

        return source(noted())

    return make_jobs


def take_all(feed: Feed) -> list[JobSpec]:
    return [job for jobs in iter(lambda: feed.take(4096), []) for job in jobs]


def test_a_file_is_read_once_and_what_was_checked_is_what_runs(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    path.write_bytes(FIB * 2 + b"\n \n" + FIB.rstrip())
    taken: list[bytes] = []
    with open(path, "rb") as file:
        feed = open_feed(Source(counting(objects, taken), file.fileno(), "in"))
        path.write_bytes(FIB + b"oops\n")
        assert (feed.total, len(taken)) == (3, 5)
        assert len(take_all(feed)) == 3
    assert feed.ended and feed.error is None
    assert len(taken) == 5


def test_a_file_of_more_than_may_be_kept_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.generator.input.feed.KEPT_BYTES_MAX", 1000)
    path = tmp_path / "jobs"
    path.write_bytes(b"skipped\n" + FIB * 20 + b"\n")
    taken: list[bytes] = []
    with open(path, "rb", buffering=0) as file:
        file.seek(len(b"skipped\n"))
        feed = open_feed(Source(counting(objects, taken), file.fileno(), "in"))
        assert (feed.total, len(taken)) == (20, 21)
        assert len(take_all(feed)) == 20
    assert len(taken) == 42


def test_a_file_that_spoils_after_the_check_ends_like_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.generator.input.feed.KEPT_BYTES_MAX", 0)
    path = tmp_path / "jobs"
    path.write_bytes(FIB * 2)
    with open(path, "rb") as file:
        feed = open_feed(Source(objects, file.fileno(), "in"))
        path.write_bytes(FIB + b"x" * (len(FIB) - 1) + b"\n")
        assert len(feed.take(4096)) == 1
    assert feed.error is not None


def test_arguments_that_make_more_than_may_be_kept_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.generator.input.feed.KEPT_BYTES_MAX", 0)
    feed = open_feed(Source(three))
    assert feed.total == 3
    assert [job.payload for job in take_all(feed)] == [b"\0", b"\1", b"\2"]


@pytest.mark.parametrize("opened", [open_feed, preview])
def test_a_terminal_is_no_input_but_wrong_arguments_come_first(opened: Callable[[Source], object]) -> None:
    controller, terminal = os.openpty()

    def refusing(lines: Iterator[bytes]) -> Iterator[JobSpec]:
        raise UsageError("wrong arguments")

    try:
        with pytest.raises(UsageError, match="standard input, which is a terminal: give arguments, a file or a pipe"):
            opened(Source(objects, terminal, "standard input"))
        with pytest.raises(UsageError, match="wrong arguments"):
            opened(Source(refusing, terminal, "standard input"))
    finally:
        os.close(controller)
        os.close(terminal)


# --- the sources of the command line --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reads"),
    [
        (["fib", "1"], False),
        (["command", "--", "ls", ":::", "a"], False),
        (["command", "--", "ls", ":::"], False),
        (["command", "--", "ls"], True),
        (["python", "m:f"], True),
        (["jobs", "-"], True),
    ],
)
def test_each_subcommand_says_whether_it_reads_lines(words: list[str], reads: bool) -> None:
    source = source_of(build_parser().parse_args(words))
    assert (source.fd is not None) is reads


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["fib", "93"], "93"),
        (["command"], "expected a program behind --"),
        (["command", "--", "a", "|", "b"], "did you mean --shell?"),
        (["command", "--env", "A", "--", "ls"], "NAME=VALUE"),
        (["python", "math"], "MODULE:FUNCTION"),
        (["jobs"], "jobs: expected a FILE of job objects, or - for standard input, got neither"),
    ],
)
def test_wrong_arguments_are_told_before_a_line_is_waited_for(words: list[str], text: str) -> None:
    def silent() -> Iterator[bytes]:
        raise AssertionError("asked for a line")
        yield b""

    with pytest.raises(UsageError, match=re.escape(text)):
        source_of(build_parser().parse_args(words)).make_jobs(silent())


def test_frames_fit_their_messages() -> None:
    def source(lines: Iterator[bytes]) -> Iterator[JobSpec]:
        for n in range(600):
            limit = Limits(retries=n, retry_exit=(1, 2, 3)) if n % 3 else None
            yield JobSpec(kind="command", payload=b"x" * (n % 300), label="ü" * (n % 9) or None, limits=limit)

    feed = open_feed(Source(source))
    sizes = []
    while jobs := feed.take(1024):
        message = Submit(client=2**63 - 1, batch="b" * 64, first_seq=limits.JOB_SEQ_MAX, jobs=jobs)
        sizes.append(len(encode(message)))
        assert len(jobs) <= limits.SUBMIT_JOBS_MAX
    assert max(sizes) <= 1024
    assert sum(sizes) / len(sizes) > 512


def test_a_job_larger_than_its_message_goes_alone() -> None:
    big = JobSpec(kind="command", payload=b"x" * 5000)
    feed = open_feed(Source(lambda lines: iter([big, big])))
    assert [len(feed.take(1024)) for _ in range(3)] == [1, 1, 0]
    assert encoded_bytes(big) + SUBMIT_HEADER_BYTES > 1024


def test_a_job_larger_than_any_message_is_refused() -> None:
    huge = JobSpec(kind="command", payload=b"x" * (limits.PAYLOAD_BYTES_MAX + 1))
    with pytest.raises(UsageError, match="job 1: its arguments take"):
        open_feed(Source(lambda lines: iter([huge])))


def test_stop_ends_a_feed() -> None:
    feed = open_feed(Source(three))
    feed.stop()
    assert feed.take(4096) == [] and feed.ended and feed.error is None


def test_preview_reads_a_pipe_to_its_end(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], FIB * 3)
    os.close(pipe[1])
    assert len(list(preview(Source(objects, pipe[0], "in")))) == 3


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int]) -> None:
    monkeypatch.setattr("taskpool.generator.input.lines.LINE_BYTES_MAX", 10)
    os.write(pipe[1], b"ok\n" + b"x" * 11)
    with pytest.raises(UsageError, match="in:2: a line longer"):
        Lines(pipe[0], "in").fill()
