"""Find and remove the directory where a pool keeps its state: its lock file, journal, spool and kept outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path

from taskpool.errors import ConfigurationError

PRIVATE_NOTE = "private.json"  # in the directory of a private pool; its generator holds a lock on it
JOURNAL_NAME = "journal.db"
SPOOL_NAME = "spool"
OUTPUT_NAME = "output"  # beside the spool, where workers put what jobs printed (kinds/capture.py)


def state_directory(pool: str, env: Mapping[str, str] = os.environ, *, create: bool = True) -> Path:
    """Return the pool's own directory, mode 0700; with `create`, make it where it is missing.

    Below $STATE_DIRECTORY (set by systemd), else $XDG_STATE_HOME/taskpool, else ~/.local/state/taskpool.
    Raises ConfigurationError when it cannot be made or used, or belongs to another user.
    """
    directory = _base(env) / pool
    variable = "STATE_DIRECTORY" if env.get("STATE_DIRECTORY") else "XDG_STATE_HOME"  # the one whose change helps
    if not is_text(str(directory)):
        # Its path goes into messages (Welcome names the spool), and those carry UTF-8 only.
        raise ConfigurationError(f"the state directory {str(directory)!r} is not UTF-8: set {variable} to another")
    try:
        if create:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not directory.exists():
            return directory
        # Looked at in any case, since exist_ok takes whatever is there. Root would get by the mode of another user's
        # directory, and leave files in it that its owner cannot use.
        owner = directory.stat().st_uid
        if owner != os.geteuid():
            raise ConfigurationError(
                f"the state directory {directory} belongs to uid {owner}, and this is uid {os.geteuid()}: "
                f"use another --pool, or set {variable}"
            )
        directory.chmod(0o700)  # payloads and outputs of jobs lie in it
    except OSError as error:
        raise ConfigurationError(
            f"cannot use the state directory {directory}: {error.strerror}; set {variable} to a directory "
            "that can be written"
        ) from error
    return directory


def _base(env: Mapping[str, str]) -> Path:
    if service := env.get("STATE_DIRECTORY"):
        return Path(service.partition(":")[0])  # systemd.exec(5): several are joined with colons
    # Relative paths are to be ignored, says the XDG Base Directory Specification. expanduser leaves the "~" where a
    # user has no home directory.
    for home in env.get("XDG_STATE_HOME", ""), os.path.expanduser("~/.local/state"):
        if os.path.isabs(home):
            return Path(home, "taskpool")
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


def remove_all_but(directory: Path, keep: Set[Path]) -> int:
    """Empty and remove a directory, except for some files and what leads to them; return how many stay."""
    kept = 0
    for root, _, file_names in os.walk(directory, topdown=False):
        for name in file_names:
            path = Path(root, name)
            if path in keep:
                kept += 1
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: something is kept in it
            os.rmdir(root)
    return kept
