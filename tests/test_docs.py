"""The documents agree with each other and with what they are about."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from support.source_tree import PACKAGE, ROOT, complain
from taskpool import __version__

DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)")
TITLE = re.compile(r"^# (\d+)\. (.+)$", re.MULTILINE)


def links(path: Path) -> list[str]:
    """Targets of the relative links in a document."""
    return [target for target in LINK.findall(path.read_text()) if "://" not in target]


@pytest.mark.parametrize("folder", [DOCS, DOCS / "adr"], ids=["docs", "adr"])
def test_an_index_lists_every_file_once(folder: Path) -> None:
    listed = [target for target in links(folder / "README.md") if "/" not in target]
    there = {path.name for path in folder.iterdir() if path.is_file()} - {"README.md"}
    complain(
        [
            f"{folder.name}/README.md: {name} is listed {listed.count(name)} times"
            for name in sorted(there)
            if listed.count(name) != 1
        ]
    )
    complain([f"{folder.name}/README.md: {name} does not exist" for name in listed if name not in there])


def test_decisions_are_numbered_and_called_as_the_index_says() -> None:
    index = (DOCS / "adr" / "README.md").read_text()
    offences = []
    for position, path in enumerate(sorted((DOCS / "adr").glob("0*.md")), 1):
        title = TITLE.match(path.read_text())
        if title is None or int(title[1]) != position or not path.name.startswith(f"{position:04}-"):
            offences.append(f"{path.name}: expected the title '# {position}. ...'")
        elif f"| [{position}]({path.name}) | {title[2]} |" not in index:
            offences.append(f"adr/README.md: expected | [{position}]({path.name}) | {title[2]} |")
    complain(offences)


def test_links_lead_somewhere() -> None:
    offences = []
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]:
        offences += [
            f"{path.relative_to(ROOT)}: {target}" for target in links(path) if not (path.parent / target).exists()
        ]
    complain(offences)


def test_the_version_is_the_same_everywhere() -> None:
    released = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == __version__
    tags = set()
    for path in (ROOT / "deploy" / "kubernetes").glob("*.yaml"):
        tags.update(re.findall(r"(?:image: taskpool:|newTag: )([\w.]+)", path.read_text()))
    assert tags == {__version__}


def test_every_verb_that_a_document_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    verbs = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    offences = []
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        for said in re.findall(r"(?:^|`|^\s+)make ((?:[a-z-]+ ?)+)", path.read_text(), re.MULTILINE):
            offences += [f"{path.relative_to(ROOT)}: make {verb}" for verb in said.split() if verb not in verbs]
    complain(offences)


def test_paths_that_a_document_names_exist() -> None:
    offences = []
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        named = re.findall(r"(?<![\w/.-])(?:tests|deploy|docs|internal)/[\w/.-]*\w", path.read_text())
        offences += [f"{path.relative_to(ROOT)}: {said}" for said in named if not (ROOT / said).exists()]
    complain(offences)


# --- docs/architecture.md names files and functions ------------------------------------------------


def defined(path: Path) -> set[str]:
    """The functions of a module: `name` for those of the module, `Class.name` and `name` for those of a class."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            names |= methods | {f"{node.name}.{name}" for name in methods}
    return names


def test_files_and_functions_of_the_architecture_exist() -> None:
    """A function is written `Class.name()` or `name()`; it is one of the files that its section has named so far."""
    offences = []
    known: set[str] = set()
    for said in re.findall(r"^## .*|`[\w./]+\.py`|`[\w.]+\(\)`", (DOCS / "architecture.md").read_text(), re.MULTILINE):
        name = said.strip("`").removesuffix("()")
        if said.startswith("## "):
            known = set()
        elif said.endswith("()`"):
            offences += [f"docs/architecture.md: {name}() is in none of the files named"] if name not in known else []
        elif not (path := PACKAGE / name).exists() and not (path := ROOT / name).exists():
            offences.append(f"docs/architecture.md: {name} does not exist")
        else:
            known |= defined(path)
    complain(offences)


def test_the_walk_of_a_workers_death_is_short() -> None:
    _, found, rest = (DOCS / "architecture.md").read_text().partition("\n## A worker's death\n")
    assert found
    files = set(re.findall(r"`([\w/]+\.py)`", rest.partition("\n## ")[0]))
    assert 5 < len(files) <= 9, sorted(files)
