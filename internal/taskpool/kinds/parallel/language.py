"""From a command line to jobs: inputs, records, packs, and the words and the tag of each job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from taskpool.errors import UsageError
from taskpool.kinds.parallel import inputs, records, suspects
from taskpool.kinds.parallel.blocks import BlockCutter
from taskpool.kinds.parallel.options import input_options
from taskpool.kinds.parallel.packing import Filling, by_number
from taskpool.kinds.parallel.records import Record
from taskpool.kinds.parallel.words import Input, split
from taskpool.kinds.template import PLUS, STRINGS, Syntax, Template

if TYPE_CHECKING:
    from argparse import Namespace


LABEL_CHARS_MAX = 256  # as messages.JobSpec has it


class Rendered(NamedTuple):
    """One job's command, and the text that its lines of output begin with."""

    number: int
    words: list[bytes]
    tag: bytes | None
    stdin: bytes | None = None

    @property
    def label(self) -> str | None:
        """The tag as a job carries it: text of a bounded length. What is not UTF-8 becomes visible, what is cut too."""
        if self.tag is None:
            return None
        text = self.tag.decode(errors="backslashreplace")
        return text if len(text) <= LABEL_CHARS_MAX else text[: LABEL_CHARS_MAX - 1] + "…"


class Language:
    """What one command line means. `render` gives its commands, as often as it is asked.

    Raises UsageError for what is wrong with it. All inputs but one that is read as the jobs run are read here.
    """

    def __init__(self, args: Namespace) -> None:
        suspects.refuse_option(args.template)
        typed = args.template[1:] if args.template[:1] == ["--"] else args.template
        self.words, behind = split(typed)
        if not self.words and not args.shell:
            raise UsageError(
                "command: expected a program behind --, got nothing; with --shell, each argument may be a line of sh(1)"
            )
        if args.shell is None:
            suspects.refuse_line(self.words)
        self._options = input_options(args)
        self._shell = bool(args.shell)
        self._expects_no_line = args.shell is None
        texts = self.words if self._options.tag is None else [*self.words, self._options.tag]
        suspects.refuse_strings(texts, plus=self._options.plus, replaced=self._options.replace != b"{}")
        self._inputs = [*(Input(file=name) for name in self._options.files), *behind] or [Input(file="-")]
        self._check_inputs()
        # The first one, if it is a file, is read as the jobs run: it may be a pipe that never ends.
        self._streams = self._inputs[0].values is None
        self._others = [inputs.read_whole(each, self._options) for each in self._inputs[self._streams :]]
        self._templates(self.words, self._options.tag)  # finds now what is wrong with them

    def _check_inputs(self) -> None:
        if self._options.blocks is not None and (len(self._inputs) > 1 or self._inputs[0].values is not None):
            raise UsageError("--pipe cuts one input, standard input or -a FILE; it takes no arguments behind :::")
        if self._options.tag is not None and b"{%}" in self._options.tag:
            raise UsageError("--tagstring: {%} is not known before a job runs")
        if sum(each.is_stdin for each in self._inputs) > 1:
            raise UsageError("command: standard input is named twice; it can be read once")

    @property
    def delimiter(self) -> bytes:
        """What ends a line of the file that is read as the jobs run."""
        return self._options.ends_line

    @property
    def cutter(self) -> Callable[[], BlockCutter] | None:
        """Makes what cuts the file that is read as the jobs run; None: it has lines."""
        wanted = self._options.blocks
        return None if wanted is None else lambda: BlockCutter(wanted)

    def open(self) -> tuple[int | None, str]:
        """Open the file that is read as the jobs run; give its descriptor, None if there is none, and its name."""
        if not self._streams:
            return None, ""
        name = self._inputs[0].file
        return inputs.open_input(name), "standard input" if name == "-" else name

    @property
    def multiplies(self) -> bool:
        """Whether inputs are combined: of a few thousand values there are billions of jobs."""
        return len(self._inputs) > 1 and not self._options.linked

    @property
    def reads_stdin(self) -> bool:
        """Whether any input is standard input."""
        return any(each.is_stdin for each in self._inputs)

    def render(self, lines: Iterator[bytes]) -> Iterator[Rendered | None]:
        """Give the command of each job; None before each item that takes one of `lines`."""
        if self._options.blocks is not None:
            yield from self._of_blocks(lines)
            return
        first: Iterator[bytes | None]
        if self._streams:
            first, others = inputs.as_they_come(lines), self._others
        else:
            first, others = iter(self._others[0]), self._others[1:]
        words, tag = self.words, self._options.tag
        if self._options.header:
            names: list[bytes] = []
            for item in inputs.take_header(first):
                if item is None:
                    yield None
                else:
                    names += self._names(item)
            for values in others:
                names += self._names(values[0] if values else b"")
            others = [values[1:] for values in others]
            if names:  # else there is no input, and nothing to be done
                suspects.refuse_columns(words, names)
            words = [_numbered(word, names) for word in words]
            tag = None if tag is None else _numbered(tag, names)
        template, tag_template = self._templates(words, tag)
        number = 0
        for arguments in self._packed(self._records(first, others), template):
            if arguments is None:
                yield None
                continue
            number += 1
            _refuse_nul(arguments, number)
            tagged = None if tag_template is None else b" ".join(tag_template.render(arguments, number))
            rendered = template.render(arguments, number)
            if self._expects_no_line and rendered:
                suspects.refuse_program(rendered[0])
            yield Rendered(number, rendered, tagged)

    def _of_blocks(self, blocks: Iterator[bytes]) -> Iterator[Rendered | None]:
        template, tag_template = self._templates(self.words, self._options.tag)
        number = 0
        for block in inputs.as_they_come(blocks):
            if block is None:
                yield None
                continue
            number += 1
            tag = None if tag_template is None else b" ".join(tag_template.render((), number))
            yield Rendered(number, template.render((), number), tag, block)

    def _names(self, header: bytes) -> list[bytes]:
        assert self._options.colsep is not None
        return records.columns_of(header.removesuffix(b"\r"), self._options.colsep)

    def _templates(self, words: Sequence[bytes], tag: bytes | None) -> tuple[Template, Template | None]:
        options = self._options
        strings = {(options.replace if string == b"{}" else string): each for string, each in STRINGS.items()}
        syntax = Syntax({**PLUS, **strings} if options.plus else strings)
        appends = options.blocks is None
        template = Template(words, shell=self._shell, syntax=syntax, context=options.context, appends=appends)
        if options.colsep is None and options.count is not None:
            suspects.refuse_positions(template, len(self._inputs) * max(options.count, 1))
        return template, None if tag is None else Template([tag], syntax=syntax, appends=False)

    def _records(self, first: Iterator[bytes | None], others: Sequence[list[bytes]]) -> Iterator[Record | None]:
        options = self._options
        first = inputs.cleaned(first, options)
        rest = [[value for value in inputs.cleaned(values, options) if value is not None] for values in others]
        if options.linked:
            found = records.recycled(first, rest)
        else:
            found = records.combined(first, rest, [each.linked for each in self._inputs[1:]])
        if options.colsep is not None:
            found = records.in_columns(found, options.colsep)
        if options.trim != "n":
            found = records.trimmed(found, options.trim)
        return found if options.shuffle_seed is None else _shuffled(found, options.shuffle_seed)

    def _packed(self, found: Iterator[Record | None], template: Template) -> Iterator[Record | None]:
        options = self._options
        if not options.fills or options.count == 0:
            assert options.count is not None
            return by_number(found, options.count)
        room = options.bytes_max - sum(len(word) + 9 for word in template.render((), 0))
        return Filling(template.cost, room, options.count, options.slots).jobs(found)


def _numbered(word: bytes, names: Sequence[bytes]) -> bytes:
    """Put a column's number for its name: {name.} becomes {2.}."""

    def number(match: re.Match[bytes]) -> bytes:
        return b"{%d%s}" % (names.index(match[1]) + 1, match[2])

    spellings = b"|".join(map(re.escape, sorted(filter(None, names), key=len, reverse=True)))
    return word if not spellings else re.sub(rb"\{(" + spellings + rb")(/\.|//|/|\.|)\}", number, word)


def _refuse_nul(arguments: Record, number: int) -> None:
    for argument in arguments:
        if b"\0" in argument:
            raise UsageError(f"command: argument {number} holds a NUL byte, which no program takes: {argument!r}")


def _shuffled(found: Iterable[Record | None], seed: bytes) -> Iterator[Record | None]:
    """Give the records in an order that depends on the seed and their number alone: a resumed batch has it again."""
    kept: list[Record] = []
    for record in found:
        if record is None:
            yield None
        else:
            kept.append(record)
    yield from (kept[at] for at in sorted(range(len(kept)), key=lambda at: blake2b(b"%d" % at, key=seed).digest()))
