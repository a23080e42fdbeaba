"""Command templates: GNU parallel's replacement strings, on bytes.

    {}    the argument               {#}  the job's number, from 1
    {.}   without its extension      {%}  the slot it runs in, from 1: known only to the worker
    {/}   its base name              {2}  the second of the job's arguments; {-1} the last
    {//}  its directory              {2/} the second one's base name, and so on
    {/.}  base name without extension

Everything else in braces stays as it is. A job may have several arguments: then `{}` stands for all of them, each a
word of its own. Pure; held against GNU parallel 20221122 itself by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

SLOT = b"\0"
"""Stands for {%} in a rendered command until a worker knows its slot. No argument can hold a NUL, so no
argument can be mistaken for it, whatever text it brings along."""

_UNSAFE = re.compile(rb"[^-_.+a-zA-Z0-9/]")
_EXTENSION = re.compile(rb"\.[^/.]*\Z")
_WORD_OVERHEAD_BYTES = 9  # in execve(2)'s limit: the NUL behind a word, and a pointer to it

Transform = Callable[[bytes], bytes]

# --- what is made of one argument -----------------------------------------------------------------------------


def whole(argument: bytes) -> bytes:
    """Give the argument as it is."""
    return argument


def without_extension(path: bytes) -> bytes:
    """Cut off the base name from its last dot on, as `{.}` does; of `.bashrc` nothing is left."""
    return _EXTENSION.sub(b"", path)


def base_name(path: bytes) -> bytes:
    """Give what is behind the last slash; nothing for a path that ends in one."""
    return path.rpartition(b"/")[2]


def directory(path: bytes) -> bytes:
    """Give the directory as dirname(1): `.` when there is none, the root for what lies in it, without end slashes."""
    bare = path.rstrip(b"/")
    if not bare:
        return b"/" if path else b"."
    head, slash, _ = bare.rpartition(b"/")
    return head.rstrip(b"/") or slash or b"."


def _cut(pattern: bytes) -> Transform:
    """Return what removes the one match of `pattern`."""
    compiled = re.compile(pattern)
    return lambda path: compiled.sub(b"", path, count=1)


def _last_extensions(count: int) -> Transform:
    """Return what gives that many extensions of a path, without the first dot; nothing when it has fewer."""
    compiled = re.compile(rb"\.([^/.]*" + rb"\.[^/.]*" * (count - 1) + rb")\Z")

    def extensions(path: bytes) -> bytes:
        found = compiled.search(path)
        return found[1] if found else b""

    return extensions


STRINGS: Mapping[bytes, Transform] = {
    b"{}": whole,
    b"{.}": without_extension,
    b"{/}": base_name,
    b"{//}": directory,
    b"{/.}": lambda argument: without_extension(base_name(argument)),
}
PLUS: Mapping[bytes, Transform] = {
    b"{+/}": lambda path: path.rpartition(b"/")[0],
    b"{+.}": lambda path: path.rpartition(b".")[2] if b"." in path else b"",
    b"{+..}": _last_extensions(2),
    b"{+...}": _last_extensions(3),
    b"{..}": _cut(rb"\.[^/.]*\.[^/.]*\Z"),
    b"{...}": _cut(rb"\.[^/.]*\.[^/.]*\.[^/.]*\Z"),
    b"{/..}": lambda path: _cut(rb"\.[^/.]*\.[^/.]*\Z")(base_name(path)),
    b"{/...}": lambda path: _cut(rb"\.[^/.]*\.[^/.]*\.[^/.]*\Z")(base_name(path)),
}
"""What `--plus` adds."""


def shell_quote(word: bytes) -> bytes:
    """Quote `word` as one word for a Bourne shell, spelt as GNU parallel spells it."""
    if not word:
        return b"''"
    if not _UNSAFE.search(word):
        return word
    # Within '...' a shell takes every byte as it is; only ' itself has to stand outside, in "...". A ' at either end
    # of the word leaves an empty '' there.
    quoted = b"'" + word.replace(b"'", b"'\"'\"'") + b"'"
    return quoted.removeprefix(b"''").removesuffix(b"''")


# --- the pieces of a template -----------------------------------------------------------------------------------


class Replacement(NamedTuple):
    """A replacement string that stands for arguments."""

    transform: Transform
    position: int | None = None  # from 1, or from the end (-1: the last); None: each of them

    def values(self, arguments: Sequence[bytes], each: Sequence[bytes]) -> Iterator[bytes]:
        """Give what it stands for: one of `arguments`, if that is there, or all of `each`."""
        if self.position is None:
            return map(self.transform, each)
        at = self.position - 1 if self.position > 0 else len(arguments) + self.position
        return map(self.transform, arguments[at : at + 1] if at >= 0 else ())


class Own(Enum):
    """What a replacement string may stand for beside arguments."""

    NUMBER = b"{#}"
    SLOT = b"{%}"


Piece = bytes | Replacement | Own
_OWN = {own.value: own for own in Own}


class Syntax:
    """Which replacement strings there are. `strings` and their meaning; those in braces have positions as well."""

    def __init__(self, strings: Mapping[bytes, Transform] = STRINGS) -> None:
        self._strings = strings
        # The longest first: one may be the beginning of another.
        spellings = sorted((*strings, *_OWN), key=len, reverse=True)
        in_braces = sorted((each[1:] for each in strings if each.startswith(b"{")), key=len, reverse=True)
        alternatives = [re.escape(each) for each in spellings]
        alternatives.append(rb"\{(-?[0-9]+)\s*(" + b"|".join(map(re.escape, in_braces)) + rb")")
        self._pattern = re.compile(b"|".join(alternatives))

    def pieces(self, text: bytes) -> list[Piece]:
        """Take a text apart: the replacement strings, and what stands between them."""
        found: list[Piece] = []
        at = 0
        for match in self._pattern.finditer(text):
            if match.start() > at:
                found.append(text[at : match.start()])
            found.append(self._piece(match))
            at = match.end()
        if at < len(text):
            found.append(text[at:])
        return found or [text]

    def _piece(self, match: re.Match[bytes]) -> Piece:
        if match[1] is not None:
            # {0} is every argument, as in GNU parallel.
            return Replacement(self._strings[b"{" + match[2]], int(match[1]) or None)
        return _OWN.get(match[0]) or Replacement(self._strings[match[0]])


PLAIN = Syntax()


# --- a whole template -------------------------------------------------------------------------------------------


class Template:
    """A command with replacement strings. One without any gets {} as its last word.

    With `shell`, the words are joined to one line for sh and what is put in is quoted; except when the
    command's own name has a replacement string (`{}` alone: each argument is a line of shell), as in
    GNU parallel.

    Of several arguments, each is a word: `a{}b` becomes `a1 2b`, and with `context` `a1b a2b`.
    """

    def __init__(
        self,
        words: Sequence[bytes],
        *,
        shell: bool = False,
        syntax: Syntax = PLAIN,
        context: bool = False,
        appends: bool = True,
    ) -> None:
        """Take the words apart. `appends`: whether {} is added where there is no replacement string."""
        taken_apart = [syntax.pieces(word) for word in words]
        if appends and not any(map(_has_string, taken_apart)):
            taken_apart.append([Replacement(whole)])
        if shell:
            line: list[Piece] = [piece for word in taken_apart for piece in (b" ", *word)][1:]
            taken_apart = _split_at_spaces(line) if context else [line]
        # A command's name that is to be put in is code, not data: quoted, no line of shell could be an argument.
        self._quote = shell_quote if shell and not _names_command(taken_apart) else whole
        self._shell = shell
        self._context = context
        self._words = taken_apart

    @property
    def positions(self) -> set[int]:
        """The positions that it names."""
        found = (piece.position for word in self._words for piece in word if isinstance(piece, Replacement))
        return {position for position in found if position is not None}

    def render(self, arguments: Sequence[bytes], number: int) -> list[bytes]:
        """Give the words of job `number` with its arguments put in, and SLOT where {%} was.

        A word that is nothing but a position beyond the arguments is left out, as a shell leaves it out.
        """
        words: list[bytes] = []
        for pieces in self._words:
            if len(pieces) == 1 and isinstance(word := pieces[0], bytes):  # as most are
                words.append(word)
                continue
            parts = self._expand(pieces, arguments, number)
            if self._shell:
                words.append(b" ".join(parts))
            else:
                words += parts
        return [b"".join(words)] if self._shell else words

    def cost(self, arguments: Sequence[bytes]) -> int:
        """Give the most bytes that these arguments add to a command line, among others or alone."""
        total = 0
        for pieces in self._words:
            if any(isinstance(piece, Replacement) for piece in pieces):
                parts = self._expand(pieces, arguments, 0)
                total += sum(map(len, parts)) + _WORD_OVERHEAD_BYTES * len(parts)
        return total

    def _expand(self, pieces: Sequence[Piece], arguments: Sequence[bytes], number: int) -> list[bytes]:
        """Give the words that one word becomes."""
        if len(arguments) <= 1 or not self._context or not any(map(_stands_for_each, pieces)):
            return self._put_in(pieces, arguments, arguments, number)
        return [part for one in arguments for part in self._put_in(pieces, arguments, (one,), number)]

    def _put_in(
        self, pieces: Sequence[Piece], arguments: Sequence[bytes], each: Sequence[bytes], number: int
    ) -> list[bytes]:
        parts: list[bytes] = []
        opened = False  # whether the next piece goes on with the last part
        for piece in pieces:
            # One pass: what an argument brings along is not looked at again.
            if isinstance(piece, Replacement):
                values = [self._quote(value) for value in piece.values(arguments, each)]
            else:
                values = [_own_text(piece, number)]
            if opened and values:
                parts[-1] += values.pop(0)
            parts += values
            opened = bool(parts)
        return parts


def _own_text(piece: bytes | Own, number: int) -> bytes:
    if piece is Own.NUMBER:
        return b"%d" % number
    return SLOT if isinstance(piece, Own) else piece


def _stands_for_each(piece: Piece) -> bool:
    return isinstance(piece, Replacement) and piece.position is None


def _has_string(pieces: Sequence[Piece]) -> bool:
    return any(not isinstance(piece, bytes) for piece in pieces)


def _names_command(words: Sequence[Sequence[Piece]]) -> bool:
    """Whether a line's first word, if it sets no variable, has a replacement string."""
    for piece in (piece for word in words for piece in word):
        if not isinstance(piece, bytes):
            return True
        if re.search(rb"[ \t\n=]", piece):
            return False
    return False


def _split_at_spaces(line: Sequence[Piece]) -> list[list[Piece]]:
    """Take a line for the shell apart into what is repeated for each argument, and the blanks between."""
    groups: list[list[Piece]] = [[]]
    for piece in line:
        if not isinstance(piece, bytes):
            groups[-1].append(piece)
            continue
        for part in filter(None, re.split(rb"([ \t])", piece)):
            if part in (b" ", b"\t"):
                groups += [[part], []]
            else:
                groups[-1].append(part)
    return [group for group in groups if group]
