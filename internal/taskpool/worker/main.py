"""Read tp-worker's command line, and start a worker.

Rules of this file:
1. No argparse, no logging, and imports where they are needed: a pool waits for its workers at each start and after
   each crash.
2. Exit codes before `ready` tell the dealer whether another try makes sense: 3 this machine does not let a
   worker work, 4 a job kind cannot be loaded. Both would only happen again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

from taskpool import __version__
from taskpool.errors import ConfigurationError, ExitCode, TaskpoolError, UsageError, system_refused
from taskpool.ipc import held_reports, names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.spool import Spool
from taskpool.log import Format
from taskpool.procs import prctl, procfs, signals, spawn
from taskpool.procs.spawn import LOG_FD, REPORTS_FD
from taskpool.worker import helpers

if TYPE_CHECKING:
    from pathlib import Path

    from taskpool.chaos import Chaos
    from taskpool.worker.chaos import FaultInjector
    from taskpool.worker.log import Log
    from taskpool.worker.loop import Loop

_NOT_BY_HAND = "tp-worker is started by tp-dealer, not by people. To run jobs: tp-generator --help\n"
_HELP = f"""{_NOT_BY_HAND}
Examples:
  tp-worker --version
  tp-generator python --worker-exec .venv/bin/tp-worker module:function
  tp-dealer --pool night --worker-exec .venv/bin/tp-worker

A virtual environment that has taskpool installed brings a tp-worker of its own,
whose python jobs find that environment's modules.
"""
_STDERR_FD = 2
_FLAG = "--verbose"
_INCARNATION = spawn.INCARNATION_FLAG
_REQUIRED = ("--pool", "--epoch", _INCARNATION, "--dealer-pid", "--spool")
_OPTIONAL = ("--chaos", "--log-format", spawn.TEMPLATE_FLAG)


class KindCannotLoad(TaskpoolError):
    """A job kind's module fails when it is imported."""

    exit_code = ExitCode.UNREACHABLE


class Options(NamedTuple):
    """A worker's whole configuration."""

    pool: str
    epoch: int
    incarnation: int  # 0: of no worker, but of their template
    dealer_pid: int
    spool: str
    chaos: Chaos | None = None
    log_format: Format = "text"
    verbose: bool = False


def main() -> int:
    """Run the program on `sys.argv`; return its exit code, unless it got as far as serving jobs."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        sys.stdout.write(f"tp-worker {__version__}\n")
        return ExitCode.OK
    if arguments in (["-h"], ["--help"], ["--help-all"]):
        sys.stdout.write(_HELP)
        return ExitCode.OK
    if not arguments:
        sys.stderr.write(_NOT_BY_HAND)
        return ExitCode.USAGE
    if helpers.run_if_helper(arguments):
        return ExitCode.OK
    try:
        options = parse(arguments)
        _hide_the_program()
        if not options.incarnation:
            options = _copy_of_template(options)
        loop = start(options)
    except TaskpoolError as error:
        return _complain(error)
    except OSError as error:
        return _complain(ConfigurationError(f"cannot start: {system_refused(error)}"))
    return serve(loop)


def parse(arguments: Sequence[str]) -> Options:
    """Return the options on a command line. Raises UsageError."""
    # Strict although only the dealer writes it: --worker-exec may name a worker of another version.
    given: dict[str, str] = {}
    rest = iter(arguments)
    for name in rest:
        if name != _FLAG and name not in _REQUIRED and name not in _OPTIONAL:
            raise UsageError(f"unknown argument {name!r}")
        value = "" if name == _FLAG else next(rest, None)
        if value is None:
            raise UsageError(f"{name}: its value is missing")
        given[name] = value
    is_template = spawn.TEMPLATE_FLAG in given
    if missing := [name for name in _REQUIRED if name not in given and not (is_template and name == _INCARNATION)]:
        raise UsageError(f"{', '.join(missing)} missing; {_NOT_BY_HAND.strip()}")
    return Options(
        pool=names.check_pool_name(given["--pool"]),
        epoch=_number(given, "--epoch"),
        incarnation=0 if is_template else _number(given, _INCARNATION),
        dealer_pid=_number(given, "--dealer-pid"),
        spool=given["--spool"],
        chaos=_chaos(given.get("--chaos")),
        log_format=_log_format(given.get("--log-format", "text")),
        verbose=_FLAG in given,
    )


def _copy_of_template(options: Options) -> Options:
    """Return in each copy of this process that is to be a worker, never in this process. Raises OSError."""
    from taskpool.worker import template

    return options._replace(incarnation=template.copy_on_request(options.dealer_pid))


def start(options: Options) -> Loop:
    """Make this process a worker, and tell the dealer that it is ready.

    Raises TaskpoolError or OSError. Does not return when the dealer is dead already.
    """
    # First of all: the next file that is opened could get their numbers.
    log_fd, memory = _log_fd(), held_reports.attach(REPORTS_FD)
    _keep_from_children()
    signals.ensure_low_fds()
    signals.reset_inherited()
    # Before anything that takes time: until this is armed, a dealer's death would leave a worker behind.
    tie = prctl.ParentTie(options.dealer_pid)
    prctl.become_subreaper()
    prctl.lower_oom_protection()
    _load_kinds()

    import faulthandler

    from taskpool.worker.capture import Capture
    from taskpool.worker.log import Log
    from taskpool.worker.loop import Channel, Identity, Loop
    from taskpool.worker.runner import Runner
    from taskpool.worker.timeout import TimeoutSignal

    faulthandler.enable(_STDERR_FD)  # the dealer quotes what it writes: where in the job's code it crashed
    log = Log(log_fd, options.log_format, verbose=options.verbose)
    log.info("Starting up")
    timeout_signal = TimeoutSignal()
    timeout_signal.install()
    # The name of the request queue holds the epoch: a worker that outlived its dealer finds no work of the next one.
    namespace = KernelNamespace()
    requests = namespace.open(names.worker(options.pool, options.epoch, options.incarnation), send=False, receive=True)
    events = namespace.open(names.events(options.pool), send=True, receive=False)
    capture, fault_injector = Capture(options.spool), _fault_injector(options.chaos, log)
    runner = Runner(options.spool, tie, timeout_signal, capture, log, fault_injector)
    runner.watch_imports()
    me = Identity(options.epoch, options.incarnation)
    # A str does for a path, and pathlib would add 8 ms to each start.
    spool = Spool(cast("Path", options.spool), options.incarnation)
    loop = Loop(me, Channel(requests, events, memory), spool, runner, log)
    loop.send_ready()
    return loop


def serve(loop: Loop) -> NoReturn:
    """Run jobs, then end the process."""
    code: int = ExitCode.OK
    try:
        loop.serve()
    except TaskpoolError as error:
        code = _complain(error)
    # Not sys.exit: it would wait for threads that jobs have left behind, and run what they have registered.
    os._exit(code)


def _hide_the_program() -> None:
    """Show jobs what a script of their own would find: its name alone in sys.argv, and its submitter's environment."""
    del sys.orig_argv[len(sys.orig_argv) - len(sys.argv) + 1 :]
    del sys.argv[1:]
    spawn.scrub_own_environment()
    # Whatever multiprocessing starts would run the file of the main module first, which is the worker's program.
    sys.modules["__main__"].__dict__.pop("__file__", None)


def _load_kinds() -> None:
    """Load the kinds before the modules that need them, to tell their failures from the worker's own."""
    try:
        import taskpool.kinds  # noqa: F401
    except Exception as error:  # whatever it is, the next worker would meet it too
        raise KindCannotLoad(f"a job kind cannot be loaded: {type(error).__name__}: {error}") from error


def _log_fd() -> int | None:
    """Return the descriptor for the log, kept from programs that jobs start; None when the dealer gave none."""
    try:
        os.set_inheritable(LOG_FD, False)
    except OSError:
        return None
    return LOG_FD


def _keep_from_children() -> None:
    """Keep what the dealer's parent left open and inheritable from the programs that jobs start."""
    for fd in procfs.own_descriptors():
        if fd > _STDERR_FD:
            try:
                os.set_inheritable(fd, False)
            except OSError:
                continue  # the one that listed the directory


def _number(given: dict[str, str], name: str) -> int:
    text = given[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and 0 < int(text) < 2**63):
        raise UsageError(f"{name}: expected a positive integer, got {text!r}")
    return int(text)


def _chaos(spec: str | None) -> Chaos | None:
    if spec is None:
        return None
    from taskpool import chaos

    return chaos.parse(spec)


def _fault_injector(chaos: Chaos | None, log: Log) -> FaultInjector | None:
    if chaos is None:
        return None
    from taskpool.worker.chaos import FaultInjector

    return FaultInjector(chaos, log)


def _log_format(text: str) -> Format:
    match text:
        case "text" | "json":
            return text
        case _:
            raise UsageError(f"--log-format: expected text or json, got {text!r}")


def _complain(error: TaskpoolError) -> int:
    try:  # not by sys.stderr: the interpreter would try once more at its end, and exit with 120 where the disk is full
        os.write(_STDERR_FD, f"tp-worker: {error}\n".encode(errors="backslashreplace"))
    except OSError:
        pass
    return error.exit_code
