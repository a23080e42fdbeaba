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


class Figures(NamedTuple):
    """What `test_tidy.py` compares with its limits."""

    function_lines_median: float
    function_lines_p90: float
    function_lines_max: float
    file_lines_max: float
    short_files_percent: float
    functions_with_many_parameters: int
    foreign_stores_per_1000_lines: float
    comments_per_100_code_lines: float
    docstrings_per_100_code_lines: float


class Measured(NamedTuple):
    """The figures, and the places behind those that have some."""

    figures: Figures
    lengths: Sequence[Place]
    many_parameters: Sequence[Place]
    stores: Sequence[Place]
    files: Sequence[Place]


def measure(found: Sequence[Module]) -> Measured:
    """Measure the modules; at least two functions among them."""
    functions = [(f"{m.name}:{each.lineno} {each.name}", each) for m in found for each in m.functions()]
    lengths = [Place(function_lines(each), where) for where, each in functions]
    deciles = quantiles(sorted(place.value for place in lengths), n=10)
    many = [Place(count, where) for where, each in functions if (count := parameters(each)) > PARAMETERS_MAX]
    files = [Place(module.lines, module.name) for module in found if module.lines]
    stores = [place for module in found for place in foreign_stores(module)]
    code, comments, docstrings = (sum(column) for column in zip(*map(kinds_of_lines, found), strict=True))
    figures = Figures(
        function_lines_median=deciles[4],
        function_lines_p90=deciles[8],
        function_lines_max=max(place.value for place in lengths),
        file_lines_max=max(place.value for place in files),
        short_files_percent=100 * sum(place.value < SHORT_FILE_LINES for place in files) / len(files),
        functions_with_many_parameters=len(many),
        foreign_stores_per_1000_lines=1000 * len(stores) / sum(place.value for place in files),
        comments_per_100_code_lines=100 * comments / code,
        docstrings_per_100_code_lines=100 * docstrings / code,
    )
    return Measured(figures, lengths, many, stores, files)


def report(found: Sequence[Module]) -> Iterator[str]:
    """Yield the figures as lines, each with its worst places."""
    figures, lengths, many, stores, files = measure(found)
    median, p90, longest = figures.function_lines_median, figures.function_lines_p90, figures.function_lines_max
    yield f"function lines: median {median:.0f}, p90 {p90:.0f}, max {longest:.0f}"
    yield from _worst(lengths)
    share = f"{figures.short_files_percent:.0f} % of {len(files)}"
    yield f"files under {SHORT_FILE_LINES} lines: {share}; longest {figures.file_lines_max:.0f}"
    yield f"functions with more than {PARAMETERS_MAX} parameters: {figures.functions_with_many_parameters}"
    yield from _worst(many)
    per_1000 = figures.foreign_stores_per_1000_lines
    yield f"stores into another object's attribute, per 1,000 lines: {per_1000:.1f} ({len(stores)})"
    yield from _worst(stores)
    why, said = figures.comments_per_100_code_lines, figures.docstrings_per_100_code_lines
    yield f"comment lines per 100 code lines: {why:.1f}; docstring lines: {said:.1f}"


def _worst(places: Sequence[Place]) -> Iterator[str]:
    for place in sorted(places, key=lambda place: -place.value)[:WORST]:
        yield f"    {place.value:g}  {place.where}"


if __name__ == "__main__":
    if not Path(PACKAGE).is_dir():
        sys.exit(f"no package at {PACKAGE}")
    sys.stdout.writelines(f"{line}\n" for line in report(modules(sys.argv[1:])))
