"""What is read of this host, where the reading is more than opening a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from taskpool.generator.doctor import examination, host
from taskpool.generator.output.console import WHO, Console
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.sizing import LADDER
from taskpool.procs.writer import LineWriter

HOLD = """
import sys
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace
lock = names.hold_lock(KernelNamespace(), sys.argv[1])
print("held", flush=True)
sys.stdin.read()
lock.unlink()
"""
LOW, RUN, HIGH = "lib", "run", "etc"


@pytest.mark.parametrize(
    ("files", "removes"),
    [
        ({}, True),
        ({f"{HIGH}/logind.conf": "[Login]\n#RemoveIPC=no\n"}, True),
        ({f"{HIGH}/logind.conf": "[Login]\nRemoveIPC=no\n"}, False),
        ({f"{HIGH}/logind.conf": "[Login]\nRemoveIPC = YES\n"}, True),
        ({f"{LOW}/logind.conf": "RemoveIPC=no\n"}, False),
        ({f"{LOW}/logind.conf": "RemoveIPC=no\n", f"{HIGH}/logind.conf": "[Login]\n"}, True),
        ({f"{HIGH}/logind.conf": "RemoveIPC=yes\n", f"{LOW}/logind.conf.d/a.conf": "RemoveIPC=no\n"}, False),
        ({f"{LOW}/logind.conf.d/a.conf": "RemoveIPC=no\n", f"{HIGH}/logind.conf.d/a.conf": ""}, True),
        ({f"{HIGH}/logind.conf.d/a.conf": "RemoveIPC=no\n", f"{RUN}/logind.conf.d/b.conf": "RemoveIPC=on\n"}, True),
    ],
)
def test_the_last_file_that_sets_remove_ipc_has_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], removes: bool
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host, "_LOGIND_CONF", tuple(str(tmp_path / base) for base in (LOW, RUN, HIGH)))
    assert host.login().remove_ipc == removes


def test_a_state_directory_that_is_not_there_yet_is_looked_at_above_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a" / "b"))
    found = host.state_directory()
    assert found.path == str(tmp_path / "a" / "b" / "taskpool")
    assert found.problem is None and found.free_bytes > 0 and len(found.sync_ns) == 5
    assert list(tmp_path.iterdir()) == []


def test_the_open_queues_of_a_pool_are_charged_by_its_layout_named_or_not(pool: str) -> None:
    layout, namespace = LADDER[-1], KernelNamespace()
    intake = namespace.create(names.intake(pool), layout.intake)
    worker = namespace.create(names.worker(pool, 1, 1), layout.worker)
    worker.unlink()
    try:
        os.makedirs(Path(os.environ["XDG_STATE_HOME"], "taskpool", pool))
        assert host.queue_uses()[pool] == layout.intake.bytes + layout.worker.bytes
    finally:
        intake.unlink()
        for queue in intake, worker:
            queue.close()
    assert pool not in host.queue_uses()


def test_queues_of_a_pool_without_a_directory_are_found_in_the_listing_and_taken_away(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "mqueue"
    listing.mkdir()
    namespace = KernelNamespace()
    monkeypatch.setattr(host, "QUEUES", listing)
    for name in (names.intake(pool), names.worker(pool, 1, 1)):
        namespace.create(name, LADDER[-1].worker).close()
        (listing / name[1:]).touch()
    (listing / "of-another-program").touch()
    assert host.queue_uses()[pool] == 2 * LADDER[-1].worker.bytes
    with LineWriter(2, WHO) as stderr:
        # By another process: the kernel lets one process take its own lock again.
        with subprocess.Popen([sys.executable, "-c", HOLD, pool], stdin=PIPE, stdout=PIPE) as dealer:
            assert dealer.stdout is not None and dealer.stdout.readline() == b"held\n"
            assert list(host.leavings(0).unknown) == []
            examination.fix(Console(stderr, verbosity=0, fmt="text"))
            assert names.has_queues(namespace, pool)
            dealer.communicate()
        assert list(host.leavings(0).unknown) == [pool]
        examination.fix(Console(stderr, verbosity=0, fmt="text"))
    assert not names.has_queues(namespace, pool)


def test_a_trial_queue_is_gone_afterwards() -> None:
    assert host.trial_queue() is None
    assert host.trial_queue() is None, "its name is free again"


def test_calls_are_tried_where_the_spool_will_be(tmp_path: Path) -> None:
    assert list(host.kernel_calls(tmp_path)) == ["pidfd_open", "memfd_create", "O_TMPFILE"]
    assert host.kernel_calls(Path("/proc"))["pidfd_open"] is None
    assert list(tmp_path.iterdir()) == []


def test_threads_of_this_user_are_counted() -> None:
    found = host.processes_of_user()
    assert found.used >= len(os.listdir("/proc/self/task"))
