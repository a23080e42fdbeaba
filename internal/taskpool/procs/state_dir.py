"""Find the directory where a pool keeps its state, and refuse whatever another user could have put in its way.

Rules of this file:
1. A path is walked from the root, one name at a time, each relative to the directory opened before it (openat(2)).
   What was looked at is then what is used, whatever happens to its name meanwhile.
2. A directory on the way is this user's or root's. Where others may write, it has the sticky bit, so that they can
   neither rename nor remove what is ours.
3. A link is followed if it is this user's or root's and lies where no one else may write.
4. The pool's own directory is this user's and closed to all others. So its files are opened by their paths: nothing
   can come into it any more, and what was in it before was looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from taskpool.errors import ConfigurationError
from taskpool.procs.files import sync_directory

if TYPE_CHECKING:
    from pathlib import Path  # a worker starts without it

_ROOT_UID = 0
_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS_MAX = 40  # as the kernel has it (path_resolution(7))
_PATH_BYTES_MAX = 4095  # PATH_MAX without the null byte (path_resolution(7))
_INSIDE_BYTES_MAX = 256  # of the longest path in a pool's directory: that of a kept output (kinds/capture.py)
_ALL_UIDS = 2**32 - 1  # of them a user namespace knows some, the first one all (user_namespaces(7))
# What SQLite and the journal put beside it, by its name and one of these.
_BESIDE = ("", "-wal", "-shm", "-journal", ".ballast", ".seal", ".new", ".new-wal", ".new-journal", ".new.seal")

# In a pool's directory. The two directories may lie elsewhere, behind a link.
PRIVATE_NOTE = "private.json"  # of a private pool; its generator holds a lock on it
TYPED_NAME = "command.json"  # of a private pool: what was typed to begin its batch
RESULT_NAME = "result.json"  # of a private pool: what the last run of its batch came to
CALLS_NAME = "calls"  # of a private pool: the calls of a Python program, in the order of its jobs
CLUSTER_NAME = "cluster.json"  # of a member of a cluster: which batch the cluster's jobs are in
JOURNAL_NAME = "journal.db"
SPOOL_NAME = "spool"
OUTPUT_NAME = "output"  # where workers put what jobs printed (kinds/capture.py)
_FILES = (
    "pool.lock",
    "queues",
    "worker-queues",
    "workers",
    PRIVATE_NOTE,
    TYPED_NAME,
    RESULT_NAME,
    CALLS_NAME,
    CLUSTER_NAME,
)


def state_directory(pool: str, env: Mapping[str, str] = os.environ, *, create: bool = True) -> Path:
    """Return the pool's own directory, mode 0700; with `create`, make it where it is missing.

    Below $STATE_DIRECTORY (set by systemd), else $XDG_STATE_HOME/taskpool, else ~/.local/state/taskpool.
    Raises ConfigurationError when it cannot be made or used, or another user could have made, or could change, any
    part of its path or a file of the pool in it.
    """
    from pathlib import Path

    variable = chosen_by(env)
    base, own = _base(env)
    directory = Path(base, *own, pool)
    if not is_text(str(directory)):
        # Its path goes into messages (Welcome names the spool), and those carry UTF-8 only.
        raise ConfigurationError(f"the state directory {str(directory)!r} is not UTF-8: set {variable} to another")
    check_length(directory, _PATH_BYTES_MAX - _INSIDE_BYTES_MAX, "a path of Linux, with what is in it,", env)
    try:
        with closing(_Walk(create=create)) as walk:
            walk.go(os.path.abspath(base), volume=variable == "STATE_DIRECTORY")
            walk.go("/".join((*own, pool)), named=False)
            walk.take(SPOOL_NAME, OUTPUT_NAME)
            walk.check_files(*_FILES, *(JOURNAL_NAME + end for end in _BESIDE))
    except _Foreign as found:
        raise ConfigurationError(
            f"the state directory {directory} is not safe: {found}, or set {variable} to a directory of your own"
        ) from None
    except OSError as error:
        if not create and isinstance(error, FileNotFoundError):
            return directory
        raise ConfigurationError(
            f"cannot use the state directory {directory}: {error.strerror}; set {variable} to a directory "
            "that can be written"
        ) from error
    return directory


def pools_directory(env: Mapping[str, str] = os.environ) -> Path:
    """Return the directory in which the pools of this user have theirs. Raises ConfigurationError."""
    from pathlib import Path

    base, own = _base(env)
    return Path(base, *own)


def chosen_by(env: Mapping[str, str] = os.environ) -> str:
    """Return the variable whose change moves the state directory."""
    return "STATE_DIRECTORY" if env.get("STATE_DIRECTORY") else "XDG_STATE_HOME"


def check_length(directory: Path, most: int, of_what: str, env: Mapping[str, str] = os.environ) -> None:
    """Refuse a state directory whose path has more bytes than `of_what` allows. Raises ConfigurationError."""
    size = len(os.fsencode(directory))
    if size > most:
        raise ConfigurationError(
            f"the path of the state directory {directory} has {size} bytes, and {of_what} allows {most}: set "
            f"{chosen_by(env)} to a shorter path"
        )


def check_journal(path: Path) -> None:
    """Refuse a journal outside the state directory which another user could have made or could replace.

    The same goes for the files beside it. Raises ConfigurationError; what cannot be looked at is left to be explained
    where the journal is opened.
    """
    try:
        with closing(_Walk(create=False)) as walk:
            walk.go(os.path.abspath(path.parent))
            walk.check_files(*(path.name + end for end in _BESIDE))
    except _Foreign as found:
        raise ConfigurationError(
            f"the journal {path} is not safe: {found}, or name a file in a directory of your own"
        ) from None
    except OSError:
        return


def open_inside(directory: str, *names: str) -> int:
    """Open a directory within the pool's own, `names` being the way to it, and make what is missing of it.

    Each is for this user alone. Raises OSError.
    """
    with closing(_Walk(create=True)) as walk:
        walk.stand_in(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), directory)
        try:
            for name in names:
                walk.go(name, named=False)
                walk.take()
        except _Foreign as found:
            raise PermissionError(errno.EPERM, str(found)) from None
        return walk.reopen()


def _base(env: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return the directory that the environment names, and the names below it that are ours."""
    if service := env.get("STATE_DIRECTORY"):
        return service.partition(":")[0], ()  # systemd.exec(5): several are joined with colons
    # Relative paths are to be ignored, says the XDG Base Directory Specification. expanduser leaves the "~" where a
    # user has no home directory.
    for home in env.get("XDG_STATE_HOME", ""), os.path.expanduser("~/.local/state"):
        if os.path.isabs(home):
            return home, ("taskpool",)
    raise ConfigurationError(f"uid {os.geteuid()} has no home directory for the pool's state: set XDG_STATE_HOME")


def is_text(path: str) -> bool:
    """Say whether messages and files of JSON can carry a path: Python shows bytes that are no UTF-8 as surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def identity(directory: Path) -> str:
    """Return what tells a state directory from any other of this machine, whatever path or mount leads to it.

    Not its path: containers and bind mounts give one directory several (docs/adr/0014).
    """
    found = directory.stat()
    return f"{found.st_dev:x}-{found.st_ino:x}"


def remove_all_but(directory: Path, stays: Callable[[Path], bool]) -> None:
    """Empty and remove a directory, except for some files and what leads to them."""
    from pathlib import Path

    for root, _, file_names in os.walk(directory, topdown=False):
        for name in file_names:
            path = Path(root, name)
            if not stays(path):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: something is kept in it
            os.rmdir(root)


# --- the walk -------------------------------------------------------------------------------------


class _Foreign(Exception):
    """Another user could have made, or could change, a part of the path: names it, and the cure."""


class _Walk:
    """Goes down a path. Raises _Foreign, and OSError for what cannot be opened or made."""

    def __init__(self, *, create: bool) -> None:
        self._create = create
        self._links = 0
        self._fd = -1
        self._begin()

    def close(self) -> None:
        os.close(self._fd)

    def go(self, path: str, *, named: bool = True, volume: bool = False) -> None:
        """Go down `path`, from where the walk stands or from the root. `named`: a person has chosen it; `volume`: it
        may be the root of a mounted volume to which all may write, as container engines make them."""
        names = self._rest(path)
        given = len(names)
        while names:
            # Not where a link leads, which may be to a disk that is not mounted now.
            create = self._create and len(names) <= given
            name = names.pop()
            given = min(given, len(names))
            entry = self._open(name, create=create)
            try:
                status = os.fstat(entry)
                if stat.S_ISLNK(status.st_mode):
                    self._check_link(name, status)
                    names += self._rest(os.readlink("", dir_fd=entry))
                    continue
                self._check_directory(name, status, named=named, volume=volume and not names)
                self._step(self._place(name), entry, status)
                entry = -1
            finally:
                if entry >= 0:
                    os.close(entry)

    def take(self, *inner: str) -> None:
        """Take the directory for this user alone, and those of `inner` that are in it."""
        if self._status.st_uid != os.geteuid():
            uid = self._status.st_uid
            raise _Foreign(f"{self._path} belongs to uid {uid}, and this is uid {os.geteuid()}: run as that user")
        if stat.S_IMODE(self._status.st_mode) != 0o700:
            os.chmod(".", 0o700, dir_fd=self._fd)
        for name in inner:
            with closing(_Walk(create=False)) as walk, suppress(FileNotFoundError):  # it is made when it is needed
                walk.stand_in(os.dup(self._fd), self._path)
                walk.go(name, named=False)
                walk.take()

    def stand_in(self, fd: int, path: str) -> None:
        """Go on from a directory, whose descriptor is the walk's from now on."""
        self._step(path, fd, os.fstat(fd))

    def reopen(self) -> int:
        """Return a descriptor with which the directory where the walk stands can be read and synced."""
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)

    def check_files(self, *names: str) -> None:
        """Refuse files that are not this user's own, and those that have a name elsewhere: a hard link in a directory
        that was once open to others may be to any file of this user's."""
        files = {}
        for name in names:
            with suppress(FileNotFoundError):
                files[name] = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        # A journal that was just being made has two names here (journal/file.py).
        here = Counter(status.st_ino for status in files.values())
        for name, status in files.items():
            if problem := _file_problem(status, here[status.st_ino]):
                raise _Foreign(f"{self._place(name)} {problem}: look what it is, and remove it")

    # --- steps ---

    def _begin(self) -> None:
        self.stand_in(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "/")

    def _step(self, path: str, fd: int, status: os.stat_result) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._path, self._fd, self._status = path, fd, status

    def _rest(self, path: str) -> list[str]:
        """Return the names of a path, the last one first."""
        if path.startswith("/"):
            self._begin()
        return [name for name in reversed(path.split("/")) if name not in ("", ".")]

    def _open(self, name: str, *, create: bool) -> int:
        try:
            return os.open(name, _ENTRY, dir_fd=self._fd)
        except FileNotFoundError:
            if not create:
                raise
        try:
            os.mkdir(name, 0o700, dir_fd=self._fd)
        except FileExistsError:  # made meanwhile, and looked at like any other
            return os.open(name, _ENTRY, dir_fd=self._fd)
        entry = os.open(name, _ENTRY, dir_fd=self._fd)
        status = os.fstat(entry)
        if status.st_uid == os.geteuid() and not stat.S_ISLNK(status.st_mode):
            os.chmod(f"/proc/self/fd/{entry}", 0o700)  # where the umask takes rights from the owner too
            with suppress(PermissionError):  # a directory to write to, and not to be read
                sync_directory(f"/proc/self/fd/{self._fd}")  # its name is to survive a loss of power
        return entry

    def _place(self, name: str) -> str:
        return os.path.normpath(os.path.join(self._path, name))

    # --- what is refused ---

    def _check_link(self, name: str, status: os.stat_result) -> None:
        place = self._place(name)
        self._links += 1
        if self._links > _LINKS_MAX:
            raise _Foreign(f"{place} is one of more than {_LINKS_MAX} symbolic links: name the directory itself")
        if status.st_uid not in (_ROOT_UID, os.geteuid()):
            raise _Foreign(f"{place} is a symbolic link that uid {status.st_uid} has made: remove it")
        if _others_write(self._status):
            raise _Foreign(
                f"{place} is a symbolic link in a directory to which others may write "
                f"(mode {_mode(self._status)}): name what it leads to"
            )

    def _check_directory(self, name: str, status: os.stat_result, *, named: bool, volume: bool) -> None:
        place = self._place(name)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place)
        if status.st_uid not in (_ROOT_UID, os.geteuid()) and not (named and status.st_uid == _unknown_uid()):
            raise _Foreign(
                f"{place} (mode {_mode(status)}) belongs to uid {status.st_uid}, and this is uid {os.geteuid()}: "
                "run as that user"
            )
        if not _others_write(status) or status.st_mode & stat.S_ISVTX:
            return
        # Only root mounts, and what containers of others see of a volume is theirs to be told.
        if volume and status.st_uid == _ROOT_UID and status.st_dev != self._status.st_dev:
            return
        raise _Foreign(
            f"others may rename and replace what is in {place} (mode {_mode(status)}, uid {status.st_uid}, "
            f"gid {status.st_gid}): chmod go-w {place}, or chmod +t"
        )


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _file_problem(status: os.stat_result, names_here: int) -> str:
    """Say what is wrong with a file that is to be this user's; nothing when all is right."""
    if status.st_uid != os.geteuid():
        return f"belongs to uid {status.st_uid} (mode {_mode(status)}), and this is uid {os.geteuid()}"
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    return f"has {status.st_nlink} names: it is a hard link" if status.st_nlink > names_here else ""


def _others_write(status: os.stat_result) -> bool:
    """Whether users other than this one and root may make and rename entries of a directory."""
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_own_group(status.st_gid)


def _is_own_group(gid: int) -> bool:
    """Whether the group is this user's private one, with which many systems give directories mode 0775.

    LIMIT: access control lists (acl(5)) are not looked at: who they let write counts as that group.
    """
    if gid == _ROOT_UID:
        return True
    import grp  # both may ask a directory service, and are seldom needed
    import pwd

    try:
        name, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(gid)
    except KeyError:
        return gid == os.geteuid()
    return group.gr_name == name and not set(group.gr_mem) - {name, "root"}


def _unknown_uid() -> int | None:
    """Return the uid that a user namespace shows for users it does not know; None where it knows all.

    Such a namespace does not tell root from others. So the directories in which this process finds itself are taken as
    they are; what this package makes in them is not.
    """
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        if sum(int(line.split()[2]) for line in lines) >= _ALL_UIDS:
            return None
    with open("/proc/sys/kernel/overflowuid", encoding="ascii") as number:
        return int(number.read())
