"""What an end-to-end test gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import Stage
from support.ledger import Ledger


@pytest.fixture
def stage(pool: str, tmp_path: Path) -> Iterator[Stage]:
    """The programs of one test. Behind it, `pool` checks that nothing is left."""
    with Stage(pool, tmp_path) as stage:
        yield stage


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """The file in which this test's jobs say what they do."""
    return Ledger(tmp_path / "ledger")
