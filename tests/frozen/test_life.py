"""The frozen programs at work: who dies with whom, whose libraries a command sees, where Python modules come from."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.source_tree import ROOT

DEADLINE_SECONDS = 30.0


def run(
    bundle: Path, *words: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """tp-generator with a private pool of one worker."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"} | (env or {})
    command = [str(bundle / "tp-generator"), words[0], "--workers", "1", *words[1:]]
    return subprocess.run(
        command, input=stdin, env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )


def test_a_program_found_by_its_name_works_where_the_current_directory_is_gone(bundle: Path, tmp_path: Path) -> None:
    """Then nothing has told it a path: neither its arguments nor the system."""
    (tmp_path / "gone").mkdir()
    line = f"cd {tmp_path}/gone && rmdir ../gone && exec tp-generator python --workers 1 --path /opt math:factorial"
    environment = os.environ | {"PATH": f"{bundle}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", line], input="[5]", env=environment, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert (done.returncode, done.stdout) == (0, "120\n"), done.stderr


# --- processes -------------------------------------------------------------------------------------


def processes_of(bundle: Path) -> dict[int, str]:
    """Every process that runs a program of the bundle."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            program = os.readlink(entry / "exe") if entry.name.isdigit() else ""
        except OSError:
            continue
        if program.startswith(str(bundle)):
            found[int(entry.name)] = program
    return found


@pytest.mark.slow
def test_a_killed_dealer_leaves_no_process_and_no_file(bundle: Path, pool: str, tmp_path: Path) -> None:
    """SIGKILL cannot be handled: its workers die by the kernel's hand, and nothing was unpacked anywhere."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    before = set(processes_of(bundle))
    command = [str(bundle / "tp-dealer"), "--pool", pool, "--workers", "2", "--metrics", "none"]
    dealer = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(temporary)}, stderr=subprocess.DEVNULL)
    in_tmp = set(os.listdir("/tmp"))
    try:
        # The dealer, two workers, a spare, and what these are copied from.
        wait_until(lambda: len(set(processes_of(bundle)) - before) == 5, "all processes of a pool are up")
        mine = set(processes_of(bundle)) - before
    finally:
        dealer.send_signal(signal.SIGKILL)
        dealer.wait()
    wait_until(lambda: not mine & set(processes_of(bundle)), "every worker is gone")
    assert list(temporary.iterdir()) == []
    assert not [name for name in set(os.listdir("/tmp")) - in_tmp if name.startswith("_MEI")]
    again = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # its queues are cleared away by the next dealer
    wait_until(lambda: len(set(processes_of(bundle)) - before) == 5, "the next dealer is up")
    again.send_signal(signal.SIGTERM)
    assert again.wait(DEADLINE_SECONDS) == 0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"not in {DEADLINE_SECONDS} s: {what}"
        time.sleep(0.02)  # polling /proc: grandchildren cannot be waited for


def test_the_service_manager_is_told(bundle: Path, pool: str, tmp_path: Path) -> None:
    """Type=notify: without READY=1 the service would never be up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE_SECONDS)
        env = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        command = [str(bundle / "tp-dealer"), "--pool", pool, "--workers", "1", "--metrics", "none"]
        dealer = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        try:
            heard = ""
            for word in ("READY=1", "WATCHDOG=1", "STOPPING=1"):
                while word not in heard:
                    heard += manager.recv(4096).decode() + "\n"
                if word == "WATCHDOG=1":
                    dealer.terminate()
        finally:
            dealer.terminate()
            assert dealer.wait(DEADLINE_SECONDS) == 0


# --- a command's environment -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "/opt/their/lib:/opt/more"])
def test_a_command_sees_the_callers_library_path(bundle: Path, value: str | None) -> None:
    """An empty one becomes none at all, in the bootloader; the loader takes both for the same."""
    env = {} if value is None else {"LD_LIBRARY_PATH": value}
    done = run(bundle, "command", "--", "sh", "-c", "env # {}", ":::", "1", env=env)
    seen = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stderr
    assert seen["TP_SEQ"] == "1"
    assert seen.get("LD_LIBRARY_PATH") == value
    assert not [name for name in seen if name.startswith(("_PYI", "LD_LIBRARY_PATH_"))]


# --- Python jobs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "arguments", "value"),
    [
        ("math:factorial", [20], 2432902008176640000),
        ("statistics:fmean", [[1, 2, 3]], 2.0),
        ("urllib.parse:quote", ["a b"], "a%20b"),
    ],
)
def test_a_job_of_the_standard_library(bundle: Path, call: str, arguments: object, value: object) -> None:
    done = run(bundle, "python", call, stdin=json.dumps(arguments) + "\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == value


def test_a_job_with_a_module_of_its_own(bundle: Path, tmp_path: Path) -> None:
    """Which imports what such modules import; none of it is used by the programs themselves."""
    (tmp_path / "their").mkdir()
    (tmp_path / "their" / "__init__.py").write_text("")
    (tmp_path / "their" / "work.py").write_text(
        "import asyncio, concurrent.futures, csv, decimal, fractions, hashlib, logging, multiprocessing, random\n"
        "import sqlite3, ssl, statistics, subprocess, tempfile, unittest, xml.etree.ElementTree, zipfile, zoneinfo\n"
        "from dataclasses import dataclass\n"
        "def total(*, numbers):\n"
        "    assert str(decimal.Decimal('0.10')) == '0.10'\n"
        "    seven = sqlite3.connect(':memory:').execute('select 7').fetchone()[0]\n"
        "    return [sum(numbers), hashlib.sha256(b'').hexdigest()[:4], seven]\n"
    )
    done = run(bundle, "python", "--path", str(tmp_path), "their.work:total", stdin='{"numbers": [1, 2, 3]}\n')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [6, "e3b0", 7]


def test_a_missing_module_names_the_cure(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("import numpy\ndef f():\n    return 1\n")
    done = run(bundle, "python", "--path", str(tmp_path), "theirs:f", "--output", "json", stdin="[]\n")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "ModuleNotFoundError"
    assert "numpy" in error["message"]
    assert "--worker-exec" in error["message"]


def test_the_cure_works(bundle: Path) -> None:
    """A frozen dealer with the worker of a virtual environment, whose Python must not meet the bundle's libraries."""
    worker = ROOT / ".venv" / "bin" / "tp-worker"
    if not worker.exists():
        pytest.skip("taskpool is not installed in .venv: make setup")
    words = ("python", "--worker-exec", str(worker), "importlib.metadata:version")
    done = run(bundle, *words, stdin='["taskpool"]\n')  # the bundle has no such metadata
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((bundle / "build.json").read_text())["version"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_job_that_uses_processes(bundle: Path, tmp_path: Path, method: str) -> None:
    """The worker's program is then also the interpreter of multiprocessing's helpers."""
    (tmp_path / "theirs.py").write_text(
        "import multiprocessing\n"
        "from multiprocessing import shared_memory\n"
        "def square(x): return x * x\n"
        "def f(n):\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    memory = shared_memory.SharedMemory(create=True, size=10)\n"
        "    with context.Pool(2) as pool, context.Manager() as manager:\n"
        "        found = [*pool.map(square, [n]), *manager.list([n])]\n"
        "    memory.close()\n"
        "    memory.unlink()\n"
        "    return found\n"
    )
    options = ("--spares", "0", "--path", str(tmp_path), "--output", "json", "theirs:f")
    done = run(bundle, "python", *options, stdin="[2]\n[3]\n")
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(job["value"], job["attempts"], job["stderr"]) for job in outcomes] == [
        ([4, 2], 1, None),
        ([9, 3], 1, None),
    ]


def test_a_python_job_sees_nothing_of_the_bootloader(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("import os\ndef f(): return dict(os.environ)\n")
    done = run(bundle, "python", "--path", str(tmp_path), "theirs:f", stdin="[]\n")
    assert not [name for name in json.loads(done.stdout) if name.startswith(("_PYI", "LD_LIBRARY_PATH"))]
