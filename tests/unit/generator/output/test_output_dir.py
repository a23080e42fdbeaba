"""`--output-dir`: whose folders they are, and that one which is there is whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from support.outcomes import outcome
from taskpool.errors import ConfigurationError, UsageError
from taskpool.generator.output.output_dir import OutputDirectory
from taskpool.messages import Output


def begun(path: Path, *, batch: str = "b", append: bool = False, links: bool = False) -> OutputDirectory:
    folders = OutputDirectory(str(path), batch, append=append, links=links)
    folders.begin()
    return folders


def test_a_job_has_a_folder(tmp_path: Path) -> None:
    folders = begun(tmp_path / "new" / "out")
    folders.write(outcome(3, output=Output(stdout="one\n", stderr="two\n"), value=b"5"))
    folder = tmp_path / "new" / "out" / "3"
    assert ((folder / "stdout").read_text(), (folder / "stderr").read_text()) == ("one\n", "two\n")
    told = json.loads((folder / "outcome.json").read_text())
    assert (told["batch"], told["seq"], told["value"], told["stdout"]) == ("b", 3, 5, None)
    assert (told["stdout_file"], told["stderr_file"]) == ("stdout", "stderr")
    assert sorted(os.listdir(folder.parent)) == ["3", "batch.json"]


@pytest.mark.parametrize("links", [False, True])
def test_long_outputs(tmp_path: Path, links: bool) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"\xffx" * 100_000)
    begun(tmp_path / "out", links=links).write(outcome(1, output=Output(stdout_file=str(kept))))
    file = tmp_path / "out" / "1" / "stdout"
    assert file.read_bytes() == kept.read_bytes()
    assert file.samefile(kept) is links


@pytest.mark.parametrize("links", [False, True])
def test_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refused(*_: object, **__: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os, "copy_file_range", refused)
    kept = tmp_path / "kept"
    kept.write_bytes(b"x" * 300_000)
    begun(tmp_path / "out", links=links).write(outcome(1, output=Output(stderr_file=str(kept))))
    assert (tmp_path / "out" / "1" / "stderr").read_bytes() == b"x" * 300_000


def test_an_outcome_that_comes_again_changes_nothing(tmp_path: Path) -> None:
    begun(tmp_path / "out").write(outcome(1, output=Output(stdout="first")))
    again = begun(tmp_path / "out", append=True)
    again.write(outcome(1, output=Output(stdout="")))
    assert (tmp_path / "out" / "1" / "stdout").read_text() == "first"
    again.write(outcome(1, run=2, output=Output(stdout="second")))
    assert (tmp_path / "out" / "1" / "stdout").read_text() == "second"


def test_what_a_killed_run_has_left_is_made_anew(tmp_path: Path) -> None:
    folders = begun(tmp_path)
    (tmp_path / ".1.part").mkdir()
    (tmp_path / ".1.part" / "stdout").write_text("half")
    folders.write(outcome(1, output=Output(stdout="whole")))
    assert (tmp_path / "1" / "stdout").read_text() == "whole"
    assert not (tmp_path / ".1.part").exists()


@pytest.mark.parametrize(
    ("batch", "append", "says"),
    [
        ("other", False, "has the outputs of batch b already: name another"),
        ("other", True, "has the outputs of batch b already: name another"),
        ("b", False, "has the outputs of a batch of this name already: name another"),
    ],
)
def test_another_batchs(tmp_path: Path, batch: str, append: bool, says: str) -> None:
    begun(tmp_path)
    with pytest.raises(UsageError, match=says):
        begun(tmp_path, batch=batch, append=append)


def test_of_two_that_begin_at_once_the_first_one_has_it(tmp_path: Path) -> None:
    first, second = (OutputDirectory(str(tmp_path / "out"), name, append=False, links=False) for name in "ab")
    first.begin()
    with pytest.raises(ConfigurationError, match="has the outputs of batch a"):
        second.begin()
    assert os.listdir(tmp_path / "out") == ["batch.json"]


def test_what_a_killed_begin_has_left_is_no_ones(tmp_path: Path) -> None:
    (tmp_path / ".batch.json.part.77").write_bytes(b"{")
    begun(tmp_path).write(outcome(1))
    assert (tmp_path / "1" / "outcome.json").exists()


def test_what_is_no_output_directory(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="full is not empty, and no batch has begun it: name another"):
        begun(tmp_path / "full", append=True)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file cannot be used: Not a directory: name a directory in a place that"):
        begun(tmp_path / "file")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "batch.json").write_text("{")
    with pytest.raises(UsageError, match="does not say whose outputs these are"):
        begun(tmp_path / "damaged")


@pytest.mark.parametrize("trailing", ["", "/"])
def test_directories_that_are_missing_are_tried_and_not_left(tmp_path: Path, trailing: str) -> None:
    path = tmp_path / "a" / "b"
    folders = OutputDirectory(f"{path}{trailing}", "b", append=False, links=False)
    assert os.listdir(tmp_path) == []
    folders.begin()
    assert os.listdir(path) == ["batch.json"]


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """Where not even root can make one, too: only the attempt tells."""
    (tmp_path / "link").symlink_to("nowhere")
    for path, reason in (
        ("/proc/here", "No such file or directory|Permission denied"),
        (f"{tmp_path}/{'x' * 300}/b", "File name too long"),
        (f"{tmp_path}/link", "File exists"),
    ):
        with pytest.raises(UsageError, match=rf"^--output-dir {path} cannot be (made|used): ({reason}): name a"):
            OutputDirectory(path, "b", append=False, links=False)
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    with pytest.raises(UsageError, match=f"out: it cannot be written by uid {os.geteuid()}: name a directory"):
        OutputDirectory(str(tmp_path / "out"), "b", append=False, links=False)


def test_nothing_is_made_before_it_begins(tmp_path: Path) -> None:
    OutputDirectory(str(tmp_path / "out"), "b", append=False, links=False)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").touch()
    with pytest.raises(UsageError):
        OutputDirectory(str(tmp_path / "out" / "in"), "b", append=False, links=False)


@pytest.mark.parametrize("content", [None, "", '{"batch": "other", "run": 1}'])
def test_a_strangers_folder_stays(tmp_path: Path, content: str | None) -> None:
    folders = begun(tmp_path)
    (tmp_path / "1").mkdir()
    if content is not None:
        (tmp_path / "1" / "outcome.json").write_text(content)
    with pytest.raises(ConfigurationError, match="1 was not written for batch b: remove it"):
        folders.write(outcome(1))


def test_an_output_that_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="share its state directory"):
        begun(tmp_path).write(outcome(1, output=Output(stdout_file="/none/here")))
