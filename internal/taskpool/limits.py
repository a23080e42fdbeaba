"""Every maximum and every time-out, with its unit in its name, and how they hang together.

Durations are integer nanoseconds (`_ns`) because the core decides with them and must not round.
"""

from __future__ import annotations

from taskpool.clock import MILLISECOND, SECOND

# Names
POOL_NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}\Z"
BATCH_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
KIND_NAME_PATTERN = r"^[a-z][a-z0-9_]{0,31}\Z"

# Pool
WORKERS_MAX = 256
SPARES_MAX = 64
WORKER_QUEUES_BUDGETED_MIN = 64  # queues are sized for this many workers, so that scale never remakes one
REPLY_SLOTS_MAX = 32  # generators connected at once

# Jobs in memory. Whatever lies beyond waits in the store.
BACKLOG_JOBS_MAX = 10_000
BACKLOG_BYTES_MAX = 32 * 1024 * 1024
BACKLOG_REFILL_JOBS_MIN = BACKLOG_JOBS_MAX // 4
PENDING_JOURNALED_JOBS_MAX = 20_000_000  # with a journal: what may be pending before new jobs are refused
PENDING_JOBS_MAX = 200_000  # without a journal: accepted and not finished, or finished and not read
OUTCOMES_UNREAD_MAX = 20_000  # without a journal, dispatch pauses when a reader is this far behind
OUTCOMES_UNREAD_BYTES_MAX = 64 * 1024 * 1024
UNREAD_KEPT_NS = 3600 * SECOND  # without a journal: how long a finished batch waits for a reader who left
OUTCOMES_IN_FLIGHT_MAX = 512  # sent to one generator and not acknowledged
OUTCOMES_IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024

# Messages
PAYLOAD_BYTES_MAX = 4 * 1024 * 1024  # one job's arguments
VALUE_BYTES_MAX = 4 * 1024 * 1024  # one job's JSON value
INLINE_OUTPUT_BYTES_MAX = 64 * 1024  # captured output above this stays in a file
SPILL_BYTES_MAX = 16 * 1024 * 1024  # one message that did not fit its queue
SUBMIT_JOBS_MAX = 512  # jobs in one submission frame
FRAME_JOBS_MAX = 64  # jobs in one frame to a worker
FRAMES_IN_FLIGHT_MAX = 2  # frames a worker holds, head included
ERROR_TEXT_BYTES_MAX = 16 * 1024
STDERR_TAIL_BYTES_MAX = 4 * 1024  # what a crash report quotes of the worker's last words
JOB_SEQ_MAX = 2**53  # the largest integer every JSON reader keeps exact
PRIORITY_MAX = 2**31 - 1
RETRIES_MAX = 1_000_000
CRASH_LIMIT_DEFAULT = 3
CRASH_LIMIT_UNLIMITED = 0
TIMEOUT_NS_MAX = 366 * 24 * 3600 * SECOND

# Frames
FRAME_TINY_JOB_NS_MAX = 1 * MILLISECOND  # below this running mean, jobs share a frame
FRAME_SHORT_JOB_NS_MAX = 10 * MILLISECOND  # below this, a worker holds a second frame
FRAME_TARGET_NS = 2 * MILLISECOND
REPORT_HELD_NS_MAX = 20 * MILLISECOND  # a report waits at most this long for the next ones of its frame
FRAME_SILENT_NS_MAX = 1 * SECOND  # a frame of several jobs that says nothing this long is killed
FRAME_TAKE_BACK_NS = 50 * MILLISECOND  # the head frame runs this long: what waits behind it goes elsewhere
START_SILENT_NS_MAX = 10 * SECOND  # a ready worker that does not start its head frame is killed
LOST_HEAD_MAX = 5  # deaths before `started` with the same job at the head that count as one crash

# The journal
RETAIN_NS = 7 * 24 * 3600 * SECOND  # how long a finished batch is kept
RETAIN_BATCHES_MAX = 1000
RETAIN_GRACE_NS = 600 * SECOND  # what was in use so lately stays: its generator may still be there, and ask once more
HELD_NOTED_NS = 240 * SECOND  # how often the journal is told that a batch is in a generator's hands

# After an unclean end
WRITE_AHEAD_NS = 60 * SECOND  # so long every attempt is stored before it is sent
UNCLEAN_EXITS_ALONE_MIN = 3  # a job found running after so many unclean ends in a row runs alone in the pool

# Starting a program while the machine lacks processes, memory or files
SHORTAGE_NS_MAX = 30 * SECOND  # so long an attempt waits for them
SHORTAGE_PAUSE_NS_MIN = 50 * MILLISECOND
SHORTAGE_PAUSE_NS_MAX = 2 * SECOND

# Stopping things
TERM_GRACE_NS = 2 * SECOND  # between TERM and KILL
COMMAND_BACKSTOP_NS = 3 * SECOND  # the worker ends a command itself; the dealer steps in this much later
DRAIN_TIMEOUT_NS = 8 * SECOND  # container engines kill after 10

# Respawn
BOOT_NS_MAX = 20 * SECOND  # from spawn to ready
BOOT_DEATHS_MAX = 5  # deaths before ready ...
BOOT_DEATHS_WINDOW_NS = 10 * SECOND  # ... within this: out of service
BOOT_KILLS_TOLERATED_MAX = 50  # deaths by KILL or TERM before ready, in a row, that do not count
BOOT_HANGS_MAX = 3  # ... or so many in a row, the last one killed because it hung
OUT_OF_SERVICE_NS = 30 * SECOND
RESPAWN_DELAY_NS_MIN = 50 * MILLISECOND
RESPAWN_DELAY_NS_MAX = 5 * SECOND
EXEC_NS_MAX = 100 * MILLISECOND  # a process amid its exec shows no environment this long at most

# Conversations
LEASE_NS = 30 * SECOND  # a generator silent this long loses its queue, not its outcomes
PING_NS = 2 * SECOND
REPLY_OVERDUE_NS = 6 * SECOND  # a dealer silent this long is asked again with a new hello
RESEND_NS = 2 * SECOND
SUBMITS_IN_FLIGHT_MAX = 8  # submission frames sent and not yet accepted
REPLIES_WAITING_MAX = 64  # besides outcomes, which are bounded by themselves: whoever reads has never so many
FIRST_WELCOME_NS = 5 * SECOND
RETURN_WELCOME_NS = 60 * SECOND

# The loop
QUEUE_CHECK_NS = 1 * SECOND  # how often the dealer looks whether its queues still have their names
LOOP_STALL_NS = 1 * SECOND  # a turn this late is a stall: drain before judging any deadline
INTAKE_MESSAGES_PER_TURN_MAX = 32
PROTOCOL_ERRORS_PER_WORKER_MAX = 3

assert FRAME_TINY_JOB_NS_MAX < FRAME_SHORT_JOB_NS_MAX < FRAME_TAKE_BACK_NS < FRAME_SILENT_NS_MAX
assert FRAME_TARGET_NS < REPORT_HELD_NS_MAX < FRAME_SILENT_NS_MAX
assert BACKLOG_REFILL_JOBS_MIN < BACKLOG_JOBS_MAX < PENDING_JOBS_MAX
assert OUTCOMES_IN_FLIGHT_MAX < OUTCOMES_UNREAD_MAX
assert HELD_NOTED_NS * 2 < RETAIN_GRACE_NS
assert PING_NS < REPLY_OVERDUE_NS < LEASE_NS < RETURN_WELCOME_NS
assert INLINE_OUTPUT_BYTES_MAX * 2 + VALUE_BYTES_MAX + ERROR_TEXT_BYTES_MAX * 3 < SPILL_BYTES_MAX
assert PAYLOAD_BYTES_MAX < SPILL_BYTES_MAX
