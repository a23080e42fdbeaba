"""A Python function as a job: what it leaves on the machine, and which code, directory and environment it finds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from signal import SIGTERM

import pytest

from support.harness import FAILED, OK, QUARANTINED, USAGE, Stage, program, shared_memory, until

SHARING = """
import ctypes, multiprocessing, os, signal, sys, time
from multiprocessing import shared_memory

def crash(how):
    context = multiprocessing.get_context("spawn")
    lock, memory = context.Lock(), shared_memory.SharedMemory(create=True, size=100)
    context.Process(target=signal.pause).start()
    exec(how)
"""


@pytest.fixture(autouse=True)
def no_shared_memory_is_left() -> Iterator[None]:
    before = shared_memory()
    yield
    until(lambda: shared_memory() <= before, "shared memory as it was")


@pytest.mark.parametrize(
    "how",
    [
        "os.kill(os.getpid(), signal.SIGSEGV)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "ctypes.string_at(0)",
        "os.abort()",
        "os._exit(3)",
        "os.killpg(0, signal.SIGTERM); os._exit(1)",
    ],
)
def test_a_crash_leaves_no_shared_memory(stage: Stage, how: str) -> None:
    (stage.directory / "m.py").write_text(SHARING)
    words = ("python", "--workers", 1, "--path", stage.directory, "--crash-limit", 1, "m:crash")
    stage.private(*words, stdin=json.dumps([how]).encode()).ends(QUARANTINED)


def test_neither_does_a_job_that_has_to_be_killed(stage: Stage) -> None:
    (stage.directory / "m.py").write_text(SHARING)
    how = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\nwhile True: pass"
    words = ("python", "--workers", 1, "--path", stage.directory, "--timeout", "0.5s", "m:crash")
    stage.private(*words, stdin=json.dumps([how]).encode()).ends(FAILED)


def test_every_worker_of_a_pool_notices_that_its_code_was_edited(stage: Stage) -> None:
    """More of them than deaths in a row would count as a crash; each meets the new code in a batch of its own."""
    dealer = stage.dealer("--workers", 7, "--spares", 0, ready=7)
    module = stage.directory / "m.py"
    gate = stage.directory / "gate"
    for version in range(3):
        module.write_text(
            f"import os\ndef f(n):\n    while not os.path.exists({str(gate)!r}): pass\n    return {version}"
        )
        os.utime(module, ns=(version, version))
        gate.touch()
        for jobs in (1, 1, 14, 1):
            lines = "".join(f"[{n}]\n" for n in range(jobs)).encode()
            words = ("python", "--pool", stage.pool, "--path", stage.directory, "m:f", "--output", "json")
            outcomes = stage.generator(*words, stdin=lines).ends(OK).objects()
            assert [(job["value"], job["attempts"], job["crashes"]) for job in outcomes] == [(version, 1, 0)] * jobs
    dealer.send(SIGTERM)
    dealer.ends(OK)


@pytest.mark.parametrize("path", ["absolute", "relative"])
def test_from_a_directory_that_is_gone(stage: Stage, path: str) -> None:
    (stage.directory / "m.py").write_text("def f(n): return n + 1")
    gone = stage.directory / "gone"
    gone.mkdir()
    words = [program("tp-generator"), "python", "--batch", stage.pool, "--path"]
    words += [str(stage.directory) if path == "absolute" else "..", "m:f"]
    script = 'cd "$0" && rmdir "$0" && exec "$@"'
    run = stage.start(["sh", "-c", script, str(gone), *words], stdin=b"[1]\n")
    if path == "absolute":
        assert run.ends(OK).lines == ["2"]
    else:
        assert "the current directory is gone, and the path '..' starts from it: cd elsewhere" in run.ends(USAGE).stderr


@pytest.mark.parametrize("given", [{}, {"LC_CTYPE": "C"}, {"LANG": "C"}, {"LC_ALL": "C"}])
@pytest.mark.parametrize("kind", ["python", "command"])
def test_a_job_finds_its_submitters_environment(stage: Stage, kind: str, given: dict[str, str]) -> None:
    (stage.directory / "m.py").write_text("import os\ndef f(): return dict(os.environ)")
    bare = {"PATH": os.environ["PATH"], "XDG_STATE_HOME": str(stage.directory), **given}
    words = [program("tp-generator"), kind, "--batch", stage.pool]
    words += ["--path", str(stage.directory), "m:f"] if kind == "python" else ["--", "env", ":::", "X=1"]
    run = stage.start(["env", "-i", *(f"{name}={value}" for name, value in bare.items()), *words], stdin=b"[]\n")
    text = run.ends(OK).stdout
    found = json.loads(text) if kind == "python" else dict(line.split("=", 1) for line in text.splitlines())
    assert {name: value for name, value in found.items() if not name.startswith("TP_") and name != "X"} == bare
