"""Remember the state of the process that a job of user code may change, and restore it for the next job.

Such a job calls what it likes: signal.signal(SIGCHLD, SIG_IGN) alone would make every later program's exit
status vanish. Restoring it all costs about 10 microseconds, so it is done after each such job.

LIMIT: only what is likely and would harm other jobs. What a module keeps, what C code sets without Python's
knowledge (setenv(3), sigaction(2)), and threads that C libraries keep for themselves are left as they are.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.getsignal takes 20 times as long: it makes enums
import _thread
import os
import resource
import signal

from taskpool.procs.signals import catchable

# Those that make programs, files and memory fail. The others would double the price of looking.
_LIMITS = {
    resource.RLIMIT_AS: "RLIMIT_AS",
    resource.RLIMIT_CORE: "RLIMIT_CORE",
    resource.RLIMIT_CPU: "RLIMIT_CPU",
    resource.RLIMIT_DATA: "RLIMIT_DATA",
    resource.RLIMIT_FSIZE: "RLIMIT_FSIZE",
    resource.RLIMIT_NOFILE: "RLIMIT_NOFILE",
    resource.RLIMIT_NPROC: "RLIMIT_NPROC",
    resource.RLIMIT_STACK: "RLIMIT_STACK",
}
_SIGNALS = sorted(catchable())
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class ProcessState:
    """The process as it is at construction: make one when handlers and descriptors are set up. Main thread only."""

    def __init__(self) -> None:
        # A descriptor, not a path: the directory may be renamed, and O_PATH needs no permission to read it.
        self._directory_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._umask = os.umask(0o077)  # umask(2): it can be read only by setting it
        os.umask(self._umask)
        self._environ = os.environ
        self._variables = dict(os.environ)
        self._variables_raw = dict(_raw(os.environ))
        self._limits = _limits()
        # A job that keeps more than half of the descriptors open leaves the next ones too few.
        self._files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._handlers = _handlers()
        self._threads = _thread._count()

    def restore(self) -> str | None:
        """Undo what a job has changed. Return a text that names what cannot be undone; None: nothing is left."""
        # Limits first: under them the rest could fail. Timers before handlers: one that goes off finds its own.
        left = self._restore_limits()
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        signal.set_wakeup_fd(-1)  # a worker has none; a job's would be written to after the job
        left = self._restore_handlers() or left
        # After the handlers: a signal that was blocked until now arrives here.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.umask(self._umask)
        if os.environ is not self._environ or _raw(os.environ) != self._variables_raw:
            self._restore_variables()
        # A thread cannot be ended from outside, and would run on beside the next job.
        if _thread._count() > self._threads:
            left = "a thread that still runs"
        return self._restore_directory() or left

    def _restore_limits(self) -> str | None:
        limits = _limits()
        if limits == self._limits:
            return None
        left = None
        for which, before, now in zip(_LIMITS, self._limits, limits, strict=True):
            try:
                if now != before:
                    resource.setrlimit(which, before)
            except (ValueError, OSError):  # only root may raise a hard limit again
                left = f"a hard limit that is lower now, {_LIMITS[which]}"
        return left

    def _restore_handlers(self) -> str | None:
        handlers = _handlers()
        if handlers == self._handlers:
            return None
        left = None
        for number, before, now in zip(_SIGNALS, self._handlers, handlers, strict=True):
            if before is None and now is not None:
                # signal.signal cannot install what C code had set before Python started.
                left = f"a handler of signal {number} in the place of one that Python does not know"
            elif now is not before:
                signal.signal(number, before)
        return left

    def _restore_variables(self) -> None:
        os.environ = self._environ  # noqa: B003 - in case it was replaced; cleared by the next line
        os.environ.clear()
        os.environ.update(self._variables)

    def _restore_directory(self) -> str | None:
        """Restore the directory, and find out by the way whether the job has closed or kept too many descriptors."""
        try:
            os.fchdir(self._directory_fd)
            # dup(2) gives the lowest free number: so many descriptors are open, in one call instead of a list of them.
            lowest_free = os.dup(self._directory_fd)
            os.close(lowest_free)
        except OSError as error:
            return f"descriptors that do not work: {error}"
        return f"{lowest_free} open files" if lowest_free > self._files_max else None


def _raw(environ: os._Environ[str]) -> dict[bytes, bytes]:
    # What os.environ keeps below: comparing that decodes nothing, which would take 40 times as long.
    return environ._data  # type: ignore[attr-defined,no-any-return]


def _limits() -> list[tuple[int, int]]:
    return list(map(resource.getrlimit, _LIMITS))


def _handlers() -> list[signal.Handlers | int | None]:
    return list(map(_signal.getsignal, _SIGNALS))
