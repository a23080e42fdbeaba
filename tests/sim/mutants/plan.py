"""A planted bug: a few words of the package changed for others."""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """One change. `old` stands in the file exactly once."""

    file: str  # under internal/taskpool, or under tests/ when it begins with sim/
    old: str
    new: str


class Mutant(NamedTuple):
    """A bug, the rule it breaks, and how it is planted."""

    name: str
    rule: str
    edits: tuple[Edit, ...]


def mutant(name: str, rule: str, file: str, old: str, new: str, *more: Edit) -> Mutant:
    return Mutant(name, rule, (Edit(file, old, new), *more))
