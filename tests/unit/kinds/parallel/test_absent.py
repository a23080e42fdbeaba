"""What GNU parallel has and we have not: refused by name, and told in the documents."""

from __future__ import annotations

import argparse
import re
import subprocess

import pytest

from support.source_tree import ROOT, complain
from taskpool.generator.parser import build_parser
from taskpool.kinds.parallel.absent import ABSENT, advice

PAGE = (ROOT / "docs" / "from-gnu-parallel.md").read_text()


def options() -> set[str]:
    """Every option of `tp-generator command`."""
    (subcommands,) = (each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction))
    return set(subcommands.choices["command"]._option_string_actions)


def test_the_page_has_each_row() -> None:
    rows = [f"| {', '.join(f'`{each}`' for each in names)} | {cure} |" for names, cure in ABSENT.items()]
    shown = PAGE.replace("\\|", "|")
    complain([f"docs/from-gnu-parallel.md: expected the row {row}" for row in rows if row not in shown])
    assert shown.count("\n| `-") == len(rows) + len(
        re.findall(r"^\| `-", PAGE.partition("## Not there")[0], re.MULTILINE)
    )


def test_no_row_is_about_an_option_that_is_there() -> None:
    complain([f"absent.py: remove {each}: it is there" for names in ABSENT for each in names if each in options()])


def test_an_option_has_one_row() -> None:
    spellings = [each for names in ABSENT for each in names]
    assert len(set(spellings)) == len(spellings)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-S", "host", "echo"], "-S"),
        (["--sshlogin=host", "echo"], "--sshlogin"),
        (["-Shost", "echo"], "-S"),
        (["--pipe-part", "-N2", "cat"], "--pipe-part"),
        (["-k", "--line-buffer", "echo", ":::", "a"], "--line-buffer"),
        (["--load", "1", "echo"], "--load"),
    ],
)
def test_an_option_that_is_not_there(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["command", *words])
    assert f"{named} is GNU parallel's and not supported here: " in (said := capsys.readouterr().err)
    assert str(advice([named])) in said


@pytest.mark.parametrize(("word", "ours"), [("--argfile", "--arg-file"), ("--keeporder", "--keep-order")])
def test_another_spelling(word: str, ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["command", word, "echo"])
    assert f"{word} is spelt {ours} here" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["command", "--wurkers", "3", "echo"], ["fib", "--tag", "5"]])
def test_an_option_that_is_of_neither(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(words)
    assert re.search(f"(unknown|no) option {words[1]}", capsys.readouterr().err)


@pytest.mark.needs_tool("parallel")
def test_every_option_of_gnu_parallel_has_an_answer() -> None:
    """Those that its help and its completion name: they are there, or have a row."""
    made = subprocess.run(["parallel", "--shell-completion", "zsh"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"(?<![\w-])--?[a-zA-Z0-9][\w-]*(?==?\[|=?\+?\[|[ ,}'\"])", made)) - {"-20"}  # a value
    assert len(known) > 200
    there = options()
    complain([f"absent.py: what about {each}?" for each in sorted(known - there) if advice([each], there) is None])
