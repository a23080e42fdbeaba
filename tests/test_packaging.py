"""What an installation brings, with a C compiler and without one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from proof import pythons
from support.source_tree import PACKAGE, ROOT, complain

PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "internal")
PROGRAMS = ("tp-generator", "tp-dealer", "tp-worker")
SOURCES_COMPILED = {
    "taskpool/kinds/fib_kernel": ("taskpool/kinds/fib_kernel.py", "taskpool/kinds/fib_kernel.pxd"),
    "taskpool/worker/kernel_state": ("taskpool/worker/kernel_state.pyx", "taskpool/worker/kernel_state.pyi"),
}
NO_COMPILER = {"CC": "/nonexistent/cc"}
COPYRIGHT = "Copyright 2026 The taskpool authors"
# Of the text in /usr/share/common-licenses/Apache-2.0, whose copyright line is still to be filled in.
APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    blank = text.replace(COPYRIGHT, "Copyright [yyyy] [name of copyright owner]")
    assert COPYRIGHT in text
    assert hashlib.sha256(blank.encode()).hexdigest() == APACHE_2_SHA256


def test_classifiers_name_the_pythons_that_are_tested() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    versions = [said.rpartition(" ")[2] for said in classifiers if "Python :: 3." in said]
    assert tuple(versions) == pythons.VERSIONS


def build_wheel(place: Path, environment: dict[str, str]) -> tuple[zipfile.ZipFile, str]:
    """Build a wheel from a copy of the sources; returns it and what the build said."""
    pytest.importorskip("Cython", reason="a development environment has it: make setup")
    pytest.importorskip("setuptools", minversion="77", reason="a development environment has it: make setup")
    source = place / "source"
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(
                ROOT / part, source / part, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
            )
        else:
            shutil.copy(ROOT / part, source / part)
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run(
        [*command, "-w", str(place), str(source)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert built.returncode == 0, built.stdout
    (wheel,) = place.glob("*.whl")
    return zipfile.ZipFile(wheel), built.stdout


def compiled(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".so")]


@pytest.mark.slow
@pytest.mark.needs_tool("gcc")
def test_wheel_brings_the_compiled_modules_and_their_sources(tmp_path: Path) -> None:
    wheel, _ = build_wheel(tmp_path, {})
    names = wheel.namelist()

    assert sorted(name.split(".")[0] for name in compiled(names)) == [*SOURCES_COMPILED]
    assert {source for sources in SOURCES_COMPILED.values() for source in sources} <= set(names)
    assert "taskpool/py.typed" in names
    assert not [name for name in names if name.endswith(".c")]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"taskpool"}, "no top-level cmd or internal"
    modules = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}
    complain([f"{module} is not in the wheel" for module in sorted(modules - set(names))])
    (place,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert "\nLicense-Expression: Apache-2.0\n" in wheel.read(f"{place}/METADATA").decode()
    assert wheel.read(f"{place}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


@pytest.mark.slow
def test_without_a_compiler_the_installation_works_and_says_what_is_missing(tmp_path: Path) -> None:
    wheel, said = build_wheel(tmp_path, NO_COMPILER)
    names = wheel.namelist()

    assert compiled(names) == []
    assert "taskpool/kinds/fib_kernel.py" in names
    for name in SOURCES_COMPILED:
        assert f'building extension "{name.replace("/", ".")}" failed' in said


def test_programs_are_installed_side_by_side() -> None:
    """Each program finds the next one beside itself."""
    place = Path(sys.executable).parent
    if not (place / PROGRAMS[0]).exists():
        pytest.skip("taskpool is not installed in this environment: make setup")
    complain([f"{name} is not beside {PROGRAMS[0]}" for name in PROGRAMS if not os.access(place / name, os.X_OK)])


@pytest.mark.parametrize("module", SOURCES_COMPILED)
def test_what_is_compiled_is_not_older_than_its_source(module: str) -> None:
    """A stale one would shadow an edited source in silence."""
    newest = max((PACKAGE.parent / source).stat().st_mtime for source in SOURCES_COMPILED[module])
    libraries = PACKAGE.parent.glob(f"{module}.*.so")
    complain([f"{path.name} is stale: make setup" for path in libraries if path.stat().st_mtime < newest])
