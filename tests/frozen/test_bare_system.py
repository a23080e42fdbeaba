"""On a system that has never seen Python: the tarball unpacked and run, the .deb installed, used and removed.

The system is a minimal Debian in a folder, made once by debootstrap from the mirror this machine uses, and kept in
TASKPOOL_CACHE (default: /var/tmp/taskpool-tests). Programs run in it with namespaces of their own, so that they
leave no mount and no process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from frozen.conftest import without

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.needs_tool("debootstrap", "unshare", "chroot")]

CACHE = Path(os.environ.get("TASKPOOL_CACHE", "/var/tmp/taskpool-tests"))
CLEAN = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
FIB = {30: 832040, 31: 1346269, 32: 2178309, 33: 3524578}
# What an installation may leave behind: dpkg's own records, the user, and what the pools wrote.
KEPT: tuple[str, ...] = (
    "var/lib/dpkg/",
    "var/log/",
    "var/cache/",
    "etc/passwd",
    "etc/group",
    "etc/shadow",
    "etc/gshadow",
    "etc/sub",
)
KEPT += ("tmp/", "proc/", "var/lib/taskpool")


def bare_root() -> Path:
    """A minimal Debian of this machine's release, from the cache or made now."""
    if os.geteuid() != 0:
        without("a system in a folder needs root (chroot)")
    release = dict(line.partition("=")[::2] for line in Path("/etc/os-release").read_text().splitlines())
    codename = release.get("VERSION_CODENAME", "").strip('"')
    root = CACHE / f"{codename}-minbase"
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = CACHE / f"{codename}-minbase.{os.getpid()}"
        command = ["debootstrap", "--variant=minbase", codename, str(making), mirror(codename)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            shutil.rmtree(making, ignore_errors=True)
            without(f"debootstrap failed: {done.stdout[-1000:]}")
        making.rename(root)
    return root


def mirror(codename: str) -> str:
    """Where this machine's apt gets the release from."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Identifier: Packages"]
    sources = [line.split() for line in subprocess.check_output(asked, text=True).splitlines()]
    known = [address for address, name in sources if name == codename and ("debian" in address or "ubuntu" in address)]
    if not known:
        without(f"apt has no source for {codename}")
    return known[0]


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Path]:
    """A fresh copy."""
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", str(bare_root()), str(root)], check=True)
    assert not list(root.glob("usr/bin/python*")), "this system is not bare"
    yield root
    shutil.rmtree(root)


def inside(root: Path, *command: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command in the system, with its own processes, mounts and message queues."""
    spaces = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", f"--mount-proc={root}/proc"]
    return subprocess.run(
        [*spaces, "chroot", str(root), *command], env=CLEAN, capture_output=True, text=True, timeout=seconds
    )


def files(root: Path) -> set[str]:
    found = {path.relative_to(root).as_posix() for path in root.rglob("*")}
    return {name for name in found if not f"{name}/".startswith(KEPT)}


def assert_right(done: subprocess.CompletedProcess[str], repeat: int) -> None:
    assert done.returncode == 0, done.stderr
    assert sorted(map(int, done.stdout.split())) == sorted(list(FIB.values()) * repeat)


def test_the_tarball_runs_without_python(system: Path, tarball: Path) -> None:
    subprocess.run(["tar", "-xf", str(tarball), "-C", str(system / "opt")], check=True)
    programs = f"/opt/{tarball.name.removesuffix('.tar.gz')}"
    batch = ["fib", "30-33", "--repeat", "3", "--chaos", "crash=0.3,seed=1", "--crash-limit", "unlimited"]
    done = inside(system, f"{programs}/tp-generator", *batch)
    assert_right(done, 3)
    objects = inside(system, f"{programs}/tp-generator", *batch, "--output", "json")
    assert sum(json.loads(line)["crashes"] for line in objects.stdout.splitlines()) > 0, (
        "nothing crashed: what was shown?"
    )


def test_the_package_comes_and_goes(system: Path, deb: Path) -> None:
    borrow_units(system)
    before = files(system)
    shutil.copy(deb, system / "tmp" / "taskpool.deb")
    installed = inside(system, "dpkg", "--install", "/tmp/taskpool.deb")
    assert installed.returncode == 0, installed.stderr
    assert "taskpool:" in (system / "etc/passwd").read_text()
    assert_right(inside(system, "tp-generator", "fib", "30-33"), 1)
    verify_unit(system)

    state = system / "var/lib/taskpool/default/journal"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text("accepted jobs\n")
    removed = inside(system, "dpkg", "--remove", "taskpool")
    assert removed.returncode == 0, removed.stderr
    assert files(system) == before
    assert state.exists(), "removing a package must not lose accepted jobs"
    purged = inside(system, "dpkg", "--purge", "taskpool")
    assert purged.returncode == 0, purged.stderr
    assert not state.parent.parent.exists()


def borrow_units(system: Path) -> None:
    """The targets that every unit stands on: this machine's, since a minimal system has no systemd."""
    units = Path("usr/lib/systemd/system")
    if ("/" / units).is_dir():
        subprocess.run(["cp", "-a", "--", f"/{units}/.", str(system / units)], check=True)


def verify_unit(system: Path) -> None:
    """In the system: the program that the unit starts is really there."""
    if shutil.which("systemd-analyze") is None:
        return  # test_service.py says that it is missing
    units = ("tp-dealer.service", "tp-dealer@demo.service")
    command = ["systemd-analyze", f"--root={system}", "--man=no", "verify", *units]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs_tool("lintian")
def test_lintian_has_nothing_to_say(deb: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error,warning", str(deb)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
