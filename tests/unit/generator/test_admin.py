"""Requests to a running pool and their answers."""

from __future__ import annotations

import pytest

from taskpool.errors import UsageError
from taskpool.generator import admin
from taskpool.generator.parser import build_parser
from taskpool.messages import Answer


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (["status"], ("status", None, 0, 0)),
        (["show", "b/3"], ("show", "b", 3, 0)),
        (["cancel", "b"], ("cancel", "b", 0, 0)),
        (["cancel", "--json", "b/3", "--pool", "p"], ("cancel", "b", 3, 0)),
        (["requeue", "b/3"], ("requeue", "b", 3, 0)),
        (["scale", "+2"], ("scale", None, 0, 2)),
        (["scale", "-1", "--pool", "p"], ("scale", None, 0, -1)),
        (["quarantine", "list"], ("quarantine-list", None, 0, 0)),
        (["quarantine", "drop", "--pool", "p", "b/1"], ("quarantine-drop", "b", 1, 0)),
        (["quarantine", "requeue", "all"], ("quarantine-requeue", None, 0, 0)),
    ],
)
def test_requests_to_a_pool(words: list[str], request_: tuple[object, ...]) -> None:
    assert admin.request_from(build_parser().parse_args(words)) == request_


@pytest.mark.parametrize(
    "words", [["show", "b"], ["show", "b/0"], ["show", "b/x"], ["cancel", "/3"], ["cancel", "b/1/2"], ["scale", "2"]]
)
def test_wrong_requests(words: list[str]) -> None:
    with pytest.raises(UsageError):
        admin.request_from(build_parser().parse_args(words))


def test_answers_for_people_and_for_programs() -> None:
    answer = Answer(1, "pause", True, b'{"state":"paused"}')
    assert admin.render(answer, as_json=False) == (b"state  paused\n", None)
    assert admin.render(answer, as_json=True) == (b'{"state":"paused"}\n', None)
    assert admin.render(Answer(1, "show", False, b'{"error":"no"}'), as_json=False) == (b"", "no")
    assert admin.render(Answer(1, "show", False, b"?"), as_json=False)[1] == "the dealer's answer is not JSON"
