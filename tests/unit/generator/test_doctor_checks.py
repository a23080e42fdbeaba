"""Every trouble that a host can have is found with its cure, and a healthy host has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import pytest

from taskpool.clock import MILLISECOND
from taskpool.generator.doctor import host_checks, queue_checks
from taskpool.generator.doctor.host_checks import Container, Count, Login, StateDirectory
from taskpool.generator.doctor.queue_checks import FIX, Leavings
from taskpool.generator.doctor.row import Row, Status, as_json, as_table, has_fault, in_a_line
from taskpool.ipc import sizing
from taskpool.ipc.sizing import KernelLimits

STOCK = KernelLimits(msg_max=10, msgsize_max=8192, queues_max=256, bytes_max=819200)
DISK = StateDirectory("/s", None, 1 << 40, 1 << 20, (MILLISECOND,) * 5, "ext4", "0700")
LOGIN = Login(uid=1000, user="ann", runs=True, remove_ipc=True, lingers=False)
FREE = Count(10, None)
ALONE = Container(None, "systemd", "ipc:[1]", None)
CALLS: dict[str, str | None] = {"pidfd_open": None, "memfd_create": None, "O_TMPFILE": None}


def on_disk(**changes: object) -> list[Row]:
    return host_checks.state_directory(DISK._replace(**changes))  # type: ignore[arg-type]


def healthy() -> list[Row]:
    return [
        queue_checks.queue_limits(STOCK, 4),
        queue_checks.queue_bytes(STOCK, {"night": 100_000}, 4),
        queue_checks.trial_queue(None),
        queue_checks.stale_queues(Leavings()),
        queue_checks.kept_state(Leavings()),
        *on_disk(),
        *on_disk(free_inodes=None, file_system="btrfs"),
        host_checks.control_group("/sys/fs/cgroup/user"),
        host_checks.oom_count(0),
        host_checks.core_pattern("core"),
        host_checks.core_pattern(""),
        host_checks.core_pattern(None),
        host_checks.descriptors(1024, 524288, 4),
        host_checks.descriptors(None, None, 256),
        host_checks.processes(Count(100, 30000), Count(5, 1000), 4),
        host_checks.remove_ipc(LOGIN._replace(runs=False)),
        host_checks.remove_ipc(LOGIN._replace(remove_ipc=False)),
        host_checks.remove_ipc(LOGIN._replace(lingers=True)),
        host_checks.remove_ipc(LOGIN._replace(uid=0, user="root")),
        host_checks.clock(True, True),
        host_checks.clock(True, None),
        host_checks.kernel_calls(CALLS),
        host_checks.container(ALONE),
        host_checks.container(Container("docker", "tini", "ipc:[1]", 1 << 26)),
        host_checks.container(ALONE._replace(init="python3")),
    ]


def test_a_healthy_host_has_no_trouble() -> None:
    rows = healthy()
    assert [row for row in rows if row.status is not Status.OK or row.why or row.cure] == []
    assert all(row.value for row in rows)
    assert not has_fault(rows)


Plant = Callable[[], Row | list[Row]]

TROUBLES: dict[str, tuple[Status, str, Plant]] = {
    "few messages": (
        Status.FAULT,
        "sysctl -w fs.mqueue.msg_max=10 ",
        lambda: queue_checks.queue_limits(STOCK._replace(msg_max=9), 4),
    ),
    "small messages": (
        Status.FAULT,
        "sysctl -w fs.mqueue.msgsize_max=1024 ",
        lambda: queue_checks.queue_limits(STOCK._replace(msgsize_max=1023), 4),
    ),
    "few queues": (
        Status.FAULT,
        f"sysctl -w fs.mqueue.queues_max={256 + 36} ",
        lambda: queue_checks.queue_limits(STOCK, 256),
    ),
    "all sysctls": (
        Status.FAULT,
        "sysctl -w fs.mqueue.msg_max=10 fs.mqueue.msgsize_max=1024 fs.mqueue.queues_max=100 ",
        lambda: queue_checks.queue_limits(KernelLimits(1, 1, 1, 1), 1),
    ),
    "a low byte limit": (
        Status.FAULT,
        f"--msgqueue={sizing.least(4).bytes_max} ",
        lambda: queue_checks.queue_bytes(STOCK._replace(bytes_max=1000), {}, 4),
    ),
    "no bytes left": (
        Status.FAULT,
        "prlimit --pid $$ --msgqueue=",
        lambda: queue_checks.queue_bytes(STOCK, {"night": 800_000}, 4),
    ),
    "more in use than the limit": (
        Status.FAULT,
        "prlimit --pid $$ --msgqueue=",
        lambda: queue_checks.queue_bytes(STOCK, {"night": 1_000_000}, 4),
    ),
    "no queue for want of number": (
        Status.FAULT,
        "sysctl fs.mqueue.queues_max=512",
        lambda: queue_checks.trial_queue(
            "queue /q: 256 queues already. Stop a pool, or raise it: sysctl fs.mqueue.queues_max=512, --sysctl x (y)"
        ),
    ),
    "no queue for another reason": (
        Status.FAULT,
        "ulimit -q",
        lambda: queue_checks.trial_queue("queue /q: a security module forbids mq_open(3); allow it"),
    ),
    "a dead private pool": (Status.WARNING, FIX, lambda: queue_checks.stale_queues(Leavings(private=["p-1"]))),
    "a dead named pool": (Status.WARNING, FIX, lambda: queue_checks.stale_queues(Leavings(named=["night"]))),
    "queues of no pool": (
        Status.WARNING,
        FIX,
        lambda: queue_checks.stale_queues(Leavings(unknown={"old": ["/tp.old.intake"]})),
    ),
    "state of a dead pool": (Status.WARNING, FIX, lambda: queue_checks.kept_state(Leavings(dead=["p-1"]))),
    "an expired batch": (Status.WARNING, FIX, lambda: queue_checks.kept_state(Leavings(expired=["b"]))),
    "an unusable state directory": (
        Status.FAULT,
        "export XDG_STATE_HOME=",
        lambda: on_disk(problem="/s cannot be written by uid 7"),
    ),
    "a network file system": (Status.WARNING, "export XDG_STATE_HOME=", lambda: on_disk(file_system="nfs4")),
    "sshfs": (Status.WARNING, "export XDG_STATE_HOME=", lambda: on_disk(file_system="fuse.sshfs")),
    "a disk in memory": (Status.WARNING, "export XDG_STATE_HOME=", lambda: on_disk(file_system="tmpfs")),
    "the disk of a container": (Status.WARNING, "a volume", lambda: on_disk(file_system="overlay")),
    "a full disk": (Status.FAULT, "tp-generator forget --succeeded", lambda: on_disk(free_bytes=1 << 20)),
    "a disk that gets full": (Status.WARNING, "tp-generator forget --succeeded", lambda: on_disk(free_bytes=1 << 29)),
    "no inodes": (Status.FAULT, "tp-generator forget --succeeded", lambda: on_disk(free_inodes=10)),
    "few inodes": (Status.WARNING, "tp-generator forget --succeeded", lambda: on_disk(free_inodes=5_000)),
    "a slow disk": (
        Status.WARNING,
        "--journal-sync=normal",
        lambda: on_disk(sync_ns=(1, 200 * MILLISECOND, 300 * MILLISECOND)),
    ),
    "a disk that takes no file": (Status.WARNING, "export XDG_STATE_HOME=", lambda: on_disk(sync_ns=())),
    "no control group": (Status.WARNING, "Delegate=yes", lambda: host_checks.control_group(None)),
    "no count of kills": (Status.WARNING, "MemoryAccounting=yes", lambda: host_checks.oom_count(None)),
    "a crash handler": (
        Status.WARNING,
        "sysctl -w kernel.core_pattern=core",
        lambda: host_checks.core_pattern("|/usr/share/apport/apport %p"),
    ),
    "few descriptors": (Status.FAULT, "--nofile=216 ", lambda: host_checks.descriptors(100, 215, 4)),
    "few processes": (Status.FAULT, "--nproc=30 ", lambda: host_checks.processes(Count(10, 29), FREE, 4)),
    "few processes in the group": (
        Status.FAULT,
        "TasksMax=25 ",
        lambda: host_checks.processes(FREE, Count(5, 24), 4),
    ),
    "logind": (Status.FAULT, "loginctl enable-linger ann", lambda: host_checks.remove_ipc(LOGIN)),
    "no clock of all time": (Status.WARNING, "uname -r", lambda: host_checks.clock(False, True)),
    "a clock that drifts": (Status.WARNING, "timedatectl set-ntp true", lambda: host_checks.clock(True, False)),
    "no pidfds": (
        Status.FAULT,
        "seccomp",
        lambda: host_checks.kernel_calls(CALLS | {"pidfd_open": "refused", "O_TMPFILE": "x"}),
    ),
    "no unnamed files": (
        Status.WARNING,
        "findmnt -T",
        lambda: host_checks.kernel_calls(CALLS | {"O_TMPFILE": "not supported"}),
    ),
    "no init": (Status.WARNING, "--init", lambda: host_checks.container(Container("docker", "sleep", "ipc:[1]", None))),
}


def rows_of(found: Row | list[Row]) -> Iterable[Row]:
    return [found] if isinstance(found, Row) else found


@pytest.mark.parametrize("name", TROUBLES)
def test_each_trouble_is_found_with_its_cure(name: str) -> None:
    status, cure, plant = TROUBLES[name]
    bad = [row for row in rows_of(plant()) if row.status is not Status.OK]
    assert [row.status for row in bad] == [status], bad
    assert cure in bad[0].cure
    assert bad[0].why and bad[0].value
    assert has_fault(bad) == (status is Status.FAULT)


def test_both_limits_on_processes_are_cured_together() -> None:
    row = host_checks.processes(Count(10, 20), Count(10, 20), 4)
    assert "--nproc=30" in row.cure and "TasksMax=30" in row.cure


@pytest.mark.parametrize("workers", [1, 4, 64, 256])
def test_the_limits_that_are_asked_for_suffice_and_less_does_not(workers: int) -> None:
    least = sizing.least(workers)
    assert queue_checks.queue_limits(least, workers).status is Status.OK
    assert queue_checks.queue_bytes(least, {}, workers).status is Status.OK
    sizing.choose(workers, least)
    for name in least._fields:
        lower = least._replace(**{name: getattr(least, name) - 1})
        rows = [queue_checks.queue_limits(lower, workers), queue_checks.queue_bytes(lower, {}, workers)]
        assert has_fault(rows), name


def test_the_bytes_are_told_by_pool_the_largest_first() -> None:
    uses = {f"p{number}": number * 1000 for number in range(1, 7)}
    row = queue_checks.queue_bytes(STOCK, uses, 2)
    assert row.value.startswith("21000 of 819200 in use by p6 6000, p5 5000, p4 4000, p3 3000 and 2 more; ")
    layout = sizing.choose(2, STOCK)
    fit = (819200 - 21000) // layout.need(3, 2)
    assert row.value.endswith(f"; {fit} more private pools fit")


def test_what_cannot_be_listed_is_said() -> None:
    row = queue_checks.stale_queues(Leavings(listed=False))
    assert row.status is Status.OK
    assert "/dev/mqueue is not mounted" in row.value


def test_a_table_names_each_cure_and_an_object_has_all_fields() -> None:
    rows = [Row("one", "1"), host_checks.core_pattern("|x")]
    table = as_table(rows).decode()
    assert "one           ok       1" in table
    assert "warning: core pattern: " in table
    assert "\n    sudo sysctl -w kernel.core_pattern=core\n" in table
    first, second = (msgspec.json.decode(line) for line in as_json(rows).splitlines())
    assert first == {"check": "one", "value": "1", "status": "ok", "why": None, "cure": None}
    assert second["status"] == "warning" and second["cure"] == "sudo sysctl -w kernel.core_pattern=core"


def test_below_an_error_a_row_takes_one_line() -> None:
    text = in_a_line(host_checks.processes(Count(10, 20), Count(10, 20), 4))
    assert text.startswith("fault: processes: 4 workers and their commands may take 20. Cure: sudo prlimit ")
    assert "\n" not in text


def test_a_value_that_is_no_text_can_be_printed() -> None:
    for written in as_table([Row("path", "a\udcff")]), as_json([Row("path", "a\udcff")]):
        assert b"\\udcff" in written
