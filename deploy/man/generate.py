"""Man pages from the programs' own parsers, so that they cannot drift: `python deploy/man/generate.py FOLDER TIME`,
where TIME is the date they bear, in seconds since 1970.

Run with deploy/ and internal/ on PYTHONPATH, or taskpool installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from commandline import Command, Option, programs

import taskpool
from taskpool.errors import ExitCode

SUMMARIES = {
    "tp-generator": "submit jobs to a crash-proof pool, and command a running one",
    "tp-dealer": "run a crash-proof job pool",
    "tp-worker": "run the jobs of a tp-dealer",
}
EXIT_STATUS = {
    ExitCode.OK: "All jobs succeeded.",
    ExitCode.JOBS_FAILED: "Some jobs failed, timed out or were cancelled.",
    ExitCode.USAGE: "The command line or the input is wrong.",
    ExitCode.ENVIRONMENT: "This machine's limits, permissions or configuration.",
    ExitCode.UNREACHABLE: "No dealer, the dealer was lost, or the pool is in use.",
    ExitCode.HALTED: "Stopped by --halt, because jobs failed or went into quarantine.",
    ExitCode.QUARANTINED: "Some jobs are in quarantine.",
    ExitCode.REFUSED: "Refused: the pool is full, or draining.",
    ExitCode.WAIT_TIMED_OUT: "A wait timed out.",
    ExitCode.INTERRUPTED: "Interrupted (SIGINT).",
    ExitCode.TERMINATED: "Terminated (SIGTERM).",
}
EXAMPLES = {
    "tp-generator": (
        "tp-generator fib 20-30",
        "tp-generator command -- sha256sum ::: *.md",
        "seq 5 | sed 's/.*/[&]/' | tp-generator python math:factorial",
        "tp-generator command --timeout 1s --retries 2 -- sleep ::: 5",
        "tp-generator fib 30 --pool night",
    ),
    "tp-dealer": (
        "tp-dealer --pool night --workers 4",
        "tp-dealer --pool night --health",
        "tp-dealer journal check --pool night",
    ),
}
FILES = (
    (
        "taskpool.toml, $XDG_CONFIG_HOME/taskpool/taskpool.toml, ~/.config/taskpool/taskpool.toml",
        "settings of tp-generator: of the project, here or in a directory above, and of the user",
    ),
    ("/etc/taskpool/NAME.env", "environment of the service tp-dealer@NAME.service (of the package)"),
    ("$STATE_DIRECTORY, $XDG_STATE_HOME/taskpool, ~/.local/state/taskpool", "where a pool keeps its state"),
)


def page(command: Command, stamp: int) -> str:
    """A program's whole page."""
    name = command.words[0]
    lines = [*_head(name, stamp), ".SH SYNOPSIS"]
    itself = () if name == "tp-generator" else (command._replace(subcommands=()),)  # which does nothing by itself
    for number, part in enumerate((*itself, *command.subcommands)):
        lines += [".br"] if number else []
        lines += [f".B {_escape(' '.join(part.words))}", f'.RI "{_escape(_arguments(part))}"']
    lines += [".SH DESCRIPTION", _escape(command.summary), ".SH OPTIONS", *_options(command)]
    if command.subcommands:
        lines += [".SH SUBCOMMANDS", *(line for part in command.subcommands for line in _subcommand(part))]
    if command.epilog:
        lines += [".SH NOTES", _escape(command.epilog)]
    lines += [".SH EXIT STATUS"]
    for code, text in sorted(EXIT_STATUS.items()):
        lines += [".TP", f".B {code.value}", _escape(text)]
    lines += [".SH FILES"]
    for path, text in FILES:
        lines += [".TP", f".I {_escape(path)}", _escape(text)]
    lines += [".SH EXAMPLES", ".nf", *(_escape(line) for line in EXAMPLES[name]), ".fi"]
    others = [other for other in SUMMARIES if other != name]
    lines += [".SH SEE ALSO", ",\n".join(f".BR {_escape(other)} (1)" for other in others)]
    return _joined(lines)


def worker_page(stamp: int) -> str:
    """Return the page of tp-worker, which is started by the dealer and not by people."""
    text = (
        "is started by tp-dealer, not by people. To run jobs, see tp-generator(1). A virtual environment that has "
        "taskpool installed brings a tp-worker of its own, whose python jobs find that environment's modules: name it "
        "with --worker-exec."
    )
    lines = [*_head("tp-worker", stamp), ".SH SYNOPSIS", ".B tp\\-worker", ".RB [ \\-\\-version ]"]
    lines += [".SH DESCRIPTION", ".B tp\\-worker", _escape(text), ".SH EXIT STATUS"]
    lines += [".TP", ".B 3", "Before it was ready: it cannot work on this machine."]
    lines += [".TP", ".B 4", "Before it was ready: a kind of job cannot be loaded."]
    lines += [".SH SEE ALSO", ".BR tp\\-dealer (1),", ".BR tp\\-generator (1)"]
    return _joined(lines)


def write_all(folder: Path, stamp: int) -> list[Path]:
    """Every page, in a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {command.words[0]: page(command, stamp) for command in programs()}
    pages["tp-worker"] = worker_page(stamp)
    paths = []
    for name, text in pages.items():
        path = folder / f"{name}.1"
        path.write_text(text)
        paths.append(path)
    return paths


def _head(name: str, stamp: int) -> Iterator[str]:
    day = datetime.fromtimestamp(stamp, UTC).date().isoformat()
    yield f'.TH {name.upper()} 1 {day} "taskpool {taskpool.__version__}" "taskpool"'
    yield from (".SH NAME", f"{_escape(name)} \\- {_escape(SUMMARIES[name])}")


def _subcommand(command: Command) -> Iterator[str]:
    yield f'.SS "{_escape(" ".join(command.words[1:]))} {_escape(_arguments(command)).replace(chr(34), "")}"'
    yield _escape(_sentence(command.summary))
    yield from _options(command)
    if command.epilog:
        yield from (".PP", _escape(command.epilog))
    for part in command.subcommands:
        yield from _subcommand(part)


def _options(command: Command) -> Iterator[str]:
    for option in command.options:
        if option.names or option.help:
            yield ".TP"
            yield _term(option)
            yield _escape(_sentence(option.help)) or "\\&"


def _term(option: Option) -> str:
    if not option.names:
        return f".I {_escape(option.metavar)}"
    words = [f"\\fB{_escape(name)}\\fR" for name in option.names]
    return ", ".join(words) + (f" \\fI{_escape(option.metavar)}\\fR" if option.metavar else "")


def _arguments(command: Command) -> str:
    words = ["[OPTIONS]"] if any(option.names for option in command.options) else []
    words += [option.metavar for option in command.options if not option.names]
    if command.subcommands:
        words.append("|".join(part.words[-1] for part in command.subcommands))
    return " ".join(words)


def _sentence(text: str) -> str:
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _escape(text: str) -> str:
    """As roff wants it: hyphens that can be copied, no line that begins with a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", " ".join(text.split()))


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write("".join(f"{path}\n" for path in write_all(Path(sys.argv[1]), int(sys.argv[2]))))
