"""What stands below the flags: `TP_*` variables, the project's taskpool.toml, the user's, in this order.

A setting is an option that every submission has, less those about one run. It takes the place of the option's default
in the parser, so that a flag still wins and the value is checked where a flag's is.

A private batch that goes on has the settings of its beginning, from its note, and not those of the day: they may say
how long its jobs may take, or which program runs them.
"""

from __future__ import annotations

import os
from argparse import Action, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from taskpool.arguments import Parser
from taskpool.errors import ExitCode, UsageError
from taskpool.generator.options import DEALER_OPTIONS
from taskpool.generator.output.formats import lay_out
from taskpool.generator.parser import QUERIES, VERBS
from taskpool.kinds import KINDS
from taskpool.kinds.base import OWN_VARIABLES
from taskpool.private.notes import typed_of
from taskpool.procs import settings
from taskpool.procs.settings import Setting, Settings

PREFIX = "TP_"
_DEALER_PREFIX = "TP_DEALER_"
# About one run: which batch it is, which files it writes, how much it says.
_FLAGS_ONLY = frozenset(
    {"batch", "resume", "detach", "dry_run", "results", "joblog", "schema", "config", "verbose", "quiet"}
)
# What a command to a running pool takes of them.
_OF_COMMANDS = ("pool", "dealer_timeout", "log_format")
# A private dealer reads its own variables; these two it is always given as flags.
_ALWAYS_GIVEN = frozenset({"metrics", "journal"})
_OF_THE_MACHINE = ("journal", "metrics", "worker_exec")
_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_DIGITS_MAX = 18  # always below 2**63, and far from where int() itself refuses a text
_PATHS = ("FILE", "PATH", "DIR")
_NO_PATH = "none"


def below(parser: Parser, args: Namespace, warn: Callable[[str], None]) -> Settings:
    """Return the settings for a command line that this parser has parsed. `warn` is told of files that are not used.

    Raises UsageError naming the file or variable, the name, the value and what is expected, and ConfigurationError.
    """
    submits = args.subcommand in KINDS or args.subcommand == "jobs"
    if not submits and args.subcommand not in (*VERBS, *QUERIES, "scale", "quarantine", "config", "doctor"):
        return {}  # those that go on with a batch have its own
    known = _known(parser)
    if submits and args.resume and args.batch and args.pool is None and args.config is None:
        typed = typed_of(args.batch)
        if typed is not None:
            origin = f"the beginning of batch {args.batch}"
            return {key: Setting(value, origin) for key, value in typed.settings.items() if key in known}
    found = _now(known, args.config, warn)
    if args.subcommand not in ("config", "doctor") and not submits:
        return {key: setting for key, setting in found.items() if key in _OF_COMMANDS}
    # A named pool has its dealer already: these would be refused as if they had been typed with --pool.
    if (submits and args.pool is not None) or "pool" in found:
        found = {key: setting for key, setting in found.items() if key not in DEALER_OPTIONS}
    # What it looks at is the host, for the private pool that would be started from here.
    return {key: found[key] for key in ("workers",) if key in found} if args.subcommand == "doctor" else found


def values(found: Settings) -> dict[str, str]:
    """Return the values alone."""
    return {key: setting.value for key, setting in found.items()}


def parse_below(parser: Parser, words: Sequence[str], chosen: Mapping[str, str]) -> Namespace:
    """Parse a command line with these values in the place of defaults, which the parser keeps."""
    if not chosen:
        return parser.parse_args(words)
    known = _known(parser)
    leaf = _leaf(parser, words)
    there = {action.dest for action in leaf._actions}
    # argparse passes a default that is a text through its `type`, but compares it with no choices.
    converted = {key: _converted(key, known[key], text) for key, text in chosen.items() if key in known}
    leaf.set_defaults(**{key: value for key, value in converted.items() if key in there})
    return parser.parse_args(words)


def as_words(parser: Parser, found: Settings) -> list[str]:
    """Return the settings as flags, for a command that means the same elsewhere."""
    known = _known(parser) if found else {}
    words = []
    for key, setting in found.items():
        if known[key].nargs != 0:
            words.append(f"{_option(key)}={setting.value}")
        elif _converted(key, known[key], setting.value):
            words.append(_option(key))
    return words


def render(found: Settings, *, as_json: bool) -> bytes:
    """Return a line for each setting: its name, its value, where it comes from."""
    if as_json:
        rows = {key: {"value": setting.value, "source": setting.source} for key, setting in found.items()}
        return msgspec.json.encode(rows) + b"\n"
    if not found:
        return b"All settings have their defaults.\n"
    rows_of_text = [
        {"setting": key, "value": setting.value, "from": setting.source} for key, setting in sorted(found.items())
    ]
    return lay_out(rows_of_text).encode()


def tell_origins(found: Settings, code: ExitCode, warn: Callable[[str], None]) -> None:
    """Say where the settings of a private dealer came from that may have made it end with this code: it has named only
    the option."""
    # What it finds wrong of the machine is of a path or an address.
    suspects = DEALER_OPTIONS if code is ExitCode.USAGE else _OF_THE_MACHINE if code is ExitCode.ENVIRONMENT else ()
    for key in suspects:
        if key in found:
            warn(f"{_option(key)}={found[key].value} is from {found[key].source}")


def _now(known: Mapping[str, Action], config: str | None, warn: Callable[[str], None]) -> Settings:
    files = _of_files(known, config, warn)
    for key in DEALER_OPTIONS:  # a variable comes before a file, that of a dealer too
        if key not in _ALWAYS_GIVEN and os.environ.get(f"{_DEALER_PREFIX}{key.upper()}"):
            files.pop(key, None)
    # Inside a job its own variables are no settings: TP_WORKER is none that was meant to be TP_WORKERS.
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_DEALER_PREFIX) and name not in OWN_VARIABLES
    }
    found = files | settings.from_environment(variables, PREFIX, known, _FLAGS_ONLY - {"batch"})  # TP_BATCH: a job's
    return {key: _checked(key, known[key], setting) for key, setting in found.items()}


def _of_files(known: Mapping[str, Action], config: str | None, warn: Callable[[str], None]) -> Settings:
    if config == _NO_PATH:
        return {}
    if config is not None:
        return settings.from_file(Path(config), known, settings.read_named(Path(config)), _FLAGS_ONLY)
    found: Settings = {}
    # The user's file first, as the later one wins: what a project says is nearer to its jobs.
    places = [settings.of_user(os.environ)]
    try:
        places.append(settings.upward(Path.cwd()))
    except OSError:  # the current directory is gone, and with it its project
        pass
    for candidates in places:
        for file in settings.look_for(candidates):
            if file.refusal:
                warn(f"{file.path} is not used: {file.refusal}")
            else:
                found |= settings.from_file(file.path, known, file.text, _FLAGS_ONLY)
    return found


def _checked(key: str, action: Action, setting: Setting) -> Setting:
    """Check what only the parser knows, and make a path absolute. Raises UsageError."""
    try:
        # Variables may hold any bytes, which Python makes surrogates of (PEP 383): no message or note can carry them.
        setting.value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{setting.source}: {key}: expected UTF-8, got {setting.value!r}") from None
    try:
        value = _converted(key, action, setting.value)
    except UsageError as error:
        raise UsageError(f"{setting.source}: {error}") from None
    is_path = isinstance(action.metavar, str) and action.metavar.partition("|")[0] in _PATHS
    if is_path and value != _NO_PATH:
        return setting._replace(value=os.path.join(setting.directory or _here(), setting.value))
    return setting


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _converted(key: str, action: Action, text: str) -> str | int | bool:
    if action.nargs == 0:
        if text.lower() not in _TRUTHS:
            raise UsageError(f"{key}: expected true or false, got {text!r}")
        return _TRUTHS[text.lower()]
    if action.choices is not None and text not in action.choices:
        raise UsageError(f"{key}: expected {' or '.join(action.choices)}, got {text!r}")
    if action.type is int:
        # int() alone would also take blanks, underscores and the digits of other scripts.
        if not (len(text) <= _DIGITS_MAX and text.removeprefix("-").isdecimal() and text.isascii()):
            raise UsageError(f"{key}: expected an integer, got {text!r}")
        return int(text)
    return text


def _known(parser: Parser) -> dict[str, Action]:
    """Return the options that are settings, by their names."""
    actions = parser.subparsers()["jobs"]._actions
    return {
        action.dest: action
        for action in actions
        if action.option_strings and action.dest not in _FLAGS_ONLY and action.dest not in ("help", "help_all")
    }


def _leaf(parser: Parser, words: Sequence[str]) -> Parser:
    """Return the parser of the subcommand that these words name."""
    for word in words:
        if (chosen := parser.subparsers().get(word)) is None:
            break
        parser = chosen
    return parser


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"
