"""The package's sources, parsed once, for the tests that read them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "internal" / "taskpool"


@dataclass(frozen=True)
class Source:
    """One module of the package, parsed."""

    name: str  # path below the package
    text: str
    tree: ast.Module

    @property
    def part(self) -> str:
        return self.name.split("/")[0].removesuffix(".py")

    @property
    def module(self) -> str:
        dotted = "taskpool." + self.name.removesuffix(".py").replace("/", ".")
        return dotted.removesuffix(".__init__")


@cache
def sources() -> tuple[Source, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        found.append(Source(path.relative_to(PACKAGE).as_posix(), text, ast.parse(text)))
    assert found, PACKAGE
    return tuple(found)


def imports(source: Source, *, typing_too: bool = True) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import, inside functions as well; `from a import b` yields a.b."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(source.tree):
        if not typing_too and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(child for statement in node.body for child in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.name}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def uses(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that could be a call of a banned function."""
    yield from imports(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id


# A worktree's .git is a file.
MADE = {".git", ".venv", ".hypothesis", "build", "dist", "__pycache__", "htmlcov"}


def project_files() -> Iterator[Path]:
    """Every file that belongs to the project: what is made by building and testing is left out."""
    for place, directories, names in os.walk(ROOT):
        directories[:] = [
            name for name in directories if name not in MADE and not name.endswith(("_cache", ".egg-info"))
        ]
        for name in names:
            if name not in MADE and not name.endswith(".so") and not name.startswith(".coverage"):
                yield Path(place, name)


def complain(offences: list[str]) -> None:
    assert not offences, "\n  " + "\n  ".join(offences)
