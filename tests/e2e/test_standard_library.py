"""The standard library's own tests of executors, turned on `taskpool.Executor`: see `support.standard_tests`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import standard_tests

try:
    MODULES = standard_tests.modules()
except ImportError:  # Debian has it in libpython3-testsuite; some builds leave it out
    MODULES = []


@pytest.fixture(autouse=True)
def _ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    standard_tests.put_ours_in(MODULES, monkeypatch)


if MODULES:
    globals().update(standard_tests.test_classes(MODULES))


def test_the_interpreter_has_its_tests() -> None:
    text = f"this Python lacks {standard_tests.PACKAGE} (.ci/run lists the package that has it)"
    if not MODULES and os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    if not MODULES:
        pytest.skip(text)
