"""Run the unit and end-to-end tests on every supported Python that this machine has: `make test-pythons`.

Each Python gets a virtual environment of its own under build/pythons, with the package installed from a copy of the
sources as a wheel, as users get it; the end-to-end tests run the programs of that environment. One line a Python:
version, passed, failed, exit status. Exits with 1 when a suite failed, and when no such Python was found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from support.source_tree import ROOT

VERSIONS = ("3.11", "3.12", "3.13")  # pyproject.toml's classifiers say the same; test_packaging.py compares them
SUITES = ("unit", "e2e")
PLACE = ROOT / "build" / "pythons"
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "internal")
NOT_COPIED = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
SAY_VERSION = "import ensurepip, platform, venv; print(platform.python_version())"


class Result(NamedTuple):
    """What the suites of one Python came to."""

    passed: int
    failed: int
    status: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-pythons", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--versions", nargs="+", default=VERSIONS, metavar="3.N")
    parser.add_argument("--suites", nargs="+", default=SUITES, metavar="FOLDER", help="folders or files below tests/")
    options = parser.parse_args()
    lines, worst = [], 0
    for version in options.versions:
        found = find(version)
        if found is None:
            lines.append(f"Python {version}: not on this machine")
            continue
        program, full = found
        result = run(program, version, options.suites)
        worst = max(worst, result.status != 0)
        lines.append(f"Python {full}: {result.passed} passed, {result.failed} failed, exit status {result.status}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    if all(line.endswith("not on this machine") for line in lines):
        sys.stderr.write("test-pythons: none of them was found on PATH or among pyenv's. Try: pyenv install 3.13\n")
        return 1
    return worst


def find(version: str) -> tuple[str, str] | None:
    """Find a Python of this minor version: (program, full version), or None."""
    for program in candidates(version):
        # A name on PATH proves little: pyenv's shims exist for every version and refuse to run most of them, and
        # Debian's python3 comes without ensurepip.
        asked = subprocess.run([program, "-c", SAY_VERSION], capture_output=True, text=True)
        if asked.returncode == 0 and asked.stdout.startswith(f"{version}."):
            return program, asked.stdout.strip()
    return None


def candidates(version: str) -> Iterator[str]:
    """Yield programs that may be this Python: PATH first, then pyenv's versions, newest first."""
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
        found = Path(root, "versions").glob(f"{version}.*/bin/python{version}")
        yield from map(str, sorted(found, key=patch_number, reverse=True))


def patch_number(program: Path) -> int:
    """Return the last number of `.../3.12.7/bin/python3.12`; pre-releases and debug builds come last."""
    patch = program.parts[-3].rpartition(".")[2]
    return int(patch) if patch.isdigit() else -1


def run(program: str, version: str, suites: Sequence[str]) -> Result:
    """Make the environment and run each suite in it."""
    place = PLACE / version
    python = install(program, place)
    # PYTHONPATH would put the caller's packages in front of the environment's.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["TASKPOOL_BIN"] = str(python.parent)
    passed = failed = status = 0
    for suite in suites:
        report = place / f"{suite.replace('/', '-')}.xml"
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", f"tests/{suite}"]
        done = subprocess.run(command, cwd=ROOT, env=env)
        status = status or done.returncode
        counts = read_report(report)
        passed, failed = passed + counts[0], failed + counts[1]
    return Result(passed, failed, status)


def install(program: str, place: Path) -> Path:
    """Make the environment with the development tools and the package as it is now; returns its Python."""
    python = place / "venv" / "bin" / "python"
    source = place / "source"
    shutil.rmtree(source, ignore_errors=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=NOT_COPIED)
        else:
            source.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run([program, "-m", "venv", "--clear", place / "venv"], check=True)
    constraints = str(ROOT / "constraints.txt")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints]
    subprocess.run([*pip, "setuptools", "Cython"], check=True)
    subprocess.run([*pip, "--no-build-isolation", f"{source}[dev]"], check=True)
    return python


def read_report(report: Path) -> tuple[int, int]:
    """Read (passed, failed) from a JUnit report; an error while a test is set up counts as a failure."""
    if not report.exists():
        return 0, 0
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    total, failed, errors, skipped = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
    return total - failed - errors - skipped, failed + errors


if __name__ == "__main__":
    sys.exit(main())
