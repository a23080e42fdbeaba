"""A state directory whose path is too long for what must carry it: refused by name at once, and not waited for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.harness import ENVIRONMENT, OK, Stage, program

# With the bytes for queues that a kernel gives by itself, a generator's queue takes messages of 1024.
_STOCK_QUEUES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_MSGQUEUE, (819_200, 819_200))
os.execv(sys.argv[1], sys.argv[1:])
"""
STATE_BYTES_MAX = 1024 - 63  # what such a Welcome leaves for it
JOURNAL_BYTES_MAX = 500  # with its endings this is SQLite's MAX_PATHNAME


def deep(base: Path, size: int) -> Path:
    """A path below `base` of so many bytes, of directories with names that any file system takes."""
    path = str(base)
    while len(path) < size:
        # Never one byte short of the end, where only a slash would fit.
        left = size - len(path)
        path += "/" + "d" * (min(left, 200) - 1 if left != 201 else 100)
    return Path(path)


@pytest.mark.parametrize(
    ("options", "inside", "most", "said"),
    [
        ((), "/journal.db", JOURNAL_BYTES_MAX, r"the path of the journal .* has 501 bytes, and SQLite takes 500: set "),
        (
            ("--journal", "none"),
            "",
            STATE_BYTES_MAX,
            r"the path of the state directory .* has 962 bytes, and the first answer .* allows 961: set XDG_STATE_HOME",
        ),
    ],
    ids=["journal", "spool"],
)
def test_the_longest_path_works_and_one_byte_more_is_refused(
    stage: Stage, tmp_path: Path, options: tuple[str, ...], inside: str, most: int, said: str
) -> None:
    longest = most - len(f"/taskpool/{stage.pool}{inside}")
    command = [sys.executable, "-c", _STOCK_QUEUES, program("tp-generator"), "fib", "--batch", stage.pool, *options]
    fits, is_too_long = ({"XDG_STATE_HOME": str(deep(tmp_path, size))} for size in (longest, longest + 1))
    assert stage.start([*command, "5"], env=fits).ends(OK).lines == ["5"]
    stage.start([*command, "5"], env=is_too_long).ends(ENVIRONMENT).says(said)


@pytest.mark.parametrize("size", [3900, 4090, 5000])
def test_a_path_that_leaves_no_room_for_what_is_in_it(stage: Stage, tmp_path: Path, size: int) -> None:
    env = {"XDG_STATE_HOME": str(deep(tmp_path, size))}
    run = stage.private("fib", "--journal", "none", "5", env=env).ends(ENVIRONMENT)
    run.says(r"the path of the state directory .* and a path of Linux, with what is in it, allows 3839: set XDG_")
