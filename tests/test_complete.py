"""What comes in pairs is complete: tables have every cell, effects a performer, messages a place in the protocol."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from source_tree import ROOT, complain, sources

LIMIT_NAME = re.compile(r"_(NS|BYTES|MAX|MIN|PATTERN|DEFAULT|UNLIMITED)$")

MARKERS = ("R1", "R3", "R4", "R5", "R7", "R8", "R9", "R10")


def test_every_cell_of_the_job_table_is_filled() -> None:
    from taskpool.core.job import JOB_TABLE, JobAction, JobEvent
    from taskpool.messages import State

    assert set(JOB_TABLE) == {(state, event) for state in State for event in JobEvent}
    assert set(JOB_TABLE.values()) == set(JobAction), "an action no cell asks for"


def test_every_cell_of_the_worker_table_is_filled() -> None:
    from taskpool.core.worker import WORKER_TABLE, WorkerAction, WorkerEvent, WorkerState

    assert set(WORKER_TABLE) == {(state, event) for state in WorkerState for event in WorkerEvent}
    assert set(WORKER_TABLE.values()) == set(WorkerAction), "an action no cell asks for"


def test_every_limit_names_its_unit() -> None:
    from taskpool import limits

    own = [name for name in vars(limits) if name.isupper() and name not in {"MILLISECOND", "SECOND"}]
    assert own
    complain([f"limits.{name}: end it in a unit, _MAX or _MIN" for name in own if not LIMIT_NAME.search(name)])


def test_every_limit_is_used() -> None:
    from taskpool import limits

    text = "\n".join(source.text for source in sources())
    own = [name for name in vars(limits) if name.isupper() and name not in {"MILLISECOND", "SECOND"}]
    complain([f"limits.{name} limits nothing" for name in own if len(re.findall(rf"\b{name}\b", text)) < 2])


@pytest.mark.parametrize("marker", MARKERS)
def test_ordering_rules_are_marked_where_they_are_kept(marker: str) -> None:
    pattern = re.compile(rf"#.*\b{marker}\b")
    assert any(pattern.search(source.text) for source in sources()), f"no `# {marker}` under internal/"


def test_message_tags_are_used_once() -> None:
    from taskpool.messages import Message

    tags = [kind.__struct_config__.tag for kind in get_args(Message)]
    assert len(set(tags)) == len(tags)


# --- docs/protocol.md is normative -----------------------------------------------------------------


def protocol() -> str:
    return (ROOT / "docs" / "protocol.md").read_text()


def field_table(heading: str) -> list[str]:
    """The first column of the table below a heading of the protocol."""
    _, found, rest = protocol().partition(f"\n{heading}")
    assert found, f"docs/protocol.md: no heading {heading!r}"
    return re.findall(r"^\| `(\w+)` \|", rest.split("\n####")[0].split("\n###")[0], re.MULTILINE)


@pytest.mark.parametrize("message", get_args(messages.Message), ids=lambda message: message.__name__)
def test_the_protocol_lists_every_message_and_field(message: type[messages.Part]) -> None:
    heading = f"#### {message.__struct_config__.tag} `{message.__name__}`"
    assert field_table(heading) == list(message.__struct_fields__)


def test_the_protocol_lists_every_part_and_field() -> None:
    sent = get_args(messages.Message)
    parts = [part for part in messages.Part.__subclasses__() if part not in sent]
    assert parts
    for part in parts:
        assert field_table(f"#### `{part.__name__}`") == list(part.__struct_fields__), part


def cell_rows(table: Mapping[tuple[Any, Any], Any], states: Iterable[Any], events: Iterable[Any]) -> list[str]:
    columns = list(events)
    rows = []
    for state in states:
        cells = ["·" if table[state, event].value == "stale" else str(table[state, event].value) for event in columns]
        rows.append(f"| {state.value} | " + " | ".join(cells) + " |")
    return rows


def test_the_protocol_shows_the_state_tables() -> None:
    from taskpool.core import job, worker

    expected = cell_rows(job.JOB_TABLE, messages.State, job.JobEvent)
    expected += cell_rows(worker.WORKER_TABLE, worker.WorkerState, worker.WorkerEvent)
    complain([f"docs/protocol.md: expected the row {row}" for row in expected if row not in protocol()])


def test_the_protocol_shows_the_queue_layouts() -> None:
    from taskpool import limits
    from taskpool.ipc.budget import LADDER

    offences = []
    for layout in LADDER:
        shapes = " | ".join(f"{shape.maxmsg} × {shape.msgsize}" for shape in layout)
        need = f"{layout.need(limits.WORKER_QUEUES_BUDGETED_MIN):,}"
        if not re.search(rf"{re.escape(shapes)} \|[ *]+{need}", protocol()):
            offences.append(f"docs/protocol.md: expected a row with | {shapes} | {need}")
    complain(offences)


def test_the_protocol_names_every_refusal() -> None:
    text = (PACKAGE / "core" / "desk.py").read_text() + "".join(
        path.read_text() for path in (PACKAGE / "dealer").glob("*.py")
    )
    told = set(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", protocol().split("| reason |")[1], re.MULTILINE))
    said = {reason for reason in told if f'"{reason}"' in text}
    assert said == told, f"nobody refuses for {told - said}"
