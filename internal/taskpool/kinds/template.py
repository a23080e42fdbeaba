"""Command templates: GNU parallel's replacement strings, on bytes.

    {}    the argument               {#}  the job's number, from 1
    {.}   without its extension      {%}  the slot it runs in, from 1: known only to the worker
    {/}   its base name
    {//}  its directory
    {/.}  base name without extension

Everything else in braces stays as it is. Pure; held against GNU parallel 20221122 itself by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

SLOT = b"\0"
"""Stands for {%} in a rendered command until a worker knows its slot. No argument can hold a NUL, so no
argument can be mistaken for it, whatever text it brings along."""

_STRING = re.compile(rb"\{(?:\.|/|//|/\.|#|%)?\}")
_UNSAFE = re.compile(rb"[^-_.+a-zA-Z0-9/]")
_EXTENSION = re.compile(rb"\.[^/.]*\Z")


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


_OF_ARGUMENT: dict[bytes, Callable[[bytes], bytes]] = {
    b"{}": lambda argument: argument,
    b"{.}": without_extension,
    b"{/}": base_name,
    b"{//}": directory,
    b"{/.}": lambda argument: without_extension(base_name(argument)),
}


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


class Template:
    """A command with replacement strings. One without any gets {} as its last word.

    With `shell`, the words are joined to one line for sh and what is put in is quoted; except when the
    command's own name has a replacement string (`{}` alone: each argument is a line of shell), as in
    GNU parallel.
    """

    def __init__(self, words: Sequence[bytes], *, shell: bool = False) -> None:
        whole = list(words)
        if not any(_STRING.search(word) for word in whole):
            whole.append(b"{}")
        if shell:
            whole = [b" ".join(whole)]
        # A command's name that is to be put in is code, not data: quoted, no line of shell could be an argument.
        self._quote = shell and not re.match(rb"[^ \t\n=]*" + _STRING.pattern, whole[0])
        self._words = whole

    def render(self, argument: bytes, number: int) -> list[bytes]:
        """Give the words of job `number` with `argument` put in, and SLOT where {%} was."""

        def value(match: re.Match[bytes]) -> bytes:
            string = match[0]
            if string == b"{#}":
                return b"%d" % number
            if string == b"{%}":
                return SLOT
            text = _OF_ARGUMENT[string](argument)
            return shell_quote(text) if self._quote else text

        # One pass over each word: what an argument brings along is not looked at again.
        return [_STRING.sub(value, word) for word in self._words]
