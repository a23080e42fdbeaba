"""The options of the input language, and what they mean together."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from taskpool import limits
from taskpool.errors import UsageError
from taskpool.kinds.parallel import blocks
from taskpool.kinds.parallel.blocks import BlockOptions
from taskpool.procs.cpus import usable_cpus

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_TRIMS = ("n", "l", "r", "lr", "rl")
_NAMED_ESCAPES = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


class InputOptions(Struct, frozen=True):
    """What the options say about the arguments of jobs."""

    files: tuple[str, ...] = ()  # inputs, before those behind the template
    delimiter: bytes | None = None  # None: lines; and arguments behind ::: are whole
    skip_blank: bool = False
    joins_lines: bool = False
    colsep: re.Pattern[bytes] | None = None
    header: bool = False
    trim: str = "n"
    linked: bool = False  # all inputs go in step
    shuffle_seed: bytes | None = None
    count: int | None = 1  # of records in a job; None: as many as fit
    fills: bool = False  # as many records as fit, at most `count`
    slots: int | None = None  # to which the last of them are dealt out
    bytes_max: int = limits.COMMAND_BYTES_MAX
    context: bool = False
    replace: bytes = b"{}"
    plus: bool = False
    tag: bytes | None = None
    blocks: BlockOptions | None = None  # the input is cut into these

    @property
    def ends_line(self) -> bytes:
        """What ends a value in a file."""
        return b"\n" if self.delimiter is None else self.delimiter


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("input, as GNU parallel has it")
    group.add_argument("-a", "--arg-file", action="append", default=[], metavar="FILE|-", help="read arguments from it")
    ends = group.add_mutually_exclusive_group()
    ends.add_argument("-0", "--null", action="store_true", help="they end with NUL, not newline")
    ends.add_argument("-d", "--delimiter", metavar="DELIM", help=r"... with DELIM; \n \t \r \0 \NNN are known")
    group.add_argument("-r", "--no-run-if-empty", action="store_true", help="leave out blank ones")
    group.add_argument("-C", "--colsep", metavar="REGEXP", help="split each into columns: {1} {2}; implies --trim lr")
    group.add_argument("--header", metavar=":", help="the first of each input names its columns: {name}")
    group.add_argument("--trim", choices=_TRIMS, help="remove white space at left, right, or both")
    group.add_argument("--link", "--xapply", action="store_true", help="inputs go in step; a short one begins again")
    group.add_argument("--shuf", action="store_true", help="in random order, the same for the same --batch ID")
    group.add_argument("-n", "--max-args", type=int, metavar="N", help="N to a job: x{}y becomes x1 2y")
    group.add_argument("-N", "--max-replace-args", type=int, metavar="N", help="N to a job: x{}y becomes x1y x2y")
    group.add_argument("-L", "--max-lines", type=int, metavar="N", help="-N, but a line that ends in a blank goes on")
    group.add_argument("-X", action="store_true", help="as many to a job as fit: x{}y becomes x1y x2y")
    group.add_argument("-m", action="store_true", help="as many to a job as fit: x{}y becomes x1 2y")
    group.add_argument("--xargs", action="store_true", help="-m that does not deal out the last ones to all workers")
    group.add_argument("-s", "--max-chars", type=int, metavar="BYTES", help="how much fits, for -X, -m and --xargs")
    group.add_argument("-I", metavar="STR", help="what stands for the argument, instead of {}")
    group.add_argument(
        "--plus", action="store_true", help="more strings: {..} {...} {/..} {/...} {+/} {+.} {+..} {+...}"
    )
    group.add_argument("--tag", action="store_true", help="begin each line of output with the arguments and a tab")
    group.add_argument("--tagstring", "--tag-string", metavar="STR", help="... with STR, where {} {1} ... are replaced")
    blocks.add_arguments(parser)


def input_options(args: Namespace) -> InputOptions:
    """Return what the parsed options mean. Raises UsageError."""
    cut = blocks.block_options(args)
    if cut is not None:
        return InputOptions(
            files=tuple(args.arg_file), replace=_replace_string(args), plus=args.plus, tag=_tag(args), blocks=cut
        )
    fills = args.X or args.m or args.xargs
    count = _count(args)
    trim = args.trim or ("lr" if args.colsep is not None else "n")
    colsep = args.colsep if args.colsep is not None or args.header is None else r"\t"
    return InputOptions(
        files=tuple(args.arg_file),
        delimiter=_delimiter(args),
        skip_blank=args.no_run_if_empty,
        joins_lines=args.max_lines is not None,
        colsep=None if colsep is None else _separator(colsep),
        header=_has_header(args),
        trim=trim,
        linked=args.link,
        shuffle_seed=os.fsencode(args.batch or "") if args.shuf else None,
        count=count if count is not None or fills else 1,
        fills=fills,
        slots=_slots(args) if args.X or args.m else None,
        bytes_max=_bytes_max(args),
        context=args.X
        or args.max_replace_args is not None
        or (args.max_lines is not None and not (args.m or args.xargs)),
        replace=_replace_string(args),
        plus=args.plus,
        tag=_tag(args),
    )


def _count(args: Namespace) -> int | None:
    found = None
    for name in ("max_lines", "max_args", "max_replace_args"):  # the last one given counts
        value = getattr(args, name)
        least = 1 if name == "max_lines" else 0
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')}: expected {least} or more, got {value}")
        found = found if value is None else value
    return found


def _delimiter(args: Namespace) -> bytes | None:
    if args.null:
        return b"\0"
    if args.delimiter is None:
        return None
    delimiter = unescaped(os.fsencode(args.delimiter))
    if not delimiter:
        raise UsageError("-d: expected one or more characters, got ''")
    return delimiter


def unescaped(text: bytes) -> bytes:
    r"""Replace \t \n \r and the octal \0 and \NNN by what they stand for."""

    def value(match: re.Match[bytes]) -> bytes:
        escape = match[1]
        return _NAMED_ESCAPES.get(escape) or bytes([int(escape, 8) & 0xFF])

    return re.sub(rb"\\([tnr]|[0-7]{3}|[0-7])", value, text)


def _separator(pattern: str) -> re.Pattern[bytes]:
    try:
        compiled = re.compile(os.fsencode(pattern))
    except re.error as error:
        raise UsageError(f"--colsep: expected a regular expression (of Python), got {pattern!r}: {error}") from None
    if compiled.fullmatch(b""):
        raise UsageError(f"--colsep: expected what does not match nothing, got {pattern!r}")
    return compiled


def _has_header(args: Namespace) -> bool:
    if args.header not in (None, ":"):
        raise UsageError(f"--header: expected : (the first line of each input), got {args.header!r}")
    return args.header is not None


def _slots(args: Namespace) -> int | None:
    # In a named pool the workers are not known, and on a percentage a resumed batch must not depend.
    if args.pool is not None:
        return None
    if args.workers is None:
        return usable_cpus()
    return int(args.workers) if args.workers.isascii() and args.workers.isdigit() and args.workers.strip("0") else None


def _bytes_max(args: Namespace) -> int:
    wanted = args.max_chars
    if wanted is None:
        return limits.COMMAND_BYTES_MAX
    if not 1 <= wanted <= limits.COMMAND_BYTES_MAX:
        raise UsageError(f"--max-chars: expected 1 to {limits.COMMAND_BYTES_MAX}, got {wanted}")
    return int(wanted)


def _replace_string(args: Namespace) -> bytes:
    if args.I == "":
        raise UsageError("-I: expected what stands for the argument, got ''")
    return b"{}" if args.I is None else os.fsencode(args.I)


def _tag(args: Namespace) -> bytes | None:
    if args.tagstring is not None:
        return unescaped(os.fsencode(args.tagstring))
    return _replace_string(args) if args.tag else None
