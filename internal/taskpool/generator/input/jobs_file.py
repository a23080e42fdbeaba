"""Jobs as JSON Lines: one whole job object a line, kinds mixed; and the JSON Schema of such an object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from taskpool.errors import UsageError
from taskpool.generator.job_limits import KEYS, LimitFields, parse_limits
from taskpool.generator.output.outcome_object import SCHEMA_DIALECT
from taskpool.kinds import TYPED_KINDS, TypedKind, typed_kind
from taskpool.kinds.base import WrongField, read_fields
from taskpool.messages import JobSpec, Limits

# Fields that later versions have. A job that needs another one first must not run as if it did not.
_NOT_YET = ("needs", "after")
LABEL_CHARS_MAX = 256  # as messages.JobSpec has it


class _Head(Struct):
    """What every job object has, beside its limits and its kind's own fields."""

    kind: Annotated[str, Meta(extra={"expected": f"one of {', '.join(TYPED_KINDS)}"})]
    label: Annotated[
        Annotated[str, Meta(max_length=LABEL_CHARS_MAX)] | None,
        Meta(
            description="A name for people: outcomes and log lines quote it.",
            examples=["page 7"],
            extra={"expected": f"a text of at most {LABEL_CHARS_MAX} characters"},
        ),
    ] = None


_HEAD_KEYS = _Head.__struct_fields__


def read_jobs(lines: Iterator[bytes], name: str, base: Limits) -> Iterator[JobSpec | None]:
    """Read one item from each line: its job, or None for a blank one. `base` is what the batch allows.

    Raises UsageError naming the line and the field.
    """
    for number, line in enumerate(lines, 1):
        yield parse_job(line, f"{name}:{number}", base) if line.strip() else None


def parse_job(line: bytes, where: str, base: Limits) -> JobSpec:
    """Read the job in one line. Raises UsageError that starts with `where`."""
    fields = _decode(line, where)
    try:
        head = read_fields(_Head, {key: fields.pop(key) for key in _HEAD_KEYS if key in fields})
        found = typed_kind(head.kind)
    except WrongField as wrong:
        raise UsageError(f"{where}: {wrong}") from None
    except UsageError as error:
        raise UsageError(f"{where}: field 'kind': {error}") from None
    own = {key: fields.pop(key) for key in KEYS & fields.keys()}
    # None, rather than the batch's limits again: the dealer has those already, and most jobs have no others.
    wanted = parse_limits(own, lambda key: f"{where}: field {key!r}", base) if own else None
    return JobSpec(kind=found.name, payload=found.parse(fields, where), limits=wanted, label=head.label)


def _decode(line: bytes, where: str) -> dict[str, object]:
    # Without a type: which Struct the fields belong to is known only when one of them, `kind`, is read. Of a name that
    # comes twice the last one counts, as in most JSON readers.
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"{where}: expected a JSON object, got {type(fields).__name__}")
    for key in _NOT_YET:
        if key in fields:
            raise UsageError(f"{where}: field {key!r} is not supported by this version of taskpool: leave it out")
    return fields


# --- the schema -----------------------------------------------------------------------------------


def job_schema() -> dict[str, Any]:
    """Describe one job object in JSON Schema 2020-12, made of the Structs that check it.

    LIMIT: it takes some objects that `parse_job` refuses: what depends on two values, on Unicode's letters, or on the
    signals of this machine is beyond it; and to it 40.0 is an integer.
    """
    common = _object_schema(LimitFields)["properties"]
    label = _object_schema(_Head)["properties"]["label"]
    return {
        "$schema": SCHEMA_DIALECT,
        "title": "A job of taskpool, one line of a file for `tp-generator jobs`",
        "oneOf": [_kind_schema(each, {"label": label, **common}) for each in TYPED_KINDS.values()],
    }


def _kind_schema(each: TypedKind[Any, Any], common: dict[str, Any]) -> dict[str, Any]:
    own = _object_schema(each.object_type)
    tag = {"const": each.name, "description": "What kind of job it is."}
    return {
        "title": each.name,
        "description": each.summary,
        "type": "object",
        "properties": {"kind": tag, **own["properties"], **common},
        "required": ["kind", *own["required"]],
        "additionalProperties": False,
    }


def _object_schema(struct: type[Struct]) -> dict[str, Any]:
    # msgspec wants to refer to every Struct by name; these few are written out where they belong.
    _, definitions = msgspec.json.schema_components([struct])
    schema: dict[str, Any]
    (schema,) = definitions.values()
    return schema
