"""Measure the shape of the package: `python -m support.house [FOLDER...]` prints one line a figure.

The figures are those that decide whether a stranger can find a way in: how long functions and files are, how many
parameters a function takes, how often code writes into another object's attributes, and how much of the text says why.
`test_tidy.py` holds the limits; this prints where the package stands and the worst places of each figure.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from support.source_tree import PACKAGE

WORST = 8  # places named for each figure
SHORT_FILE_LINES = 100
PARAMETERS_MAX = 6
OWN = frozenset({"self", "cls"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Place(NamedTuple):
    """Something measured, and where it is."""

    value: float
    where: str


class Module(NamedTuple):
    """One file, parsed once."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))


def modules(folders: Sequence[str]) -> list[Module]:
    """The files of the package, or of the folders of it that are named."""
    roots = [PACKAGE / folder for folder in folders] or [PACKAGE]
    paths = sorted({path for root in roots for path in ([root] if root.is_file() else root.rglob("*.py"))})
    texts = [(path.relative_to(PACKAGE).as_posix(), path.read_text()) for path in paths]
    return [Module(name, text, ast.parse(text)) for name, text in texts]


def function_lines(function: Function) -> int:
    """Lines of a function without its docstring."""
    documented = ast.get_docstring(function, clean=False) is not None
    first = function.body[0]
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def parameters(function: Function) -> int:
    """How many arguments a caller can give: `self` and `cls` are not among them."""
    args = function.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return sum(arg.arg not in OWN for arg in named) + (args.vararg is not None) + (args.kwarg is not None)


def foreign_stores(module: Module) -> Iterator[Place]:
    """Assignments to an attribute of any object but `self` and `cls`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            owner = node.value
            if not (isinstance(owner, ast.Name) and owner.id in OWN):
                yield Place(1, f"{module.name}:{node.lineno} {ast.unparse(node)}")


def kinds_of_lines(module: Module) -> tuple[int, int, int]:
    """(code, comment, docstring) lines. A line with code and a comment behind it counts as both."""
    docstrings: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    code: set[int] = set()
    comments: set[int] = set()
    passed_over = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in passed_over:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings), len(comments), len(docstrings)


def report(found: Sequence[Module]) -> Iterator[str]:
    """The figures, each with its worst places."""
    lengths = [
        Place(function_lines(each), f"{m.name}:{each.lineno} {each.name}") for m in found for each in m.functions()
    ]
    values = sorted(place.value for place in lengths)
    deciles = quantiles(values, n=10)
    yield f"function lines: median {deciles[4]:.0f}, p90 {deciles[8]:.0f}, max {values[-1]:.0f}"
    yield from _worst(lengths)
    files = [Place(module.lines, module.name) for module in found if module.lines]
    short = sum(place.value < SHORT_FILE_LINES for place in files)
    share, longest = 100 * short / len(files), max(place.value for place in files)
    yield f"files under {SHORT_FILE_LINES} lines: {share:.0f} % of {len(files)}; longest {longest:.0f}"
    many = [Place(parameters(each), f"{m.name}:{each.lineno} {each.name}") for m in found for each in m.functions()]
    over = [place for place in many if place.value > PARAMETERS_MAX]
    yield f"functions with more than {PARAMETERS_MAX} parameters: {len(over)}"
    yield from _worst(over)
    stores = [place for module in found for place in foreign_stores(module)]
    lines = sum(module.lines for module in found)
    yield f"stores into another object's attribute, per 1,000 lines: {1000 * len(stores) / lines:.1f} ({len(stores)})"
    yield from _worst(stores)
    code, comments, docstrings = (sum(column) for column in zip(*map(kinds_of_lines, found), strict=True))
    why, said = 100 * comments / code, 100 * docstrings / code
    yield f"comment lines per 100 code lines: {why:.1f}; docstring lines: {said:.1f}"


def _worst(places: Sequence[Place]) -> Iterator[str]:
    for place in sorted(places, key=lambda place: -place.value)[:WORST]:
        yield f"    {place.value:g}  {place.where}"


if __name__ == "__main__":
    if not Path(PACKAGE).is_dir():
        sys.exit(f"no package at {PACKAGE}")
    sys.stdout.writelines(f"{line}\n" for line in report(modules(sys.argv[1:])))
