"""Help that fits a screen, and errors that say what was meant."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable, Iterator

import pytest

from taskpool.arguments import LINES_MAX, WIDTH, Parser
from taskpool.dealer import cluster_cli, journal_cli
from taskpool.dealer import options as dealer_options
from taskpool.generator.parser import build_parser
from taskpool.worker import main as worker

PROGRAMS: dict[str, Callable[[], Parser]] = {
    "tp-generator": build_parser,
    "tp-dealer journal": journal_cli.build_parser,
    "tp-dealer cluster": cluster_cli.build_parser,
    "tp-dealer": dealer_options.build_parser,
}


def parsers() -> Iterator[Parser]:
    waiting: list[Parser] = [build() for build in PROGRAMS.values()]
    while waiting:
        parser = waiting.pop()
        waiting += parser.subparsers().values()
        yield parser


ALL = {parser.prog: parser for parser in parsers()}


@pytest.mark.parametrize("name", sorted(ALL))
def test_help_fits_a_screen_and_has_three_examples(name: str) -> None:
    lines = ALL[name].format_brief().splitlines()
    assert len(lines) <= LINES_MAX
    assert max(map(len, lines)) <= WIDTH
    begin = lines.index("Examples:") + 1
    assert lines[begin + 3] == ""
    assert all(line.startswith("  ") for line in lines[begin : begin + 3])


def commands_of(example: str) -> list[list[str]]:
    """Return the command lines of our programs in a line for a shell."""
    lexer = shlex.shlex(example, posix=True, punctuation_chars="|&<>")
    lexer.whitespace_split = True
    words: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&"):
            words.append([])
        elif set(word) <= set("<>"):
            words.append(["file"])
        else:
            words[-1].append(word)
    found = [command for command in words if any(word.startswith("tp-") for word in command)]
    return [command[1:] if "=" in command[0] else command for command in found]


@pytest.mark.parametrize("name", sorted(ALL))
def test_examples_are_command_lines_that_parse(name: str) -> None:
    for example in ALL[name]._examples:
        (command,) = commands_of(example)
        program = " ".join(command[:2]) if command[1] in ("journal", "cluster") else command[0]
        assert " ".join(command).startswith(name)
        parser = PROGRAMS[program]()
        parser.parse_args(command[len(program.split()) :])


def test_all_options_are_in_the_full_help() -> None:
    for parser in parsers():
        text = parser.format_help()
        for action in parser._actions:
            assert all(option in text for option in action.option_strings)


def test_help_of_the_worker_fits_a_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tp-worker", "--help"])
    assert worker.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= LINES_MAX and max(map(len, lines)) <= WIDTH + 2
    assert sum(line.startswith("  tp-") for line in lines) == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("comand", "tp-generator: unknown subcommand 'comand'; did you mean command?"),
        ("xyzzy", "tp-generator: unknown subcommand 'xyzzy' ("),
        ("fib 5 --tiemout 4", "tp-generator fib: unknown option --tiemout; did you mean --timeout?"),
        ("fib 5 --tiemout=4", "tp-generator fib: unknown option --tiemout; did you mean --timeout?"),
        ("status --poll x", "tp-generator status: unknown option --poll; did you mean --pool?"),
        ("status --xyzzy", "tp-generator status: unknown option --xyzzy ("),
        ("quarantine lst", "tp-generator quarantine: unknown subcommand 'lst'; did you mean list?"),
        ("status more", "tp-generator status: unexpected argument 'more'"),
        ("fib --progress plan 5", "expected auto or bar or plain or json or none, got 'plan'; did you mean plain?"),
        ("-v doctor", "tp-generator: -v is an option of doctor, and comes behind it: tp-generator doctor -v ..."),
        ("--pool x status", "tp-generator: --pool is an option of status, and comes behind it"),
        ("--timeout=5s fib 5", "tp-generator: --timeout is an option of fib, and comes behind it"),
        ("quarantine --pool x list", "tp-generator quarantine: --pool is an option of list, and comes behind it"),
        ("--xyzzy fib 5", "tp-generator fib: unknown option --xyzzy ("),
        ("fib 5 --tag", "tp-generator fib: no option --tag here: command has it"),
        ("status --workers 3", "no option --workers here: fib, command, python, jobs and 3 others have it"),
        ("status --change x", "tp-generator status: unknown option --change ("),
        ("doctor --older-than 3d", "no option --older-than here: forget has it"),
        ("fib 5 --line-buffered", "--line-buffered is GNU parallel's and not supported here"),
        ("doctor -x", "tp-generator doctor: unknown option -x ("),
        ("", "tp-generator: the following arguments are required: SUBCOMMAND"),
    ],
)
def test_an_error_is_one_line_with_what_was_meant(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(words.split())
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "env", "coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colours_only_where_a_terminal_is(
    terminal: bool, env: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    assert ("\x1b" in out.getvalue()) is coloured
