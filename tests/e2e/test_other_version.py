"""Programs that speak another version of the protocol: named on both sides, with both versions, and not waited for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from support.harness import ENVIRONMENT, OK, UNREACHABLE, Stage, program
from support.ledger import Ledger
from support.source_tree import PACKAGE
from taskpool import __version__
from taskpool.codec import PROTOCOL_VERSION

OLDER, LATER = PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1
_OURS = f"version {PROTOCOL_VERSION} (taskpool {__version__})"
_PROGRAM = """#!{python}
import sys
sys.path.insert(0, {root!r})
from taskpool.{name}.main import main
sys.exit(main())
"""


def installed(directory: Path, version: int) -> Path:
    """A copy of the programs that speaks another version of the protocol; returns where they are."""
    root = directory / f"protocol-{version}"
    shutil.copytree(PACKAGE, root / "taskpool", ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in (
        ("codec.py", f"PROTOCOL_VERSION = {PROTOCOL_VERSION} ", f"PROTOCOL_VERSION = {version} "),
        ("__init__.py", f'__version__ = "{__version__}"', f'__version__ = "0.0.{version}"'),
    ):
        text = (root / "taskpool" / file).read_text()
        assert text.count(old) == 1
        (root / "taskpool" / file).write_text(text.replace(old, new))
    for name in ("dealer", "generator", "worker"):
        path = root / f"tp-{name}"
        path.write_text(_PROGRAM.format(python=sys.executable, root=str(root), name=name))
        path.chmod(0o755)
    return root


def ask(stage: Stage, generator: str) -> str:
    """What a generator says that its dealer does not understand; it must end by itself."""
    return stage.start([generator, "fib", "--pool", stage.pool, "5"]).ends(UNREACHABLE).stderr


@pytest.mark.parametrize("version", [OLDER, LATER])
def test_a_generator_of_another_version(stage: Stage, tmp_path: Path, version: int) -> None:
    dealer = stage.dealer()
    said = ask(stage, str(installed(tmp_path, version) / "tp-generator"))
    assert f"speaks protocol {_OURS}, and this program version {version} (taskpool 0.0.{version})" in said
    assert ("upgrade this program" if version == OLDER else "upgrade that dealer and start it again") in said
    dealer.says(rf"generator PID \d+ speaks protocol version {version}, and this dealer version {PROTOCOL_VERSION} ")
    assert stage.generator("fib", "--pool", stage.pool, "5").ends(OK).lines == ["5"]
    dealer.send(SIGTERM)
    dealer.ends(OK)
    assert dealer.stderr.count("it was turned away") == 1


@pytest.mark.parametrize("version", [OLDER, LATER])
def test_a_dealer_of_another_version_takes_over(stage: Stage, ledger: Ledger, tmp_path: Path, version: int) -> None:
    """Its generator waits for a dealer that comes back, and this one does."""
    other = installed(tmp_path, version)
    dealer = stage.dealer("--journal", tmp_path / "journal.db")
    with ledger.gate():
        waiting = stage.generator("command", "--pool", stage.pool, "--", *ledger.command("gate"), ":::", "1")
        ledger.wait("start", 1)
        dealer.send(SIGKILL)
        dealer.wait()
        options = ["--pool", stage.pool, "--metrics", "none", "--journal", str(tmp_path / "other.db")]
        worker = ["--worker-exec", str(other / "tp-worker")]
        dealer = stage.start([str(other / "tp-dealer"), *options, *worker])
        said = waiting.ends(UNREACHABLE).stderr
    assert f"speaks protocol version {version} (taskpool 0.0.{version}), and this program {_OURS}" in said
    assert ("upgrade that dealer" if version == OLDER else "upgrade this program") in said
    dealer.send(SIGTERM)
    dealer.ends(OK)


@pytest.mark.parametrize("kind", ["dealer", "private pool"])
@pytest.mark.parametrize("version", [OLDER, LATER])
def test_a_worker_of_another_version(stage: Stage, tmp_path: Path, kind: str, version: int) -> None:
    worker = ["--worker-exec", str(installed(tmp_path, version) / "tp-worker")]
    if kind == "dealer":
        options = ["--pool", stage.pool, "--metrics", "none", "--journal", "none"]
        run = stage.start([program("tp-dealer"), *options, *worker])
    else:
        run = stage.private("fib", "5", *worker)
    said = run.ends(ENVIRONMENT).stderr
    theirs = f"speaks protocol version {version} and is of version 0.0.{version}"
    assert f"{theirs}, this dealer speaks {PROTOCOL_VERSION} and is of version {__version__}; see --worker-exec" in said
    assert "no worker can be started" in said


def test_a_dealer_that_is_stopped(stage: Stage) -> None:
    """Its queues are there and tell nothing of its version."""
    dealer = stage.dealer()
    dealer.send(SIGSTOP)
    said = stage.generator("fib", "--pool", stage.pool, "--dealer-timeout", "1s", "5").ends(UNREACHABLE).stderr
    dealer.send(SIGCONT)
    assert "its queues are there: it is stopped, or does not understand protocol version" in said
    dealer.send(SIGTERM)
    dealer.ends(OK)
