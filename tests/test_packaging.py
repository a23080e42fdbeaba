"""What an installation brings, with a C compiler and without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.source_tree import PACKAGE, ROOT, complain

PARTS = ("pyproject.toml", "setup.py", "README.md", "internal")
PROGRAMS = ("tp-generator", "tp-dealer", "tp-worker")
NO_COMPILER = {"CC": "/nonexistent/cc"}


def build_wheel(place: Path, environment: dict[str, str]) -> tuple[list[str], str]:
    """Names in a wheel built from a copy of the sources, and what the build said."""
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
    return zipfile.ZipFile(wheel).namelist(), built.stdout


def compiled(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".so")]


@pytest.mark.slow
@pytest.mark.needs_tool("gcc")
def test_wheel_brings_the_compiled_kernel_and_its_source(tmp_path: Path) -> None:
    names, _ = build_wheel(tmp_path, {})

    assert [name.split(".")[0] for name in compiled(names)] == ["taskpool/kinds/fib_kernel"]
    assert {"taskpool/kinds/fib_kernel.py", "taskpool/kinds/fib_kernel.pxd", "taskpool/py.typed"} <= set(names)
    assert not [name for name in names if name.endswith(".c")]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"taskpool"}, "no top-level cmd or internal"
    modules = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*.py")}
    complain([f"{module} is not in the wheel" for module in sorted(modules - set(names))])


@pytest.mark.slow
def test_without_a_compiler_the_installation_works_and_says_what_is_missing(tmp_path: Path) -> None:
    names, said = build_wheel(tmp_path, NO_COMPILER)

    assert compiled(names) == []
    assert "taskpool/kinds/fib_kernel.py" in names
    assert 'building extension "taskpool.kinds.fib_kernel" failed' in said


def test_programs_are_installed_side_by_side() -> None:
    """Whoever starts a program finds the next one beside itself."""
    place = Path(sys.executable).parent
    if not (place / PROGRAMS[0]).exists():
        pytest.skip("taskpool is not installed in this environment: make setup")
    complain([f"{name} is not beside {PROGRAMS[0]}" for name in PROGRAMS if not os.access(place / name, os.X_OK)])


def test_compiled_kernel_is_not_older_than_its_source() -> None:
    """A stale one would shadow an edited fib_kernel.py in silence."""
    kinds = PACKAGE / "kinds"
    sources = [kinds / "fib_kernel.py", kinds / "fib_kernel.pxd"]
    newest = max(source.stat().st_mtime for source in sources)
    complain([f"{path.name} is stale: make setup" for path in kinds.glob("*.so") if path.stat().st_mtime < newest])
