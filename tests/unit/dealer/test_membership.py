"""What a dealer that is to be a member of a cluster is refused before it begins."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from taskpool.dealer.log import DealerLog
from taskpool.dealer.membership import prepare
from taskpool.dealer.options import parse
from taskpool.errors import ConfigurationError
from taskpool.procs.writer import LineWriter


def refused(*words: str) -> str:
    """Prepare, and return what it is refused for."""
    options = parse(["--cluster", "nats://127.0.0.1:9", *words], {})
    with LineWriter(2, "Dealer") as writer, ExitStack() as teardown, pytest.raises(ConfigurationError) as caught:
        prepare(options, DealerLog("text", logging.ERROR, writer), teardown)
    return str(caught.value)


def test_without_the_client_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "nats" or "nats_" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nats", None)
    assert "pip install 'taskpool[cluster]'" in refused()


@pytest.mark.parametrize("option", ["--cluster-creds", "--cluster-ca"])
def test_a_file_that_is_not_there_is_named(option: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refused(option, str(missing)) == f"{option} {missing}: cannot be read: No such file or directory"
