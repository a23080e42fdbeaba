"""The object of `--results` and `--output json`: how a job ended, for a program.

The Struct is what is written and what the JSON Schema is made of, so the two cannot differ.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from taskpool.certificate import Count, Moment, Seconds, Slot, TryObject
from taskpool.messages import TERMINAL, ExitStatus, SignalNumber, State

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Of the enum itself the schema would offer states in which no outcome can be.
_STATES = [state.value for state in State if state in TERMINAL]


class ErrorObject(Struct, kw_only=True, frozen=True):
    """Why a job did not succeed."""

    type: str
    message: str
    traceback: str | None


class OutcomeObject(Struct, kw_only=True, frozen=True):
    """How a run of a job ended. Every field is there; what does not apply is null. A later version may add fields."""

    # No field has a default: one that is forgotten where it is filled in is an error, and not silently null.
    batch: str
    seq: Annotated[int, Meta(ge=1, description="the job's number in its batch")]
    run: Annotated[int, Meta(ge=1, description="2 and more: a person gave the job a new run")]
    kind: str
    label: str | None
    job: Annotated[str | None, Meta(description="what it is, in one line: the command line or the call")]
    state: Annotated[str, Meta(extra_json_schema={"enum": _STATES})]
    value: Annotated[msgspec.Raw, Meta(description="what a fib or python job returned: any JSON; else null")]
    exit_status: ExitStatus | None
    signal: SignalNumber | None
    attempts: Annotated[int, Meta(ge=0, description="tries of this run; 0: it never began")]
    crashes: Count
    slot: Slot | None
    pid: Count | None
    queued_at: Moment | None
    started_at: Moment | None
    finished_at: Moment | None
    wait_seconds: Annotated[Seconds | None, Meta(description="accepted until its last attempt began")]
    run_seconds: Seconds | None
    cpu_seconds: Seconds | None
    max_rss_bytes: Count | None
    stdout: Annotated[str | None, Meta(description="null where stdout_file has it")]
    stderr: Annotated[str | None, Meta(description="null where stderr_file has it")]
    stdout_file: Annotated[str | None, Meta(description="where it is, when it is large or no UTF-8")]
    stderr_file: Annotated[str | None, Meta(description="where it is, when it is large or no UTF-8")]
    error: ErrorObject | None
    tries: Annotated[list[TryObject], Meta(description="the last attempts that did not succeed")]


def outcome_schema() -> dict[str, Any]:
    """Describe an outcome object in JSON Schema 2020-12."""
    _, definitions = msgspec.json.schema_components([OutcomeObject], ref_template="#/$defs/{name}")
    own = definitions.pop(OutcomeObject.__name__)
    title = "How a job of taskpool ended, one line of `--results` and `--output json`"
    return {"$schema": SCHEMA_DIALECT, **own, "title": title, "$defs": definitions}
