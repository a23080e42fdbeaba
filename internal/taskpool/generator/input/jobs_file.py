"""Jobs as JSON Lines: one whole job object a line, kinds mixed."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from taskpool.errors import UsageError
from taskpool.generator.job_limits import KEYS, parse_limits
from taskpool.kinds import kind
from taskpool.messages import JobSpec, Limits

_NOT_YET = ("needs", "after", "mem_limit")
LABEL_CHARS_MAX = 256


def read_jobs(lines: Iterator[bytes], name: str, base: Limits) -> Iterator[JobSpec | None]:
    """One item for each line: its job, or None for a blank one. `base` is what the batch allows.

    Raises UsageError naming the line and the field.
    """
    for number, line in enumerate(lines, 1):
        yield parse_job(line, f"{name}:{number}", base) if line.strip() else None


def parse_job(line: bytes, where: str, base: Limits) -> JobSpec:
    """The job in one line. Raises UsageError that starts with `where`."""
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"{where}: expected a JSON object, got {type(fields).__name__}")
    for key in _NOT_YET:
        if key in fields:
            raise UsageError(f"{where}: field {key!r} is not supported by this version of taskpool: leave it out")
    name = fields.pop("kind", None)
    if not isinstance(name, str):
        raise UsageError(f"{where}: field 'kind': expected a text such as \"command\", got {name!r}")
    try:
        found = kind(name)
    except UsageError as error:
        raise UsageError(f"{where}: field 'kind': {error}") from None
    label = _label(fields.pop("label", None), where)
    own = {key: fields.pop(key) for key in KEYS & fields.keys()}
    wanted = parse_limits(own, lambda key: f"{where}: field {key!r}", base) if own else None
    return JobSpec(kind=name, payload=found.parse(fields, where), limits=wanted, label=label)


def _label(value: object, where: str) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= LABEL_CHARS_MAX):
        return value
    raise UsageError(f"{where}: field 'label': expected a text of at most {LABEL_CHARS_MAX} characters, got {value!r}")
