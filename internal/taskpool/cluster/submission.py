"""One batch on its way to the engine, and its outcomes on their way back. Decisions only, as in `member`.

Nothing is remembered between two lives of a submitter but the batch's name: a job's subject and the id of its message
are made of its number and content, so all may be submitted again. What has an outcome is compared and not submitted;
what still waits or runs is refused by the engine, which has it, and compared, too. How far outcomes were written where
a person wanted them stands in the batch's note, so that a later life writes what this one did not.
"""

from __future__ import annotations

from collections import deque

from taskpool.clock import MILLISECOND, NEVER, SECOND
from taskpool.cluster.engine import (
    Answer,
    Done,
    Failed,
    JobKey,
    NoteBatch,
    OpenBatch,
    OutcomePage,
    ReadOutcomes,
    Request,
    SubmitJob,
    Taken,
)
from taskpool.cluster.job import (
    ClusterOutcome,
    decode_job,
    decode_outcome,
    digest,
    encode_job,
    lane_of,
    message_id,
)
from taskpool.cluster.subjects import Names
from taskpool.errors import MessageError, UsageError, counted
from taskpool.messages import JobSpec, Limits

WINDOW_JOBS = 128  # submitted and not accepted: a round trip to the engine and its disks takes milliseconds
PAGE_OUTCOMES = 256
POLL_NS = 100 * MILLISECOND  # between two looks for outcomes, when the last one found none
AGAIN_NS = 1 * SECOND
NOTE_NS = 1 * SECOND  # a submitter that is killed has written so much more than its batch's note says


class Submission:
    """The jobs of one batch, by number from 1, and what has come of them."""

    def __init__(self, names: Names, batch: str, limits: Limits, id: str, *, create: bool = True) -> None:
        """`limits` are those of jobs without their own. `id` is no other submitter's: by it an answer that was lost is
        known for one to us. `create`: the batch may be begun; else it has to be there."""
        self._names = names
        self._batch = batch
        self._limits = limits
        self._id = id
        self._due: deque[tuple[int, Request]] = deque()  # to be asked, and not before this time
        self._due.append((0, OpenBatch(batch, self._note(0), create)))
        self._waiting: dict[str, tuple[int, bytes]] = {}  # submitted and not accepted, by subject: number and digest
        self._recalled: dict[int, bytes] = {}  # digests of jobs that had an outcome before, by number
        self._after = 0  # the position of the last outcome read
        self._read_due = NEVER
        self._written = self._noted = 0  # positions
        self._note_due = 0
        self._noting = False
        self.written_before = 0  # the position up to which an earlier life has written outcomes
        self.existed: bool | None = None  # whether the batch was there; None: not known yet
        self.recalling = True  # outcomes that come are of an earlier life
        self.submitted = 0
        self.accepted = 0
        self.answered_at = 0  # when the engine last did what it was asked
        self.failure = ""  # why it did not, last

    # --- jobs in ----------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether another job may be submitted. Not before it is known what an earlier life has submitted."""
        return not self.recalling and len(self._waiting) < WINDOW_JOBS

    @property
    def all_accepted(self) -> bool:
        """Whether the engine has all that was submitted."""
        return self.accepted == self.submitted

    def submit(self, job: JobSpec) -> None:
        """Submit the next job. Raises UsageError when it is not the one that had its number before."""
        key = JobKey(self._batch, self.submitted + 1, 1)
        data = encode_job(key, job, self._limits)  # first: a job that is refused has no number
        self.submitted += 1
        # Not left to the engine: an acknowledged job is gone from there, and would be accepted once more.
        if (known := self._recalled.pop(key.seq, None)) is not None:
            self._compare(key.seq, known, digest(job))
            self.accepted += 1
            return
        request = SubmitJob(self._names.job(lane_of(job, self._limits), *key[:2]), data, message_id(key, job))
        self._waiting[request.subject] = (key.seq, digest(job))
        self._due.append((0, request))

    # --- the engine -------------------------------------------------------------------------------

    def requests(self, now: int) -> list[Request]:
        """Return what to ask of the engine now."""
        asked: list[Request] = []
        # Once around: what is not due yet goes to the end, which does not change what is asked first.
        for _ in range(len(self._due)):
            due, request = self._due.popleft()
            if due <= now:
                asked.append(request)
            else:
                self._due.append((due, request))
        if self._written > self._noted and now >= self._note_due:
            self._noted, self._note_due = self._written, now + NOTE_NS
            self._noting = True
            asked.append(NoteBatch(self._batch, self._note(self._written)))
        if now >= self._read_due:
            self._read_due = NEVER
            asked.append(ReadOutcomes(self._batch, self._after, PAGE_OUTCOMES))
        return asked

    def next_deadline(self) -> int:
        """Return when `requests` has something to ask; NEVER: when something else happens."""
        note_due = self._note_due if self._written > self._noted else NEVER
        return min([*(due for due, _ in self._due), self._read_due, note_due])

    def written(self, position: int) -> None:
        """Note that the outcomes up to this position are where a person wanted them."""
        self._written = max(self._written, position)

    def finish(self) -> None:
        """Have the note say so now: nothing more comes. Raises UsageError when an earlier life had more jobs."""
        self._note_due = 0
        if self._recalled:
            raise UsageError(
                f"--resume: the input has changed: it ends after {counted(self.submitted, 'job')}; job "
                f"{min(self._recalled)} of batch {self._batch!r} in the cluster is missing"
            )

    @property
    def all_noted(self) -> bool:
        """Whether the batch's note says so, as far as was asked."""
        return self._noted >= self._written and not self._noting

    def answered(self, answer: Answer, now: int) -> list[tuple[int, ClusterOutcome]]:
        """Take an answer; return the outcomes in it, with their positions, in the order of recording.

        Raises UsageError when the batch has other jobs than these.
        """
        match answer:
            case Failed(request=NoteBatch()):
                # As if nothing was noted: the worst is that a later life writes some outcomes again.
                self._noted, self._note_due, self._noting = self.written_before, now + AGAIN_NS, False
            case Failed(request=ReadOutcomes()):
                self._read_due, self.failure = now + AGAIN_NS, answer.text
                return []
            case Failed():
                self._due.append((now + AGAIN_NS, answer.request))
                self.failure = answer.text
                return []
            case Done(request=NoteBatch()):
                self._noting = False
            case OutcomePage():
                self.answered_at = now
                return self._read(answer, now)
            case Done(request=OpenBatch()) | Taken(request=OpenBatch()):
                self.answered_at = now
                self.existed = isinstance(answer, Taken)
                note = answer.data.split()[:1] if isinstance(answer, Taken) else []
                self.written_before = self._written = self._noted = int(note[0]) if note and note[0].isdigit() else 0
                self._read_due = now
            case Done(request=SubmitJob() as request) | Taken(request=SubmitJob() as request):
                self.answered_at = now
                self._accept(request, answer.data if isinstance(answer, Taken) else None)
        return []

    def _note(self, written: int) -> bytes:
        return f"{written} {self._id}".encode()

    def _accept(self, request: SubmitJob, there: bytes | None) -> None:
        """`there`: the job that the engine has under this subject."""
        seq, ours = self._waiting.pop(request.subject, (0, b""))
        if not seq:
            return  # said twice, and answered twice
        # Empty: it has been executed since, and its outcome comes.
        if there:
            try:
                self._compare(seq, digest(decode_job(there).spec), ours)
            except MessageError as error:
                raise UsageError(f"job {self._batch}/{seq} in the cluster is not this one: {error}") from None
        self.accepted += 1

    def _compare(self, seq: int, theirs: bytes, ours: bytes) -> None:
        # Without a digest: what was there was no job, and its outcome says so.
        if theirs and theirs != ours:
            raise UsageError(
                f"the input has changed: job {seq} of batch {self._batch!r} in the cluster is another one. Submit what "
                "is new as another --batch"
            )

    def _read(self, page: OutcomePage, now: int) -> list[tuple[int, ClusterOutcome]]:
        found = []
        for position, data in page.outcomes:
            self._after = position
            try:
                told = decode_outcome(data)
            except MessageError:
                continue  # put there by another program; a job of ours that it keeps from its outcome is not done
            found.append((position, told))
            if self.recalling:
                self._recalled[told.outcome.seq] = told.digest
        # A full page has more behind it. With a pause before the next one, a large batch would be read slowly.
        whole = len(page.outcomes) == page.request.count
        self._read_due = now if whole else now + POLL_NS
        if self.recalling and not whole:
            self.recalling = False
        return found
