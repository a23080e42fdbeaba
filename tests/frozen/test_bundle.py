"""What is in dist/taskpool and what its archives promise: contents, licences, glibc floor, a worker's start."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from frozen import scripts
from frozen.conftest import DIST
from support.source_tree import ROOT, complain

PROGRAMS = ("tp-generator", "tp-dealer", "tp-worker")
# Every package beside the standard library: what is imported, and the distribution it comes from.
OWN = {
    "taskpool": "taskpool",
    "msgspec": "msgspec",
    "posix_ipc": "posix_ipc",
    "prometheus_client": "prometheus_client",
    "cheroot": "cheroot",
    "jaraco": "jaraco.functools",
    "more_itertools": "more-itertools",
    "cloudpickle": "cloudpickle",
}
RSS_BYTES_MAX = 20 * 1024 * 1024
COPYLEFT = ("libreadline", "libgdbm", "libdb-", "_tkinter", "libtcl")
NOT_LOADED = ("libssl", "libcrypto", "libsqlite3", "liblzma", "libbz2")  # libexpat: Debian links libpython with it


def packages(bundle: Path) -> set[str]:
    """Top-level names of what can be imported from the bundle and is not Python's own."""
    entries = [path.name for path in (bundle / "_internal").iterdir() if not path.name.startswith("lib")]
    names = {name.split(".")[0] for name in entries if not name.endswith(".dist-info")}
    return {name for name in names if name not in sys.stdlib_module_names} - {
        "base_library",
        "python3",
        "sitecustomize",
    }


def test_three_programs_say_their_version(bundle: Path) -> None:
    version = json.loads((bundle / "build.json").read_text())["version"]
    for name in PROGRAMS:
        said = subprocess.check_output([bundle / name, "--version"], text=True)
        assert said == f"{name} {version}\n"


def test_nothing_but_what_the_programs_need(bundle: Path) -> None:
    internal = bundle / "_internal"
    names = {name for name in packages(bundle) if not name.startswith("_")}
    private = {name for name in names if (internal / f"{name}.pyc").exists() and name in _older_standard_library()}
    assert names - private == set(OWN)
    files = [path.name for path in internal.rglob("*")]
    complain([f"{name} is under a licence we do not ship" for name in files if name.startswith(COPYLEFT)])


def _older_standard_library() -> set[str]:
    """Of Pythons other than the one that runs the tests."""
    return {"asynchat", "asyncore", "imp", "smtpd", "distutils"}


@pytest.mark.parametrize("module", ["kinds/fib_kernel", "worker/kernel_state"])
def test_what_can_be_compiled_is(bundle: Path, module: str) -> None:
    found = [path.name for path in (bundle / "_internal/taskpool").glob(f"{module}*")]
    assert len(found) == 1, found
    assert found[0].endswith(".so")


def test_every_licence_is_told(bundle: Path) -> None:
    told = (bundle / "THIRD-PARTY.txt").read_text().lower()
    document = json.loads((bundle / "sbom.cdx.json").read_text())
    assert document["bomFormat"] == "CycloneDX"
    listed = {part["name"] for part in document["components"]}
    for name in set(OWN.values()) - {"taskpool"}:
        assert name in listed
        assert f"\n{name} " in told
    for library in (path.name for path in (bundle / "_internal").glob("lib*.so*")):
        assert library in told
    own = document["metadata"]["component"]
    assert own["name"] == "taskpool"
    assert "Apache-2.0" in json.dumps(own["licenses"])
    assert "file:" not in json.dumps(document), "the build's own folders say nothing to the reader"


def test_every_archive_brings_our_licence(tarball: Path, deb: Path, tmp_path: Path) -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    top = tarball.name.removesuffix(".tar.gz")
    with tarfile.open(tarball) as tar:
        packed = tar.extractfile(f"{top}/LICENSE")
        assert packed is not None
        assert packed.read() == licence
    source = next(path for path in DIST.glob("taskpool-*.tar.gz") if "-linux-" not in path.name)
    with tarfile.open(source) as sdist:
        assert [name for name in sdist.getnames() if name.endswith("/LICENSE")], "the sdist has no LICENSE"
    with zipfile.ZipFile(next(DIST.glob("taskpool-*.whl"))) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        assert wheel.read(name) == licence
    subprocess.run(["dpkg-deb", "--extract", str(deb), str(tmp_path)], check=True)
    terms = (tmp_path / "usr/share/doc/taskpool/copyright").read_text()
    assert terms.startswith("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n")
    assert "\nFiles: *\nCopyright: 2026 The taskpool authors\nLicense: Apache-2.0\n" in terms
    assert "/usr/share/common-licenses/Apache-2.0" in terms


@pytest.mark.needs_tool("objdump")
def test_glibc_floor_is_what_the_names_say(tarball: Path, deb: Path, bundle: Path) -> None:
    glibc = scripts.load("pyinstaller/glibc.py")
    lowest, file = glibc.floor(bundle)
    text = glibc.text(lowest)
    assert json.loads((bundle / "build.json").read_text())["glibc"] == text
    assert tarball.name.endswith(f"-linux-{os.uname().machine}-glibc{text}.tar.gz")
    depends = subprocess.check_output(["dpkg-deb", "--field", str(deb), "Depends"], text=True)
    assert f"libc6 (>= {text})" in depends
    assert lowest <= (2, 36), f"{file} would not load on Debian 12"


def test_archive_says_nothing_of_its_builder(tarball: Path) -> None:
    with tarfile.open(tarball) as tar:
        members = tar.getmembers()
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "root", "root")}
    assert len({member.mtime for member in members}) == 1
    paths = [member.name.split("/") for member in members]
    assert paths == sorted(paths)


def test_packing_twice_gives_the_same_bytes(bundle: Path, tarball: Path, tmp_path: Path) -> None:
    archive = scripts.load("pyinstaller/archive.py")
    stamp = json.loads((bundle / "build.json").read_text())["source_date_epoch"]
    again = tmp_path / tarball.name
    archive.make_tarball(bundle, again, tarball.name.removesuffix(".tar.gz"), stamp)
    assert _sum(again) == _sum(tarball)


def test_sums_are_right(deb: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=deb.parent, check=True, capture_output=True)


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- a worker's start ------------------------------------------------------------------------------


def test_the_pid_from_spawn_is_the_workers(bundle: Path) -> None:
    """A one-file program would be its bootloader's child, and a kill would miss it."""
    started = scripts.load("pyinstaller/measure.py").start_worker([str(bundle / "tp-worker")])
    assert started.pid == started.spawned_pid
    assert started.rss_bytes < RSS_BYTES_MAX


def test_a_worker_loads_no_library_it_does_not_need(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are there for the dealer, and for jobs that import them; each costs a start time and memory."""
    measure = scripts.load("pyinstaller/measure.py")
    maps: list[str] = []
    resident = measure._resident_bytes

    def look(pid: int) -> int:
        maps.extend(Path(f"/proc/{pid}/maps").read_text().splitlines())
        return int(resident(pid))

    monkeypatch.setattr(measure, "_resident_bytes", look)
    measure.start_worker([str(bundle / "tp-worker")])
    libraries = {match[1] for line in maps if (match := re.search(r"/([^/]+\.so[.\d]*)$", line))}
    assert any(name.startswith("libpython") for name in libraries)
    complain([f"a worker loads {name}" for name in sorted(libraries) if name.startswith(NOT_LOADED)])


def test_programs_find_each_other_through_a_link(bundle: Path, tmp_path: Path) -> None:
    """As /usr/bin/tp-generator is one; alone in its folder, with nothing on PATH."""
    link = tmp_path / "tp-generator"
    link.symlink_to(bundle / "tp-generator")
    done = subprocess.run([str(link), "fib", "10", "--workers", "1"], env={"HOME": str(tmp_path)}, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"55\n"), done.stderr
