"""One call on its way into the pool: pickled in the thread that submits it, made a job of in the loop's."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from taskpool.kinds import pickling
from taskpool.kinds.call import CALL, Payload, call_each
from taskpool.kinds.parts import padded
from taskpool.limits import CALL_INLINE_BYTES_MAX, JOB_TEXT_BYTES_MAX
from taskpool.messages import JobSpec, Limits
from taskpool.procs.state_dir import OUTPUT_NAME, open_inside

KEY_BYTES = 16
_HERE = (sys.version_info[0], sys.version_info[1])


class Setup(NamedTuple):
    """What the processes are like in which the calls of one Executor run."""

    initializer: bytes = b""  # pickled with its arguments; empty: none
    path: tuple[str, ...] = ()  # directories for imports, ahead of those of the program
    calls_max: int = 0  # so many calls run in a process; 0: any number


class Call(NamedTuple):
    """A pickled call."""

    title: str
    function: bytes
    arguments: bytes
    buffers: tuple[bytes, ...]  # of the arguments, beside their pickle
    path: tuple[bytes, ...]
    setup: Setup
    limits: Limits | None  # None: the batch's

    @property
    def key(self) -> bytes:
        """What is equal for equal calls, in another run of the program too."""
        # Without the limits: a run with another time-out goes on with the same jobs.
        data = b"".join(
            (
                *(hashlib.sha256(self.setup.initializer).digest(), *self.path, b"\0", self.function, self.arguments),
                *(hashlib.blake2b(buffer).digest() for buffer in self.buffers),
            )
        )
        return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()

    def job(self, home: Path, batch: str, *, sync: bool) -> tuple[JobSpec, Path | None]:
        """Return the job, and the file that holds what of it a message cannot. Raises OSError.

        `sync`: files, that of the result too, have to survive the loss of power.
        """
        file: Path | None = None
        sizes: tuple[int, ...] = ()
        function, arguments = self.function, self.arguments
        if self.buffers or len(function) + len(arguments) > CALL_INLINE_BYTES_MAX:
            held = (function, arguments, *self.buffers)
            file, sizes = _write(home, batch, held, sync), tuple(map(len, held))
            function = arguments = b""
        payload = CALL.encode(
            Payload(
                self.title,
                _HERE,
                function,
                arguments,
                b"" if file is None else os.fsencode(file),
                sizes,
                sync,
                self.path,
                self.setup.initializer,
                self.setup.calls_max,
            )
        )
        return JobSpec(CALL.name, payload, self.limits), file


class Function(NamedTuple):
    """A pickled function."""

    title: str
    pickle: bytes

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Function:
        """Pickle a function. Raises as `make`."""
        return cls(_title(function), pickling.dumps(function))

    @classmethod
    def of_chunks(cls, function: Callable[..., Any]) -> Function:
        """Pickle what calls a function for each item of a list. Raises as `make`."""
        return cls(_title(function), pickling.dumps(partial(call_each, function)))


def make(function: Function, args: Any, kwargs: Any, setup: Setup, limits: Limits | None) -> Call:
    """Pickle the arguments of a call. Raises what the objects' own code raises, mostly TypeError or PicklingError."""
    # Now, in the thread that submits: what it changes in its objects afterwards is not for this call.
    path = _own_directories((*setup.path, *sys.path), os.getcwd())
    buffers: list[memoryview] = []
    data = pickling.dumps((args, kwargs), buffers)
    if buffers and len(data) + sum(map(len, buffers)) <= CALL_INLINE_BYTES_MAX:
        data = pickling.dumps((args, kwargs))
        buffers = []
    return Call(function.title, function.pickle, data, tuple(map(bytes, buffers)), path, setup, limits)


def _title(function: Callable[..., Any]) -> str:
    called = getattr(function, "func", function)  # of a functools.partial
    name = getattr(called, "__qualname__", None) or type(called).__qualname__
    text = f"{getattr(called, '__module__', None) or '?'}.{name}"
    # A name may be any text: with a lone surrogate in it, no message could be encoded.
    return text.encode("utf-8", "backslashreplace").decode()[:JOB_TEXT_BYTES_MAX]


@lru_cache(maxsize=8)
def _own_directories(path: tuple[str, ...], here: str) -> tuple[bytes, ...]:
    """Return what of `sys.path` a worker of the same Python would not have by itself."""
    # `here` is an argument for the sake of the cache: '' in sys.path is another directory after a chdir.
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    everywhere = {os.path.abspath(sysconfig.get_path(name)) for name in names}
    everywhere |= {os.path.join(sysconfig.get_path("platstdlib"), "lib-dynload")}
    kept = [os.path.normpath(os.path.join(here, each)) for each in path]
    # The interpreter names an archive of its library, which is mostly not there.
    own = (each for each in kept if each not in everywhere and (not each.endswith(".zip") or os.path.isfile(each)))
    return tuple(map(os.fsencode, dict.fromkeys(own)))


def _write(home: Path, batch: str, held: Iterable[bytes], sync: bool) -> Path:
    """Write parts into a file beside the outputs of the batch's jobs, which go when the batch does."""
    name = f"call-{os.urandom(8).hex()}"
    directory_fd = open_inside(str(home), OUTPUT_NAME, batch)
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory_fd)
        with open(fd, "wb") as file:
            file.writelines(padded(held))
            file.flush()
            if sync:
                os.fsync(fd)  # before the journal has the job
        if sync:
            os.fsync(directory_fd)  # fsync(2) of a file need not store its name
    finally:
        os.close(directory_fd)
    return home / OUTPUT_NAME / batch / name
