"""Where settings come from: variables, and files that other users may have put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskpool.errors import UsageError
from taskpool.procs import settings
from taskpool.procs.settings import Setting

KEYS = ("workers", "timeout", "retry_on")


def found_in(*paths: Path) -> list[tuple[Path, str, bool]]:
    return [(found.path, found.text, bool(found.refusal)) for found in settings.look_for(iter(paths))]


def test_variables_set_what_they_name_and_an_empty_one_sets_nothing() -> None:
    env = {"TP_WORKERS": "3", "TP_TIMEOUT": "", "PATH": "/bin", "TP_workers": "9", "XTP_WORKERS": "4"}
    assert settings.from_environment(env, "TP_", KEYS) == {"workers": Setting("3", "TP_WORKERS")}


@pytest.mark.parametrize("name", ["TP_WORKER_S", "TP_TIMEOUTS", "TP_RETRYON"])
def test_a_misspelt_variable_is_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name}: no such setting; did you mean TP_(WORKERS|TIMEOUT|RETRY_ON)\?"):
        settings.from_environment({name: "1"}, "TP_", KEYS)


@pytest.mark.parametrize(
    "name", ["TP_PORT", "TP_SERVICE_HOST", "TP_JOB_ID", "TP_SLOT", "TP_PORT_80_TCP_ADDR", "TP_WORKERS_SERVICE_HOST"]
)
def test_a_variable_that_is_like_no_setting_is_let_be(name: str) -> None:
    assert settings.from_environment({name: "1"}, "TP_", KEYS) == {}


def test_what_is_about_one_run_is_no_setting() -> None:
    with pytest.raises(UsageError, match="TP_RESUME: --resume is about one run"):
        settings.from_environment({"TP_RESUME": "1"}, "TP_", KEYS, ("resume",))
    with pytest.raises(UsageError, match=r"f\.toml: resume: --resume is about one run"):
        settings.from_file(Path("f.toml"), KEYS, "resume = true", ("resume",))


def test_values_of_a_file_are_the_text_of_flags(tmp_path: Path) -> None:
    path = tmp_path / "taskpool.toml"
    found = settings.from_file(path, KEYS, "workers = 3\ntimeout = 1.5\nretry_on = true")
    assert {key: setting.value for key, setting in found.items()} == {
        "workers": "3",
        "timeout": "1.5",
        "retry_on": "true",
    }
    assert {(setting.source, setting.directory) for setting in found.values()} == {(str(path), str(tmp_path))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("worker = 3", r"unknown name 'worker'; did you mean workers\? \(known: retry_on, timeout, workers\)"),
        ("colour = 3", r"unknown name 'colour' \(known"),
        ("workers = [3]", r"workers: expected a text, a number, true or false, got \[3\]"),
        ("timeout = 2026-01-01", "timeout: expected a text"),
        ('workers = "a\\u0000b"', "workers: expected a text"),
        ("workers = ", "not TOML"),
        ("a=" + "[" * 5000, "not TOML"),
        (f"workers = {'1' * 5000}", "not TOML"),
    ],
)
def test_a_wrong_file_is_told_with_its_name(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=rf"^f\.toml: {expected}"):
        settings.from_file(Path("f.toml"), KEYS, text)


def test_the_nearest_file_above_is_the_projects(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    outer = tmp_path / "taskpool.toml"
    outer.write_text("outer")
    assert found_in(*settings.upward(inner)) == [(outer, "outer", False)]
    nearest = tmp_path / "a" / "taskpool.toml"
    nearest.write_text("nearest")
    assert found_in(*settings.upward(inner)) == [(nearest, "nearest", False)]


def test_a_file_that_all_can_write_is_not_used_and_the_next_one_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    unsafe, safe = tmp_path / "a" / "taskpool.toml", tmp_path / "taskpool.toml"
    unsafe.write_text("unsafe")
    unsafe.chmod(0o666)
    safe.write_text("safe")
    assert found_in(unsafe, safe) == [(unsafe, "", True), (safe, "safe", False)]


def test_a_file_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "taskpool.toml"
    path.write_text("theirs")
    other = os.geteuid() + 1
    if os.geteuid() == 0:
        os.chown(path, other, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: other)
    (found,) = settings.look_for(iter([path]))
    assert "owns it, not you" in found.refusal


@pytest.mark.parametrize("kind", ["directory", "fifo", "large"])
def test_what_is_no_small_file_is_not_used(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "taskpool.toml"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)  # opening it must not wait for a writer
    else:
        path.write_bytes(b"#" * (1 << 20) + b"#")
    (found,) = settings.look_for(iter([path]))
    assert found.refusal


def test_a_users_file_is_where_xdg_says() -> None:
    assert list(settings.of_user({"XDG_CONFIG_HOME": "/c", "HOME": "/h"})) == [Path("/c/taskpool/taskpool.toml")]
    assert list(settings.of_user({"XDG_CONFIG_HOME": "c", "HOME": "/h"})) == [Path("/h/.config/taskpool/taskpool.toml")]
    assert list(settings.of_user({})) == []


def test_an_error_tells_where_the_value_it_names_is_from() -> None:
    given = {"timeout": Setting("5x", "f.toml"), "workers": Setting("1", "TP_WORKERS")}
    error = settings.with_sources(UsageError("--timeout: expected a duration, got '5x'"), given)
    origin = "(timeout = '5x' is from f.toml: change it there, or give --timeout)"
    assert str(error) == f"--timeout: expected a duration, got '5x' {origin}"
    other = UsageError("--batch: no")
    assert settings.with_sources(other, given) is other
