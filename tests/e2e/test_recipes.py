"""The commands of documents, run as they stand there: what they print is what the document says.

A section is one shell script in an empty directory: its blocks of `sh` in their order. What follows such a block as
`text` is what the block prints on standard output.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.harness import OK, Stage, program, state_of, until
from support.source_tree import ROOT
from taskpool.procs.pool_lock import is_held

PAGES = ("recipes.md", "from-slurm.md", "from-celery.md")
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What documents call a pool, and a batch that is private and has a pool of its name: each test has its own.
NAMES = re.compile(r"\bnight(ly)?\b")


def sections() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for page in PAGES:
        for section in re.split(r"^## ", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)[1:]:
            if blocks := BLOCK.findall(section):
                yield f"{page}: {section.partition(chr(10))[0]}", blocks


SECTIONS = dict(sections())


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of batches in documents are plain words, and what is listed is what a reader has who did nothing else."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_prints_what_it_says(stage: Stage, tmp_path: Path, name: str) -> None:
    blocks = SECTIONS[name]
    script = "".join(text for kind, text in blocks if kind == "sh")
    expected = "".join(text for kind, text in blocks if kind == "text")
    there = tmp_path / "empty"
    there.mkdir()
    path = f"{Path(program('tp-generator')).parent}:{os.environ['PATH']}"
    stage.pools.append(f"{stage.pool}ly")
    words = ["sh", "-eu", "-c", NAMES.sub(rf"{stage.pool}\1", script)]
    run = stage.start(words, cwd=there, env={"PATH": path}).ends(OK)
    assert run.stdout == expected, run.stderr
    until(lambda: not is_held(state_of(stage.pool)), "the end of the section's dealer")


def test_each_page_has_some() -> None:
    assert {name.partition(":")[0] for name in SECTIONS} == set(PAGES)
    assert all(kind == "sh" for blocks in SECTIONS.values() for kind, _ in blocks[:1])
