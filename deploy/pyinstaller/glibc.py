"""The glibc floor: the oldest C library under which everything in a folder can be loaded.

`python glibc.py FOLDER` prints it. Needs objdump (binutils).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_MAGIC = b"\x7fELF"
_VERSION = re.compile(r"\(?GLIBC_(\d+)\.(\d+)(?:\.\d+)?\)?")

Version = tuple[int, int]


def elf_files(folder: Path) -> Iterator[Path]:
    """Programs and libraries, links not followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == _MAGIC:
                    yield path


def needs(path: Path) -> Version:
    """The newest glibc symbol version that a file asks for; (0, 0) for none."""
    table = subprocess.run(["objdump", "-T", str(path)], capture_output=True, text=True, check=True).stdout
    # Only undefined symbols are needs; libraries of glibc itself are never in the bundle.
    asked = [match for line in table.splitlines() if "*UND*" in line for match in _VERSION.findall(line)]
    return max(((int(major), int(minor)) for major, minor in asked), default=(0, 0))


def floor(folder: Path) -> tuple[Version, Path]:
    """The floor, and a file that needs it."""
    return max((needs(path), path) for path in elf_files(folder))


def text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def parse(version: str) -> Version:
    """`2.36` as numbers, so that 2.4 comes before 2.36."""
    major, minor = version.split(".")
    return int(major), int(minor)


if __name__ == "__main__":
    lowest, file = floor(Path(sys.argv[1]))
    print(f"{text(lowest)} ({file})")
