"""Read what stands below the flags of a command line: environment variables, and TOML files.

A setting is text, as the value of a flag is, and is checked where that is. Known here are the names there are, and
where a setting came from, so that an error can say so.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from taskpool.errors import UsageError

FILE_NAME = "taskpool.toml"
_BYTES_MAX = 1 << 20
# What Kubernetes sets for each service, in the pods that come up beside it.
_OF_A_SERVICE = re.compile(r"_(PORT|SERVICE)(_|\Z)")
_ALIKE = 0.75  # how near two names are that may be one misspelt (difflib: 0 to 1)


class Setting(NamedTuple):
    """One value, and where it came from."""

    value: str
    source: str  # a path, or the name of a variable
    directory: str | None = None  # from which a relative path in it counts; None: the current one


Settings = dict[str, Setting]  # by the option's name, with _ for -


def from_environment(
    env: Mapping[str, str], prefix: str, keys: Collection[str], flags: Collection[str] = ()
) -> Settings:
    """Return what variables set. An empty one sets nothing. `flags` are options that only the command line can give.

    Raises UsageError for a variable that can only be a misspelt setting. Others with the prefix are let be: in a
    cluster, a service called tp-workers makes TP_WORKERS_PORT and the like.
    """
    found: Settings = {}
    for variable, value in env.items():
        key = variable.removeprefix(prefix).lower()
        # `TP_workers` is another variable than TP_WORKERS: with both set, their order would decide.
        if not variable.startswith(prefix) or variable != f"{prefix}{key.upper()}" or not value:
            continue
        if key in keys:
            found[key] = Setting(value, variable)
        elif key in flags:
            raise UsageError(f"{variable}: {_option(key)} is about one run: only the command line can give it")
        elif not _OF_A_SERVICE.search(variable) and (near := nearest(key, keys)):
            raise UsageError(f"{variable}: no such setting; did you mean {prefix}{near.upper()}?")
    return found


def from_file(path: Path, keys: Collection[str], text: str, flags: Collection[str] = ()) -> Settings:
    """Return what a TOML file with this text sets. Raises UsageError naming the file, the key and the nearest one."""
    import tomllib  # not every start finds a file

    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers too long and lists too deep have no error of their own
        raise UsageError(f"{path}: not TOML: {error}") from error
    directory = os.path.dirname(os.path.abspath(path))
    found: Settings = {}
    for key, value in values.items():
        # An unknown name is an error: a misspelt one that is ignored leaves a default that was not wanted.
        if key in flags:
            raise UsageError(f"{path}: {key}: {_option(key)} is about one run: only the command line can give it")
        if key not in keys:
            near = nearest(key, keys)
            meant = f"; did you mean {near}?" if near else ""
            raise UsageError(f"{path}: unknown name {key!r}{meant} (known: {', '.join(sorted(keys))})")
        if not isinstance(value, (str, int, float)) or "\0" in str(value):
            raise UsageError(f"{path}: {key}: expected a text, a number, true or false, got {value!r}")
        word = str(value).lower() if isinstance(value, bool) else str(value)
        found[key] = Setting(word, str(path), directory)
    return found


def read_named(path: Path) -> str:
    """Return the text of a file that the command line names. Raises UsageError."""
    # Not by its owner: the command line names it, so it was chosen, and not just found.
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--config {path}: not TOML: {error}") from error


class Found(NamedTuple):
    """A file that was looked for: its text, or why it is not used."""

    path: Path
    text: str = ""
    refusal: str = ""


def look_for(candidates: Iterator[Path]) -> Iterator[Found]:
    """Yield the files that exist, up to the first that can be used.

    One that another user owns, or that all can write, is not used: it could end our jobs, or start another program in
    their place. It is no error either, or a file in /tmp would stop all that work there.
    """
    for path in candidates:
        try:
            link = os.lstat(path)
            # A FIFO must not be waited for, nor a terminal become the one that controls this process.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            yield Found(path, refusal=f"it cannot be read: {error.strerror}")
            continue
        if (refusal := _refusal(link, os.fstat(fd))) is not None:
            os.close(fd)
            yield Found(path, refusal=refusal)
            continue
        with open(fd, "rb") as file:
            try:
                yield Found(path, file.read().decode())
            except UnicodeDecodeError:
                raise UsageError(f"{path}: not TOML: not UTF-8") from None
            return


def _refusal(link: os.stat_result, status: os.stat_result) -> str | None:
    # A link's owner counts too: it chooses which of our own files is read as settings.
    owners = {link.st_uid, status.st_uid} - {0, os.geteuid()}
    if owners:
        return f"uid {owners.pop()} owns it, not you (uid {os.geteuid()}) nor root"
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if status.st_mode & stat.S_IWOTH:
        return "every user can write it: chmod o-w"
    if status.st_size > _BYTES_MAX:
        return f"it has {status.st_size} bytes; {_BYTES_MAX} are possible"
    return None


def upward(directory: Path) -> Iterator[Path]:
    """Yield where the file of a project may be: in this directory, and in those above it."""
    for place in (directory, *directory.parents):
        yield place / FILE_NAME


def of_user(env: Mapping[str, str]) -> Iterator[Path]:
    """Yield where the user's own file may be: $XDG_CONFIG_HOME/taskpool, else ~/.config/taskpool."""
    base, home = env.get("XDG_CONFIG_HOME", ""), env.get("HOME", "")
    if os.path.isabs(base):  # one that is relative is to be ignored (XDG Base Directory Specification)
        yield Path(base, "taskpool", FILE_NAME)
    elif os.path.isabs(home):
        yield Path(home, ".config", "taskpool", FILE_NAME)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that this one is most like; None: it is like none of them."""
    found = difflib.get_close_matches(name.lower().replace("-", "_"), list(known), 1, _ALIKE)
    return found[0] if found else None


def with_sources(error: UsageError, settings: Mapping[str, Setting]) -> UsageError:
    """Return the error with the origin of each setting whose option it names."""
    # A value is checked where its origin is not known: the option that the text names is all there is to go by.
    text = str(error)
    words = {word.strip(",;:().'") for word in text.replace("=", " ").split()}
    origins = [
        f"{key} = {setting.value!r} is from {setting.source}: change it there, or give {_option(key)}"
        for key, setting in settings.items()
        if _option(key) in words
    ]
    return UsageError(f"{text} ({'; '.join(origins)})") if origins else error


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"
