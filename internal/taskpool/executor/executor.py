"""`taskpool.Executor`: functions of a program, called in processes that may crash."""

from __future__ import annotations

import concurrent.futures
import copy
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

from taskpool import limits
from taskpool.errors import TaskpoolError
from taskpool.executor import lifetime
from taskpool.executor.call import Call, Function, Setup, make
from taskpool.executor.errors import PoolError
from taskpool.executor.future import CallFuture
from taskpool.executor.link import Link
from taskpool.executor.loop import Ending, Loop
from taskpool.executor.options import PoolOptions, call_limits, pool_options, whole_number
from taskpool.kinds import pickling
from taskpool.messages import Limits, State

T = TypeVar("T")


class _Handle:
    """Lives as long as an Executor or a view of it does."""


class Executor(concurrent.futures.Executor):
    """A pool of processes in which a crash, a hang or a kill costs the call that had it, and no other one."""

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        pool: str | None = None,
        cluster: str | None = None,
        journal: bool = False,
        batch: str | None = None,
        timeout: float | None = None,
        retries: int = 0,
        crash_limit: int = 1,
        memory_limit: int | str | None = None,
        priority: int = 0,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        max_tasks_per_child: int | None = None,
        worker_python: str | None = None,
        path: Sequence[str] = (),
    ) -> None:
        """Start a private pool of `max_workers` processes (the CPUs that this program may use), or use a named one.

        `timeout` is in seconds, of one try; `retries` are tries after the first one, for calls that fail or time out;
        after `crash_limit` crashes a call fails. `memory_limit` is what a call may allocate, in bytes or as "2G".
        `journal=True, batch="ID"`: what is accepted survives a kill of any process, and the same program started again
        goes on with it. `path` are directories for imports, ahead of `sys.path`, which the workers have too.

        Raises ValueError or TypeError for a wrong argument, PoolError when the pool cannot be started.
        """
        if cluster is not None:
            raise ValueError(f"cluster={cluster!r}: this version of taskpool uses the pools of one machine only")
        self._limits = self._batch_limits = call_limits(
            Limits(),
            timeout=timeout,
            retries=retries,
            crash_limit=crash_limit,
            priority=priority,
            memory_limit=memory_limit,
        )
        self._setup = _setup(initializer, initargs, max_tasks_per_child, path)
        chosen = pool_options(
            self._limits,
            max_workers=max_workers,
            pool=pool,
            journal=journal,
            batch=batch,
            worker_python=worker_python,
        )
        self._pid = os.getpid()
        # Ahead of the pool: where this is refused, no dealer was started for nothing.
        lifetime.register()
        self._loop = _start(chosen)
        self._handle = _Handle()
        # Of the loop, for a method of this object would keep it alive: a forgotten Executor ends when its calls have.
        weakref.finalize(self._handle, self._loop.end, Ending.DRAIN).atexit = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> CallFuture[T]:
        """Call `fn(*args, **kwargs)` in a worker, and return its future.

        Raises PoolError when the pool is gone for good, RuntimeError after a shutdown or in a forked child. What cannot
        be pickled is the future's exception.
        """
        return self._submit(lambda: Function.of(fn), args, kwargs)

    def _submit(self, function: Callable[[], Function], args: Any, kwargs: Any) -> CallFuture[Any]:
        self._refuse_a_child()
        own = None if self._limits == self._batch_limits else self._limits
        try:
            call = make(function(), args, kwargs, self._setup, own)
        except Exception as error:  # noqa: BLE001 - of the objects' own code, and the future's, as in the standard library
            future: CallFuture[Any] = CallFuture(_NO_CALL, self._loop.on_cancel)
            error.add_note("while the call was pickled, to be sent to a worker")
            future.set_exception(error)
            return future
        future = CallFuture(call, self._loop.on_cancel)
        self._loop.submit(future)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call `fn` for each of the items; return an iterator over the results, in the order of the items.

        `chunksize` calls share one job, and so one fate. With `buffersize`, no more than so many jobs are submitted
        ahead of the results that were taken. `timeout` seconds after this call, the iterator raises TimeoutError.
        """
        whole_number("chunksize", chunksize, 1)
        if buffersize is not None:
            whole_number("buffersize", buffersize, 1)
        self._refuse_a_child()
        end = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables, strict=False)
        function = cache(lambda: Function.of(fn) if chunksize == 1 else Function.of_chunks(fn))  # pickled once
        if chunksize == 1:
            return _results((self._submit(function, item, {}) for item in items), buffersize, end)
        chunks = iter(lambda: list(islice(items, chunksize)), [])
        return _flat(_results((self._submit(function, (chunk,), {}) for chunk in chunks), buffersize, end))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. `wait`: until all futures are done and the pool is gone. `cancel_futures`: cancel those
        that do not run yet; with a journal, which would run them later, all that are not done."""
        # No error: a forked child leaves its parent's `with` block too, and has to leave the pool to it.
        if os.getpid() != self._pid:
            return
        self._loop.end(Ending.DRAIN, cancel=cancel_futures)
        # A future's callback runs in the loop's thread, and a thread that joins itself raises RuntimeError.
        if wait and threading.current_thread() is not self._loop.thread:
            self._loop.thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        # Ctrl-C: what runs would go on unseen, in processes that no signal of the terminal reaches.
        if kind is not None and not issubclass(kind, Exception) and os.getpid() == self._pid:
            self._loop.end(Ending.LEAVE)
        self.shutdown(wait=True)
        return None

    def options(self, **limits: Any) -> Executor:
        """Return a view of this Executor whose calls have other limits: timeout, retries, crash_limit, priority,
        memory_limit.

        Raises TypeError, ValueError.
        """
        # It has the same handle, so the loop goes on for as long as either of the two lives.
        view = copy.copy(self)
        view._limits = call_limits(self._limits, **limits)
        return view

    def stats(self) -> dict[str, int]:
        """Return counts of this program's calls: how many were submitted, are pending, and ended how."""
        loop = self._loop
        states = dict(loop.states)
        return {
            "submitted": loop.submitted,
            "pending": loop.pending,
            "succeeded": states.get(State.SUCCEEDED, 0),
            "failed": states.get(State.FAILED, 0),
            "crashed": states.get(State.QUARANTINED, 0),
            "timed_out": states.get(State.TIMED_OUT, 0),
            "cancelled": states.get(State.CANCELLED, 0) + loop.cancelled_early,
            "lost": loop.lost,
            "attempts": loop.attempts,
            "crashes": loop.crashes,
        }

    def _refuse_a_child(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"this Executor belongs to the process {self._pid}, and this one, {os.getpid()}, was forked from it: "
                "make an Executor of its own here"
            )


def _start(chosen: PoolOptions) -> Loop:
    try:
        link = Link(chosen)
    except (TaskpoolError, OSError) as error:
        raise PoolError(f"the pool cannot be started: {error}") from error
    loop = Loop(link)
    try:
        lifetime.start(loop)
    except RuntimeError:
        link.close()
        raise
    return loop


_NO_CALL = Call("", b"", b"", (), (), Setup(), None)


def _setup(
    initializer: Callable[..., object] | None, initargs: Sequence[Any], calls_max: int | None, path: Sequence[str]
) -> Setup:
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer={initializer!r}: expected a function")
    if calls_max is not None:
        whole_number("max_tasks_per_child", calls_max, 1)
    if isinstance(path, str | bytes):
        raise TypeError(f"path={path!r}: expected a list of directories")
    data = b"" if initializer is None else pickling.dumps((initializer, tuple(initargs)))
    # It goes with each call: a megabyte of it would fill the pool's memory.
    if len(data) > limits.CALL_INLINE_BYTES_MAX:
        raise ValueError(
            f"initargs take {len(data)} bytes when pickled, more than {limits.CALL_INLINE_BYTES_MAX}: put what is "
            "large into a file, and let the initializer read that"
        )
    return Setup(data, tuple(map(os.path.abspath, path)), calls_max or 0)


def _results(
    calls: Iterator[concurrent.futures.Future[Any]], buffersize: int | None, end: float | None
) -> Iterator[Any]:
    # At once, not when the first result is asked for.
    futures = deque(islice(calls, buffersize))
    return _taken(futures, calls, end)


def _taken(
    futures: deque[concurrent.futures.Future[Any]], calls: Iterator[concurrent.futures.Future[Any]], end: float | None
) -> Iterator[Any]:
    try:
        while futures:
            yield _next_result(futures, calls, end)  # kept by no name here: its taker may be done with it at once
    finally:
        # As in the standard library: there is no one left to ask for these results.
        for future in futures:
            future.cancel()


def _next_result(
    futures: deque[concurrent.futures.Future[Any]], calls: Iterator[concurrent.futures.Future[Any]], end: float | None
) -> Any:
    result = futures[0].result(None if end is None else max(0, end - time.monotonic()))
    futures.popleft()
    futures.extend(islice(calls, 1))
    return result


def _flat(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    for chunk in chunks:
        yield from chunk
