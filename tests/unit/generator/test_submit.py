"""The command that goes on with a batch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskpool.generator.advice import resume_command, stdin_again
from taskpool.kinds.source import STDIN, Source
from taskpool.messages import JobSpec


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["fib", "5"], "tp fib --batch b --resume 5"),
        (["fib", "--batch", "b", "5"], "tp fib --resume --batch b 5"),
        (["fib", "--batch=b", "--resume", "5"], "tp fib --batch=b --resume 5"),
        (["command", "--", "x", "--batch", ":::", "a b"], "tp command --batch b --resume -- x --batch ::: 'a b'"),
        (["command", "--", "x", "y" * 99_999], "the same command with --batch b --resume behind 'command'"),
    ],
)
def test_the_command_that_resumes(argv: list[str], command: str) -> None:
    assert resume_command("tp", argv, "b") == command


def test_paths_are_absolute_and_the_jobs_own_options_are_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    template = ["x", "--results", "r", "--batch", "--resume"]
    command = resume_command("tp", ["command", "--results=o", "--journal", "none", *template], "b", len(template))
    assert command == (
        f"tp command --batch b --resume --results={tmp_path}/o --journal none x --results r --batch --resume"
    )
    assert resume_command("tp", ["jobs", "f"], "b") == f"tp jobs --batch b --resume {tmp_path}/f"
    assert resume_command("tp", ["jobs", "-"], "b") == "tp jobs --batch b --resume -"
    words = ["command", "-a", "f", "-ag", "--wd", "d", "x", "::::", "i", "-", ":::", "j", "::::+", "k"]
    assert resume_command("tp", words, "b", 8) == (
        f"tp command --batch b --resume -a {tmp_path}/f -a{tmp_path}/g --wd {tmp_path}/d x :::: {tmp_path}/i - ::: j "
        f"::::+ {tmp_path}/k"
    )
    named = resume_command("./tp", ["command", "--pool", "p", "x"], "b", 1)
    assert named == f"{tmp_path}/tp command --batch b --resume --cwd {tmp_path} --pool p x"


def test_the_command_can_be_told_where_the_current_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen program knows itself by the name it was called by, others by their path."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for program in ("tp", "/opt/tp"):
        assert resume_command(program, ["fib", "1"], "b") == f"{program} fib --batch b --resume 1"


WORDS = [
    b"w\xff",
    b"\xff",
    b"\xc3\xa9",
    b"\xc3",
    b"a\nb",
    b"a\n\xc3\xa9",
    b"\n\n!\n%",
    b"\x1b[0m",
    b"\x7f",
    b"\t",
    b"\xff\n%s",
]
WORDS += [
    b"",
    b"'",
    b'"$(x)`\\',
    b"%d\\0",
    b"-n",
    b"--",
    b"\xc2\x85",
    b"\xc2\xa0\xff",
    bytes(range(1, 10)),
    bytes(range(11, 256)),
]


@pytest.mark.parametrize("shell", [["sh"], ["bash"], ["bash", "--posix"]])
def test_a_shell_reads_the_same_bytes(shell: list[str]) -> None:
    line = resume_command("tp", ["command", "--", *map(os.fsdecode, WORDS)], "b")
    assert line.isprintable()
    code = line.replace("tp command", "printf '%s\\0'", 1)
    read = subprocess.run([*shell, "-c", code], stdout=subprocess.PIPE, check=True).stdout
    assert read.split(b"\0") == [b"--batch", b"b", b"--resume", b"--", *WORDS, b""]


@pytest.mark.parametrize("word", ["\n", "a\n", "a\udcff\n"])
def test_what_no_line_can_say_is_told_in_words(word: str) -> None:
    command = resume_command("tp", ["command", "--batch", "b", "--", word], "b")
    assert command == "the same command with --resume behind 'command'"


def test_standard_input_is_wanted_again_wherever_it_stands_among_the_inputs() -> None:
    def no_jobs(lines: Iterator[bytes]) -> Iterator[JobSpec]:
        return iter(())

    assert stdin_again(Source(no_jobs)) is None
    for source in (Source(no_jobs, STDIN, "standard input"), Source(no_jobs, reads_stdin=True)):
        assert stdin_again(source) == "", "it is no file that could be named"
