"""The command that goes on with a batch."""

from __future__ import annotations

import pytest

from taskpool.generator.submit import resume_command


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
