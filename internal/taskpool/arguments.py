"""A parser of command lines whose help fits a screen, and whose errors name what was meant.

`--help` shows what most people need: examples, and the options that are used most. `--help-all` shows all there is.
"""

from __future__ import annotations

import os
import sys
from argparse import (
    REMAINDER,
    Action,
    ArgumentError,
    ArgumentParser,
    Namespace,
    _SubParsersAction,
)
from collections.abc import Collection, Iterator, Mapping, Sequence
from textwrap import shorten, wrap
from typing import Any, NoReturn

# What a terminal shows unless it was resized. Of longer help only the end would be seen.
WIDTH = 80
LINES_MAX = 24
_TERM_WIDTH = 30
_ALIKE = 0.7  # how near two names are of which one may be meant by the other (difflib: 0 to 1)
_GROUP_WIDTH = 18
_SHOWN_MAX = 4  # subcommands that are named to have an option


class Parser(ArgumentParser):
    """Parses as ArgumentParser does, without abbreviations: an option added later must not change what they mean."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False, "add_help": False})
        self._examples: Sequence[str] = ()
        self._brief: Collection[str] = ()
        self._groups: Mapping[str, Sequence[str]] = {}
        self.add_argument("-h", "--help", action=_ShowHelp, nargs=0, help="show examples and the options used most")
        self.add_argument("--help-all", action=_ShowHelp, nargs=0, help="show all options")

    def describe(
        self,
        examples: Mapping[str, Sequence[str]],
        brief: Collection[str],
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Set what `--help` shows: examples by the words before them, options, and subcommands by their headings."""
        self._examples = examples.get(self.prog, ())
        self._brief, self._groups = brief, groups or {}
        for parser in self.subparsers().values():
            parser.describe(examples, brief)

    def subparsers(self) -> dict[str, Parser]:
        """Return the parsers of the subcommands by name."""
        found = (action.choices for action in self._actions if isinstance(action, _SubParsersAction))
        return dict(next(found, {}))

    # --- help -------------------------------------------------------------------------------------

    def format_brief(self, *, bold: bool = False) -> str:
        """Return help of at most LINES_MAX lines."""
        head = self.format_heading_line(bold=bold)
        lines = [*head, "", *wrap(_sentence(self.description or ""), WIDTH)]
        if self._examples:
            lines += ["", _heading("Examples:", bold=bold), *(f"  {example}" for example in self._examples)]
        if known := self.subparsers():
            lines += ["", _heading("Subcommands:", bold=bold), *self._subcommand_lines(known)]
        end = ["", f"All options: {self.prog} --help-all"]
        if known:
            end = ["", f"More of one: {self.prog} NAME --help"]
        if not known:
            room = LINES_MAX - len(lines) - len(end) - 2
            lines += ["", _heading("Options:", bold=bold), *list(self._option_lines(room))]
        return "\n".join([*lines, *end]) + "\n"

    def format_heading_line(self, *, bold: bool) -> list[str]:
        """Return how it is called, in one line or two."""
        words = [word for action in self._actions if (word := _usage_word(action))]
        return wrap(f"{_heading('Usage:', bold=bold)} {self.prog} [OPTIONS] {' '.join(words)}".rstrip(), WIDTH)

    def _subcommand_lines(self, known: Mapping[str, Parser]) -> Iterator[str]:
        if not self._groups:
            for name, parser in known.items():
                yield _row(name, parser.description or "", _GROUP_WIDTH)
            return
        grouped = {name for names in self._groups.values() for name in names}
        others = [name for name in known if name not in grouped]
        for title, names in [*self._groups.items(), *([("others", others)] if others else [])]:
            yield _row(title, ", ".join(name for name in names if name in known), _GROUP_WIDTH)

    def _option_lines(self, most: int) -> Iterator[str]:
        options = [action for action in self._actions if not isinstance(action, _ShowHelp) and action.help]
        options.sort(key=lambda action: bool(action.option_strings))
        if len(options) > most:
            options = [each for each in options if not each.option_strings or set(each.option_strings) & {*self._brief}]
        for action in options[:most]:
            yield _row(_term(action), self._get_formatter()._expand_help(action), _TERM_WIDTH)

    # --- errors -----------------------------------------------------------------------------------

    def parse_args(self, args: Any = None, namespace: Any = None) -> Namespace:  # type: ignore[override]
        """Parse a command line. Exits with code 2 when it is wrong, and says how it may be meant."""
        parsed: Namespace
        words = sys.argv[1:] if args is None else list(args)
        self._refuse_early_option(words)
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # argparse hands these words up to the main parser, which knows none of the subcommand's options.
            leaf = self._leaf(parsed)
            leaf.error(self.advice(unknown, leaf))
        return parsed

    def _refuse_early_option(self, words: Sequence[str]) -> None:
        """Exit when an option stands before the subcommand that has it. argparse would take its value for the name of
        the subcommand, or say that it is unknown and, in the same breath, that it may be meant."""
        parser, option = self, ""
        for word in words:
            known = parser.subparsers()
            if word in known and not option:
                parser = known[word]
            elif not option and word.startswith("-") and word.partition("=")[0] not in parser._option_string_actions:
                option = word.partition("=")[0]
            elif word in known and option in known[word]._option_string_actions:
                parser.error(f"{option} is an option of {word}, and comes behind it: {parser.prog} {word} {option} ...")

    def advice(self, unknown: Sequence[str], leaf: Parser) -> str:
        """Return what is said of words that the parser of the subcommand does not know."""
        # The option first: one that is misspelt leaves its value over too, and that was no mistake.
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        if not word.startswith("-"):
            return f"unexpected argument {word!r}"
        option = word.partition("=")[0]
        known = [name for name, action in leaf._option_string_actions.items() if not isinstance(action, _ShowHelp)]
        near = _meant(option, known)
        if (others := self._subcommands_with(option)) and not near:
            return f"no option {option} here: {_listed(others)} {'has' if len(others) == 1 else 'have'} it"
        return f"unknown option {option}{near}"

    def _subcommands_with(self, option: str) -> list[str]:
        """Return the subcommands that have this option, those of subcommands by all of their words."""
        found = []
        for name, parser in self.subparsers().items():
            if option in parser._option_string_actions:
                found.append(name)
            found += [f"{name} {inner}" for inner in parser._subcommands_with(option)]
        return found

    def error(self, message: str) -> NoReturn:
        """Exit with code 2. No usage: it would hide the message."""
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help shows how)\n")

    # Private in argparse, which has no other place for this text. Its own lists all choices and suggests none.
    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, _SubParsersAction):
            # None: with the action, argparse would begin the message with `argument SUBCOMMAND:`.
            raise ArgumentError(None, f"unknown subcommand {value!r}{_meant(str(value), list(action.choices))}")
        expected = " or ".join(map(str, action.choices))
        raise ArgumentError(
            action, f"expected {expected}, got {value!r}{_meant(str(value), list(map(str, action.choices)))}"
        )

    def _leaf(self, parsed: Namespace) -> Parser:
        found = self
        for action in self._actions:
            if isinstance(action, _SubParsersAction) and (name := getattr(parsed, action.dest, None)) is not None:
                found = action.choices[name]._leaf(parsed)
        return found


class _ShowHelp(Action):
    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: object, option: str | None = None) -> None:
        assert isinstance(parser, Parser)
        brief = option != "--help-all"
        parser._print_message(parser.format_brief(bold=_colours()) if brief else parser.format_help(), sys.stdout)
        parser.exit()


def _colours() -> bool:
    # NO_COLOR turns colours off when it is not empty (no-color.org); a dumb terminal would show the escapes as text.
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _heading(text: str, *, bold: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if bold else text


def _row(term: str, text: str, width: int) -> str:
    head = f"  {term}".ljust(width)
    if not head.endswith(" "):
        head += "  "
    return f"{head}{shorten(' '.join(text.split()), WIDTH - len(head), placeholder=' ...')}".rstrip()


def _term(action: Action) -> str:
    if not action.option_strings:
        return _metavar(action)
    short = [name for name in action.option_strings if not name.startswith("--")][:1]
    long = [name for name in action.option_strings if name.startswith("--")][:1]
    return ", ".join([*short, *long]) + (f" {_metavar(action)}" if action.nargs != 0 else "")


def _metavar(action: Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _usage_word(action: Action) -> str:
    if action.option_strings:
        return ""
    word = _metavar(action)
    if action.nargs == "?":
        return f"[{word}]"
    if action.nargs == "*":
        return f"[{word} ...]"
    return f"{word} ..." if action.nargs in ("+", REMAINDER) and "..." not in word else word


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith(".") else ".")


def _listed(names: Sequence[str]) -> str:
    shown = names if len(names) <= _SHOWN_MAX + 1 else [*names[:_SHOWN_MAX], f"{len(names) - _SHOWN_MAX} others"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _meant(word: str, known: Collection[str]) -> str:
    import difflib  # where something is wrong

    near = difflib.get_close_matches(word, list(known), 1, _ALIKE)
    return f"; did you mean {near[0]}?" if near else ""
