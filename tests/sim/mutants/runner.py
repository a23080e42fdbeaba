"""Plants a bug in a copy of the package and lets the simulator find it, in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from sim.mutants.plan import Mutant

TESTS = Path(__file__).resolve().parents[2]
PACKAGE = TESTS.parent / "internal" / "taskpool"
_FOUND = re.compile(r"FOUND after (\d+): (.*)")


class Hunt(NamedTuple):
    """How it went."""

    mutant: Mutant
    schedules: int  # after so many it was found; 0: it was not
    what: str
    seconds: float


def misplaced(mutant: Mutant) -> list[str]:
    """Edits that do not fit the package any more."""
    counts = [(edit, _source(edit.file).read_text().count(edit.old)) for edit in mutant.edits]
    return [f"{mutant.name}: in {edit.file}, {count} times: {edit.old!r}" for edit, count in counts if count != 1]


def hunt(mutant: Mutant, schedules: int, seconds: float) -> Hunt:
    """Schedules from the first on, until one breaks a promise."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tp-mutant-") as directory:
        root = Path(directory)
        shutil.copytree(PACKAGE, root / "internal" / "taskpool", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(TESTS / "sim", root / "tests" / "sim", ignore=shutil.ignore_patterns("__pycache__"))
        for edit in mutant.edits:
            path = root / "tests" / edit.file if edit.file.startswith("sim/") else _copied(root, edit.file)
            text = path.read_text()
            if text.count(edit.old) != 1:
                return Hunt(mutant, 0, f"does not fit: {edit.old!r} in {edit.file}", 0.0)
            path.write_text(text.replace(edit.old, edit.new))
        env = {**os.environ, "PYTHONPATH": f"{root / 'internal'}:{root / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "sim", "--hunt", "--seeds", str(schedules), "--seconds", str(seconds)]
        done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=seconds * 4 + 120)
    found = _FOUND.search(done.stdout)
    took = time.monotonic() - began
    if found is None:
        return Hunt(mutant, 0, (done.stderr or done.stdout).strip()[-300:], took)
    return Hunt(mutant, int(found[1]), found[2][:100], took)


def _source(file: str) -> Path:
    return TESTS / file if file.startswith("sim/") else PACKAGE / file


def _copied(root: Path, file: str) -> Path:
    return root / "internal" / "taskpool" / file
