"""What a module of a user's finds in a worker and does to it: the first job and the last find the same process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.harness import shared_memory, until
from support.worker_stage import Dealer, Start, call, command, fib
from taskpool.kinds import typed_kind
from taskpool.messages import Task

LOOK = """
def look():
    import os, signal, sys, threading, time
    os.umask(mask := os.umask(0))
    return [os.getcwd(), dict(os.environ), mask, sys.path, sys.argv[1:], sys.stdout.encoding,
            str(signal.getsignal(signal.SIGUSR1)), signal.pthread_sigmask(signal.SIG_BLOCK, ()).__len__(),
            time.tzname, os.getpriority(os.PRIO_PROCESS, 0), threading.active_count(), os.getpid()]

def change():
    import os, sys, time
    os.environ.update(CALLED="yes", TZ="Asia/Tokyo")
    time.tzset()
    os.chdir("/")
    os.umask(0)
    sys.path.insert(0, "/called")
    sys.argv.append("--called")
"""

CHANGES = {
    "directory": "import os; os.chdir('/usr')",
    "environment": "import os; os.environ['IMPORTED'] = 'yes'; del os.environ['REMOVED']",
    "umask": "import os; os.umask(0o027)",
    "zone": "import os, time; os.environ['TZ'] = 'Europe/Berlin'; time.tzset()",
    "handler": "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    "mask": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
    "path": "import sys; sys.path.insert(0, '/first'); sys.path.append('/last')",
    "argv": "import sys; sys.argv += ['--imported']",
    "thread": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "niceness": "import os; os.nice(1)",
    "odd stream": "import sys; sys.stdout = type('Odd', (), {'flush': sys.exit, 'encoding': 'odd', 'write': len})()",
    "stream": "import io, sys; sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-16', newline='')",
}


@pytest.fixture
def start(pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("REMOVED", "no")
    with Start(pool, tmp_path) as start:
        yield start


def job(dealer: Dealer, name: str, *args: object) -> Task:
    fields: dict[str, object] = {"call": name, "args": list(args), "path": [str(dealer.home)]}
    return Task(1, 1, "python", typed_kind("python").parse(fields, "test"))


def value(dealer: Dealer, name: str, *args: object) -> Any:
    report = dealer.result(job(dealer, name, *args))
    assert report.error is None, report.error
    return json.loads(report.value or b"")


# --- what an import changes stays, what a call changes does not -----------------------------------------


@pytest.mark.parametrize("change", CHANGES)
def test_the_last_job_finds_what_the_import_left_to_the_first(start: Start, change: str) -> None:
    dealer = start()
    (dealer.home / "plain.py").write_text(LOOK)
    (dealer.home / "changing.py").write_text(CHANGES[change] + "\n" + LOOK)
    untouched = value(dealer, "plain:look")
    first = value(dealer, "changing:look")
    assert first != untouched
    for _ in range(2):
        value(dealer, "changing:change")
        assert value(dealer, "changing:look") == first
        assert value(dealer, "plain:look") == first


def test_the_same_holds_for_a_module_that_a_function_imports(start: Start) -> None:
    dealer = start()
    (dealer.home / "late.py").write_text("\n".join(CHANGES[name] for name in ("environment", "umask", "path")))
    (dealer.home / "m.py").write_text(f"{LOOK}\ndef both():\n    change()\n    import late\n    return look()")
    before = value(dealer, "m:look")
    value(dealer, "m:both")
    after = value(dealer, "m:look")
    assert after[1] == {**{name: text for name, text in before[1].items() if name != "REMOVED"}, "IMPORTED": "yes"}
    assert (after[0], after[2], after[8]) == (before[0], 0o027, before[8])
    assert value(dealer, "m:look") == after


@pytest.mark.parametrize("way", ["import late", "import importlib; importlib.import_module('late')"])
def test_an_import_that_fails_behind_a_change_costs_the_worker(start: Start, way: str) -> None:
    dealer = start()
    (dealer.home / "settings.py").write_text(CHANGES["umask"])
    (dealer.home / "late.py").write_text("import settings\nimport nowhere")
    (dealer.home / "m.py").write_text(f"def f():\n    {way}")
    report = dealer.result(job(dealer, "m:f"))
    assert report.error is not None
    assert report.error.type == "ModuleNotFoundError"
    assert "imports.py" not in (report.error.traceback or ""), "it shows the job's frames, not those of the pool"
    assert dealer.death() == 0
    assert "whose import then failed: another worker takes over" in dealer.log_text()


def test_an_import_that_fails_without_a_trace_costs_nothing(start: Start) -> None:
    dealer = start()
    (dealer.home / "broken.py").write_text(CHANGES["umask"] + "\n1 // 0")
    (dealer.home / "m.py").write_text(LOOK)
    before = value(dealer, "m:look")
    for _ in range(2):
        assert dealer.result(job(dealer, "broken:f")).error is not None
    assert value(dealer, "m:look") == before


def test_a_thread_of_an_import_makes_no_room_for_one_of_a_call_when_it_has_ended(start: Start) -> None:
    dealer = start()
    (dealer.home / "m.py").write_text(
        "import threading\n"
        "gate = threading.Event()\n"
        "thread = threading.Thread(target=gate.wait, daemon=True)\n"
        "thread.start()\n"
        "def end():\n    gate.set()\n    thread.join()\n"
        "def leave(): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    value(dealer, "m:end")
    value(dealer, "m:end")
    value(dealer, "m:leave")
    assert dealer.death() == 0
    assert "a thread that still runs" in dealer.log_text()


def test_a_process_that_an_import_starts_ends_with_the_first_job_and_its_worker(start: Start) -> None:
    dealer = start()
    text = "import subprocess\nchild = subprocess.Popen(['sleep', '1000'])\ndef f(): return child.pid"
    (dealer.home / "m.py").write_text(text)
    pid = value(dealer, "m:f")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert dealer.death() == 0
    assert "a process that a module has started when it was imported" in dealer.log_text()


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("libc.prctl(38, 1, 0, 0, 0)", "other settings of prctl(2)"),
        ("os.environ = {}; os.dup2(1, 0); libc.prctl(38, 1, 0, 0, 0)", "other settings of prctl(2)"),
        pytest.param("os.nice(5)", "another niceness", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may")),
        pytest.param(
            "os.setresuid(1, 1, 1)",
            "another user or group",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root may"),
        ),
    ],
)
def test_what_cannot_be_put_back_ends_the_worker_behind_the_report(start: Start, line: str, left: str) -> None:
    dealer = start()
    dealer.result(call(dealer, "do", line))
    assert dealer.death() == 0
    assert f"Job b/1 leaves {left}: another worker takes over" in dealer.log_text()


# --- a script's own: its name, its environment, its code --------------------------------------------------


def test_sys_argv_is_a_scripts(start: Start) -> None:
    dealer = start("--verbose")
    (dealer.home / "m.py").write_text("import sys\nat_import = list(sys.argv)\ndef f(): return [at_import, sys.argv]")
    for _ in range(2):
        assert value(dealer, "m:f") == [["m"], [str(dealer.home / "m.py")]]
    assert value(dealer, "math:hypot", 3, 4) == 5
    (dealer.home / "n.py").write_text("from m import f")
    assert value(dealer, "n:f")[1] == [str(dealer.home / "n.py")]


@pytest.mark.parametrize("set_by_user", [None, "C.UTF-8", "C"])
def test_a_locale_that_the_interpreter_has_set_is_not_the_jobs(
    start: Start, monkeypatch: pytest.MonkeyPatch, set_by_user: str | None
) -> None:
    for name in [name for name in os.environ if name.startswith("LC_") or name == "LANG"]:
        monkeypatch.delenv(name)
    if set_by_user is not None:
        monkeypatch.setenv("LC_CTYPE", set_by_user)
    dealer = start()
    (dealer.home / "m.py").write_text("import os\ndef f(): return os.environ.get('LC_CTYPE')")
    assert value(dealer, "m:f") == set_by_user
    told = dealer.result(command("sh", "-c", "echo ${LC_CTYPE-none}")).output.stdout
    assert told == f"{set_by_user or 'none'}\n"


def edit(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, ns=(1, 1))  # another time than before, whatever the clock's grain


@pytest.mark.parametrize("batch", ["b", "another"])
@pytest.mark.parametrize("file", ["m.py", "package/__init__.py", "package/deep.py", "late.py"])
def test_a_worker_whose_code_was_edited_leaves_before_it_begins_the_next_job(
    start: Start, monkeypatch: pytest.MonkeyPatch, batch: str, file: str
) -> None:
    dealer = start("--verbose")
    (dealer.home / "package").mkdir()
    for name in ("package/__init__.py", "package/deep.py", "late.py"):
        (dealer.home / name).write_text("")
    (dealer.home / "m.py").write_text("import package.deep\ndef f():\n    import late")
    value(dealer, "m:f")
    value(dealer, "m:f")
    edit(dealer.home / file, "pass")
    monkeypatch.setattr("support.worker_stage.BATCH", batch)
    signal.sigtimedwait([], 0.2)  # the interval in which a worker looks once
    dealer.send(job(dealer, "m:f"))
    assert dealer.death() == 0
    assert dealer.events.depth() == 0, "it has not said that it started"
    log = dealer.log_text()
    assert f"{dealer.home / file} was edited since this worker has loaded it: another worker takes over" in log


def test_an_edit_within_the_same_second_and_of_the_same_size_is_noticed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python itself would take the bytecode of the first version for that of the second."""
    dealer = start()
    module = dealer.home / "m.py"
    module.write_text("def f(): return 1")
    second = module.stat().st_mtime_ns // 10**9 * 10**9
    os.utime(module, ns=(second, second))
    assert value(dealer, "m:f") == 1
    module.write_text("def f(): return 2")
    os.utime(module, ns=(second + 1, second + 1))
    monkeypatch.setattr("support.worker_stage.BATCH", "another")
    dealer.send(job(dealer, "m:f"))
    assert dealer.death() == 0
    found = subprocess.run([sys.executable, "-c", "import m; print(m.f())"], cwd=dealer.home, stdout=subprocess.PIPE)
    assert found.stdout == b"2\n"


def test_an_archive_of_modules_is_watched_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    dealer = start()
    archive = dealer.home / "lib.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", "def f(): return 1")
    fields: dict[str, object] = {"call": "zipped:f", "path": [str(archive)]}
    task = Task(1, 1, "python", typed_kind("python").parse(fields, "test"))
    assert dealer.result(task).value == b"1"
    os.utime(archive, ns=(1, 1))
    monkeypatch.setattr("support.worker_stage.BATCH", "another")
    dealer.send(task)
    assert dealer.death() == 0


def test_installed_and_unchanged_code_is_no_reason_to_leave(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    dealer = start()
    installed = dealer.home / "site-packages"
    installed.mkdir()
    (installed / "big.py").write_text("def f(): return 1")
    (dealer.home / "m.py").write_text(f"import sys\nsys.path.append({str(installed)!r})\nfrom big import f")
    assert value(dealer, "m:f") == 1
    edit(installed / "big.py", "")
    (dealer.home / "unknown.py").write_text("")
    monkeypatch.setattr("support.worker_stage.BATCH", "another")
    assert value(dealer, "m:f") == 1
    assert dealer.result(fib(10)).value == b"55"


# --- what native code prints -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "stdout"),
    [
        ("libc.printf(b'native')", "native"),
        ("libc.puts(b'native'); libc.exit_is_not_called = 1", "native\n"),
        ("sys.__stdout__.write('native')", "native"),
        ("sys.stdout.buffer.write(b'native')", "native"),
        ("sys.stdout = open(1, 'w', closefd=False); print('native', end='')", "native"),
        ("print('native', end=''); sys.stdout.close()", "native"),
        ("sys.stdout = os.fdopen(1, 'w'); print('native', end='')", "native"),
        ("libc.printf(b'native'); 1 // 0", "native"),
        ("libc.printf(b'native'); sys.exit(3)", "native"),
    ],
)
def test_what_is_printed_below_python_is_the_jobs(start: Start, line: str, stdout: str) -> None:
    dealer = start()
    for _ in range(2):
        assert dealer.result(call(dealer, "do", line)).output.stdout == stdout
        assert dealer.result(call(dealer, "echo", 1)).output.stdout is None


CPP = """
#include <iostream>
extern "C" void say() { std::cout << "native"; }
extern "C" void say_cut_off() { std::ios::sync_with_stdio(false); std::cout << "native"; }
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("function", ["say", "say_cut_off"])
def test_what_cpp_code_prints_is_the_jobs(start: Start, function: str) -> None:
    dealer = start()
    (dealer.home / "native.cc").write_text(CPP)
    library = dealer.home / "native.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, dealer.home / "native.cc"], check=True)
    text = f"import ctypes\nlibrary = ctypes.CDLL({str(library)!r})\ndef f(): library.{function}()"
    (dealer.home / "m.py").write_text(text)
    for _ in range(2):
        assert dealer.result(job(dealer, "m:f")).output.stdout == "native"
        assert dealer.result(call(dealer, "echo", 1)).output.stdout is None


# --- multiprocessing ------------------------------------------------------------------------------------------

PROCESSES = """
import concurrent.futures, multiprocessing, os, signal, sys
from multiprocessing import managers, shared_memory

kept = []

def square(x): return x * x

def use(method, n):
    context = multiprocessing.get_context(method)
    with context.Pool(1) as pool: mapped = pool.map(square, [n])
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        mapped.append(executor.submit(square, n).result())
    with context.Manager() as manager: mapped.append(dict(manager.dict(n=n))["n"])
    queue = context.Queue()
    process = context.Process(target=queue.put, args=(n,))
    process.start()
    mapped.append(queue.get())
    process.join()
    return [*mapped, process.exitcode, os.getpid()]

def leave(what, n):
    context = multiprocessing.get_context("spawn")
    if what == "memory": kept.append(shared_memory.SharedMemory(create=True, size=n))
    if what == "manager": kept.append(context.Manager())
    if what == "memory manager":
        kept.append(managers.SharedMemoryManager(ctx=context))
        kept[-1].start()
        kept.append(kept[-1].SharedMemory(n))
    if what == "pool":
        kept.append(context.Pool(1))
        kept[-1].map(square, [n])
    if what == "process":
        kept.append(context.Process(target=signal.pause))
        kept[-1].start()
    return [[process.is_alive() for process in multiprocessing.active_children()], os.getpid()]

def asked_later(): return [kept[-1].is_alive(), kept[-1].exitcode]
"""


@pytest.fixture
def shared() -> Iterator[None]:
    """No job leaves anything in the shared memory of this machine."""
    before = shared_memory()
    yield
    until(lambda: shared_memory() <= before, "shared memory as it was")


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_work_in_every_job_as_in_a_script(start: Start, method: str) -> None:
    dealer = start()
    (dealer.home / "processes.py").write_text(PROCESSES)
    for n in (2, 3):
        report = dealer.result(job(dealer, "processes:use", method, n))
        assert json.loads(report.value or b"") == [n * n, n * n, n, n, 0, dealer.pid], report
        assert report.output.stderr in (None, "")


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("what", ["memory", "manager", "memory manager", "pool", "process"])
def test_what_a_job_leaves_of_multiprocessing_is_ended_and_forgotten(start: Start, what: str) -> None:
    dealer = start()
    (dealer.home / "processes.py").write_text(PROCESSES)
    alive = value(dealer, "processes:leave", what, 10)[0]
    for _ in range(2):
        report = dealer.result(job(dealer, "processes:leave", what, 10))
        assert json.loads(report.value or b"") == [alive, dealer.pid]
        assert "died unexpectedly" not in (report.output.stderr or "")
    if what == "process":
        assert value(dealer, "processes:asked_later") == [False, -signal.SIGKILL]
