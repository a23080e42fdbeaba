"""The systemd units, judged by systemd's own tools, which need no systemd that runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from support.source_tree import ROOT

UNITS = ("tp-dealer.service", "tp-dealer@.service")
SYSTEMD = ROOT / "deploy" / "systemd"
EXPOSURE_MAX = 2.0
PROMISED = (
    "Type=notify",
    "KillMode=mixed",
    "WatchdogSec=30",
    "LimitMSGQUEUE=64M",
    "OOMPolicy=continue",
    "StateDirectory=taskpool",
    "User=taskpool",
)
# Each would break it: see the comments in the units.
FORBIDDEN = ("PrivateIPC=", "DynamicUser=", "RemoveIPC=", "ProcSubset=", "MemoryDenyWriteExecute=")


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit as it would be installed, its program replaced by one that is there."""
    text = (SYSTEMD / request.param).read_text().replace("/usr/bin/tp-dealer", "/usr/bin/env")
    path = tmp_path / str(request.param).replace("@.", "@demo.")
    path.write_text(text)
    return path


@pytest.mark.needs_tool("systemd-analyze")
def test_systemd_understands_every_line(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs_tool("systemd-analyze")
def test_little_is_exposed(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)], capture_output=True, text=True
    )
    level = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert level, done.stderr
    assert float(level[1]) <= EXPOSURE_MAX


def test_what_is_promised(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert set(PROMISED) <= set(lines)
    assert not [line for line in lines if line.startswith(FORBIDDEN)]


def test_the_two_units_differ_in_the_pool_only() -> None:
    one, template = ((SYSTEMD / name).read_text().splitlines() for name in UNITS)
    pool = re.compile(r"default|%i|METRICS|tp-dealer@NAME|edit tp-dealer|TP_DEALER")
    assert [line for line in one if not pool.search(line)] == [line for line in template if not pool.search(line)]
