"""What a person is told about a batch that is kept: which command goes on with it, or runs again what ended badly."""

from __future__ import annotations

import os
import shlex
import shutil
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from taskpool.generator.input.lines import is_regular
from taskpool.kinds.source import STDIN, Source
from taskpool.private.notes import Typed

_COMMAND_CHARS_MAX = 2048  # a longer one is no use on a terminal
_PATH_OPTIONS = frozenset(
    {
        "--cwd",
        "--wd",
        "--workdir",
        "--path",
        "--results",
        "--joblog",
        "--output-dir",
        "--journal",
        "--worker-exec",
        "--config",
        "-a",
        "--arg-file",
    }
)
_DIRECTORY_OPTIONS = ("--cwd", "--wd", "--workdir")
_NO_PATHS = ("none", "-", "")  # values of those that name no file


class Advice(NamedTuple):
    """What can be advised about one batch."""

    program: str  # as it was called
    batch: str
    pool: str | None  # None: a private one, which keeps the command that was typed
    command: str = ""  # the same command again, for a named pool
    output: tuple[str, ...] = ()  # the options of it that say where outcomes go
    stdin: str | None = None  # what standard input has to be again: " < FILE", or "" for a pipe; None: it is not read

    def to_resume(self, *, input_complete: bool) -> str:
        """Say how a person goes on with the batch. `input_complete`: the pool has all of its jobs."""
        if self.pool is not None and not input_complete:
            return _to_resume(self.command, self.stdin)
        pool = [] if self.pool is None else ["--pool", self.pool, *self.output]
        command = self._command("resume", *pool)
        # The file that was standard input is opened again by its name.
        return _to_resume(command, None if input_complete or self.stdin else self.stdin)

    def to_rerun(self) -> str:
        """Say how a person has all of its jobs that did not succeed run again."""
        pool = [] if self.pool is None else ["--pool", self.pool, *self.output]
        return f"To run again what did not succeed: {self._command('rerun', *pool)}"

    def _command(self, subcommand: str, *options: str) -> str:
        return " ".join(map(_quoted, [_as_typed(self.program), subcommand, *options, self.batch]))


def _to_resume(command: str, stdin: str | None) -> str:
    if stdin == "":
        return f"Its jobs came from standard input, which has to bring the same again. To resume: {command}"
    return f"To resume: {command}{stdin or ''}"


def stdin_again(source: Source) -> str | None:
    """Return what has to follow the command for standard input to bring the same jobs again; see `Advice.stdin`."""
    if not reads_stdin(source):
        return None
    path = name_of_stdin()
    return "" if path is None else f" < {_quoted(path)}"


def reads_stdin(source: Source) -> bool:
    """Whether jobs are made of standard input."""
    return source.fd == STDIN or source.reads_stdin


def name_of_stdin() -> str | None:
    """Return the regular file that standard input is, by a name that leads to it; None: there is none."""
    path = os.path.realpath("/proc/self/fd/0")
    with suppress(OSError):  # it has lost its name
        if is_regular(STDIN) and os.path.samestat(os.stat(path), os.fstat(STDIN)):
            return path
    return None


def typed_now(argv: Sequence[str], source: Source, settings: dict[str, str]) -> Typed:
    """Return what was typed, for `resume` to go on by."""
    path = name_of_stdin() if reads_stdin(source) else None
    offset = 0 if path is None else os.lseek(STDIN, 0, os.SEEK_CUR)
    return Typed(list(map(os.fsencode, argv)), None if path is None else os.fsencode(path), offset, settings)


def output_options(args: Namespace) -> tuple[str, ...]:
    """Return the options of a command line that say where outcomes go, for a command from any directory."""
    options = {"results": args.results, "joblog": args.joblog, "output-dir": args.output_dir}
    files = {name: absolute(value) for name, value in options.items() if value is not None}
    chosen = {"output": args.output, **files} if args.output is not None else files
    words = [f"--{name}={value}" for name, value in chosen.items()]
    return (*words, "--keep-order") if args.keep_order else tuple(words)


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
    added += [] if any(word.partition("=")[0] == "--resume" for word in options) else ["--resume"]
    named = any(_given(option, options) for option in _DIRECTORY_OPTIONS)
    if subcommand == "command" and _given("--pool", options) and not named:
        added += ["--cwd", absolute(".")]  # a private pool has a note of it
    line = " ".join(map(_quoted, [_as_typed(program), subcommand, *added, *options, *command]))
    if len(line) > _COMMAND_CHARS_MAX or "\n" in line:
        return f"the same command with {' '.join(added) or 'the same options'} behind {subcommand!r}"
    return line


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
