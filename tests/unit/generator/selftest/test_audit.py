"""The judgement of a self-test: right records pass, and each wrong one is named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskpool.errors import ExitCode
from taskpool.generator.selftest.audit import audit, with_directory
from taskpool.generator.selftest.plan import Plan, PlannedJob, make_plan
from taskpool.generator.selftest.records import Execution, Journal, Recorded, executions, read_journal, told
from taskpool.generator.selftest.trial import Evidence
from taskpool.messages import State

PLAN = make_plan(7, 3, "/records", "/bin/sh")


def recorded(seq: int, job: PlannedJob) -> Recorded:
    value = msgspec.Raw(msgspec.json.encode(job.value if job.state is State.SUCCEEDED else None))
    return Recorded(job.name, seq, 1, str(job.state), 1, 1 if job.crashes_itself else 0, value)


def lines(job: PlannedJob) -> list[Execution]:
    """As many executions as the job needs."""
    if job.fields["kind"] == "fib":
        return []
    wrong = 2 if job.state is State.QUARANTINED else min(job.times, 2)
    written = [Execution("start", job.name, 1)] * wrong
    succeeds = job.state is State.SUCCEEDED
    return [*written, *([Execution("start", job.name, 1), Execution("end", job.name, 1)] if succeeds else [])]


def right(plan: Plan = PLAN) -> Evidence:
    outcomes = [recorded(seq, job) for seq, job in enumerate(plan.jobs, 1)]
    written = [line for job in plan.jobs for line in lines(job)]
    return Evidence(ExitCode.QUARANTINED, plan.blows, written, outcomes, Journal(list(outcomes), 1), [])


def broken(evidence: Evidence) -> dict[str, list[str]]:
    return {check.name: list(check.problems) for check in audit(PLAN, evidence) if not check.holds}


def with_outcomes(outcomes: list[Recorded]) -> Evidence:
    return right()._replace(told=outcomes, journal=Journal(outcomes, 0))


def changed(name: str, **fields: Any) -> Evidence:
    """Records in which one job has ended otherwise."""
    each = right().told
    return with_outcomes([msgspec.structs.replace(o, **fields) if o.name == name else o for o in each])


def test_right_records_pass() -> None:
    assert broken(right()) == {}


def test_a_lost_job_is_named_with_what_befell_it() -> None:
    victim = next(blow.victim for blow in PLAN.blows if blow.target == "dealer")
    evidence = with_outcomes([outcome for outcome in right().told if outcome.name != victim])
    (problem,) = broken(evidence)["outcomes"]
    assert problem.startswith(f"job {victim} was accepted and has no outcome: it is lost (executed 3 times")
    assert "the dealer was killed while it ran" in problem


def test_a_second_outcome_is_named() -> None:
    outcomes = right().told
    found = broken(right()._replace(journal=Journal([*outcomes, outcomes[3]], 0)))
    assert found == {"outcomes": [f"job {outcomes[3].name} has 2 recorded outcomes (succeeded, succeeded) for one run"]}


def test_what_is_told_twice_or_never_is_named() -> None:
    outcomes = right().told
    found = broken(right()._replace(told=[*outcomes[1:], outcomes[1]]))["told"]
    assert found == [
        f"the outcome of job {outcomes[1].name} was told 2 times",
        f"the outcome of job {outcomes[0].name} is recorded and was never told",
    ]


def test_a_crash_that_was_not_retried_is_named() -> None:
    found = broken(changed("segv-1", state="quarantined", crashes=1))
    assert found["results"] == ["job segv-1 was given up after 1 crash, and may crash without limit: it is quarantined"]


def test_fewer_executions_than_crashes_are_named() -> None:
    first = next(line for line in right().executions if line.job == "kill-0")
    written = [line for line in right().executions if line.job != "kill-0"] + [first, first._replace(word="end")]
    found = broken(right()._replace(executions=written))
    assert found == {"retries": ["job kill-0 crashed and was not run again: it was executed 1 time, not 3"]}


@pytest.mark.parametrize(("name", "value"), [("calm-0-1", b'"calm-0-2:0"'), ("fib-1", b"-1"), ("calm-2-0", b"null")])
def test_a_wrong_result_is_named(name: str, value: bytes) -> None:
    (problem,) = broken(changed(name, value=msgspec.Raw(value)))["results"]
    assert problem.startswith(f"job {name} has the result {value.decode()}, not ")


def test_success_without_an_end_is_named() -> None:
    written = [line for line in right().executions if (line.word, line.job) != ("end", "calm-0-1")]
    found = broken(right()._replace(executions=written))
    assert found == {"retries": ["job calm-0-1 is recorded as succeeded and never came to its end"]}


def test_overlap_exit_status_journal_and_leavings_are_named() -> None:
    evidence = right()
    evidence = evidence._replace(
        executions=[*evidence.executions, Execution("overlap", "calm-0-1", 5)],
        exit_status=4,
        said="tp-generator: it is gone",
        journal=evidence.journal._replace(problem="page 3 is damaged"),
        left=["the process 17 (sleep 600)"],
    )
    assert broken(evidence) == {
        "overlap": ["job calm-0-1 was executed while another execution of it was under way"],
        "end": ["tp-generator ended with 4, not with 6: tp-generator: it is gone"],
        "journal": ["page 3 is damaged"],
        "left": ["the process 17 (sleep 600) is left behind"],
    }


def test_many_problems_of_a_sort_are_counted() -> None:
    found = broken(with_outcomes([]))["outcomes"]
    assert len(found) == 6
    assert found[-1] == f"and {len(PLAN.jobs) - 5} more like these"


def test_what_is_left_of_the_directory_counts() -> None:
    checks = with_directory(audit(PLAN, right()), "the directory /state")
    assert [check.name for check in checks if not check.holds] == ["left"]
    assert all(check.holds for check in with_directory(audit(PLAN, right()), ""))


# --- records --------------------------------------------------------------------------------------


def test_half_a_line_is_not_read(tmp_path: Any) -> None:
    (tmp_path / "lines").write_text("start a 1\nend a 1\nstart b")
    assert executions(tmp_path) == [Execution("start", "a", 1), Execution("end", "a", 1)]
    whole = b'{"label":"a","seq":1,"run":1,"state":"succeeded","attempts":1,"crashes":0,"value":3}\n'
    (tmp_path / "results").write_bytes(whole + whole[:20])
    assert [outcome.name for outcome in told(tmp_path / "results")] == ["a"]
    assert told(tmp_path / "none") == []


def test_an_export_is_read_with_what_waits_and_what_is_damaged() -> None:
    outcome = b'{"record":"outcome","label":null,"seq":4,"run":1,"state":"failed","attempts":1,"crashes":0}\n'
    journal = read_journal(b'{"record":"batch","name":"b"}\n' + outcome + b'{"record":"job","seq":5}\n')
    assert [each.name for each in journal.outcomes] == ["number 4"]
    assert (journal.waiting, journal.problem) == (1, "")
    assert "not readable" in read_journal(b"{").problem
