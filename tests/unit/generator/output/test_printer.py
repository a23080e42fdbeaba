"""What a job prints when no objects are asked for."""

from __future__ import annotations

from pathlib import Path

from support.outcomes import outcome
from taskpool.generator.output.printer import value_pieces
from taskpool.generator.output.stream import Piece
from taskpool.messages import Output


def test_a_value_is_a_line_and_what_its_job_printed_is_for_the_human() -> None:
    assert value_pieces(outcome(value=b"5", output=Output(stdout="noise", stderr="more"))) == [
        Piece(1, b"5\n"),
        Piece(2, b"noise"),
        Piece(2, b"more"),
    ]


def test_a_command_prints_its_own_streams() -> None:
    printed = outcome(kind="command", output=Output(stdout="out", stderr_file="/err"))
    assert value_pieces(printed) == [Piece(1, b"out"), Piece(2, Path("/err"))]
