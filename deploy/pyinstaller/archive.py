"""Archives that come out the same, byte for byte, whenever and by whomever they are made."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

_RELEASE = re.compile(r"^## \[[^\]]+\] - (\d{4}-\d{2}-\d{2})", re.MULTILINE)


def epoch(root: Path) -> int:
    """The time stamp of everything that is made: SOURCE_DATE_EPOCH, else the last commit's, else the last release's.

    Raises ValueError when there is none of them.
    """
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    asked = subprocess.run(
        ["git", "-C", str(root), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    if asked.returncode == 0 and asked.stdout.strip():
        return int(asked.stdout)
    released = _RELEASE.search((root / "CHANGELOG.md").read_text())
    if released is None:
        raise ValueError("no git history and no dated release in CHANGELOG.md: set SOURCE_DATE_EPOCH")
    return int(datetime.fromisoformat(released[1]).replace(tzinfo=UTC).timestamp())


def make_tarball(folder: Path, target: Path, top: str, stamp: int) -> None:
    """Pack a folder as `top/...`: sorted, owned by root, of one time."""
    entries = [(folder, top)]
    entries += [(path, f"{top}/{path.relative_to(folder).as_posix()}") for path in sorted(folder.rglob("*"))]
    _write(target, _members(entries), stamp)


def repack(tarball: Path, stamp: int) -> None:
    """Make a tarball that another program wrote reproducible, in its place."""
    with tarfile.open(tarball) as source:
        members = [(member, _content(source, member)) for member in source.getmembers()]
    _write(tarball, iter(sorted(members, key=lambda pair: pair[0].name)), stamp)


def compress(data: bytes) -> bytes:
    """As `gzip -9n`: no name, no time."""
    return gzip.compress(data, 9, mtime=0)


def _content(source: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = source.extractfile(member) if member.isfile() else None
    return b"" if file is None else file.read()


def _members(entries: Iterable[tuple[Path, str]]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for path, name in entries:
        member = tarfile.TarInfo(name)
        if path.is_symlink():
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
            yield member, b""
        elif path.is_dir():
            member.type = tarfile.DIRTYPE
            yield member, b""
        else:
            member.mode = path.stat().st_mode
            yield member, path.read_bytes()


def _write(target: Path, members: Iterator[tuple[tarfile.TarInfo, bytes]], stamp: int) -> None:
    with (
        target.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=stamp) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for member, data in members:
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mtime, member.size, member.pax_headers = stamp, len(data), {}
            if member.issym():
                member.mode = 0o777
            else:
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            tar.addfile(member, io.BytesIO(data))
