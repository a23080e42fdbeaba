"""The command line as a whole."""

from __future__ import annotations

import pytest

from taskpool.clock import SECOND
from taskpool.errors import UsageError
from taskpool.generator import remote
from taskpool.generator.cli import build_parser
from taskpool.generator.main import wish_of
from taskpool.generator.options import SubmitOptions, submit_options
from taskpool.generator.private import private_pool_name
from taskpool.messages import Answer


def parse(*words: str) -> SubmitOptions:
    return submit_options(build_parser().parse_args(["fib", "5", *words]))


def test_defaults() -> None:
    options = parse()
    assert options.pool is None and not options.batch_named and len(options.batch) == 16
    assert options.dealer_options == ["--journal=none", "--metrics=none", "--log-format=text"]
    assert (options.form, options.waits, options.halt) == ("value", True, None)


def test_limits_of_the_batch() -> None:
    options = parse(
        "--timeout", "1m", "--retries", "2", "--crash-limit", "7", "--backoff", "1s..2s", "--priority", "-5"
    )
    limits = options.limits
    assert (limits.timeout_ns, limits.retries, limits.crash_limit, limits.priority) == (60 * SECOND, 2, 7, -5)
    assert parse("--crash-limit", "unlimited").limits.crash_limit == 0


def test_a_private_dealer_is_handed_its_options() -> None:
    words = ["--workers", "+1", "--spares", "0", "--worker-exec", "/w", "--chaos", "crash=0.1", "--metrics", "none"]
    assert parse(*words, "--drain-timeout", "2s", "-v").dealer_options == [
        "--workers=+1",
        "--spares=0",
        "--journal=none",
        "--metrics=none",
        "--worker-exec=/w",
        "--chaos=crash=0.1",
        "--drain-timeout=2s",
        "-v",
        "--log-format=text",
    ]


def test_patience() -> None:
    assert parse("--pool", "p").patience == (5 * SECOND, 60 * SECOND)
    assert parse("--pool", "p", "--dealer-timeout", "2").patience == (2 * SECOND, 2 * SECOND)
    assert parse().patience.first_ns > 5 * SECOND  # a private dealer is on its way


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--pool", "p", "--workers", "3"], "--workers is for a private pool"),
        (["--pool", "p", "--chaos", "crash=1"], "--chaos is for a private pool"),
        (["--pool", "Nope"], "pool name"),
        (["--journal", "/tmp/x"], "keeps no journal"),
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


@pytest.mark.parametrize(
    ("batch", "pool"), [("demo", "demo"), ("Run_7.b", "run-7-b"), ("x" * 64, "x" * 32), ("9", "9")]
)
def test_a_private_pool_is_named_after_its_batch(batch: str, pool: str) -> None:
    assert private_pool_name(batch) == pool


def test_nameless_private_pools_do_not_meet() -> None:
    assert private_pool_name(None) != private_pool_name(None)


@pytest.mark.parametrize(
    ("words", "wish"),
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
def test_wishes(words: list[str], wish: tuple[object, ...]) -> None:
    assert wish_of(build_parser().parse_args(words)) == wish


@pytest.mark.parametrize(
    "words", [["show", "b"], ["show", "b/0"], ["show", "b/x"], ["cancel", "/3"], ["cancel", "b/1/2"], ["scale", "2"]]
)
def test_wrong_wishes(words: list[str]) -> None:
    with pytest.raises(UsageError):
        wish_of(build_parser().parse_args(words))


def test_answers_for_people_and_for_programs() -> None:
    answer = Answer(1, "pause", True, b'{"state":"paused"}')
    assert remote.tell(answer, as_json=False) == (b"state  paused\n", None)
    assert remote.tell(answer, as_json=True) == (b'{"state":"paused"}\n', None)
    assert remote.tell(Answer(1, "show", False, b'{"error":"no"}'), as_json=False) == (b"", "no")
    assert remote.tell(Answer(1, "show", False, b"?"), as_json=False)[1] == "the dealer's answer is not JSON"
