"""joblib on a pool of ours, in programs of their own: a backend is registered for a whole process."""

from __future__ import annotations

import pytest

from support import programs

PROGRAM = """
import os, sys, taskpool
from joblib import Parallel, delayed, parallel_config
taskpool.joblib.register()

def work(n):
    return os.getpid(), n * n

def crash(n):
    if n == 5:
        os.abort()
    return n

with parallel_config("taskpool", n_jobs=2, timeout=30):
    results = Parallel()(delayed(work)(n) for n in range(200))
    print([square for _, square in results] == [n * n for n in range(200)])
    print(os.getpid() not in {pid for pid, _ in results})
    print(sum(Parallel(return_as="generator")(delayed(abs)(-n) for n in range(20))))
    try:
        Parallel()(delayed(crash)(n) for n in range(20))
    except taskpool.JobCrashed as error:
        print(error.signal)
    try:
        Parallel()(delayed(int)(text) for text in ("1", "x"))
    except ValueError as error:
        print(error)
print(Parallel(n_jobs=1, backend="taskpool")([delayed(os.getpid)()]) == [os.getpid()])
try:
    Parallel(n_jobs=0, backend="taskpool")([delayed(abs)(1)])
except ValueError as error:
    print(error)
"""
SAID = """True
True
190
6
invalid literal for int() with base 10: 'x'
True
n_jobs == 0 in Parallel has no meaning
"""


def test_joblib_runs_its_calls_in_it() -> None:
    pytest.importorskip("joblib")
    assert programs.run(PROGRAM) == SAID
