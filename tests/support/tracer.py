"""A tracer that does nothing, once it has a process: `strace -p` that was stopped, a debugger left at its prompt."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.harness import alive, kill, until

# With the option it is told of the exit before it happens, as strace has it (PTRACE_O_TRACEEXIT, ptrace(2)); without
# it the process dies and stays a zombie, as with gdb.
_PROGRAM = """
import ctypes, errno, os, signal, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long] * 4
seize, exits = 0x4206, 0x40
if ptrace(seize, int(sys.argv[1]), 0, exits * int(sys.argv[2])):
    print(errno.errorcode[ctypes.get_errno()], flush=True)
    sys.exit()
print(os.getpid(), flush=True)
os.close(1)
while True:
    signal.pause()
"""


@contextmanager
def traced(pid: int, *, at_exit: bool) -> Iterator[None]:
    """Hold a process from its next signal on, and also when it is killed; `at_exit`: just before its end."""
    # No child of this process, which may be one that ends all children that it does not know.
    command = ["sh", "-c", '"$@" &', "sh", sys.executable, "-c", _PROGRAM, str(pid), str(int(at_exit))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        said = starter.stdout.readline().strip()
        if said == "EPERM" and os.environ.get("CI") != "true":
            pytest.skip("tracing is not permitted here (kernel.yama.ptrace_scope)")
        assert said.isdigit(), said
    try:
        yield
    finally:
        kill(int(said))
        until(lambda: not alive(int(said)), "the tracer's end")
