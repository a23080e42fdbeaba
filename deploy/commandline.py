"""The command lines of the programs as data, read from their parsers: man pages and completions are made from it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

from taskpool.dealer import cluster_cli as dealer_cluster
from taskpool.dealer import journal_cli as dealer_journal
from taskpool.dealer import options as dealer_options
from taskpool.generator.parser import build_parser


class Option(NamedTuple):
    """An option or an argument."""

    names: tuple[str, ...]  # () for an argument
    metavar: str  # "" for a flag
    help: str
    choices: tuple[str, ...]


class Command(NamedTuple):
    """A program, or a subcommand of one."""

    words: tuple[str, ...]  # ("tp-generator", "fib")
    summary: str
    epilog: str
    groups: tuple[tuple[str, tuple[Option, ...]], ...]  # by the help's headings
    subcommands: tuple[Command, ...]

    @property
    def options(self) -> tuple[Option, ...]:
        return tuple(option for _, options in self.groups for option in options)

    def walk(self) -> Iterator[Command]:
        """Itself and everything below."""
        yield self
        for command in self.subcommands:
            yield from command.walk()


def programs() -> tuple[Command, Command]:
    """The two that people type."""
    journal = _read(dealer_journal.build_parser(), ("tp-dealer", "journal"))  # a command line of its own
    cluster = _read(dealer_cluster.build_parser(), ("tp-dealer", "cluster"))  # likewise
    dealer = _read(dealer_options.build_parser(), ("tp-dealer",))._replace(subcommands=(journal, cluster))
    return _read(build_parser(), ("tp-generator",)), dealer


def _read(parser: argparse.ArgumentParser, words: tuple[str, ...], summary: str | None = None) -> Command:
    groups, subcommands = [], []
    for group in parser._action_groups:
        options = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                subcommands += _subcommands(action, words)
            elif action.help != argparse.SUPPRESS:
                options.append(_option(parser, action))
        if options:
            groups.append((str(group.title), tuple(options)))
    text = summary or (parser.description or "")
    return Command(words, text, parser.epilog or "", tuple(groups), tuple(subcommands))


def _subcommands(action: argparse._SubParsersAction[argparse.ArgumentParser], words: tuple[str, ...]) -> list[Command]:
    helps = {choice.dest: choice.help for choice in action._choices_actions}
    return [_read(parser, (*words, name), helps.get(name)) for name, parser in action.choices.items()]


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    choices = tuple(str(choice) for choice in action.choices or ())
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.nargs == 0:
        metavar = ""
    elif choices and action.metavar is None:
        metavar = "|".join(choices)
    formatter = parser._get_formatter()
    text = formatter._expand_help(action) if action.help else ""
    return Option(tuple(action.option_strings), metavar, text, choices)
