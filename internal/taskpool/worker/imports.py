"""Watch a job's modules: what their import changes about the process stays, and their files must stay as they were.

The interpreter calls `_find_and_load` of importlib, by that name, whenever a module has to be loaded: for an import
statement as for importlib.import_module, and at any depth of a call. So it is wrapped, in this process only; what is
loaded already passes by it.
"""

from __future__ import annotations

import _thread
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

from taskpool import limits
from taskpool.clock import SystemClock
from taskpool.worker.process_state import ProcessState

_Signature = tuple[int, int, int, int]
_importlib: Any = sys.modules["_frozen_importlib"]

# Not the user's code: installed packages change by a new installation, and large ones have too many files to look at.
_INSTALLED = (os.path.dirname(os.__file__) + os.sep, os.path.dirname(os.path.dirname(__file__)) + os.sep)
_INSTALLED_PARTS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Imports:
    """The modules that jobs have loaded in this process. One in a process; main thread only."""

    def __init__(self, process_state: ProcessState) -> None:
        self._process_state = process_state
        self._loading = False  # what a module loads in its turn is part of its own import
        self._known = set(sys.modules)
        self._files: dict[str, _Signature | None] = {}
        self._batch = ""
        self._checked_ns = 0

    def watch(self) -> None:
        """Watch from now on, for as long as the process lives."""
        load: Callable[[str, Any], Any] = _importlib._find_and_load
        main_thread = _thread.get_ident()

        def _find_and_load(name: str, import_: Any) -> Any:
            if self._loading or name in sys.modules or _thread.get_ident() != main_thread:
                return load(name, import_)
            self._loading = failed = True
            before = self._process_state.look()
            try:
                module = load(name, import_)
                failed = False
                return module
            finally:
                self._loading = False
                self._process_state.after_import(before, failed=failed)
                self._note_files()

        # By this name the interpreter knows its own frames, and leaves them out of the traceback of an import.
        code = _find_and_load.__code__.replace(co_filename=load.__code__.co_filename)
        _find_and_load.__code__ = code
        _importlib._find_and_load = _find_and_load

    def edited_file(self, batch: str) -> str | None:
        """Return a file that a loaded module came from and that has changed since; None: there is none.

        Looks when the batch is another than the last time, and within a batch at most ten times a second.
        """
        now_ns = time.monotonic_ns()
        if not self._files or (batch == self._batch and now_ns - self._checked_ns < limits.STALE_CHECK_NS):
            return None
        self._batch, self._checked_ns = batch, now_ns
        return next((file for file, signature in self._files.items() if _signature(file) != signature), None)

    def _note_files(self) -> None:
        for name in sys.modules.keys() - self._known:
            self._known.add(name)
            module = sys.modules.get(name)
            file = _file_of(module)
            if file is not None:
                self._files[file] = _signature(file)
                _remove_ambiguous_bytecode(file, getattr(module, "__cached__", None))


def _file_of(module: ModuleType | None) -> str | None:
    """Return the file a module of the user's was loaded from; None for all others."""
    try:
        file = getattr(module, "__file__", None)
        # Inside an archive there is no file to look at, but the archive is one.
        file = getattr(getattr(module, "__loader__", None), "archive", file)
    except Exception:  # noqa: BLE001 - what lies in sys.modules need not be a module
        return None
    if not isinstance(file, str) or file.startswith(_INSTALLED) or any(part in file for part in _INSTALLED_PARTS):
        return None
    return os.path.abspath(file)


def _remove_ambiguous_bytecode(file: str, cached: object) -> None:
    """Remove bytecode that would pass for that of another version of a file which was edited a moment ago.

    It is told by second and size of its source: a later edit in the same second may have the same.
    """
    signature = _signature(file)
    if signature is None or not isinstance(cached, str) or cached == file:
        return
    if SystemClock().now().wall - signature[-1] < limits.EDITED_JUST_NOW_NS:
        with suppress(OSError):  # it was never written, or may not be removed
            os.unlink(cached)


def _signature(file: str) -> _Signature | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
