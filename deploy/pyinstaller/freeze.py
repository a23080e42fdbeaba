"""Make dist/taskpool: the three programs in one folder, with licences and the list of what is inside.

`make freeze` runs it in build/freeze-venv. The same sources, packages and Python make the same bytes.
Order: the wheel (its sdist too), the wheel into this environment, PyInstaller, what goes beside the programs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import archive
import glibc
import notices

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "freeze"
BUNDLE = ROOT / "dist" / "taskpool"
PACKAGES = BUILD / "packages"  # wheel and sdist, for make dist
SOURCES = ("pyproject.toml", "setup.py", "README.md", "CHANGELOG.md", "LICENSE", "internal")
TOOLS = ("objdump", "objcopy", "ldd", "strip", "gcc")  # the first three for PyInstaller, the last for the kernel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.parse_args()
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        sys.stderr.write(f"freeze: {', '.join(missing)} not found. Try: apt-get install binutils libc-bin gcc\n")
        return 1
    os.umask(0o022)  # modes go into the archives
    stamp = archive.epoch(ROOT)
    env = os.environ | {
        "SOURCE_DATE_EPOCH": str(stamp),
        "PYTHONHASHSEED": "1",  # the order of sets goes into bytecode
        "CFLAGS": "-g0",  # debug information holds the path of the build
        "PYTHONPATH": "",
    }
    wheel = build_packages(env, stamp)
    install(env, wheel)
    version = run(env, sys.executable, "-c", "import taskpool; print(taskpool.__version__)").strip()
    made = freeze(env)
    lowest = add_papers(made, version, stamp)
    shutil.rmtree(BUNDLE, ignore_errors=True)
    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    made.rename(BUNDLE)
    print(f"{BUNDLE.relative_to(ROOT)}: taskpool {version}, needs glibc {lowest}")
    return 0


def build_packages(env: Mapping[str, str], stamp: int) -> Path:
    """sdist and wheel, from a copy: setuptools would put left-overs of its build folder into a wheel."""
    source = BUILD / "source"
    for folder in (source, PACKAGES):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    for path in source.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(PACKAGES), str(source)]
    said = run(env, *command)
    (sdist,) = PACKAGES.glob("*.tar.gz")
    archive.repack(sdist, stamp)
    (wheel,) = PACKAGES.glob("*.whl")
    if wheel.name.endswith("-any.whl") or "building extension" in said:
        raise SystemExit(f"freeze: the fib kernel did not compile:\n{said}")
    return wheel


def install(env: Mapping[str, str], wheel: Path) -> None:
    """Put it into this environment: first what it requires, then itself, over one of the same version too."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(env, *pip, "-c", str(ROOT / "constraints.txt"), str(wheel))
    run(env, *pip, "--force-reinstall", "--no-deps", "--no-index", str(wheel))


def freeze(env: Mapping[str, str]) -> Path:
    """Run PyInstaller; returns the folder it made."""
    made, work = BUILD / "dist", BUILD / "work"
    spec = ROOT / "deploy" / "pyinstaller" / "taskpool.spec"
    folders = ["--distpath", str(made), "--workpath", str(work)]
    run(env, sys.executable, "-m", "PyInstaller", "--clean", "--noconfirm", "--log-level", "WARN", *folders, str(spec))
    tidy(env, made / "taskpool")
    return made / "taskpool"


def tidy(env: Mapping[str, str], bundle: Path) -> None:
    """Strip the libraries of symbols that are not looked up, and make them not executable."""
    for path in sorted((bundle / "_internal").rglob("*.so*")):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)
            if "lib-dynload" not in path.parts and path.suffix == ".so":  # Debian's are stripped
                run(env, "strip", "--strip-unneeded", str(path))


def add_papers(bundle: Path, version: str, stamp: int) -> str:
    """Put licences, the list of contents and the facts of the build beside the programs; returns the glibc floor."""
    files = json.loads((BUILD / "work" / "taskpool" / "files.json").read_text())
    packages = notices.system_packages([Path(file) for file in files])
    python_packages = notices.closure()
    (bundle / "THIRD-PARTY.txt").write_text(notices.third_party(python_packages, packages))
    (bundle / "sbom.cdx.json").write_text(notices.sbom(python_packages, packages, version))
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, bundle / name)
    lowest, file = glibc.floor(bundle)
    facts = {
        "version": version,
        "glibc": glibc.text(lowest),
        "glibc_needed_by": file.relative_to(bundle).as_posix(),
        "machine": os.uname().machine,
        "python": sys.version.split()[0],
        "source_date_epoch": stamp,
    }
    (bundle / "build.json").write_text(json.dumps(facts, indent=2) + "\n")
    return glibc.text(lowest)


def run(env: Mapping[str, str], *command: str) -> str:
    """What it printed. Ends the build, with that, when it fails."""
    if command[0] == sys.executable:
        sys.stderr.write(f"freeze: {' '.join(command[1:3])} ...\n")
    done = subprocess.run(
        command, cwd=BUILD, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"freeze: exit status {done.returncode} of {' '.join(command)}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
