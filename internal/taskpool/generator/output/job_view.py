"""What `show` prints of one job: what the dealer says of one that has no outcome, or the outcome, in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from taskpool.generator.output.formats import lay_out, to_json
from taskpool.log import printable
from taskpool.messages import Outcome

# In an outcome's object; `logs` prints them, and they may be long.
_NOT_SHOWN = ("batch", "seq", "job", "tries", "stdout", "stderr")


def ended_job(batch: str, outcome: Outcome) -> bytes:
    """Return the JSON of a job that has ended: its outcome, with the names that the dealer's answer has as well."""
    # Raw: as the job made its value; decoding and encoding again could change a number's form.
    record = msgspec.json.decode(to_json(batch, outcome), type=dict[str, msgspec.Raw])
    fields = {name: value for name, value in record.items() if name not in _NOT_SHOWN}
    body = {"job": f"{batch}/{outcome.seq}", **fields, "description": record["job"], "tries": record["tries"]}
    return msgspec.json.encode(body)


def lay_out_job(body: object) -> str:
    """Lay out such an object for a person, newline included. Each try has a paragraph: a table would be too wide."""
    if not isinstance(body, Mapping):
        return lay_out(body)
    tries = body.get("tries") or []
    text = lay_out({name: value for name, value in body.items() if name != "tries"})
    return text + "".join(_paragraph(tried) for tried in tries if isinstance(tried, Mapping))


def _paragraph(tried: Mapping[str, Any]) -> str:
    known = {
        name: value for name, value in tried.items() if value is not None and name not in ("attempt", "stderr_tail")
    }
    lines = [f"attempt {tried.get('attempt')}:", *lay_out(known).splitlines()]
    if said := tried.get("stderr_tail"):
        lines += ["the end of its standard error:", *(f"  {printable(line)}" for line in str(said).split("\n"))]
    return "".join(f"{line}\n" if place == 0 else f"  {line}\n" for place, line in enumerate(lines))
