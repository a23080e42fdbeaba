"""What comes in pairs is complete: tables have every cell, effects a performer, messages a place in the protocol."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, get_args
from unittest.mock import Mock

import pytest

from support.source_tree import ROOT, complain, sources
from taskpool import limits, messages

LIMIT_NAME = re.compile(r"_(NS|BYTES|MAX|MIN|PATTERN|DEFAULT|UNLIMITED)$")

MARKERS = tuple(f"R{number}" for number in range(1, 11))


def test_every_cell_of_the_job_table_is_filled() -> None:
    from taskpool.core.job import JOB_TABLE, JobAction, JobEvent

    assert set(JOB_TABLE) == {(state, event) for state in messages.State for event in JobEvent}
    assert set(JOB_TABLE.values()) == set(JobAction), "an action no cell asks for"


def test_every_cell_of_the_worker_table_is_filled() -> None:
    from taskpool.core.worker import WORKER_TABLE, WorkerEvent, WorkerState

    assert set(WORKER_TABLE) == {(state, event) for state in WorkerState for event in WorkerEvent}
    assert set(WORKER_TABLE.values()) == {*WorkerState, None} - {WorkerState.STARTING}, "a state no event leads to"


def test_every_limit_names_its_unit() -> None:
    own = [name for name in vars(limits) if name.isupper() and name not in {"MILLISECOND", "SECOND"}]
    assert own
    complain([f"limits.{name}: end it in a unit, _MAX or _MIN" for name in own if not LIMIT_NAME.search(name)])


def test_every_limit_is_used() -> None:
    words = Counter(word for source in sources() for word in re.findall(r"\b[A-Z][A-Z_]+\b", source.text))
    own = [name for name in vars(limits) if name.isupper() and name not in {"MILLISECOND", "SECOND"}]
    complain([f"limits.{name} limits nothing" for name in own if words[name] < 2])


def test_every_effect_has_a_performer() -> None:
    from taskpool.core.effects import Effect
    from taskpool.dealer.performer import Performer

    nothing: Any = Mock()
    performer = Performer(nothing, nothing, nothing, nothing, nothing)
    assert set(performer._methods) == set(get_args(Effect))


def test_every_event_has_a_handler() -> None:
    from taskpool.core.events import Event

    module = next(source for source in sources() if source.name == "core/reactor.py")
    handled = {
        ast.unparse(key) for node in ast.walk(module.tree) if isinstance(node, ast.Dict) for key in node.keys if key
    }
    missing = {event.__name__ for event in get_args(Event)} - handled
    assert not missing, f"Reactor handles no {missing}"


@pytest.mark.parametrize("marker", MARKERS)
def test_ordering_rules_are_marked_where_the_protocol_says_they_are_kept(marker: str) -> None:
    row = re.search(rf"^\| {marker} \|.*\|(.*)\|$", protocol(), re.MULTILINE)
    assert row, f"docs/protocol.md, 11, has no {marker}"
    kept_in = {path for path in re.findall(r"`([\w/.]+)`", row[1]) if not path.endswith("/")}
    pattern = re.compile(rf"#.*\b{marker}\b|\b{marker} \(docs/protocol\.md, 11\)")
    assert kept_in == {source.name for source in sources() if pattern.search(source.text)}


def test_message_tags_are_used_once() -> None:
    tags = [kind.__struct_config__.tag for kind in get_args(messages.Message)]
    assert len(set(tags)) == len(tags)


# --- docs/protocol.md is normative -----------------------------------------------------------------


def protocol() -> str:
    return (ROOT / "docs" / "protocol.md").read_text()


def first_column(after: str) -> list[str]:
    """The code words in the first column of the first table behind these words of the protocol."""
    _, found, rest = protocol().partition(after)
    assert found, f"docs/protocol.md: {after!r} is missing"
    table = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert table, f"docs/protocol.md: no table behind {after!r}"
    return re.findall(r"^\| `(\w+)` \|", table.group(), re.MULTILINE)


@pytest.mark.parametrize("message", get_args(messages.Message), ids=lambda message: message.__name__)
def test_the_protocol_lists_every_message_and_field(message: type[messages.Part]) -> None:
    heading = f"#### {message.__struct_config__.tag} `{message.__name__}`"
    assert first_column(f"\n{heading}") == list(message.__struct_fields__)


def test_the_protocol_lists_every_part_and_field() -> None:
    sent = get_args(messages.Message)
    own = [part for part in messages.Part.__subclasses__() if part.__module__ == messages.__name__]
    parts = [part for part in own if part not in sent]
    assert parts
    for part in parts:
        assert first_column(f"\n#### `{part.__name__}`\n") == list(part.__struct_fields__), part


def cell_rows(table: Mapping[tuple[Any, Any], Any], states: Iterable[Any], events: Iterable[Any]) -> list[str]:
    columns = list(events)
    rows = []
    for state in states:
        found = [table[state, event] for event in columns]
        cells = ["·" if cell is None or cell.value == "stale" else str(cell.value) for cell in found]
        rows.append(f"| {state.value} | " + " | ".join(cells) + " |")
    return rows


def test_the_protocol_shows_the_state_tables() -> None:
    from taskpool.core import job, worker

    expected = cell_rows(job.JOB_TABLE, messages.State, job.JobEvent)
    expected += cell_rows(worker.WORKER_TABLE, worker.WorkerState, worker.WorkerEvent)
    complain([f"docs/protocol.md: expected the row {row}" for row in expected if row not in protocol()])


def test_the_protocol_shows_the_queue_layouts() -> None:
    from taskpool.ipc.sizing import LADDER

    offences = []
    for layout in LADDER:
        shapes = " | ".join(f"{shape.maxmsg} × {shape.msgsize}" for shape in layout)
        need = f"{layout.need(limits.WORKER_QUEUES_MIN):,}"
        if not re.search(rf"{re.escape(shapes)} \|[ *]+{need}", protocol()):
            offences.append(f"docs/protocol.md: expected a row with | {shapes} | {need}")
    complain(offences)


def test_the_protocol_names_every_refusal() -> None:
    text = "".join(source.text for source in sources() if source.part in ("core", "dealer"))
    reasons = first_column("Why a frame is refused:")
    assert reasons
    complain([f"nothing refuses for {reason}" for reason in reasons if f'"{reason}"' not in text])


def test_the_protocol_names_every_verb() -> None:
    text = next(source.text for source in sources() if source.name == "core/commands.py")
    verbs = set(re.findall(r'^ +"([a-z-]+)": self\._', text, re.MULTILINE))
    said = re.search(r"Verbs: ([^.]+)\.", protocol())
    assert verbs
    assert said
    assert set(re.findall(r"`([a-z-]+)`", said.group(1))) == verbs
