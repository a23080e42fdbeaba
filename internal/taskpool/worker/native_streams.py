"""Flush what native code has printed but still holds back, so that it belongs to the job that printed it.

LIMIT: streams of C, and std::cout of C++ where a module of the job has loaded it, also when it is cut off from those.
What other run-time libraries hold back comes with a later job, or never: a worker has no exit that would flush it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

_CPP, _COUT, _FLUSH = "libstdc++.so.6", "_ZSt4cout", "_ZNSo5flushEv"  # std::cout, std::ostream::flush()


class NativeStreams:
    """The streams of native code in this process."""

    def __init__(self) -> None:
        import ctypes  # loaded already: a worker needs it at its start, see procs/prctl.py

        # PyDLL keeps the interpreter's lock, which is cheaper than to give it up for so short a call.
        self._libc = ctypes.PyDLL(None)
        self._modules = len(sys.modules)
        self._flush_cpp: Callable[[], object] | None = None

    def flush(self) -> None:
        """Write what they hold to their descriptors."""
        self._libc.fflush(None)
        if len(sys.modules) != self._modules:  # else nothing that is linked with C++ can have been imported
            self._modules = len(sys.modules)
            self._flush_cpp = self._flush_cpp or _find_cpp()
        if self._flush_cpp is not None:
            self._flush_cpp()
            self._libc.fflush(None)  # what it passed on to C


def _find_cpp() -> Callable[[], object] | None:
    """Return what flushes std::cout; None when this process has not loaded its library."""
    import ctypes

    try:
        library: Any = ctypes.PyDLL(_CPP, mode=os.RTLD_NOLOAD)
        function, stream = library[_FLUSH], ctypes.c_char.in_dll(library, _COUT)
    except (OSError, AttributeError, ValueError):
        return None
    address = ctypes.c_void_p(ctypes.addressof(stream))
    # Up to GCC 12 the library leaves it to modules with <iostream> in them to make the stream. Without one (numpy has
    # none) it is all zeros, and to flush that is a segfault. One may still come: it is looked for again.
    if ctypes.c_void_p.from_address(ctypes.addressof(stream)).value is None:
        return None
    return lambda: function(address)
