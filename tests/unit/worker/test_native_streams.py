"""What native code leaves in its streams is flushed, and a process in which it has none is let be."""

from __future__ import annotations

import ctypes.util

import pytest

from support import programs

# Without a module that has <iostream> in it, as numpy's have not: up to GCC 12, nothing has made std::cout then.
PROGRAM = """
import ctypes
from taskpool.worker.native_streams import NativeStreams
streams = NativeStreams()
ctypes.CDLL("libstdc++.so.6")
import colorsys  # the library is looked for when there is another module
streams.flush()
print("goes on")
"""


@pytest.mark.skipif(ctypes.util.find_library("stdc++") is None, reason="no libstdc++")
def test_cpp_code_that_has_no_streams_is_no_crash() -> None:
    assert programs.run(PROGRAM) == "goes on\n"
