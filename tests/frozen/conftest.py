"""What the tests of the frozen programs need: the bundle, and a way to run its programs as people do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from support.source_tree import ROOT

DIST = ROOT / "dist"
BUNDLE = DIST / "taskpool"


def without(what: str) -> NoReturn:
    """Skip the running test for want of something; with TASKPOOL_REQUIRE_FROZEN=1 fail it."""
    if os.environ.get("TASKPOOL_REQUIRE_FROZEN") == "1":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The folder of the three frozen programs."""
    if not (BUNDLE / "build.json").exists():
        without("there is no dist/taskpool: make freeze")
    return BUNDLE


@pytest.fixture(scope="session")
def tarball(bundle: Path) -> Path:
    """The bundle, packed."""
    return _made("taskpool-*-linux-*.tar.gz")


@pytest.fixture(scope="session")
def deb(bundle: Path) -> Path:
    return _made("taskpool_*.deb")


def _made(pattern: str) -> Path:
    found = sorted(DIST.glob(pattern))
    if not found:
        without(f"there is no dist/{pattern}: make dist")
    (only,) = found
    return only
