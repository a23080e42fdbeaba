"""The batches of the local dealer that jobs of the cluster are submitted to, from one life of the member to the next.

One batch is used for long: its jobs come one by one, and its name leads the next life to them. It is closed and another
one begun when it has had many jobs, so that the journal can let go of it. Which one is used stands in a file of the
pool's state directory; where that is lost, the first name is tried, and those that are closed are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct, structs

from taskpool.client.queries import BatchQueries, BatchStatus
from taskpool.clock import MILLISECOND
from taskpool.cluster.job import Mark
from taskpool.errors import ConfigurationError
from taskpool.messages import State
from taskpool.procs.files import sync_directory
from taskpool.procs.state_dir import CLUSTER_NAME

LOOK_NS = 100 * MILLISECOND
LOOKS_MAX = 100  # so long a dealer may take to read its jobs, before the cluster's jobs go on without them
_UNFINISHED = (State.QUEUED, State.DELAYED, State.RUNNING)


class Note(Struct, frozen=True):
    """What a member remembers, in a file."""

    member: str  # its name to people and to the other members
    number: int = 1  # of the batch in use

    @property
    def batch(self) -> str:
        """The name of the batch in use."""
        return f"cluster-{self.number}"

    def next(self) -> Note:
        """Return the note with the next batch in use."""
        return structs.replace(self, number=self.number + 1)


class Left(NamedTuple):
    """What an earlier life has left in the batch."""

    acknowledged: int = 0  # the last outcome that it was done with
    open: tuple[tuple[int, Mark], ...] = ()  # jobs without an outcome, by number
    recorded: int = 0  # outcomes
    cancelled: bool = False  # a person has cancelled the whole batch, so that it takes no more


def load_note(home: Path) -> Note:
    """Return the member's note, or a new one. Raises ConfigurationError."""
    try:
        return msgspec.json.decode((home / CLUSTER_NAME).read_bytes(), type=Note)
    except FileNotFoundError:
        return Note(f"{os.uname().nodename}.{os.urandom(4).hex()}")
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(
            f"{home / CLUSTER_NAME} cannot be read ({error}): it says which batch the cluster's jobs are in. "
            "Remove it, and the member looks for the batch from its first name on"
        ) from error


def save_note(home: Path, note: Note) -> None:
    """Store the note: it is there whole, or as it was before. Raises OSError."""
    path = home / f"{CLUSTER_NAME}.new"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, msgspec.json.encode(note))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(path, home / CLUSTER_NAME)  # in one step: a kill leaves the old one or the new one
    sync_directory(home)


def find(queries: BatchQueries, note: Note) -> tuple[Note, Left]:
    """Return the note of the batch to go on with, and what is left in it. Raises DealerUnreachable."""
    while (status := queries.batch(note.batch)) is not None and status.total is not None:
        note = note.next()  # closed: an earlier life has done with it
    return note, Left() if status is None else _left(queries, note.batch, status)


def _left(queries: BatchQueries, batch: str, status: BatchStatus) -> Left:
    # LIMIT: all outcomes of the batch are read, to find the few jobs without one. `ROTATE_JOBS` bounds their number.
    unknown = set(range(1, status.accepted + 1))
    marks: dict[int, Mark] = {}
    read = 0
    for look in range(LOOKS_MAX):
        ended = {outcome.no: outcome.seq for outcome in queries.outcomes(batch, read, status.recorded)}
        unknown -= set(ended.values())
        read = max([read, *ended])
        marks.update(_marks(queries, batch, unknown))
        unknown -= set(marks)
        if not unknown or look + 1 == LOOKS_MAX:
            break
        # A dealer that has just begun reads its jobs from the journal, and does not know them until it has.
        queries.sleep(LOOK_NS)
        status = queries.batch(batch) or status
    # Those that are not found lie behind many jobs of this host's own. Their outcomes tell which they are.
    return Left(status.acknowledged, tuple(marks.items()), status.recorded, status.cancelled)


def _marks(queries: BatchQueries, batch: str, seqs: Iterable[int]) -> Iterator[tuple[int, Mark]]:
    """Yield which job of the cluster each of these is, of those that the dealer has in memory."""
    for seq in seqs:
        answer = queries.job(batch, seq)
        if answer.ok:
            described = msgspec.json.decode(answer.body, type=_Described)
            mark = Mark.parse(described.label)
            if mark is not None and described.state in _UNFINISHED:
                yield seq, mark


class _Described(Struct):
    """What is used of the answer to `show`."""

    state: State
    label: str | None = None
