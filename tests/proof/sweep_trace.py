"""From strace's record of the reference runs to the points of the sweep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from proof.sweep_calls import ERRORS, STATE_CHANGING, TRACED

# writer: the dealer's journal thread. A worker here is a program of its own; template: what others are copied from.
PROGRAMS = ("dealer", "writer", "worker", "template", "generator")
KILL = "KILL"

_CALL = re.compile(r"^(?:\d+ +)?([a-z0-9_]+)\((.*)")
_NUMBER = re.compile(r"[0-9a-f]{32}|\d+")
_PATH = re.compile(r'<([^>]*)>|"((?:[^"\\]|\\.)*)"')
_LEDGER = "*/ledger"
_CREATES = re.compile(r"O_CREAT|O_TMPFILE")


@dataclass(frozen=True)
class Point:
    """Where a program is struck: at the `when`-th call of this name, or of this name on `path`."""

    program: str
    call: str
    when: int
    fault: str  # KILL or an errno
    path: str = ""  # {dir} and {pool} stand for the run's own
    site: str = ""

    @property
    def key(self) -> str:
        where = f" {self.path}" if self.path else ""
        return f"{self.program} {self.call}{where}@{self.when} {self.fault}"

    @property
    def sort(self) -> str:
        """What a sample is spread over."""
        return f"{self.program} {self.call} {'K' if self.fault == KILL else 'E'}"

    def strace(self, directory: Path, pool: str) -> list[str]:
        """strace's options for it."""
        what = "signal=SIGKILL" if self.fault == KILL else f"error={self.fault}"
        options = ["-e", f"trace={self.call}", "-e", f"inject={self.call}:{what}:when={self.when}"]
        return ["-P", _filled(self.path, directory, pool), *options] if self.path else options


def reference_options() -> list[str]:
    return ["-y", "-s", "64", "-e", f"trace={','.join(TRACED)}"]


@dataclass(frozen=True)
class Call:
    """One line of a trace that matters."""

    name: str
    when: int
    path: str  # only for calls that are counted by path
    site: str
    changes: bool


def read_calls(trace: Path, program: str, directory: Path, pool: str) -> list[Call]:
    """The calls of a reference run that can be struck, in their order."""
    lines = trace.read_text(errors="replace").splitlines()
    return list(_calls(lines, program, directory, pool))


def _calls(lines: Iterable[str], program: str, directory: Path, pool: str) -> Iterator[Call]:
    counts: Counter[tuple[str, str]] = Counter()
    for line in lines:
        match = _CALL.match(line)
        if match is None or match[1] not in TRACED:
            continue
        name, arguments = match.groups()
        path = _opened(arguments, directory, pool) if name == "openat" else ""
        counts[name, path] += 1
        counts[name, ""] += bool(path)
        if _counts(name, arguments, path):
            site = f"{name} {_object(arguments, directory, pool)}".rstrip()
            changes = name in STATE_CHANGING and (name != "openat" or _CREATES.search(arguments) is not None)
            yield Call(name, counts[name, path], path, site, changes)


def _counts(name: str, arguments: str, path: str) -> bool:
    """Whether this very call is of the kind its name stands for."""
    match name:
        case "openat":
            return bool(path) or _CREATES.search(arguments) is not None
        case "fcntl":
            return "F_SETLK" in arguments
        case "epoll_ctl":
            return "EPOLL_CTL_ADD" in arguments
        case "pread64":
            return ".db" in arguments  # not the loader's
        case "write":
            return "<anon_inode:" not in arguments and "<pipe:" not in arguments  # our own wake-ups
        case "prctl":
            return "PR_SET_PDEATHSIG" in arguments or "PR_SET_CHILD_SUBREAPER" in arguments
        case _:
            return True


def points_of(program: str, calls: list[Call]) -> list[Point]:
    """Every kill, and every error at the first and the last call of each site."""
    ends: dict[str, list[Call]] = {}
    for call in calls:
        ends.setdefault(call.site, []).append(call)
    kills = [Point(program, call.name, call.when, KILL, call.path, call.site) for call in calls if call.changes]
    errors = [
        Point(program, call.name, call.when, error, call.path, call.site)
        for found in ends.values()
        for call in dict.fromkeys((found[0], found[-1]))
        for error in ERRORS.get(call.name, ())
        if _LEDGER not in call.site  # what a job does itself may fail: that is its outcome
    ]
    return list(dict.fromkeys(kills + errors))


def sample(points: list[Point], most: int, seed: int) -> list[Point]:
    """At most so many, spread over all sorts of points; the same ones for the same seed."""
    sorts: dict[str, list[Point]] = {}
    for point in points:
        sorts.setdefault(point.sort, []).append(point)
    chosen: list[Point] = []
    round_number = 0
    names = sorted(sorts, key=lambda name: (_mixed(name, seed), name))
    while len(chosen) < min(most, len(points)):
        for name in names:
            group = sorts[name]
            if round_number < len(group):
                at = (_mixed(name, seed) + round_number * _stride(len(group))) % len(group)
                chosen.append(group[at])
        round_number += 1
    return chosen[:most]


def _stride(size: int) -> int:
    """A step that visits everything: prime, and not a divisor."""
    return next(step for step in (7919, 7927) if size % step)


def _mixed(text: str, seed: int) -> int:
    value = seed & 0xFFFFFFFF
    for byte in text.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return value


def _opened(arguments: str, directory: Path, pool: str) -> str:
    """What an openat is counted by: the path, as a template, if it is the same in every run; else nothing, and then
    it is counted among all."""
    match = re.search(r'"([^"]*)"', arguments)
    if match is None or not match[1].startswith(f"{directory}/"):
        return ""
    path = match[1].replace(str(directory), "{dir}").replace(pool, "{pool}")
    return "" if re.search(r"[0-9a-f]{32}", path) else path


def _object(arguments: str, directory: Path, pool: str) -> str:
    """What a call is made on, without numbers: two calls on the same are one call site."""
    found = _PATH.search(arguments)
    text = (found[1] or found[2] or "") if found else ""
    for word in (str(directory), pool):
        text = text.replace(word, "*")
    creates = "".join(f" {flag}" for flag in ("O_CREAT", "O_PATH", "O_TMPFILE") if flag in arguments)
    return _NUMBER.sub("#", text)[:80] + creates


def _filled(path: str, directory: Path, pool: str) -> str:
    return path.replace("{dir}", str(directory)).replace("{pool}", pool)
