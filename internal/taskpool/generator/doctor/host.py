"""Look at this host. What cannot be read is told as None or an empty value, and left to the checks to judge."""

from __future__ import annotations

import os
import pwd
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from taskpool.errors import ConfigurationError, QueueError, TaskpoolError
from taskpool.generator.doctor.host_checks import Container, Count, Login, StateDirectory
from taskpool.generator.doctor.queue_checks import Leavings
from taskpool.ipc import dead_pools, names
from taskpool.ipc.mqueue import KernelNamespace, ipc_namespace
from taskpool.ipc.sizing import LADDER, LOCK, Layout, Shape
from taskpool.private.forget import expired
from taskpool.procs import procfs
from taskpool.procs.control_group import ControlGroup, mounted, own_directory, own_groups
from taskpool.procs.files import open_unnamed
from taskpool.procs.prctl import require_pidfds
from taskpool.procs.state_dir import pools_directory
from taskpool.procs.state_dir import state_directory as pool_directory

QUEUES = Path("/dev/mqueue")
_TRIAL = f"doctor-{os.getpid()}"  # a pool's name that no pool has
_SYNCS = 5
_TIME_ERROR = 5  # of adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # struct timex has 208
_LOGIND_CONF = ("/usr/lib/systemd", "/run/systemd", "/etc/systemd")
_SMALLEST = LADDER[-1]


# --- queues ---------------------------------------------------------------------------------------


def queue_uses() -> dict[str, int]:
    """Return the bytes of this user's queues by pool, as far as processes and names here tell.

    A queue of a worker or a generator has no name once both ends hold it: those are found as open files of this user's
    processes. Queues of other IPC namespaces, and of processes that /proc does not show, count as well and are unseen.
    """
    # By inode: several processes have one queue open, and its name may be another queue's by now.
    charged: dict[tuple[int, int], tuple[str, int]] = {}
    for name in _names():
        with suppress(QueueError):
            queue = KernelNamespace().open(name, send=True, receive=False)
            charged[_identity(queue.status())] = _parts(name)[0], Shape(queue.maxmsg, queue.msgsize).bytes
            queue.close()
    # The kernel tells the size of a queue to those that open it by name. The intake of a pool has one, and gives the
    # layout away, and with it the size of those without a name.
    layouts: dict[str, Layout] = {}
    for name, status in _open_queues():
        pool, kind = _parts(name)
        if _identity(status) not in charged:
            if pool not in layouts:
                layouts[pool] = _layout_of(pool)
            charged[_identity(status)] = pool, _shape(layouts[pool], kind).bytes
    uses: dict[str, int] = {}
    for pool, size in charged.values():
        uses[pool] = uses.get(pool, 0) + size
    return uses


def _names() -> set[str]:
    """Return the names that queues of this user may have: those of pools that have a directory, and what is listed."""
    shared = (names.intake, names.control, names.events, names.lock)
    found = {name(pool) for pool in _pools_here() for name in shared}
    return found.union(*_listed().values())


def trial_queue() -> str | None:
    """Create a queue and remove it; return the text of the error."""
    # The smallest there is: it must not be what keeps a pool that starts just now from its queues.
    name = names.lock(_TRIAL)
    try:
        queue = KernelNamespace().create(name, LOCK)
    except QueueError as error:
        return str(error)
    queue.unlink()
    queue.close()
    return None


def leavings(now_wall_ns: int) -> Leavings:
    """Look for what dead pools and old batches have left. Raises ConfigurationError: there is no place for state."""
    # Private ones are found by their note, which a named pool has none of: no pool is told of twice.
    pools, here = pools_directory(), ipc_namespace()
    dead = [path.name for path in dead_pools.find(pools, here)]
    named = [path.name for path in dead_pools.find_named(pools, here)]
    return Leavings(
        dead=dead,
        # A reboot leaves the notes and takes the queues.
        private=[pool for pool in dead if names.has_queues(KernelNamespace(), pool)],
        named=[pool for pool in named if names.has_queues(KernelNamespace(), pool)],
        unknown=unknown_queues(pools),
        expired=[kept.note.batch for kept in expired(now_wall_ns)],
        listed=QUEUES.is_dir() and os.path.ismount(QUEUES),
    )


def unknown_queues(pools: Path) -> dict[str, list[str]]:
    """Return queues of this user by pool, where the pool has no state directory here and no dealer."""
    return {
        pool: queues
        for pool, queues in _listed().items()
        if not (pools / pool).exists() and not dead_pools.has_dealer(KernelNamespace(), pool)
    }


def _listed() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with suppress(OSError):
        for entry in os.scandir(QUEUES):
            pool, kind = _parts(f"/{entry.name}")
            if kind and entry.stat().st_uid == os.geteuid():
                found.setdefault(pool, []).append(f"/{entry.name}")
    return found


def _pools_here() -> list[str]:
    try:
        return [path.name for path in pools_directory().iterdir()]
    except (OSError, ConfigurationError):
        return []


def _open_queues() -> Iterator[tuple[str, os.stat_result]]:
    for pid in procfs.all_pids():
        with suppress(OSError):  # of another user, or gone
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{descriptor}").removesuffix(" (deleted)")
                    if link.startswith("/tp.") and _parts(link)[1]:
                        status = os.stat(f"/proc/{pid}/fd/{descriptor}")
                        if status.st_uid == os.geteuid():
                            yield link, status


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _parts(name: str) -> tuple[str, str]:
    """Return the pool of a queue and what kind of queue it is; no kind: it is none of ours."""
    prefix, _, rest = name.partition(".")
    pool, _, kind = rest.partition(".")
    return (pool, kind) if prefix == "/tp" and pool else ("", "")


def _layout_of(pool: str) -> Layout:
    with suppress(QueueError):
        queue = KernelNamespace().open(names.intake(pool), send=True, receive=False)
        shape = Shape(queue.maxmsg, queue.msgsize)
        queue.close()
        return next((layout for layout in LADDER if layout.intake == shape), _SMALLEST)
    return _SMALLEST


def _shape(layout: Layout, kind: str) -> Shape:
    shapes = {"intake": layout.intake, "control": layout.control, "events": layout.events, "lock": LOCK}
    return shapes.get(kind) or (layout.reply if kind.startswith("reply") else layout.worker)


# --- disk -----------------------------------------------------------------------------------------


def state_directory() -> StateDirectory:
    """Look at the directory where pools keep their state, or at the nearest one above it that is there."""
    try:
        path = pool_directory(_TRIAL, create=False).parent
    except ConfigurationError as error:
        return StateDirectory("unusable", problem=str(error))
    # Before the first pool there is none, and to look must not make it.
    place = nearest(path)
    try:
        room = os.statvfs(place)
    except OSError as error:
        return StateDirectory(str(path), problem=f"{place}: {error.strerror}")
    problem = None if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written by uid {os.geteuid()}"
    return StateDirectory(
        path=str(path),
        problem=problem,
        free_bytes=room.f_bavail * room.f_frsize,
        free_inodes=room.f_favail if room.f_files else None,
        sync_ns=_sync_times(place) if problem is None else (),
        file_system=_file_system(place),
        mode=f"{place.stat().st_mode & 0o7777:04o}",
    )


def nearest(path: Path) -> Path:
    """Return the path, or the nearest one above it that is there."""
    return next(each for each in (path, *path.parents) if each.is_dir())


def _sync_times(place: Path) -> list[int]:
    # Several: the first one after a pause wakes the disk, and others write meanwhile. The median has neither.
    times = []
    try:
        fd = open_unnamed(str(place))
    except OSError:
        return []
    try:
        for _ in range(_SYNCS):
            os.write(fd, bytes(4096))  # a page, as a small commit: a sync of nothing costs nothing
            begun = time.monotonic_ns()
            os.fsync(fd)
            times.append(time.monotonic_ns() - begun)
    except OSError:
        pass
    finally:
        os.close(fd)
    return times


def _file_system(place: Path) -> str:
    # The last mount of the longest path that leads there; see proc_pid_mountinfo(5).
    kind, depth = "unknown", -1
    for line in _lines(Path("/proc/self/mountinfo")):
        mount, _, source = line.partition(" - ")
        point = Path(mount.split()[4].encode().decode("unicode_escape"))
        if place.resolve().is_relative_to(point) and len(point.parts) >= depth:
            kind, depth = source.split()[0], len(point.parts)
    return kind


# --- limits and the kernel ------------------------------------------------------------------------


def rlimits(which: int) -> tuple[int | None, int | None]:
    """Return the soft and the hard limit; None: unlimited."""
    soft, hard = resource.getrlimit(which)
    return _finite(soft), _finite(hard)


def processes_of_user() -> Count:
    """Return how many threads this user has, as RLIMIT_NPROC counts them, and the limit, which root does not have."""
    # Threads: the kernel counts tasks (getrlimit(2)), and so the limit is met long before so many processes.
    soft = rlimits(resource.RLIMIT_NPROC)[0]
    used = 0
    for pid in procfs.all_pids():
        with suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == os.geteuid():
                used += len(os.listdir(f"/proc/{pid}/task"))
    return Count(used, None if os.geteuid() == 0 else soft)


def processes_of_group() -> Count:
    """Return the tightest pids.max of the control groups around this process, and what is in use of it."""
    # All on the way up: a group is held to the limits of those above it too.
    counts = []
    for group in _pids_groups():
        most, used = (_number(group / name) for name in ("pids.max", "pids.current"))
        if most is not None and used is not None:
            counts.append(Count(used, most))
    return min(counts, key=lambda count: (count.most or 0) - count.used, default=Count(0, None))


def _pids_groups() -> Iterator[Path]:
    for controllers, group in own_groups():
        if (not controllers and (directory := mounted(group, "cgroup2")) is not None) or (
            "pids" in controllers and (directory := mounted(group, "cgroup", "pids")) is not None
        ):
            yield from (directory, *directory.parents)


def control_group() -> str | None:
    """Make a control group as a dealer does, and leave it; return what it was made in, None where that is refused."""
    # Tried, not guessed: owner and mode of the directory do not tell what a mount or a security module forbids.
    around = own_directory()
    group = ControlGroup.make(_TRIAL)
    if group is None:
        return None
    group.leave()
    return str(around)


def core_pattern() -> str | None:
    """Return kernel.core_pattern."""
    return next(iter(_lines(Path("/proc/sys/kernel/core_pattern"))), None)


def login() -> Login:
    """Read what logind does to the queues of this user when he logs out."""
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    # What `loginctl enable-linger` leaves: to ask logind would take its bus.
    lingers = Path("/var/lib/systemd/linger", user).exists()
    return Login(uid, user, _has_logind(), _removes_ipc(), lingers)


def _has_logind() -> bool:
    # The second alone may lie in an image of a container: the first says that systemd has booted, see sd_booted(3).
    return os.path.isdir("/run/systemd/system") and os.path.isdir("/run/systemd/users")


def _removes_ipc() -> bool:
    """Return RemoveIPC= of logind.conf(5): the last file that sets it has its way, and yes is the default."""
    # A file in a later directory takes the place of one of the same name in an earlier one (systemd.conf(5)).
    wanted = True
    drop_ins = {file.name: file for base in _LOGIND_CONF for file in Path(base, "logind.conf.d").glob("*.conf")}
    main = [file for base in _LOGIND_CONF if (file := Path(base, "logind.conf")).exists()]
    for file in (*main[-1:], *(drop_ins[name] for name in sorted(drop_ins))):
        for line in _lines(file):
            key, _, value = line.partition("=")
            if key.strip() == "RemoveIPC":
                wanted = value.strip().lower() in ("1", "yes", "y", "true", "t", "on")
    return wanted


def synchronised() -> bool | None:
    """Say whether the kernel takes the clock for synchronised; None: it does not tell."""
    import ctypes  # the standard library has no such call

    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))  # no modes set: it only reads
    return None if state < 0 else state != _TIME_ERROR


def kernel_calls(place: Path) -> Mapping[str, str | None]:
    """Try the calls that pools need. `place` is a directory on the file system of the spool."""
    tried = {
        "pidfd_open": _tried(require_pidfds),
        "memfd_create": _tried(lambda: os.close(os.memfd_create("taskpool", os.MFD_CLOEXEC))),
    }
    if os.access(place, os.W_OK | os.X_OK):  # else it is refused for that, which has a row of its own
        unnamed = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
        tried["O_TMPFILE"] = _tried(lambda: os.close(os.open(place, unnamed, 0o600)))
    return tried


def _tried(call: Callable[[], None]) -> str | None:
    try:
        call()
    except (OSError, TaskpoolError) as error:
        return str(error)
    return None


def container() -> Container:
    """Look where this process lives."""
    kind = next((found for file, found in _MARKS.items() if os.path.exists(file)), None)
    told = next(iter(_lines(Path("/run/systemd/container"))), None)
    kind = kind or told or os.environ.get("container") or None  # noqa: SIM112 - as container managers write it
    try:
        shared = os.statvfs("/dev/shm")
        shared_bytes = shared.f_blocks * shared.f_frsize
    except OSError:
        shared_bytes = None
    return Container(kind, next(iter(_lines(Path("/proc/1/comm"))), "unknown"), ipc_namespace(), shared_bytes)


_MARKS = {
    "/.dockerenv": "docker",
    "/run/.containerenv": "podman",
    "/var/run/secrets/kubernetes.io": "kubernetes",
}


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def _number(file: Path) -> int | None:
    text = next(iter(_lines(file)), "")
    return int(text) if text.isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
