"""What a frozen program hands to the programs it starts."""

from __future__ import annotations

import os
import subprocess

import pytest

from taskpool.procs.environment import scrubbed

FROZEN = {
    "PATH": "/usr/bin",
    "_PYI_ARCHIVE_FILE": "/opt/taskpool/tp-dealer",
    "_PYI_PARENT_PROCESS_LEVEL": "1",
    "_PYI_LINUX_PROCESS_NAME": "tp-dealer",
    "LD_LIBRARY_PATH": "/opt/taskpool/_internal:/usr/local/lib",
}


def test_the_users_library_path_comes_back() -> None:
    env = FROZEN | {"LD_LIBRARY_PATH_ORIG": "/usr/local/lib"}
    assert scrubbed(env) == {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/usr/local/lib"}


def test_an_empty_library_path_stays_empty() -> None:
    assert scrubbed(FROZEN | {"LD_LIBRARY_PATH_ORIG": ""}) == {"PATH": "/usr/bin", "LD_LIBRARY_PATH": ""}


def test_the_bundles_library_path_goes_when_the_user_had_none() -> None:
    assert scrubbed(FROZEN) == {"PATH": "/usr/bin"}


def test_nothing_changes_when_no_bootloader_was_there() -> None:
    env = {"LD_LIBRARY_PATH": "/usr/local/lib", "LD_LIBRARY_PATH_ORIG": "mine", "TP_WORKER": "demo/1/1"}
    assert scrubbed(env) == env


def test_scrubbing_twice_is_scrubbing_once() -> None:
    once = scrubbed(FROZEN | {"LD_LIBRARY_PATH_ORIG": "/usr/local/lib"})
    assert scrubbed(once) == once


def test_bytes_that_are_not_utf8_reach_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TP_TEST", os.fsdecode(b"caf\xe9"))
    printed = subprocess.run(["/usr/bin/printenv", "TP_TEST"], env=scrubbed(os.environ), capture_output=True)
    assert printed.stdout == b"caf\xe9\n"
