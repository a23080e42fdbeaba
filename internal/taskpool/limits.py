"""Every maximum and every time-out, with its unit in its name, and how they relate.

Durations are integer nanoseconds (`_ns`) because the core decides with them and must not round. The numbers that other
programs see are in docs/protocol.md, 13; what must hold between two numbers is asserted at the end.
"""

from __future__ import annotations

from taskpool.clock import MILLISECOND, SECOND

# --- names --------------------------------------------------------------------------------------------

# \Z and not $, which also matches before a newline at the end. No dot in a pool's name: it separates the parts of a
# queue's name, which may have 255 bytes (mq_overview(7)). A batch id is also a directory's name, hence no leading dot.
POOL_NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}\Z"
BATCH_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
KIND_NAME_PATTERN = r"^[a-z][a-z0-9_]{0,31}\Z"

# --- the pool -----------------------------------------------------------------------------------------

WORKERS_MAX = 256
SPARES_MAX = 64
# Queues are sized for this many workers at least, so that `scale` never remakes one. With stock limits the layout for
# 64 workers takes under half of RLIMIT_MSGQUEUE.
WORKER_QUEUES_MIN = 64
# Names for reply queues, and so generators that are just connecting: a queue loses its name with its hello. A pool's
# layout leaves bytes for as many.
REPLY_SLOTS_MAX = 32
# Generators connected at once: 64 workers and so many reply queues fit the stock RLIMIT_MSGQUEUE, in one pool a user.
CONNECTIONS_MAX = 128
CONNECTIONS_MIN = 32  # ... where the dealer can have no descriptors for more
# What a dealer needs beside those for its workers: clients of the pages have 97 of them, CONNECTIONS_MIN generators 64.
DEALER_DESCRIPTORS_MIN = 192
# A worker takes three (queue, capture file, held reports); a replacement may start before the old one's are closed.
WORKER_DESCRIPTORS_MAX = 6
CONNECTIONS_TO_ASK_MIN = 8  # ... of them for those without a batch: runs of a paused pool must not keep `resume` out

# --- jobs in memory; what is beyond waits in the store (docs/adr/0008) --------------------------------

BACKLOG_JOBS_MAX = 10_000
BACKLOG_BYTES_MAX = 32 * 1024 * 1024  # payloads alone: jobs may have 4 MiB each
# Refilled well before it is empty, so that workers are busy while the store reads.
BACKLOG_REFILL_JOBS_MIN = BACKLOG_JOBS_MAX // 4
PENDING_JOURNALED_JOBS_MAX = 20_000_000  # with a journal: a bound for the disk before new jobs are refused
PENDING_JOBS_MAX = 200_000  # without: all in memory; accepted and not finished, or finished and not read
# Without a journal a slow reader's outcomes are in memory too: dispatch pauses when it is this far behind.
OUTCOMES_UNREAD_MAX = 20_000
OUTCOMES_UNREAD_BYTES_MAX = 64 * 1024 * 1024
# Without a journal jobs have no other place than memory: their payloads, until they have an outcome.
PENDING_BYTES_MAX = 64 * 1024 * 1024
UNREAD_KEPT_NS = 3600 * SECOND  # without a journal: how long a finished batch waits for a reader that left
# Sent to one generator and not acknowledged: what it has to get again after a new hello.
OUTCOMES_IN_FLIGHT_MAX = 512
OUTCOMES_IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024
OUTCOMES_UNSENT_BYTES_MAX = 1024 * 1024  # kept for a reader whose window is full; the store has them all

# What waits for a commit is in memory. With more, a disk that is slower than the workers would fill it: no job is sent
# and no submission read. Reports of jobs that run come all the same; they stay in their queue from the second limit on.
UNSTORED_BYTES_MAX = 16 * 1024 * 1024
UNSTORED_REPORTS_BYTES_MAX = 24 * 1024 * 1024

# --- messages -----------------------------------------------------------------------------------------

PAYLOAD_BYTES_MAX = 4 * 1024 * 1024  # one job's arguments
VALUE_BYTES_MAX = 4 * 1024 * 1024  # one job's JSON value
CALL_INLINE_BYTES_MAX = 1024 * 1024  # of a pickled call or its result; a longer one goes into a file of its own
# What -X fills a command line with: the most that Linux takes as one word (MAX_ARG_STRLEN), as a line for a shell is
# one; as many words it leaves room for the environment on every machine with a stack of the usual size.
COMMAND_BYTES_MAX = 128 * 1024 - 1
INLINE_OUTPUT_BYTES_MAX = 64 * 1024  # captured output above this stays in a file, out of messages and journal
# One message that did not fit its queue: what a receiver reads into memory in one piece.
SPILL_BYTES_MAX = 16 * 1024 * 1024
SUBMIT_JOBS_MAX = 512  # jobs in one submission frame
FRAME_JOBS_MAX = 64  # jobs in one frame to a worker: so many may have to be sent again, one by one, when it dies
# Frames a worker holds, the one it works on included: the second keeps it busy while the first is reported.
FRAMES_IN_FLIGHT_MAX = 2
ERROR_TEXT_BYTES_MAX = 16 * 1024
JOB_TEXT_BYTES_MAX = 200  # what a job is, in one line: enough to find it again, and little beside its outcome
STDERR_TAIL_BYTES_MAX = 4 * 1024  # the end of a dead worker's standard error, which a crash report quotes
# What is kept of attempts that did not succeed: of each run the last ones, so that a job that is tried a million times
# costs its rows, its outcome and the dealer's memory no more than this.
TRIES_KEPT_MAX = 5
TRY_TAIL_LINES_MAX = 20
TRY_TAIL_BYTES_MAX = 2 * 1024
TRY_ERROR_CHARS_MAX = 200
JOB_SEQ_MAX = 2**53  # the largest integer every JSON reader keeps exact
PRIORITY_MAX = 2**31 - 1
RETRIES_MAX = 1_000_000
# One crash may be the machine's doing. After three the job is the cause, and is quarantined for a person to look at.
CRASH_LIMIT_DEFAULT = 3
CRASH_LIMIT_UNLIMITED = 0
TIMEOUT_NS_MAX = 366 * 24 * 3600 * SECOND  # a year; sums with it stay far below 2**63

# --- frames -------------------------------------------------------------------------------------------

# A message of its own would cost a tiny job more than the work does, so tiny jobs share one, up to FRAME_TARGET_NS of
# work. Longer jobs do not: in a frame each waits for those before it, and a crash sends the rest of it a second time.
FRAME_TINY_JOB_NS_MAX = 1 * MILLISECOND  # below this running mean, jobs share a frame
FRAME_SHORT_JOB_NS_MAX = 10 * MILLISECOND  # below this, a worker holds a second frame
FRAME_TARGET_NS = 2 * MILLISECOND
REPORT_HELD_NS_MAX = 20 * MILLISECOND  # a report waits at most this long for the next ones of its frame
# Reports that wait so are in memory that the dealer can read: as much as a message to it has in the largest layout.
HELD_REPORTS_BYTES_MAX = 8 * 1024
# A frame of several jobs that reports nothing for this long is killed, as a time-out of one of them could not be told;
# its jobs are sent again one by one.
FRAME_SILENT_NS_MAX = 1 * SECOND
TRACKER_END_NS = 2 * SECOND  # for a resource tracker of Python's multiprocessing to unlink what a job has left
EDITED_JUST_NOW_NS = 2 * SECOND  # bytecode of a file as young as this is not kept, see worker/imports.py
STALE_CHECK_NS = 100 * MILLISECOND  # a worker looks at most this often, within a batch, whether its code was edited
FRAME_TAKE_BACK_NS = 50 * MILLISECOND  # the head frame runs this long: what waits behind it goes to another worker
START_SILENT_NS_MAX = 10 * SECOND  # a ready worker that does not start its head frame is killed
# Deaths before `started` with the same job at the head that count as one crash: one such death says nothing about a
# job, but a frame whose very bytes kill its worker would otherwise go round for ever.
LOST_HEAD_MAX = 5

# --- the journal --------------------------------------------------------------------------------------

RERUN_RANGES_MAX = 64  # ranges of jobs in one request for new runs: it has to fit the control queue
RETAIN_NS = 7 * 24 * 3600 * SECOND  # how long a finished batch is kept
RETAIN_BATCHES_MAX = 1000
RETAIN_GRACE_NS = 600 * SECOND  # what was in use so lately stays: its generator may still be there, and ask once more
HELD_NOTED_NS = 240 * SECOND  # how often the journal is told that a generator holds a batch

# --- after an unclean end (docs/adr/0012) -------------------------------------------------------------

WRITE_AHEAD_NS = 60 * SECOND  # so long every attempt is stored before it is sent
UNCLEAN_EXITS_ALONE_MIN = 3  # a job found running after so many unclean ends in a row runs alone in the pool

# --- starting a program while the machine lacks processes, memory or files ----------------------------

SHORTAGE_NS_MAX = 30 * SECOND  # so long an attempt waits for them: other jobs end and give theirs back
SHORTAGE_PAUSE_NS_MIN = 50 * MILLISECOND
SHORTAGE_PAUSE_NS_MAX = 2 * SECOND

# --- stopping -----------------------------------------------------------------------------------------

MEMORY_BYTES_MAX = 2**50  # of a job's memory limit: beyond any host, and sums stay far below 2**63
MEMORY_LOOK_NS = 20 * MILLISECOND  # between two looks at a program with a memory limit: each takes some 0.1 ms
MEMORY_GROWTH_PERCENT_MAX = 1000
TERM_GRACE_NS = 2 * SECOND  # between TERM and KILL
TERM_SIGNALS_MAX = 8  # before KILL, where a job names its own
TERM_SEQUENCE_NS_MAX = 3600 * SECOND  # all their pauses: so long a slot waits for a job that is given up
# The worker ends a command at its time-out itself, KILL included; the dealer steps in this much later.
COMMAND_BACKSTOP_NS = 3 * SECOND
DRAIN_TIMEOUT_NS = 8 * SECOND  # container engines kill after 10

# --- respawn (docs/adr/0004) --------------------------------------------------------------------------

BOOT_NS_MAX = 20 * SECOND  # from spawn to ready: some tens of milliseconds on an idle machine
BOOT_DEATHS_MAX = 5  # deaths before ready ...
BOOT_DEATHS_WINDOW_NS = 10 * SECOND  # ... within this: out of service
# Deaths by KILL or TERM before ready, in a row, that do not count: somewhat more than a person causes, but a memory
# limit under which no worker fits causes any number.
BOOT_KILLS_TOLERATED_MAX = 50
BOOT_HANGS_MAX = 3  # ... or so many deaths in a row, the last one killed because it hung
OUT_OF_SERVICE_NS = 30 * SECOND
RESPAWN_DELAY_NS_MIN = 50 * MILLISECOND
RESPAWN_DELAY_NS_MAX = 5 * SECOND
EXEC_NS_MAX = 100 * MILLISECOND  # how long a process amid its exec may show no environment before it counts as unmarked

# --- connections --------------------------------------------------------------------------------------

LEASE_NS = 30 * SECOND  # a generator silent this long loses its queue, not its outcomes
PING_NS = 2 * SECOND
REPLY_OVERDUE_NS = 6 * SECOND  # a dealer silent this long, three pings, is asked again with a new hello
RESEND_NS = 2 * SECOND
SUBMITS_IN_FLIGHT_MAX = 8  # submission frames sent and not yet accepted
# Replies that wait for one generator, besides outcomes, which have a limit of their own. One that reads its queue never
# has so many.
REPLIES_WAITING_MAX = 64
FIRST_WELCOME_NS = 5 * SECOND  # a person waits: the pool's name may be wrong
RETURN_WELCOME_NS = 60 * SECOND  # a dealer that was there is most likely being started again

# --- the loop -----------------------------------------------------------------------------------------

QUEUE_CHECK_NS = 1 * SECOND  # how often queues are looked at for their names: the loss of one wakes no process
LOOP_STALL_NS = 1 * SECOND  # a turn this late is told as a stall; so long a turn counts for no deadline
INTAKE_MESSAGES_PER_TURN_MAX = 32  # then workers' events are looked at again: a flood of jobs must not delay reports
PROTOCOL_ERRORS_PER_WORKER_MAX = 3  # a job inside the worker may cause one; a worker that goes on is broken

# A worker's second frame is taken back before silence of the first one is judged, and a report that is held must not
# look like silence.
assert FRAME_TINY_JOB_NS_MAX < FRAME_SHORT_JOB_NS_MAX < FRAME_TAKE_BACK_NS < FRAME_SILENT_NS_MAX
assert FRAME_TARGET_NS < REPORT_HELD_NS_MAX < FRAME_SILENT_NS_MAX
assert BACKLOG_REFILL_JOBS_MIN < BACKLOG_JOBS_MAX < PENDING_JOBS_MAX
assert UNSTORED_BYTES_MAX < UNSTORED_REPORTS_BYTES_MAX  # what is under way ends without a job more
# A frame of submissions must get in while nothing else is there.
assert SPILL_BYTES_MAX < PENDING_BYTES_MAX
# A reader that has its window full and acknowledges must not be taken for one that does not read.
assert OUTCOMES_IN_FLIGHT_MAX < OUTCOMES_UNREAD_MAX
# One note may fail to come in time without the batch going under its reader.
assert HELD_NOTED_NS * 2 < RETAIN_GRACE_NS
# A ping and its answer may be lost before the dealer is doubted, and hellos before the lease ends.
assert PING_NS < REPLY_OVERDUE_NS < LEASE_NS < RETURN_WELCOME_NS
# The largest report (value, both outputs, error texts) and the largest job still fit one spilled message.
assert INLINE_OUTPUT_BYTES_MAX * 2 + VALUE_BYTES_MAX + ERROR_TEXT_BYTES_MAX * 3 < SPILL_BYTES_MAX
assert PAYLOAD_BYTES_MAX < SPILL_BYTES_MAX
assert min(PAYLOAD_BYTES_MAX, VALUE_BYTES_MAX) > CALL_INLINE_BYTES_MAX * 2  # base64 and what goes with it
assert CONNECTIONS_TO_ASK_MIN < CONNECTIONS_MIN <= CONNECTIONS_MAX
