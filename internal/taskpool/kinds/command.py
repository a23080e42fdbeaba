"""command: any program, one process for each job."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from taskpool import limits
from taskpool.clock import seconds
from taskpool.errors import MessageError, UsageError
from taskpool.kinds.base import OWN_VARIABLES, Context, Job, Result
from taskpool.kinds.capture import CaptureFile, collect, lost
from taskpool.kinds.execute import CannotStart, Ended, Program, start, wait, when_possible
from taskpool.kinds.template import SLOT, Template, shell_quote
from taskpool.messages import End, JobError, Part
from taskpool.procs.environment import scrubbed
from taskpool.procs.process_tree import kill_descendants

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from taskpool.kinds.fields import Fields

NAME = "command"
SUMMARY = "any program, once for each argument"
IN_PROCESS = False
RUNS_USER_CODE = False

_SHELL = (b"/bin/sh", b"-c")
_SHOWN_CHARS_MAX = 60


class _Payload(Part, frozen=True):
    argv: Annotated[tuple[bytes, ...], Meta(min_length=1)]  # SLOT stands for the slot's number
    cwd: bytes | None = None  # absolute
    env: dict[bytes, bytes] = {}  # on top of the worker's environment
    stdin: bytes | None = None
    shell: bool = False  # argv is one line for sh


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Payload)


def notes() -> list[str]:
    return []


# --- at the door ----------------------------------------------------------------------------------


def parse(job: dict[str, object], where: str) -> bytes:
    from taskpool.kinds.fields import Fields, argument, arguments, boolean, text

    fields = Fields(job, where)
    argv = fields.required("argv", "a list of one or more texts without NUL", lambda value: arguments(value) or None)
    if argv[0] == b"":
        fields.refuse("argv", "the name of a program first", "")
    cwd = fields.optional("cwd", "the path of a directory", lambda value: argument(value) or None)
    env = _read_env(fields)
    stdin = fields.optional("stdin", "text", text)
    shell = fields.optional("shell", "true or false", boolean) or False
    fields.done()
    if shell:
        argv = [b" ".join(argv)]
    payload = _Payload(tuple(argv), _absolute(cwd), env, None if stdin is None else stdin.encode(), shell)
    return _encode(payload)


def check(payload: bytes) -> None:
    job = _decode(payload)
    if not job.argv[0] or (job.shell and len(job.argv) != 1):
        raise MessageError("command: argv must begin with a program, or be one line for the shell")
    if job.cwd is not None and (not job.cwd.startswith(b"/") or b"\0" in job.cwd):
        raise MessageError(f"command: cwd must be an absolute path, got {job.cwd!r}")
    for name, value in job.env.items():
        if wrong := _wrong_variable(name, value):
            raise MessageError(f"command: env: {wrong}")


def _decode(payload: bytes) -> _Payload:
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MessageError(f"command: {error}") from None


def _read_env(fields: Fields) -> dict[bytes, bytes]:
    from taskpool.kinds.fields import argument

    def read(value: object) -> dict[bytes, bytes] | None:
        if not isinstance(value, dict):
            return None
        pairs = [(argument(name), argument(text)) for name, text in value.items()]
        env = {name: text for name, text in pairs if name is not None and text is not None}
        return env if len(env) == len(pairs) else None

    env = fields.optional("env", "an object of names and texts without NUL", read) or {}
    for name, value in env.items():
        if wrong := _wrong_variable(name, value):
            fields.refuse("env", wrong, os.fsdecode(name))
    return env


def _wrong_variable(name: bytes, value: bytes) -> str | None:
    """What is wrong with a variable; None: nothing."""
    if not name or b"=" in name or b"\0" in name or b"\0" in value:
        return "names that are not empty and hold neither = nor NUL, and values without NUL"
    if os.fsdecode(name) in OWN_VARIABLES:
        return "only names that the pool does not set itself"
    return None


def _absolute(directory: bytes | None) -> bytes:
    """A job runs where its submitter stands, unless told otherwise."""
    if directory is not None and os.path.isabs(directory):
        return directory
    try:
        here = os.getcwdb()
    except FileNotFoundError:
        raise UsageError("the current directory is gone: cd elsewhere, or give --cwd an absolute path") from None
    return here if directory is None else os.path.join(here, directory)


# --- for people -----------------------------------------------------------------------------------


def describe(payload: bytes) -> str:
    line = _line(_decode(payload)).decode("utf-8", "backslashreplace")
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line[:_SHOWN_CHARS_MAX])
    return f"command({shown}{'...' if len(line) > _SHOWN_CHARS_MAX else ''})"


def command_line(payload: bytes) -> str:
    """Bytes that are not UTF-8 travel as surrogates (PEP 383): write it with errors="surrogateescape"."""
    return os.fsdecode(_line(_decode(payload)))


def _line(job: _Payload) -> bytes:
    line = job.argv[0] if job.shell else b" ".join(map(shell_quote, job.argv))
    return line.replace(SLOT, b"{%}")


def affinity(payload: bytes) -> str:
    return ""


# --- in the worker --------------------------------------------------------------------------------


def run(payload: bytes, context: Context) -> Result:
    """Runs the program, ends what it leaves behind, and reports. Raises OSError when the spool takes no file."""
    program = _program(_decode(payload), context)
    until_ns = _patience_ns(context)

    def capture() -> CaptureFile:
        return CaptureFile(context.spool)

    try:
        with when_possible(capture, until_ns) as stdout, when_possible(capture, until_ns) as stderr:
            pid = when_possible(lambda: start(program, stdout.fd, stderr.fd), until_ns)
            return _see_through(pid, context, stdout.fd, stderr.fd)
    except CannotStart as error:
        return Result(End.FAILED, exit_status=error.exit_status, error=JobError("CannotStart", str(error)))


def _patience_ns(context: Context) -> int:
    """Until when the machine's trouble is waited out before the program has begun."""
    until_ns = context.started_ns + limits.SHORTAGE_NS_MAX
    return until_ns if context.deadline_ns is None else min(until_ns, context.deadline_ns)


def _see_through(pid: int, context: Context, stdout_fd: int, stderr_fd: int) -> Result:
    ended = wait(pid, context.deadline_ns)
    kill_descendants()  # before the output is read: it must not grow any more
    try:
        output = collect(context, stdout_fd, stderr_fd)
    except OSError as error:  # no room for it, say: what the program did, it did
        output = lost(error)
    return Result(
        _judge(ended),
        exit_status=ended.exit_status,
        signal=ended.signal,
        error=_timed_out(context, ended) if ended.timed_out else None,
        output=output,
        cpu_ns=ended.cpu_ns,
        max_rss_bytes=ended.max_rss_bytes,
    )


def _program(job: _Payload, context: Context) -> Program:
    slot = b"%d" % (context.slot + 1)
    argv = [word.replace(SLOT, slot) for word in job.argv]
    environment = scrubbed(os.environ)
    environment.update((os.fsdecode(name), os.fsdecode(value)) for name, value in job.env.items())
    environment.update(context.environment())
    return Program([*_SHELL, *argv] if job.shell else argv, job.cwd, environment, job.stdin)


def _judge(ended: Ended) -> End:
    if ended.timed_out:
        return End.TIMED_OUT
    if ended.signal is not None:
        return End.CRASHED
    return End.SUCCEEDED if ended.exit_status == 0 else End.FAILED


def _timed_out(context: Context, ended: Ended) -> JobError:
    limit = f"{seconds(context.timeout_ns):g} s"
    if ended.signal is None:
        how = f"exited with {ended.exit_status} when told to end"
    else:
        how = f"was ended by {signal.Signals(ended.signal).name}"
    return JobError("TimedOut", f"still running after its time-out of {limit}; {how}")


# --- the command line -----------------------------------------------------------------------------


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--shell", action="store_true", help="run a line of sh(1); arguments are quoted into it")
    parser.add_argument("--cwd", metavar="DIR", help="run in DIR instead of here")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable; repeatable")
    parser.add_argument(
        "template",
        nargs="...",  # argparse.REMAINDER: whatever follows is the command's, options included
        metavar="-- TEMPLATE... [::: ARG...]",
        help="the program and its arguments, where {} {.} {/} {//} {/.} {#} {%%} are replaced as by GNU parallel; "
        "without ::: there is one argument on each line of standard input",
    )


def jobs(args: Namespace, lines: Iterator[bytes] | None) -> Iterator[Job]:
    words, operands = _split([os.fsencode(word) for word in args.template])
    if not words and not args.shell:
        raise UsageError("command: expected a program behind --, got nothing")
    cwd = _absolute(os.fsencode(args.cwd) if args.cwd else None)
    env = _variables([os.fsencode(variable) for variable in args.env])
    template = Template(words, shell=args.shell)
    arguments = lines if operands is None else iter(operands)
    if arguments is None:
        raise UsageError("command: expected arguments behind ::: or one on each line of standard input, got neither")
    for number, argument in enumerate(arguments, start=1):
        if b"\0" in argument:
            raise UsageError(f"command: argument {number} holds a NUL byte, which no program takes: {argument!r}")
        argv = template.render(argument, number)
        if not argv[0]:
            raise UsageError(f"command: argument {number} makes the name of the program empty")
        yield Job(_encode(_Payload(tuple(argv), cwd, env, None, args.shell)))


def _split(words: list[bytes]) -> tuple[list[bytes], list[bytes] | None]:
    """Template and arguments, which are None without a `:::`."""
    if words[:1] == [b"--"]:
        del words[0]
    for word in words:
        if word in (b":::+", b"::::", b"::::+"):
            raise UsageError(f"command: {word.decode()} is not supported; give the arguments behind one :::")
    if b":::" not in words:
        return words, None
    at = words.index(b":::")
    if b":::" in words[at + 1 :]:
        raise UsageError("command: a second ::: is not supported; give the arguments behind one :::")
    return words[:at], words[at + 1 :]


def _variables(pairs: list[bytes]) -> dict[bytes, bytes]:
    env = {}
    for pair in pairs:
        name, equals, value = pair.partition(b"=")
        wrong = _wrong_variable(name, value) if equals else "NAME=VALUE"
        if wrong:
            raise UsageError(f"--env: expected {wrong}, got {os.fsdecode(pair)!r}")
        env[name] = value
    return env
