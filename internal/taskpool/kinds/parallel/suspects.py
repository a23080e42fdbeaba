"""Words of a template that look like what they are not: an option, a line for a shell, a replacement string.

Passed on in silence, each of them would be an argument that no one meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from taskpool.errors import UsageError
from taskpool.kinds.template import PLUS, Template

# The last one: >file, 2>/dev/null; but not the >=1.0 of a version.
_OPERATOR = re.compile(rb"\|[|&]?|&&?|;|[0-9]?(?:>[>|]?|<[<>]?<?)|[0-9]?[<>]&[0-9-]|&>>?|[0-9&]?>>?[^=>].*", re.DOTALL)
_LINE = re.compile(rb"[\s|&;<>()$`]|\A[A-Za-z_][A-Za-z0-9_]*=")
_OF_PLUS = re.compile(rb"\{(?:-?[0-9]+\s*)?(?:" + rb"|".join(re.escape(each[1:]) for each in PLUS) + rb")")
_NOT_THERE = re.compile(rb"\{(?:##|0#|0%|choose_k|uniq|-?[0-9]+\s*[#%])\}")
_BASH_LIKE = re.compile(
    rb"\{(?:-?[0-9]+\s*)?(?::|##?[^}]|%%?[^}]|\^|,|/[^}./]|//[^}])[^{}]*\}|\{(?:slot|host|sshlogin|hgrp)\}"
)
_PERL = re.compile(rb"\{=.*?=\}", re.DOTALL)
_CURE = "did you mean --shell? (--no-shell takes it as it is)"
_COLUMN = re.compile(rb"\{([A-Za-z_][\w -]*?)(?:/|//|\.|/\.)?\}")


def refuse_option(typed: Sequence[str]) -> None:
    """Refuse a template that begins like an option. `typed`: with the `--` that may stand before it."""
    if typed and typed[0].startswith("-") and typed[0] != "--":
        raise UsageError(
            f"command: {typed[0]!r} looks like an option and is none: see tp-generator command --help; if it is a "
            "program, write -- before it"
        )


def refuse_program(name: bytes) -> None:
    """Refuse an argument as the name of a program that it can hardly be: a line of words."""
    if b" " in name and b"/" not in name:
        raise UsageError(f"command: {_shown(name[:60])} is a line for a shell, not the name of a program: {_CURE}")


def refuse_line(words: Sequence[bytes]) -> None:
    """Refuse words that only a shell would understand: there is none."""
    if words and _LINE.search(words[0]):
        raise UsageError(f"command: {_shown(words[0])} is a line for a shell, not the name of a program: {_CURE}")
    for before, word in pairwise(words):
        # find -exec ... {} ;
        if _OPERATOR.fullmatch(word) and not (
            word == b";" and any(each.startswith((b"-exec", b"-ok")) for each in words)
        ):
            raise UsageError(f"command: {_shown(word)} behind {_shown(before)} is for a shell: {_CURE}")


def refuse_strings(words: Sequence[bytes], *, plus: bool, replaced: bool) -> None:
    """Refuse what GNU parallel would replace and this program would not. `replaced`: -I was given, so that text in
    braces can be meant as it is."""
    text = b" ".join(words)
    if found := _PERL.search(text):
        raise UsageError(
            f"command: {_shown(found[0])}: there is no Perl here: change the argument in the command (--shell), or "
            "before it comes here, as with sed"
        )
    if not plus and not replaced and (found := _OF_PLUS.search(text)):
        raise UsageError(f"command: {_shown(found[0])} needs --plus; with -I STR, text in braces stays as it is")
    if not replaced and (found := _NOT_THERE.search(text)):
        raise UsageError(f"command: {_shown(found[0])} is not supported: {{#}} and {{%}} are a job's number and slot")
    if plus and (found := _BASH_LIKE.search(text)):
        raise UsageError(
            f"command: {_shown(found[0])} is not supported; in a --shell line, a variable can be cut: "
            'v={}; echo "${v%.gz}"'
        )


def refuse_columns(words: Sequence[bytes], names: Collection[bytes]) -> None:
    """Refuse the name of a column that no header has."""
    for found in _COLUMN.finditer(b" ".join(words)):
        if found[1] not in names:
            known = ", ".join(os.fsdecode(name) for name in names)
            raise UsageError(
                f"command: {_shown(found[0])}: no input has such a column; there are {known}. Text in braces stays as "
                "it is with a blank behind the {"
            )


def refuse_positions(template: Template, width: int) -> None:
    """Refuse a position that no job can have an argument for."""
    for position in sorted(template.positions):
        if abs(position) > width:
            raise UsageError(
                f"command: {{{position}}}: a job has {width} argument{'' if width == 1 else 's'}; for more, give more "
                "inputs, -N or --colsep"
            )


def _shown(word: bytes) -> str:
    return repr(os.fsdecode(word))
