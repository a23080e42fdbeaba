"""One submission: its parts put together, for a new batch and for one that is resumed."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from msgspec import structs

from taskpool import limits
from taskpool.client.connection import Connection, DealerEnded
from taskpool.client.queries import BatchQueries
from taskpool.client.session import Session, SessionOptions
from taskpool.client.transport import Transport
from taskpool.clock import AwakeClock, SystemClock
from taskpool.errors import ExitCode, TaskpoolError, UsageError
from taskpool.generator.input.feed import Feed
from taskpool.generator.input.lines import is_regular
from taskpool.generator.options import SubmitOptions
from taskpool.generator.output.console import Console, ProgressBar
from taskpool.generator.output.printer import Printer
from taskpool.generator.private.process import PrivateDealer, wait_for_predecessor
from taskpool.generator.private.state import PrivateState
from taskpool.generator.result import BatchResult
from taskpool.generator.run import BatchRun, RunParts
from taskpool.generator.signals import RaiseOnSignal, handled_signals
from taskpool.generator.totals import Totals
from taskpool.ipc.mqueue import KernelNamespace, kernel_limits
from taskpool.ipc.sizing import choose
from taskpool.kinds.source import STDIN, Source
from taskpool.procs.prctl import require_pidfds
from taskpool.procs.signals import Wakeup

_COMMAND_CHARS_MAX = 16 * 1024  # a longer one is no use on a terminal
_PATH_OPTIONS = frozenset(
    {"--cwd", "--wd", "--workdir", "--path", "--results", "--joblog", "--journal", "--worker-exec", "-a", "--arg-file"}
)
_DIRECTORY_OPTIONS = ("--cwd", "--wd", "--workdir")
_NO_PATHS = ("none", "-", "")  # values of those that name no file


def run_batch(options: SubmitOptions, feed: Feed, console: Console, how_to_resume: str) -> ExitCode:
    """Submit the feed's jobs and wait for their outcomes. `how_to_resume` is what a person is told about that.

    Raises TaskpoolError for what ends it early.
    """
    clock = AwakeClock(SystemClock())
    began = clock.now()
    with ExitStack() as cleanup:
        # First: a signal that comes while the parts are made is kept, and dealt with in the first turn of the loop.
        wakeup = Wakeup(handled_signals())
        cleanup.callback(wakeup.close)
        # Everything that can refuse the batch comes before the dealer is started: the state, then the output files.
        private_state = None
        if options.pool is None:
            require_pidfds()  # to hold its dealer by
            names_files = options.form == "json" or options.results is not None
            private_state = PrivateState(options.batch, options.journal, resume=options.resume, names_files=names_files)
            wait_for_predecessor(private_state, wakeup, console)
        printer = _open_printer(options, private_state)
        cleanup.callback(printer.close)
        private = None
        if private_state is not None:
            private = PrivateDealer(private_state, options.launch, KernelNamespace(), console, how_to_resume)
            cleanup.enter_context(private)
        totals = Totals()
        progress = ProgressBar(options.progress, console, totals, clock.now().mono)
        parts = RunParts(options, feed, printer, totals, progress, console, clock, began, wakeup, private)
        session_options = _session_options(options, private)
        cursor = 0
        # A detached run takes no outcomes, so it has none to count before.
        if options.resume and not options.detach:
            cursor = _recall(parts, session_options)
        # Over new queues, but as the same client: for the dealer it is one connection that says hello again.
        connection = _connect(parts, session_options, cursor=cursor)
        cleanup.callback(connection.close)
        return BatchResult(parts, BatchRun(parts, connection), how_to_resume).run_to_end()


def open_connection(
    options: SessionOptions, console: Console, clock: AwakeClock, private: PrivateDealer | None = None
) -> Connection:
    """Return a connection over a reply queue as large as this machine's limits leave for it."""
    # As the dealer sizes its queues, so that all replies together stay within the byte limit it has counted on.
    shape = choose(limits.WORKER_QUEUES_MIN, kernel_limits()).reply
    session = Session(options, clock.now().mono)
    return Connection(session, Transport(KernelNamespace(), options.pool, shape), console, clock, private)


def new_client_id() -> int:
    """Return 63 random bits: the dealer tells its clients apart by them, those of earlier runs included."""
    return int.from_bytes(os.urandom(8), "big") >> 1


def resume_command(program: str, argv: Sequence[str], batch: str, template_words: int = 0) -> str:
    """Return the command that goes on with the batch which `program argv...` has begun, from any directory.

    It is one line that any POSIX shell turns into the same words, byte for byte; where there is none, a text for a
    person. `template_words`: how many of the last words are the command of the jobs, with its arguments.
    """
    subcommand, *words = argv
    # The command of the jobs has options of its own. Ours are found by their exact names: the parser takes no
    # abbreviations.
    end = len(words) - template_words if template_words else (words.index("--") if "--" in words else len(words))
    options, command = _with_absolute_paths(words[:end]), words[end:]
    if subcommand == "command":
        command = _with_absolute_inputs(command)
    if subcommand == "jobs" and options and not options[-1].startswith("-"):
        options[-1] = absolute(options[-1])  # FILE
    added = [] if _given("--batch", options) else ["--batch", batch]
    added += [] if "--resume" in options else ["--resume"]
    named = any(_given(option, options) for option in _DIRECTORY_OPTIONS)
    if subcommand == "command" and _given("--pool", options) and not named:
        added += ["--cwd", absolute(".")]  # a private pool has a note of it
    line = " ".join(map(_quoted, [_as_typed(program), subcommand, *added, *options, *command]))
    if len(line) > _COMMAND_CHARS_MAX or "\n" in line:
        return f"the same command with {' '.join(added) or 'the same options'} behind {subcommand!r}"
    return line


def how_to_resume(command: str, source: Source) -> str:
    """Say how a person goes on with a batch: by which command, and with which standard input."""
    if source.fd == STDIN or source.reads_stdin:
        path = os.path.realpath("/proc/self/fd/0")
        with suppress(OSError):  # it has lost its name
            if is_regular(STDIN) and os.path.samestat(os.stat(path), os.fstat(STDIN)):
                return f"To resume: {command} < {_quoted(path)}"
        return f"Its jobs came from standard input, which has to bring the same again. To resume: {command}"
    return f"To resume: {command}"


def _given(option: str, options: Sequence[str]) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in options)


def _with_absolute_paths(options: Sequence[str]) -> list[str]:
    found = list(options)
    for at, word in enumerate(found):
        name, equals, value = word.partition("=")
        if name in _PATH_OPTIONS and equals:
            found[at] = f"{name}={absolute(value)}"
        elif at and found[at - 1] in _PATH_OPTIONS:
            found[at] = absolute(word)
        elif len(name) > 2 and name.startswith("-a"):
            found[at] = f"-a{absolute(word[2:])}"
    return found


def _with_absolute_inputs(command: Sequence[str]) -> list[str]:
    """Return the words behind the options, where the files behind `::::` have paths that hold from any directory."""
    found, separator = list(command), ""
    for at, word in enumerate(found):
        if word in (":::", ":::+", "::::", "::::+"):
            separator = word
        elif separator.startswith("::::"):
            found[at] = absolute(word)
    return found


def absolute(path: str) -> str:
    """Return a path that means the same file from any directory, if it has one."""
    try:
        return path if path in _NO_PATHS else os.path.abspath(path)
    except OSError:  # the current directory is gone
        return path


def _quoted(word: str) -> str:
    """Quote a word for any POSIX shell. What a terminal does not show as it is becomes octal numbers for printf(1)."""
    # As UTF-8, which is what is printed, whatever the locale has made of the bytes.
    text = os.fsencode(word).decode(errors="surrogateescape")
    pieces: list[str] = []
    at = 0
    while at < len(text):
        shown = text[at].isprintable()
        end = next((end for end in range(at, len(text)) if text[end].isprintable() != shown), len(text))
        # Command substitution drops newlines at its end: the character behind them goes with them, if there is one.
        if text[end - 1] == "\n":
            end += 1
        run = text[at:end]
        if shown or run.endswith("\n"):
            pieces.append(shlex.quote(run))
        else:
            octal = "".join(f"\\{byte:03o}" for byte in run.encode(errors="surrogateescape"))
            pieces.append(f"\"$(printf '{octal}')\"")
        at = end
    return "".join(pieces) or "''"


def _as_typed(program: str) -> str:
    """Return the program's name alone, if a shell finds the same program by it; else its absolute path."""
    if os.sep not in program:  # a frozen program is told its name alone, when a shell has found it by that
        return program
    name = os.path.basename(program)
    found = shutil.which(name)  # by the name alone a shell may find another installation
    if found is not None and os.path.isabs(found) and os.path.realpath(found) == os.path.realpath(program):
        return name
    return absolute(program)


def _session_options(options: SubmitOptions, private: PrivateDealer | None) -> SessionOptions:
    """Return what the connection is about that holds the batch."""
    return SessionOptions(
        pool=options.pool or "" if private is None else private.pool,
        client=new_client_id(),
        pid=os.getpid(),
        batch=options.batch,
        limits=options.limits,
        detached=options.detach,
        wait_for_room=options.wait_for_room,
        timeouts=options.timeouts,
        private=private is not None,
        resume=options.resume,
    )


def _connect(parts: RunParts, options: SessionOptions, *, cursor: int = 0, collect_pages: bool = False) -> Connection:
    changed = structs.replace(options, cursor=cursor, collect_pages=collect_pages)
    return open_connection(changed, parts.console, parts.clock, parts.private)


def _open_printer(options: SubmitOptions, private_state: PrivateState | None) -> Printer:
    try:
        return Printer(
            options.batch,
            options.form,
            keep_order=options.keep_order,
            results=options.results,
            joblog=options.joblog,
            append=options.resume,
        )
    except UsageError:
        # Or the same command, corrected, would be told that its batch exists already.
        if private_state is not None and not private_state.resumed:
            private_state.remove(frozenset())
        raise


def _recall(parts: RunParts, options: SessionOptions) -> int:
    """Count the outcomes that an earlier run has acknowledged, which are not sent again; return the last's number.

    Raises DealerUnreachable, Interrupted, and UsageError when the pool has not kept them.
    """
    # As the client that will run the batch: from here on the dealer lets no other one have it, so it cannot change.
    connection = _connect(parts, options, collect_pages=True)
    queries = BatchQueries(connection, parts.clock, RaiseOnSignal(parts.wakeup))
    try:
        last = _count_acknowledged(parts, queries)
    except DealerEnded:
        queries.close(goodbye=False)
        return 0  # the run sees it too, and says how it ended
    except TaskpoolError:
        queries.close()
        raise
    queries.close(goodbye=False)
    return last


def _count_acknowledged(parts: RunParts, queries: BatchQueries) -> int:
    batch = parts.options.batch
    status = queries.batch(batch)
    if status is None or not status.accepted:
        parts.console.info(f"There is nothing to resume: batch {batch} begins")
        return 0
    last = 0
    # Those not acknowledged are sent again after the hello, and counted then.
    for outcome in queries.outcomes(batch, 0, status.acknowledged):
        parts.totals.add(outcome, earlier=True)
        parts.printer.recall(outcome)
        if parts.private is not None and parts.private.state.names_files:
            parts.printer.note_files(outcome)  # by the run that printed it
        last = outcome.no
    # A dealer without a journal forgets what is acknowledged.
    if last != status.acknowledged:
        raise UsageError(
            f"--resume: {status.acknowledged} outcomes of batch {batch!r} were told to an earlier run, and without a "
            "journal the pool does not keep what was told: how the whole batch ends cannot be known"
        )
    return last
