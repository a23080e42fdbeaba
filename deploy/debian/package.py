"""Make what is given away, in dist/: tarball, .deb, wheel, sdist and SHA256SUMS. `make dist` runs it after freeze.py.

The .deb is put together by hand and packed by dpkg-deb: debhelper would build the programs again, and strip and
search them for libraries that are the system's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
sys.path[:0] = [str(DEPLOY), str(DEPLOY / "pyinstaller")]

import archive  # noqa: E402 - scripts of a folder, not of a package
import glibc  # noqa: E402

DIST = ROOT / "dist"
BUNDLE = DIST / "taskpool"
STAGE = ROOT / "build" / "deb"
PACKAGES = ROOT / "build" / "freeze" / "packages"
# Debian 12, Ubuntu 24.04 and newer, as the README promises. Who freezes on a newer system and does not mind
# says so.
GLIBC_MAX = os.environ.get("FREEZE_GLIBC_MAX", "2.36")
PROGRAMS = ("tp-generator", "tp-dealer", "tp-worker")
PAPERS = ("README.md", "CHANGELOG.md", "LICENSE", "THIRD-PARTY.txt", "sbom.cdx.json", "build.json")
REVISION = 1


def main() -> int:
    if not (BUNDLE / "build.json").exists():
        sys.stderr.write("dist: dist/taskpool is missing. Try: make freeze\n")
        return 1
    facts = json.loads((BUNDLE / "build.json").read_text())
    lowest, file = glibc.floor(BUNDLE)
    if lowest > glibc.parse(GLIBC_MAX):
        sys.stderr.write(
            f"dist: {file} needs glibc {glibc.text(lowest)}, newer than {GLIBC_MAX}. Freeze on an older system, or say "
            f"that it is meant: make dist FREEZE_GLIBC_MAX={glibc.text(lowest)}\n"
        )
        return 1
    stamp, version = int(facts["source_date_epoch"]), str(facts["version"])
    for old in [*DIST.glob("*.tar.gz"), *DIST.glob("*.deb"), *DIST.glob("*.whl"), *DIST.glob("SHA256SUMS")]:
        old.unlink()
    name = f"taskpool-{version}-linux-{facts['machine']}-glibc{glibc.text(lowest)}"
    archive.make_tarball(BUNDLE, DIST / f"{name}.tar.gz", name, stamp)
    for made in PACKAGES.iterdir():
        shutil.copy(made, DIST / made.name)
    package(version, glibc.text(lowest), stamp)
    sums = sorted(path for path in DIST.iterdir() if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sums]
    (DIST / "SHA256SUMS").write_text("".join(lines))
    sys.stdout.write("".join(f"dist/{path.name} ({path.stat().st_size / 2**20:.1f} MiB)\n" for path in sums))
    return 0


def package(version: str, lowest: str, stamp: int) -> None:
    """Put the tree together and pack it."""
    shutil.rmtree(STAGE, ignore_errors=True)
    tree = STAGE / "tree"
    home = tree / "usr/lib/taskpool"
    shutil.copytree(BUNDLE, home, symlinks=True, ignore=shutil.ignore_patterns(*PAPERS))
    programs = tree / "usr/bin"
    programs.mkdir(parents=True)
    for program in PROGRAMS:
        (programs / program).symlink_to(f"../lib/taskpool/{program}")
    add_service(tree)
    add_papers(tree, version, stamp)
    add_control(tree, version, lowest)
    finish(tree, stamp)
    target = DIST / f"taskpool_{version}-{REVISION}_amd64.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(target)]
    subprocess.run(command, env=os.environ | {"SOURCE_DATE_EPOCH": str(stamp)}, stdout=subprocess.DEVNULL, check=True)


def add_service(tree: Path) -> None:
    systemd, examples = DEPLOY / "systemd", "usr/share/doc/taskpool/examples"
    for unit in systemd.glob("*.service"):
        put(unit, tree / "usr/lib/systemd/system" / unit.name)
    put(systemd / "sysusers.conf", tree / "usr/lib/sysusers.d/taskpool.conf")
    put(systemd / "50-taskpool.conf", tree / examples / "50-taskpool.conf")
    put(systemd / "default.env", tree / examples / "default.env")


def add_papers(tree: Path, version: str, stamp: int) -> None:
    """Man pages, completions, licences and the rest of /usr/share."""
    share, doc = tree / "usr/share", tree / "usr/share/doc/taskpool"
    for page in run_generator("man", STAGE / "man", str(stamp)):
        squeeze(page, share / "man/man1" / f"{page.name}.gz")
    folders = {
        "bash": "bash-completion/completions",
        "zsh": "zsh/vendor-completions",
        "fish": "fish/vendor_completions.d",
    }
    for path in run_generator("completions", STAGE / "completions"):
        put(path, share / folders[path.parent.name] / path.name)
    put(BUNDLE / "README.md", doc / "README.md")
    put(BUNDLE / "build.json", doc / "build.json")
    for schema in sorted((DEPLOY.parent / "docs").glob("*.schema.json")):
        put(schema, doc / schema.name)
    squeeze(BUNDLE / "CHANGELOG.md", doc / "changelog.gz")
    squeeze(BUNDLE / "THIRD-PARTY.txt", doc / "THIRD-PARTY.txt.gz")
    squeeze(BUNDLE / "sbom.cdx.json", doc / "sbom.cdx.json.gz")
    entry = (
        f"taskpool ({version}-{REVISION}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n"
        f" -- {field('Maintainer')}  {format_datetime(datetime.fromtimestamp(stamp, UTC))}\n"
    )
    write(doc / "changelog.Debian.gz", archive.compress(entry.encode()))
    put(DEPLOY / "debian/copyright", doc / "copyright")
    put(DEPLOY / "debian/lintian-overrides", share / "lintian/overrides/taskpool")


def add_control(tree: Path, version: str, lowest: str) -> None:
    kilobytes = sum(-(-path.lstat().st_size // 1024) for path in tree.rglob("*") if path.is_file())
    values = {"@VERSION@": f"{version}-{REVISION}", "@SIZE@": str(kilobytes), "@GLIBC@": lowest}
    text = (DEPLOY / "debian/control.in").read_text()
    for name, value in values.items():
        text = text.replace(name, value)
    control = tree / "DEBIAN"
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree).as_posix()}\n"
        for path in sorted(tree.rglob("*"))
        if path.is_file() and not path.is_symlink()
    ]
    write(control / "control", text.encode())
    write(control / "md5sums", "".join(sums).encode())
    for script in ("postinst", "prerm", "postrm"):
        put(DEPLOY / "debian" / script, control / script)
        (control / script).chmod(0o755)


def finish(tree: Path, stamp: int) -> None:
    """Modes that do not depend on the builder's umask, and one time for everything."""
    for path in sorted(tree.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (stamp, stamp), follow_symlinks=False)
    tree.chmod(0o755)
    os.utime(tree, (stamp, stamp))


def field(name: str) -> str:
    lines = (DEPLOY / "debian/control.in").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith(f"{name}: "))


def run_generator(what: str, *arguments: object) -> list[Path]:
    """Run deploy/WHAT/generate.py; returns the paths it made. A process of its own: both are called generate."""
    command = [sys.executable, str(DEPLOY / what / "generate.py"), *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(DEPLOY), "PYTHONDONTWRITEBYTECODE": "1"}
    return [Path(line) for line in subprocess.check_output(command, env=env, text=True).splitlines()]


def put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def squeeze(source: Path, target: Path) -> None:
    write(target, archive.compress(source.read_bytes()))


def write(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
