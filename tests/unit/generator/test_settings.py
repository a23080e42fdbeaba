"""Settings of tp-generator: which options they are, and what takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskpool.errors import UsageError
from taskpool.generator import settings
from taskpool.generator.parser import build_parser
from taskpool.kinds.base import OWN_VARIABLES
from taskpool.procs.settings import Setting, Settings


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the taskpool.toml of the current directory, which is not there yet."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "taskpool.toml"


def below(*words: str) -> Settings:
    parser = build_parser()
    return settings.below(parser, parser.parse_args(words), pytest.fail)


def test_a_variable_of_the_dealer_comes_before_a_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text('workers = 1\nspares = 0\nmetrics = "none"')
    monkeypatch.setenv("TP_DEALER_WORKERS", "2")
    monkeypatch.setenv("TP_DEALER_METRICS", "127.0.0.1:1")  # which a private pool does not read
    assert settings.values(below("fib", "5")) == {"spares": "0", "metrics": "none"}


def test_with_a_pool_the_settings_of_private_dealers_do_not_count(project: Path) -> None:
    project.write_text('workers = 1\ntimeout = "5s"')
    assert list(below("fib", "5", "--pool", "night")) == ["timeout"]
    project.write_text('workers = 1\ntimeout = "5s"\npool = "night"')
    assert set(below("fib", "5")) == {"timeout", "pool"}


def test_a_command_takes_what_it_has_and_going_on_takes_nothing(project: Path) -> None:
    project.write_text('timeout = "5s"\npool = "night"\ndealer_timeout = "1s"\nlog_format = "json"')
    assert set(below("wait", "b")) == {"pool", "dealer_timeout", "log_format"}
    assert set(below("quarantine", "drop", "b")) == {"pool", "dealer_timeout", "log_format"}
    assert below("resume", "b") == below("rerun", "b") == below("batches") == below("forget", "b") == {}


def test_a_setting_is_the_default_of_a_flag_wherever_the_subcommand_is() -> None:
    parser = build_parser()
    chosen = {"pool": "night", "timeout": "5s", "retries": "2", "keep_order": "true"}
    args = settings.parse_below(parser, ["fib", "5", "--timeout", "1s"], chosen)
    assert (args.pool, args.timeout, args.retries, args.keep_order) == ("night", "1s", 2, True)
    assert settings.parse_below(build_parser(), ["quarantine", "drop", "all"], chosen).pool == "night"
    # What a wait calls a time-out is another thing.
    waits = settings.parse_below(build_parser(), ["wait", "b"], {"pool": "night"})
    assert (waits.pool, waits.timeout) == ("night", None)


def test_settings_as_flags_for_a_command_that_is_printed() -> None:
    found = {
        "timeout": Setting("5s", "f"),
        "keep_order": Setting("yes", "f"),
        "no_wait": Setting("off", "f"),
        "priority": Setting("-5", "f"),
    }
    words = settings.as_words(build_parser(), found)
    assert words == ["--timeout=5s", "--keep-order", "--priority=-5"]
    args = build_parser().parse_args(["fib", *words, "5"])
    assert (args.timeout, args.keep_order, args.priority, args.no_wait) == ("5s", True, -5, False)


@pytest.mark.parametrize("text", ["1.5", "x", "", "9" * 19, "٣", "--1"])
def test_a_wrong_integer_is_refused(project: Path, text: str) -> None:
    project.write_text(f'retries = "{text}"')
    with pytest.raises(UsageError, match=r"taskpool\.toml: retries: expected an integer"):
        below("fib", "5")


def test_a_path_counts_from_its_file_and_a_variables_from_here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text('worker_exec = "bin/w"\njournal = "none"')
    (project.parent / "sub").mkdir()
    monkeypatch.chdir(project.parent / "sub")
    assert settings.values(below("fib", "5")) == {"worker_exec": str(project.parent / "bin/w"), "journal": "none"}
    monkeypatch.setenv("TP_WORKER_EXEC", "own/w")
    assert below("fib", "5")["worker_exec"].value == str(project.parent / "sub" / "own/w")


def test_render_says_what_is_set_and_where() -> None:
    assert settings.render({}, as_json=False) == b"All settings have their defaults.\n"
    text = settings.render({"timeout": Setting("5s", "/p/taskpool.toml")}, as_json=False).decode()
    assert text.splitlines()[1].split() == ["timeout", "5s", "/p/taskpool.toml"]


def test_what_a_job_finds_in_its_environment_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN_VARIABLES:
        monkeypatch.setenv(name, "pool/1/1")
    assert below("fib", "5") == {}
