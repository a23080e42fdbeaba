"""What a job prints when no objects are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.outcomes import outcome
from taskpool.generator.output.printer import Printer, value_pieces
from taskpool.generator.output.stream import FILE_CHUNK_BYTES, Piece, write_out
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


def test_a_tag_begins_each_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * FILE_CHUNK_BYTES + b"\r" + b"y" * (FILE_CHUNK_BYTES - 2) + b"\nlast")
    printer = Printer("b", "tagged")
    printer.take(outcome(kind="command", label="a b", output=Output(stdout="1\n2\r\n\nend")))
    printer.take(outcome(kind="command", label="ö", output=Output(stdout_file=str(large), stderr="e\n")))
    printer.take(outcome(kind="command", label="quiet"))
    write_out(printer)
    printer.close()
    out, err = capfd.readouterr()
    expected = b"a b\t1\na b\t2\ra b\t\na b\t\na b\tend"
    expected += "ö\t".encode() + b"x" * FILE_CHUNK_BYTES + b"\r" + "ö\t".encode() + b"y" * (FILE_CHUNK_BYTES - 2)
    assert (out.encode(), err) == (expected + b"\n" + "ö\tlast".encode(), "ö\te\n")
