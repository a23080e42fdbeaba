"""Check the host around the queues: disk, limits, control groups, clock, kernel calls. What was read goes in, rows
come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import MILLISECOND
from taskpool.generator.doctor.row import Row, fault, warning

_MIB = 1024 * 1024
_FREE_MIN = 64 * _MIB  # below it a journal is about to fail
_FREE_LOW = 1024 * _MIB
_INODES_MIN, _INODES_LOW = 1_000, 10_000
_SYNC_SLOW_NS = 50 * MILLISECOND  # a commit takes one: below 20 of them a second, jobs wait for the disk
_NETWORK = ("nfs", "cifs", "smb", "9p", "ceph", "afs", "glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone")
_GOES = {"tmpfs": "a reboot empties it", "ramfs": "a reboot empties it", "overlay": "it goes with its container"}
_PROCESSES_BESIDE = 8  # generator, dealer, the process that workers are copied from, and what a shell needs
_PROCESSES_PER_WORKER = 3  # itself, the command that it runs, its replacement
# Programs that collect no children of others, and are often made PID 1 of a container.
_NO_INITS = frozenset({"sleep", "tail", "tp-generator", "python", "python3"})
_SYSTEM_UID_MAX = 999  # SYS_UID_MAX of login.defs(5): what RemoveIPC= goes by


class StateDirectory(NamedTuple):
    """What was read of the directory where the pools of this user keep their state."""

    path: str
    problem: str | None = None  # why it cannot be used, with the cure
    free_bytes: int = 0
    free_inodes: int | None = None  # None: the file system counts none
    sync_ns: Sequence[int] = ()
    file_system: str = ""
    mode: str = ""


class Count(NamedTuple):
    """How much of a limit is in use; no `most`: unlimited."""

    used: int
    most: int | None


class Login(NamedTuple):
    """What decides whether logind removes the queues of a user who logs out."""

    uid: int
    user: str
    runs: bool  # whether there is a logind
    remove_ipc: bool
    lingers: bool


class Container(NamedTuple):
    """Where this process lives."""

    kind: str | None
    init: str  # the program that is PID 1
    ipc_namespace: str
    shared_bytes: int | None  # of /dev/shm


def state_directory(found: StateDirectory, variable: str = "XDG_STATE_HOME") -> list[Row]:
    """Judge the state directory: whether it is usable, its room, its speed and its kind."""
    # /var/tmp outlasts a reboot, and the directory in it need not be made before.
    check, value = "state directory", f"{found.path} ({found.file_system}, {found.mode})"
    move = f"export {variable}=/var/tmp/taskpool-$(id -u)  # or any directory of yours on a local disk"
    if found.problem is not None:
        return [fault(check, found.path, found.problem, move)]
    rows = [Row(check, value)]
    if found.file_system.startswith(_NETWORK):
        why = f"{found.file_system} is a network file system: locks and syncs of a journal are slow there, or not kept"
        rows = [warning(check, value, why, move)]
    elif found.file_system in _GOES:
        why = f"{found.file_system}: {_GOES[found.file_system]}, and with it the journals"
        rows = [warning(check, value, why, move + ", in a container a volume")]
    return [*rows, _room(found, move), _speed(found, move)]


def _room(found: StateDirectory, move: str) -> Row:
    inodes = found.free_inodes
    value = f"{found.free_bytes // _MIB} MiB free" + ("" if inodes is None else f", {inodes} inodes free")
    why = "journals, spool files and large outputs of jobs need room"
    cure = f"tp-generator forget --succeeded  # or: {move}"
    if found.free_bytes < _FREE_MIN or (inodes is not None and inodes < _INODES_MIN):
        return fault("room", value, why, cure)
    if found.free_bytes < _FREE_LOW or (inodes is not None and inodes < _INODES_LOW):
        return warning("room", value, why, cure)
    return Row("room", value)


def _speed(found: StateDirectory, move: str) -> Row:
    # A warning however slow it is: nothing is lost, and --journal-sync=normal may be what is wanted.
    if not found.sync_ns:
        return warning("fsync", "not measured", "no file can be made there", move)
    sync_ns = median(found.sync_ns)
    value = f"{sync_ns / MILLISECOND:.1f} ms"
    if sync_ns < _SYNC_SLOW_NS:
        return Row("fsync", value)
    why = "each commit of the journal waits for one fsync"
    return warning("fsync", value, why, f"{move}, or --journal-sync=normal")


def control_group(group: str | None) -> Row:
    """Judge whether a pool can have a control group of its own. `group` is where one was made; None: not allowed."""
    if group is not None:
        return Row("control group", f"can be made below {group}")
    why = "processes of jobs that hide from their worker are then found by other traces, more slowly"
    cure = (
        "systemd-run --user --scope -p Delegate=yes $SHELL  # Delegate=yes in a unit; in a container a writable cgroup"
    )
    return warning("control group", "none can be made", why, cure)


def oom_count(kills: int | None) -> Row:
    """Judge whether the kernel counts what it has ended for want of memory in this control group."""
    if kills is not None:
        return Row("out-of-memory count", f"readable ({kills} so far)")
    why = "a job that the kernel ends for want of memory looks like one that was killed by a person"
    cure = "systemd-run --user --scope -p MemoryAccounting=yes $SHELL"
    return warning("out-of-memory count", "the kernel does not tell", why, cure)


def core_pattern(pattern: str | None) -> Row:
    """Judge where the kernel puts core dumps."""
    if pattern is None:
        return Row("core pattern", "not readable")
    # To a file as well only as far as RLIMIT_CORE allows it; a program is started whatever that says (core(5)).
    if not pattern.startswith("|"):
        return Row("core pattern", pattern or "none")
    why = "each crash of a job waits for that program, which slows a crash loop"
    return warning("core pattern", pattern, why, "sudo sysctl -w kernel.core_pattern=core")


def descriptors(soft: int | None, hard: int | None, workers: int) -> Row:
    """Compare RLIMIT_NOFILE (None: unlimited) with what a dealer of so many workers needs; it raises its soft limit."""
    need = limits.DEALER_DESCRIPTORS_MIN + limits.WORKER_DESCRIPTORS_MAX * workers
    value = f"{_number(soft)}, hard limit {_number(hard)}"
    # By the hard limit: the soft one a dealer raises itself.
    if hard is None or hard >= need:
        return Row("descriptors", value)
    cure = f"sudo prlimit --pid $$ --nofile={need}  # LimitNOFILE={need} (systemd), --ulimit nofile={need} (container)"
    return fault("descriptors", value, f"a dealer of {workers} workers needs {need}", cure)


def processes(of_user: Count, of_group: Count, workers: int) -> Row:
    """Compare RLIMIT_NPROC and pids.max with what a pool of so many workers takes."""
    need = _PROCESSES_BESIDE + _PROCESSES_PER_WORKER * workers
    value = f"RLIMIT_NPROC {_share(of_user)}, pids.max {_share(of_group)}"
    # Two limits that need two cures, for the lower one of them alone would not help.
    cures = []
    if of_user.most is not None and of_user.most - of_user.used < need:
        wanted = of_user.used + need
        cures.append(f"sudo prlimit --pid $$ --nproc={wanted}  # LimitNPROC={wanted} (systemd)")
    if of_group.most is not None and of_group.most - of_group.used < need:
        wanted = of_group.used + need
        cures.append(f"sudo systemctl set-property user-$(id -u).slice TasksMax={wanted}  # --pids-limit (container)")
    if not cures:
        return Row("processes", value)
    return fault("processes", value, f"{workers} workers and their commands may take {need}", "\n    ".join(cures))


def remove_ipc(login: Login) -> Row:
    """Judge whether logind takes the queues away when the user logs out (RemoveIPC= of logind.conf(5))."""
    if not login.runs:
        return Row("RemoveIPC", "no logind here")
    if not login.remove_ipc:
        return Row("RemoveIPC", "no")
    if login.uid <= _SYSTEM_UID_MAX:
        return Row("RemoveIPC", f"yes, but not for uid {login.uid}, a system user")
    if login.lingers:
        return Row("RemoveIPC", f"yes, but {login.user} lingers")
    why = f"when {login.user} logs out, logind removes the queues of pools that still run"
    cure = f"loginctl enable-linger {login.user}  # or RemoveIPC=no in /etc/systemd/logind.conf"
    return fault("RemoveIPC", "yes", why, cure)


def clock(boottime: bool, synchronised: bool | None) -> Row:
    """Judge the clocks. `boottime`: CLOCK_BOOTTIME is there; `synchronised`: None where the kernel does not tell."""
    # No fault: time-outs and leases go by the monotonic clock, which no setting of the time touches.
    if not boottime:
        return warning("clock", "no CLOCK_BOOTTIME", "the time asleep cannot be told from time at work", "uname -r")
    if synchronised is False:
        why = "times of day in outcomes and logs, and the age of kept batches, may be wrong; time-outs are not"
        return warning("clock", "not synchronised", why, "sudo timedatectl set-ntp true")
    return Row("clock", "synchronised" if synchronised else "synchronisation unknown")


def kernel_calls(problems: Mapping[str, str | None]) -> Row:
    """Judge calls that were tried: the text of the error for each that failed."""
    failed = {call: text for call, text in problems.items() if text is not None}
    value = ", ".join(f"{call} {'refused' if call in failed else 'ok'}" for call in problems)
    if not failed:
        return Row("kernel calls", value)
    why = "; ".join(f"{call}: {text}" for call, text in failed.items())
    if list(failed) == ["O_TMPFILE"]:  # files with a name take its place
        cure = "findmnt -T ~/.local/state  # ext4, xfs, btrfs and tmpfs have it"
        return warning("kernel calls", value, f"{why}; a kill may leave a file in the spool", cure)
    cure = "uname -r  # Linux 5.4 or newer; in a container: --security-opt seccomp=FILE with these calls allowed"
    return fault("kernel calls", value, why, cure)


def container(found: Container) -> Row:
    """Tell where this is, and what that changes."""
    shared = "" if found.shared_bytes is None else f", /dev/shm {found.shared_bytes // _MIB} MiB"
    value = f"{found.kind or 'none'}; PID 1 is {found.init}, queues are those of {found.ipc_namespace}{shared}"
    if found.kind is not None:
        value += "; other containers see them with --ipc=container:NAME only"
    if found.kind is None or found.init not in _NO_INITS:
        return Row("container", value)
    why = f"PID 1 ({found.init}) collects no children of others: processes that a job leaves stay as zombies"
    return warning("container", value, why, "docker run --init IMAGE  # or podman run --init IMAGE")


def _share(count: Count) -> str:
    return "unlimited" if count.most is None else f"{count.used} of {count.most}"


def _number(value: int | None) -> str:
    return "unlimited" if value is None else str(value)
