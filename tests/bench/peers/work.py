"""The jobs that both sides run, but for those that kill. Workers of both import it: standard library only."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

KERNEL = Path(__file__).resolve().parents[3] / "internal" / "taskpool" / "kinds"


def warm_up_jobs(count: int) -> int:
    """Say how many jobs either side runs before so many are measured."""
    return min(200, max(10, count // 20))


def nothing(number: int) -> int:
    """Do nothing; the number comes back, so that a lost or doubled result shows."""
    return number


def fib(n: int) -> int:
    """Run the kernel of our own `fib` jobs."""
    return int(kernel().fib(n))


@cache
def kernel() -> ModuleType:
    """Load the compiled kernel by its path: the peers' environment does not have taskpool and its requirements.

    Raises ImportError where it was not compiled for this Python.
    """
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = KERNEL / f"fib_kernel{suffix}"
        if path.exists():
            spec = importlib.util.spec_from_file_location("fib_kernel", path)
            assert spec is not None and spec.loader is not None
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
            return loaded
    raise ImportError(
        f"the fib kernel, compiled for Python {sys.version.partition(' ')[0]}: a C compiler, make clean setup"
    )
