"""Watch pools at a terminal until a person quits."""

from __future__ import annotations

import os
import signal
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from taskpool.client.session import ConnectTimeouts
from taskpool.clock import SECOND, AwakeClock, SystemClock
from taskpool.durations import parse_duration
from taskpool.errors import ConfigurationError, ExitCode, UsageError
from taskpool.generator.options import connect_timeouts
from taskpool.generator.output.console import Console
from taskpool.generator.signals import handled_signals, raise_if_stopped, take_others
from taskpool.generator.top.model import Model, PoolRow, Request, without_answer
from taskpool.generator.top.screen import screen
from taskpool.generator.top.terminal import Terminal
from taskpool.generator.top.view import View, follow, press
from taskpool.generator.top.watcher import Watcher
from taskpool.ipc.names import check_pool_name
from taskpool.procs.pool_lock import is_held
from taskpool.procs.signals import Wakeup
from taskpool.procs.state_dir import pools_directory
from taskpool.procs.wait import wait_ready

_STDIN, _STDOUT = 0, 1
_REFRESH_NS = 1 * SECOND
_REFRESH_NS_MIN = SECOND // 10  # more often is more than eyes see, and costs the dealer
_LOOK_NS = 2 * SECOND  # between two looks for pools that have come or gone
_SILENT_NS = 2 * SECOND  # beyond two refreshes, before a pool counts as silent
_RECONNECT_NS = 5 * SECOND
_END_NS_MAX = 1 * SECOND  # how long a quit may wait for goodbyes
_POOLS_MAX = 16  # each takes a reply queue of this user's


def top(args: Namespace, console: Console) -> ExitCode:
    """Show pools until a person quits. Raises UsageError without a terminal, DealerUnreachable, Interrupted."""
    pool = None if args.pool is None else check_pool_name(args.pool)
    refresh_ns = _REFRESH_NS if args.refresh is None else parse_duration(args.refresh, "--refresh")
    if refresh_ns < _REFRESH_NS_MIN:
        raise UsageError(f"--refresh: expected 100ms or more, got {args.refresh!r}")
    if not (os.isatty(_STDIN) and os.isatty(_STDOUT)):
        raise UsageError(
            "top needs a terminal, as standard input and as standard output. In a script or a pipe: `tp-generator "
            f"status --pool {pool or 'NAME'}`, with --json for programs; `tp-generator batches` for what there is"
        )
    # The signals before the terminal: curses then installs no handlers of its own, which would end the program at once.
    terminal = Terminal()  # before anything is asked: without one it is no use
    with (
        closing(Wakeup([*handled_signals(), signal.SIGWINCH])) as wakeup,
        _watching(pool, refresh_ns, connect_timeouts(args) if pool is not None else None) as pools,
    ):
        if pool is not None:
            pools.await_first(wakeup)
        with terminal:
            _show(terminal, pools, wakeup)
    return ExitCode.OK


def _show(terminal: Terminal, pools: _Pools, wakeup: Wakeup) -> None:
    view = View()
    while not view.quit:
        pools.look()
        for text in pools.take_said():
            view = view._replace(message=text)
        view = follow(view, pools.model)
        terminal.draw(screen(pools.model, view, terminal.size, time.strftime("%H:%M:%S")))
        # Each second at least, for the clock in the corner shows that it is not the screen that stands still.
        wait_ready((_STDIN, wakeup, pools.changed_fd), (), _REFRESH_NS)
        if signal.SIGWINCH in take_others(wakeup):
            terminal.resize()
        for key in terminal.take_keys():
            view, request = press(view, key, pools.model)
            if request is not None:
                pools.want(request)
            if view.quit:
                break


class _Pools:
    """The pools that are watched: the one that was named, or all that run and are this user's."""

    def __init__(self, named: str | None, refresh_ns: int, timeouts: ConnectTimeouts | None) -> None:
        self.changed_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._named = named
        self._refresh_ns = refresh_ns
        # A dealer that has gone is noticed when it does not answer; then it is asked anew, with queues of its own.
        self._timeouts = (timeouts or ConnectTimeouts())._replace(reconnect_ns=_RECONNECT_NS)
        self._clock = AwakeClock(SystemClock())
        self._look_due = 0
        self._watchers: dict[str, Watcher] = {}
        self.look()

    @property
    def model(self) -> Model:
        """What is known of them, in the order of their names."""
        return [self._shown(self._watchers[name]) for name in sorted(self._watchers)]

    def _shown(self, watcher: Watcher) -> PoolRow:
        # What was true some seconds ago must not stand there as if it were.
        silent_ns = time.monotonic_ns() - watcher.answered_ns
        if silent_ns <= 2 * self._refresh_ns + _SILENT_NS:
            return watcher.row
        return without_answer(watcher.row, silent_ns / SECOND)

    def look(self) -> None:
        """Begin to watch pools that have come, and forget those that have gone."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.changed_fd)
        now = self._clock.now().mono
        if now < self._look_due:
            return
        self._look_due = now + _LOOK_NS
        running = [self._named] if self._named is not None else list(_running_pools())
        for name in self._watchers.keys() - running:
            self._watchers.pop(name).end()
        for name in running[:_POOLS_MAX]:
            before = self._watchers.get(name)
            # Its dealer may come back: it is asked again, and what is wrong stays there until it answers.
            if before is None or before.gone:
                row = PoolRow(name) if before is None else before.row
                self._watchers[name] = Watcher(name, self._refresh_ns, self._timeouts, self.changed_fd, row)

    def await_first(self, wakeup: Wakeup) -> None:
        """Wait until the named pool has answered. Raises TaskpoolError when it does not, Interrupted."""
        assert self._named is not None
        watcher = self._watchers[self._named]
        while not watcher.row.state and not watcher.row.problem:
            wait_ready((wakeup, self.changed_fd), (), _REFRESH_NS)
            raise_if_stopped(wakeup)
            with suppress(BlockingIOError):
                os.eventfd_read(self.changed_fd)
        if watcher.failure is not None:
            raise watcher.failure

    def want(self, request: Request) -> None:
        """Have a pool do something."""
        if (watcher := self._watchers.get(request.pool)) is not None:
            watcher.want(request)

    def take_said(self) -> Iterator[str]:
        """Yield, once, what pools have to say."""
        for watcher in self._watchers.values():
            yield from watcher.take_said()

    def end(self) -> None:
        """End all watchers."""
        for watcher in self._watchers.values():
            watcher.end()
        deadline = self._clock.now().mono + _END_NS_MAX
        for watcher in self._watchers.values():
            watcher.join(deadline - self._clock.now().mono)


@contextmanager
def _watching(pool: str | None, refresh_ns: int, timeouts: ConnectTimeouts | None) -> Iterator[_Pools]:
    pools = _Pools(pool, refresh_ns, timeouts)
    try:
        yield pools
    finally:
        pools.end()
        # `changed_fd` stays: a thread that is stuck with its dealer may still write to it.


def _running_pools() -> Iterator[str]:
    with suppress(OSError, ConfigurationError):
        yield from (path.name for path in sorted(pools_directory().iterdir()) if is_held(path))
