"""What is said where the kernel, or a sandbox, refuses what the programs need."""

from __future__ import annotations

import errno
import os
import platform
import signal
from collections.abc import Callable
from typing import Any

import posix_ipc
import pytest

from support.programs import run
from taskpool.errors import ConfigurationError, ExitCode, QueueError, system_refused
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.sizing import Shape
from taskpool.procs import files, prctl

NEED = f"Linux 5.4 or newer .*{platform.release()}.*seccomp"


def refuse(number: int) -> Callable[..., Any]:
    def refusing(*args: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refusing


def test_this_machine_has_all_that_is_needed() -> None:
    prctl.require_pidfds()
    # In a process of its own, which becomes a subreaper.
    run("from taskpool.procs.prctl import require_for_dealer; require_for_dealer()")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (os, "pidfd_open", r"pidfd_open\(2\)"),
        (signal, "pidfd_send_signal", r"pidfd_send_signal\(2\)"),
        (os, "waitid", r"waitid\(2\) with P_PIDFD"),
    ],
)
def test_a_call_that_is_refused_is_named(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: str, number: int
) -> None:
    monkeypatch.setattr(module, name, refuse(number))
    with pytest.raises(ConfigurationError, match=f"{call} is refused here: {os.strerror(number)}.*{NEED}") as caught:
        prctl.require_pidfds()
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_a_kernel_that_has_pidfds_and_cannot_wait_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "waitid", refuse(errno.EINVAL))  # Linux 5.3
    with pytest.raises(ConfigurationError, match=f"P_PIDFD.*{NEED}"):
        prctl.require_pidfds()


def test_a_python_that_was_built_without_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(ConfigurationError, match=f"pidfd_open.*{NEED}"):
        prctl.require_pidfds()


def test_a_lack_of_descriptors_is_not_taken_for_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pidfd_open", refuse(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files") as caught:
        prctl.require_pidfds()
    text = system_refused(caught.value)
    assert "RLIMIT_NOFILE" in text and "ulimit -n" in text and "LimitNOFILE=" in text


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_process_that_may_not_be_a_subreaper(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refusing(option: int, value: int) -> None:
        raise OSError(number, f"prctl({prctl._NAMES[option]}): {os.strerror(number)}")

    monkeypatch.setattr(prctl, "_prctl", refusing)
    with pytest.raises(ConfigurationError, match=f"PR_SET_CHILD_SUBREAPER.*{NEED}"):
        prctl.require_for_dealer()


def test_without_proc_the_mount_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "stat", refuse(errno.ENOENT))
    with pytest.raises(ConfigurationError, match="mount -t proc proc /proc"):
        prctl.require_for_dealer()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_queues_that_are_refused(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(posix_ipc, "MessageQueue", refuse(number))
    said = f"mq_open.*{os.strerror(number)}.*CONFIG_POSIX_MQUEUE.*seccomp"
    with pytest.raises(QueueError, match=said):
        KernelNamespace().create("/tp.x", Shape(1, 1))
    with pytest.raises(QueueError, match=said):
        KernelNamespace().open("/tp.x", send=True, receive=False)


def test_a_security_module_that_forbids_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*args: Any, **options: Any) -> Any:
        raise posix_ipc.PermissionsError("Permission denied")

    monkeypatch.setattr(posix_ipc, "MessageQueue", refusing)
    with pytest.raises(QueueError, match=r"mq_open\(3\)"):
        KernelNamespace().create("/tp.x", Shape(1, 1))
    with pytest.raises(QueueError, match="security module"):
        KernelNamespace().open("/tp.x", send=True, receive=False)


def test_without_files_in_memory_the_directory_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", refuse(errno.ENOSYS))
    with pytest.raises(FileNotFoundError, match="/nonexistent/spool"):
        files.open_unnamed_somewhere("/nonexistent/spool")


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOMEM, "Memory"),
        (errno.EAGAIN, "RLIMIT_NPROC"),
        (errno.ENOSPC, "room"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, f"uid {os.geteuid()}"),
        (errno.EROFS, "XDG_STATE_HOME"),
        (errno.ENOSYS, "Linux 5.4"),
    ],
)
def test_what_the_system_refuses_comes_with_a_cure(number: int, cure: str) -> None:
    assert cure in system_refused(OSError(number, os.strerror(number)))
