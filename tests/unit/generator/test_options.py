"""The command line as a whole."""

from __future__ import annotations

import pytest

from taskpool.clock import SECOND
from taskpool.errors import UsageError
from taskpool.generator import admin
from taskpool.generator.options import SubmitOptions, submit_options
from taskpool.generator.parser import build_parser
from taskpool.generator.private.state import private_pool_name
from taskpool.generator.submit import resume_command
from taskpool.ipc.names import check_pool_name
from taskpool.messages import Answer


def parse(*words: str) -> SubmitOptions:
    return submit_options(build_parser().parse_args(["fib", "5", *words]))


def test_defaults() -> None:
    options = parse()
    assert options.pool is None and not options.resume and len(options.batch) == 16
    assert list(options.launch.words) == ["--metrics=none", "--log-format=text"]
    assert options.journal is None
    assert (options.form, options.wait_for_room, options.halt) == ("value", True, None)


def test_limits_of_the_batch() -> None:
    options = parse(
        "--timeout", "1m", "--retries", "2", "--crash-limit", "7", "--backoff", "1s..2s", "--priority", "-5"
    )
    limits = options.limits
    assert (limits.timeout_ns, limits.retries, limits.crash_limit, limits.priority) == (60 * SECOND, 2, 7, -5)
    assert parse("--crash-limit", "unlimited").limits.crash_limit == 0


def test_a_private_dealer_is_handed_its_options() -> None:
    words = ["--workers", "+1", "--spares", "0", "--worker-exec", "/w", "--chaos", "crash=0.1", "--metrics", "none"]
    words += ["--journal", "none", "--journal-sync", "normal", "--retain", "1h"]
    assert parse(*words).journal == "none"
    assert parse(*words, "--drain-timeout", "2s", "-v").launch.words == (
        "--workers=+1",
        "--spares=0",
        "--journal-sync=normal",
        "--retain=1h",
        "--metrics=none",
        "--worker-exec=/w",
        "--chaos=crash=0.1",
        "--drain-timeout=2s",
        "-v",
        "--log-format=text",
    )


def test_how_long_a_dealer_is_waited_for() -> None:
    assert parse("--pool", "p").timeouts == (5 * SECOND, 60 * SECOND)
    assert parse("--pool", "p", "--dealer-timeout", "2").timeouts == (2 * SECOND, 2 * SECOND)
    assert parse().timeouts.connect_ns > 5 * SECOND  # a private dealer is on its way


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--pool", "p", "--workers", "3"], "--workers is for a private pool"),
        (["--pool", "p", "--chaos", "crash=1"], "--chaos is for a private pool"),
        (["--pool", "Nope"], "pool name"),
        (["--pool", "p", "--journal", "none"], "--journal is for a private pool"),
        (["--pool", "p", "--journal-sync", "full"], "--journal-sync is for a private pool"),
        (["--pool", "p", "--retain", "1h"], "--retain is for a private pool"),
        (["--journal", ""], "--journal"),
        (["--journal", "jobs\udcff.db"], "expected a path in UTF-8"),
        (["--journal-sync", "perhaps"], "2"),
        (["--retain", "for ever"], "--retain"),
        (["--resume"], "--resume needs --batch"),
        (["--detach"], "--detach needs --pool"),
        (["--pool", "p", "--detach", "--results", "r"], "--results needs the outcomes"),
        (["--pool", "p", "--detach", "--halt", "now,fail=1"], "--halt needs the outcomes"),
        (["--chaos", "hang=0.1"], "needs --timeout"),
        (["--chaos", "sing=0.1"], "--chaos"),
        (["--batch", "-x"], "--batch"),
        (["--batch", "a/b"], "--batch"),
        (["--halt", "x"], "--halt"),
        (["--crash-limit", "0"], "--crash-limit"),
        (["--dealer-timeout", "soon"], "--dealer-timeout"),
        (["--drain-timeout", "later"], "--drain-timeout"),
    ],
)
def test_nonsense_is_refused(words: list[str], complaint: str) -> None:
    with pytest.raises((UsageError, SystemExit), match=complaint if words[0] != "--batch" or words[1] != "-x" else "2"):
        parse(*words)


def test_hang_with_a_timeout_is_fine() -> None:
    parse("--chaos", "hang=0.1", "--timeout", "1s")


@pytest.mark.parametrize("batch", ["demo", "9", "x" * 32, "0123456789abcdef"])
def test_a_private_pool_is_named_after_its_batch(batch: str) -> None:
    assert private_pool_name(batch) == batch


def test_no_two_batches_share_a_pool() -> None:
    batches = ["Run_7.b", "run_7.b", "run-7-b", "run-7.b", "RUN-7-B", "x" * 64, "x" * 63, "x" * 32, "A", "a", "a."]
    pools = [private_pool_name(batch) for batch in batches]
    assert len(set(pools)) == len(batches)
    assert [check_pool_name(pool) for pool in pools] == pools
    assert pools[0].startswith("run-7-b-")
    assert private_pool_name(pools[0]) != pools[0], "an id that looks like one of ours"


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["fib", "5"], "tp fib --batch b --resume 5"),
        (["fib", "--batch", "b", "5"], "tp fib --resume --batch b 5"),
        (["fib", "--batch=b", "--resume", "5"], "tp fib --batch=b --resume 5"),
        (["command", "--", "x", "--batch", ":::", "a b"], "tp command --batch b --resume -- x --batch ::: 'a b'"),
        (["command", "--", "x", "y" * 99_999], "the same command with --batch b --resume behind 'command'"),
    ],
)
def test_the_command_that_resumes(argv: list[str], command: str) -> None:
    assert resume_command("tp", argv, "b") == command


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (["status"], ("status", None, 0, 0)),
        (["show", "b/3"], ("show", "b", 3, 0)),
        (["cancel", "b"], ("cancel", "b", 0, 0)),
        (["cancel", "--json", "b/3", "--pool", "p"], ("cancel", "b", 3, 0)),
        (["requeue", "b/3"], ("requeue", "b", 3, 0)),
        (["scale", "+2"], ("scale", None, 0, 2)),
        (["scale", "-1", "--pool", "p"], ("scale", None, 0, -1)),
        (["quarantine", "list"], ("quarantine-list", None, 0, 0)),
        (["quarantine", "drop", "--pool", "p", "b/1"], ("quarantine-drop", "b", 1, 0)),
        (["quarantine", "requeue", "all"], ("quarantine-requeue", None, 0, 0)),
    ],
)
def test_requests_to_a_pool(words: list[str], request_: tuple[object, ...]) -> None:
    assert admin.request_from(build_parser().parse_args(words)) == request_


@pytest.mark.parametrize(
    "words", [["show", "b"], ["show", "b/0"], ["show", "b/x"], ["cancel", "/3"], ["cancel", "b/1/2"], ["scale", "2"]]
)
def test_wrong_requests(words: list[str]) -> None:
    with pytest.raises(UsageError):
        admin.request_from(build_parser().parse_args(words))


def test_answers_for_people_and_for_programs() -> None:
    answer = Answer(1, "pause", True, b'{"state":"paused"}')
    assert admin.render(answer, as_json=False) == (b"state  paused\n", None)
    assert admin.render(answer, as_json=True) == (b'{"state":"paused"}\n', None)
    assert admin.render(Answer(1, "show", False, b'{"error":"no"}'), as_json=False) == (b"", "no")
    assert admin.render(Answer(1, "show", False, b"?"), as_json=False)[1] == "the dealer's answer is not JSON"
