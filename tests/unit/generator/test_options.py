"""The command line of a submission as a whole."""

from __future__ import annotations

import pytest

from taskpool.clock import SECOND
from taskpool.errors import UsageError
from taskpool.generator.options import SubmitOptions, submit_options
from taskpool.generator.parser import build_parser


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


def test_a_tag_is_put_before_lines_unless_objects_are_printed() -> None:
    def of_command(*words: str) -> SubmitOptions:
        return submit_options(build_parser().parse_args(["command", *words, "echo"]))

    forms = [of_command(*words).form for words in ((), ("--tag",), ("--tagstring", ""), ("--tag", "--output", "json"))]
    assert forms == ["value", "tagged", "tagged", "json"]
    with pytest.raises(UsageError, match="--tag needs the outcomes"):
        of_command("--pool", "p", "--detach", "--tag")


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


def test_a_cluster_needs_the_name_of_its_pool_and_takes_no_halt() -> None:
    options = parse("--pool", "p", "--cluster", "nats://a,b", "--cluster-creds", "/c", "--cluster-ca", "/a")
    assert options.cluster is not None
    assert options.cluster.servers == ("nats://a", "nats://b")
    assert (options.cluster.creds, options.cluster.ca) == ("/c", "/a")
    with pytest.raises(UsageError, match=r"--cluster nats://a: --pool says which"):
        parse("--cluster", "nats://a")
    with pytest.raises(UsageError, match="--halt is not possible with --cluster"):
        parse("--pool", "p", "--cluster", "nats://a", "--halt", "now,fail=1")
    with pytest.raises(UsageError, match="--cluster-ca is for --cluster"):
        parse("--pool", "p", "--cluster-ca", "/a")
    with pytest.raises(UsageError, match=r"--cluster ftp://a: .*expected"):
        parse("--pool", "p", "--cluster", "ftp://a")
