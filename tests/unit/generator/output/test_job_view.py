"""What `show` prints of a job."""

from __future__ import annotations

import json

from support.outcomes import outcome
from taskpool.generator.output.job_view import ended_job, lay_out_job
from taskpool.messages import End, Output, State, Try


def test_an_ended_job_is_its_outcome_in_the_words_of_the_dealer() -> None:
    ended = outcome(
        3, State.FAILED, value=b"1e400", job="fib(9)", output=Output("much", "more"), tries=(Try(1, End.FAILED),)
    )
    text = ended_job("b", ended)
    assert b'"value":1e400' in text
    body = json.loads(text)
    assert (body["job"], body["description"], body["state"], body["attempts"]) == ("b/3", "fib(9)", "failed", 1)
    assert [tried["end"] for tried in body["tries"]] == ["failed"]
    assert "stdout" not in body and "batch" not in body


def test_each_try_has_a_paragraph() -> None:
    tried = {"attempt": 2, "end": "crashed", "signal_name": "SIGSEGV", "exit_status": None, "stderr_tail": "a\n\x1b[2J"}
    assert lay_out_job({"job": "b/1", "tries": [tried]}) == (
        "job  b/1\n"
        "attempt 2:\n"
        "  end          crashed\n"
        "  signal name  SIGSEGV\n"
        "  the end of its standard error:\n"
        "    a\n"
        "    \\x1b[2J\n"
    )
    assert lay_out_job({"job": "b/1", "tries": []}) == "job  b/1\n"
    assert lay_out_job("odd") == "odd\n"
