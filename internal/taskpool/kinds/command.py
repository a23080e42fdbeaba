"""command: any program, one process for each job."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from taskpool import limits
from taskpool.certificate import OUT_OF_MEMORY
from taskpool.clock import AwakeClock, SystemClock, seconds
from taskpool.errors import MessageError, UsageError
from taskpool.kinds.base import OWN_VARIABLES, Argument, Context, Result, Text, TypedKind, wrong_value
from taskpool.kinds.capture import Streams, await_spool, lost
from taskpool.kinds.execute import Bounds, CannotStart, Ended, Program, start, wait, when_possible
from taskpool.kinds.source import Source
from taskpool.kinds.template import SLOT, shell_quote
from taskpool.log import excerpt
from taskpool.messages import End, JobError, JobSpec, Part
from taskpool.procs import oom
from taskpool.procs.process_tree import kill_descendants
from taskpool.procs.spawn import scrubbed
from taskpool.sizes import human_size

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from taskpool.kinds.parallel.language import Rendered

_TERM_SEQUENCE = ((int(signal.SIGTERM), limits.TERM_GRACE_NS),)
_SHELL = (b"/bin/sh", b"-c")
_SHOWN_CHARS_MAX = 60


class CommandJob(Struct, frozen=True, forbid_unknown_fields=True):
    """One run of a program."""

    argv: Annotated[
        list[Argument],
        Meta(
            min_length=1,
            description="The program and its arguments, without a shell; with `shell`, words to join to one line.",
            examples=[["sha256sum", "a file"]],
            extra={"expected": "a list of one or more texts without NUL"},
            extra_json_schema={"not": {"prefixItems": [{"const": ""}]}},
        ),
    ]
    cwd: Annotated[
        Annotated[Argument, Meta(min_length=1)] | None,
        Meta(
            description="The directory to run in, relative to where the job is submitted; null: just there.",
            examples=["/srv/data"],
            extra={"expected": "the path of a directory"},
        ),
    ] = None
    env: Annotated[
        dict[Argument, Argument] | None,
        Meta(
            description="Variables to set on top of the pool's environment.",
            examples=[{"LANG": "C"}],
            extra={"expected": "an object of names and texts without NUL"},
            # Exactly what _wrong_variable refuses: execve(2) takes texts of the form NAME=VALUE.
            extra_json_schema={
                "propertyNames": {"minLength": 1, "pattern": "^[^=]*$", "not": {"enum": sorted(OWN_VARIABLES)}}
            },
        ),
    ] = None
    stdin: Annotated[
        Text | None,
        Meta(
            description="What the program reads from its standard input; null: nothing.",
            examples=["one line\n"],
            extra={"expected": "text"},
        ),
    ] = None
    shell: Annotated[
        bool | None, Meta(description="Whether `argv` is a line for sh(1).", extra={"expected": "true or false"})
    ] = None


class Payload(Part, frozen=True):
    """The same in bytes, with what depends on the submitter's place resolved."""

    argv: Annotated[tuple[bytes, ...], Meta(min_length=1)]  # SLOT stands for the slot's number
    cwd: bytes | None = None  # absolute
    env: dict[bytes, bytes] = {}  # on top of the worker's environment
    stdin: bytes | None = None
    shell: bool = False  # argv is one line for sh


class Command(TypedKind[CommandJob, Payload]):
    """Programs are processes of their own, so that whatever they do costs the worker nothing."""

    name = "command"
    summary = "any program, once for each argument"
    in_process = False
    runs_user_code = False
    object_type = CommandJob
    payload_type = Payload

    # Making and checking payloads

    def to_payload(self, job: CommandJob) -> Payload:
        argv = [word.encode() for word in job.argv]
        if not argv[0]:
            raise wrong_value("argv", "the name of a program first", "")
        env = {name.encode(): value.encode() for name, value in (job.env or {}).items()}
        for name, value in env.items():
            if wrong := _wrong_variable(name, value):
                raise wrong_value("env", wrong, os.fsdecode(name))
        return Payload(
            (b" ".join(argv),) if job.shell else tuple(argv),
            _absolute(None if job.cwd is None else job.cwd.encode()),
            env,
            None if job.stdin is None else job.stdin.encode(),
            bool(job.shell),
        )

    def check(self, payload: bytes) -> None:
        job = self.decode(payload)
        if not job.argv[0] or (job.shell and len(job.argv) != 1):
            raise MessageError("command: argv must begin with a program, or be one line for the shell")
        if job.cwd is not None and (not job.cwd.startswith(b"/") or b"\0" in job.cwd):
            raise MessageError(f"command: cwd must be an absolute path, got {job.cwd!r}")
        for name, value in job.env.items():
            if wrong := _wrong_variable(name, value):
                raise MessageError(f"command: env: expected {wrong}, got {name!r}")

    # Words for people

    def command_line(self, payload: bytes) -> str:
        """Bytes that are not UTF-8 travel as surrogates (PEP 383): write it with errors="surrogateescape"."""
        return os.fsdecode(_line(self.decode(payload)))

    def describe(self, payload: bytes) -> str:
        # A program's arguments may hold anything: control characters would act on a terminal that shows the log.
        line = _line(self.decode(payload)).decode("utf-8", "backslashreplace")
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line[:_SHOWN_CHARS_MAX])
        return f"command({shown}{'...' if len(line) > _SHOWN_CHARS_MAX else ''})"

    def title(self, payload: bytes) -> str:
        """Give the command line, as a shell takes it."""
        job = self.decode(payload)
        # Each word adds at least two bytes, so no more of them are seen, nor of one of them. Megabytes are not quoted.
        most = limits.JOB_TEXT_BYTES_MAX + 1
        seen = Payload(tuple(word[:most] for word in job.argv[:most]), shell=job.shell)
        return excerpt(_line(seen).decode("utf-8", "backslashreplace"), limits.JOB_TEXT_BYTES_MAX)

    # In the worker

    def run(self, payload: bytes, context: Context) -> Result:
        """Run the program, end what it leaves behind, and report.

        Raises OSError when the machine under it fails, WorkerUnfit when only another worker can start it.
        """
        program = _program(self.decode(payload), context)
        context = await_spool(context)
        until_ns = _patience_ns(context)
        clock = AwakeClock(SystemClock())

        try:
            with when_possible(lambda: Streams(context.spool, clock), until_ns, clock, context.lowered) as streams:
                pid = when_possible(lambda: start(program, streams), until_ns, clock, context.lowered)
                return _see_through(pid, context, streams)
        except CannotStart as error:
            return Result(End.FAILED, exit_status=error.exit_status, error=JobError("CannotStart", str(error)))

    # On the command line

    def add_arguments(self, parser: ArgumentParser) -> None:
        from taskpool.kinds.parallel.options import add_arguments

        shell = parser.add_mutually_exclusive_group()
        shell.add_argument(
            "--shell", action="store_true", default=None, help="run a line of sh(1); arguments are quoted"
        )
        shell.add_argument(
            "--no-shell", action="store_false", dest="shell", default=None, help="what looks like such a line is none"
        )
        parser.add_argument("--cwd", "--wd", "--workdir", metavar="DIR", help="run in DIR instead of here")
        parser.add_argument(
            "--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable; repeatable"
        )
        add_arguments(parser)
        parser.add_argument(
            "template",
            nargs="...",  # argparse.REMAINDER: all that follows is the command's, options included
            metavar="-- TEMPLATE... [::: ARG...]",
            help="the program and its arguments, where {} {.} {/} {//} {/.} {#} {%%} {1} {2.} {-1} ... are replaced as "
            "by GNU parallel; more ::: are combined, :::+ goes in step with the one before, :::: and ::::+ read FILES; "
            "without any there is one argument on each line of standard input",
        )

    def source(self, args: Namespace) -> Source:
        from taskpool.kinds.parallel.language import Language

        language = Language(args)
        cwd = _absolute(os.fsencode(args.cwd) if args.cwd else None)
        env = _variables([os.fsencode(variable) for variable in args.env])
        base = Payload((b"",), cwd, env, None, bool(args.shell))

        def make_jobs(lines: Iterator[bytes]) -> Iterator[JobSpec | None]:
            for rendered in language.render(lines):
                yield None if rendered is None else self._spec(base, rendered)

        fd, name = language.open()
        return Source(
            make_jobs,
            fd,
            name,
            delimiter=language.delimiter,
            expands=True,
            multiplies=language.cutter is not None,  # what is cut may be far larger than any list of jobs
            cutter=language.cutter,
            reads_stdin=language.reads_stdin,
        )

    def _spec(self, base: Payload, rendered: Rendered) -> JobSpec:
        words = rendered.words
        if not words or not words[0]:
            raise UsageError(f"command: argument {rendered.number} makes the name of the program empty")
        payload = Payload(tuple(words), base.cwd, base.env, rendered.stdin, base.shell)
        return JobSpec(self.name, self.encode(payload), label=rendered.label)

    def jobs(self, args: Namespace, lines: Iterator[bytes]) -> Iterator[bytes]:
        return (job.payload for job in self.source(args).make_jobs(lines) if job is not None)


def _variables(pairs: list[bytes]) -> dict[bytes, bytes]:
    env = {}
    for pair in pairs:
        name, equals, value = pair.partition(b"=")
        wrong = _wrong_variable(name, value) if equals else "NAME=VALUE"
        if wrong:
            raise UsageError(f"--env: expected {wrong}, got {os.fsdecode(pair)!r}")
        env[name] = value
    return env


def _wrong_variable(name: bytes, value: bytes) -> str | None:
    """Say what would be right for a variable; None: it is."""
    if not name or b"=" in name or b"\0" in name or b"\0" in value:
        return "names that are not empty and hold neither = nor NUL, and values without NUL"
    if os.fsdecode(name) in OWN_VARIABLES:
        return "only names that the pool does not set itself"
    return None


def _absolute(directory: bytes | None) -> bytes:
    """Resolve the directory now: a worker stands elsewhere. None: where the submitter stands."""
    if directory is not None and os.path.isabs(directory):
        return directory
    try:
        here = os.getcwdb()
    except FileNotFoundError:
        raise UsageError("the current directory is gone: cd elsewhere, or give --cwd an absolute path") from None
    return here if directory is None else os.path.join(here, directory)


def _line(job: Payload) -> bytes:
    line = job.argv[0] if job.shell else b" ".join(map(shell_quote, job.argv))
    return line.replace(SLOT, b"{%}")


# --- in the worker --------------------------------------------------------------------------------


def _program(job: Payload, context: Context) -> Program:
    slot = b"%d" % (context.slot + 1)
    argv = [word.replace(SLOT, slot) for word in job.argv]
    environment = scrubbed(os.environ)
    environment.update((os.fsdecode(name), os.fsdecode(value)) for name, value in job.env.items())
    environment.update(context.environment())  # last, so that no job can claim to be another
    return Program([*_SHELL, *argv] if job.shell else argv, job.cwd, environment, job.stdin)


def _patience_ns(context: Context) -> int:
    """Until when to wait for processes, memory and files that the machine lacks before the program has begun."""
    until_ns = context.started_ns + limits.SHORTAGE_NS_MAX
    return until_ns if context.deadline_ns is None else min(until_ns, context.deadline_ns)


def _see_through(pid: int, context: Context, streams: Streams) -> Result:
    kills = oom.kills()
    wanted = context.limits
    sequence = wanted.term_sequence or _TERM_SEQUENCE
    bounds = Bounds(context.deadline_ns, wanted.memory_bytes, sequence, context.interruptible)
    ended = wait(pid, bounds, streams)
    kill_descendants()  # before the output is read: it must not grow any more
    try:
        output = streams.collect(context)
    except OSError as error:  # a full disk, say: that does not change how the program ended
        output = lost(error)
    return Result(
        _end_of(ended),
        exit_status=ended.child.status,
        signal=ended.child.signal,
        error=_cut_short(context, ended),
        output=output,
        cpu_ns=ended.child.cpu_ns,
        max_rss_bytes=ended.child.max_rss_bytes,
        core_dumped=ended.child.core_dumped,
        out_of_memory=oom.since(kills) if ended.child.signal == signal.SIGKILL else None,
    )


def _end_of(ended: Ended) -> End:
    # The time-out first: SIGTERM at its end is ours, and a program that handles it may exit with 0.
    if ended.timed_out:
        return End.TIMED_OUT
    if ended.cancelled:
        return End.LOST  # it has not happened: the dealer says that it is cancelled
    if ended.held_bytes:
        return End.FAILED  # by a limit that its owner has set: no crash, although it was killed
    if ended.child.signal is not None:
        return End.CRASHED
    return End.SUCCEEDED if ended.child.status == 0 else End.FAILED


def _cut_short(context: Context, ended: Ended) -> JobError | None:
    if ended.held_bytes:
        limit = human_size(context.limits.memory_bytes)
        text = f"held {human_size(ended.held_bytes)} of memory, more than its limit of {limit}, and was killed"
        return JobError(OUT_OF_MEMORY, text)
    return _timed_out(context, ended) if ended.timed_out else None


def _timed_out(context: Context, ended: Ended) -> JobError:
    limit = f"{seconds(context.limits.timeout_ns):g} s"
    if ended.child.signal is None:
        how = f"exited with {ended.child.status} when told to end"
    else:
        how = f"was ended by {signal.Signals(ended.child.signal).name}"
    return JobError("TimedOut", f"still running after its time-out of {limit}; {how}")


COMMAND = Command()
