"""Which faults a schedule may meet, and how often.

Swarm style: in many seeds a fault is off, where it is on its rate differs widely. Every firing has a number, so
that a failing schedule can be run again without some of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from random import Random

# name -> the highest rate where it is on: a probability for each time the place is passed ...
INLINE: dict[str, float] = {
    "worker_dies_at_boot": 0.3,
    "worker_boots_slowly": 0.3,
    "worker_exits_before_ready": 0.1,
    "spawn_fails": 0.3,
    "worker_dies_before_started": 0.2,
    "worker_dies_after_started": 0.2,
    "worker_leaves_with_frame": 0.2,
    "worker_gives_job_back": 0.2,
    "worker_dies_after_report": 0.2,
    "worker_exits_after_report": 0.2,
    "worker_dies_before_it_holds": 0.2,
    "worker_dies_before_it_forgets": 0.2,
    "held_reports_damaged": 0.3,
    "held_reports_spoilt_by_frame": 1.0,
    "worker_stopped_with_frame": 0.1,
    "worker_stopped_amid_frame": 0.1,
    "pool_paused_amid_job": 0.3,
    "worker_reports_before_it_starts": 0.2,
    "cancelled_amid_attempt": 0.3,
    "cancel_is_not_heard": 0.5,
    "worker_says_it_twice": 0.2,
    "worker_talks_nonsense": 0.2,
    "worker_dies_slowly": 0.5,
    "orphan": 0.5,
    "death_of_descendant_slow": 1.0,
    "commit_slow": 0.3,
    "read_slow": 0.5,
    "commit_eio_applied": 0.02,
    "commit_eio_lost": 0.02,
    "commit_disk_full": 0.05,
    "spool_full": 0.5,
    "spool_full_for_report": 1.0,
    "report_gone_from_spool": 0.8,
    "dealer_dies_with_commit_under_way": 0.05,
    "dealer_dies_after_commit": 0.05,
    "dealer_dies_before_send": 0.03,
    "dealer_dies_after_send": 0.05,
    "worker_killed_after_dispatch": 0.2,
    "dealer_dies_after_told": 0.03,
    "dealer_dies_between_reap_and_drain": 0.1,
    "dealer_dies_in_recovery": 0.02,
    "dealer_dies_at_spawn": 0.05,
    "dealer_dies_leaving": 0.02,
    "generator_says_it_twice": 0.2,
    "submission_stolen": 0.2,
    "generator_dies_at_hello": 0.1,
    "generator_calls_again": 0.05,
    "generator_dies_behind_its_jobs": 0.2,
    "generator_calls_amid_read": 1.0,
    "generator_calls_behind_close": 1.0,
    "generator_changes_a_job": 0.3,
}
# ... and name -> weight: these come out of the blue, one at a time.
SUDDEN: dict[str, int] = {
    "worker_killed": 8,
    "worker_segfaults": 6,
    "worker_stopped": 4,
    "dealer_killed": 6,
    "dealer_stalls": 3,
    "pool_paused": 3,
    "dealer_told_to_drain": 2,
    "dealer_told_to_stop": 1,
    "dealer_interrupted": 1,
    "both_killed": 2,
    "reboot": 2,
    "wall_jumps": 2,
    "queue_unlinked": 2,
    "message_stolen": 3,
    "garbage": 5,
    "stranger_says_hello": 2,
    "generator_dies": 4,
    "generator_stopped": 3,
    "batch_cancelled": 2,
    "job_cancelled": 4,
    "requeued": 3,
    "rerun": 2,
    "scaled": 4,
    "paused": 2,
    "quarantine_dropped": 1,
    "signal_for_more_workers": 1,
}
DEALER_ENDS = frozenset(
    {name for name in INLINE if name.startswith("dealer_dies")}
    | {"commit_eio_applied", "commit_eio_lost", "dealer_killed", "both_killed", "reboot"}
    | {"dealer_told_to_drain", "dealer_told_to_stop", "dealer_interrupted"}
)
# What is not drawn as a fault, but must be seen to happen all the same.
SEEN = (
    "message_lost_in_hand_over",
    "worker_blocked_in_send",
    "worker_armed_too_late",
    "orphan_ended_by_new_dealer",
    "late_report_used",
    "held_report_used",
    "deaths_coalesced",
    "descendant_outlived_worker",
    "frame_of_several_jobs",
    "told_of_tries",
    "command_cancelled",
    "memory_raised",
    "second_frame_in_flight",
    "frame_taken_back",
    "message_spilled",
    "lease_lapsed",
    "reports_left_unread",
    "submissions_left_unread",
    "job_loaded_from_store",
    "outcomes_read_back",
    "backlog_trimmed",
    "submission_refused_as_full",
    "no_connection_left",
    "host_killed_by_job",
    "attempt_lost_by_power",
    "dealer_died_anywhere",
    "write_ahead_life",
    "job_quarantined",
    "job_timed_out",
    "job_delayed",
    "pool_left_in_order",
    "left_amid_work",
    "private_pool_left",
)
NAMES = (*INLINE, *SUDDEN, *SEEN)


class Faults:
    """The faults of one schedule."""

    def __init__(self, seed: int, *, dealer_may_end: bool, deleted: Set[int] = frozenset()) -> None:
        self._rng = Random(f"faults {seed}")
        self._deleted = deleted
        self._share = self._rng.choice((0.1, 0.25, 0.4))
        self.rates = {name: self._rate(most) for name, most in INLINE.items() if self._is_on()}
        self.sudden = {name: weight for name, weight in SUDDEN.items() if self._is_on()}
        if not dealer_may_end:
            self.rates = {name: rate for name, rate in self.rates.items() if name not in DEALER_ENDS}
            self.sudden = {name: weight for name, weight in self.sudden.items() if name not in DEALER_ENDS}
        self.drawn = 0  # faults that were to happen, those left out included
        self.fired: list[str] = []
        self.seen: Counter[str] = Counter()
        self.calm = False

    def fires(self, name: str) -> bool:
        """Whether this fault happens here and now."""
        rate = self.rates.get(name)
        if rate is None or self.calm or self._rng.random() >= rate:
            return False
        return self._count(name)

    def draw_sudden(self) -> str | None:
        """Something out of the blue."""
        if self.calm or not self.sudden:
            return None
        name = self._rng.choices(tuple(self.sudden), tuple(self.sudden.values()))[0]
        return name if self._count(name) else None

    def amount(self, least: int, most: int) -> int:
        """How much of it: small amounts and large ones are as likely."""
        return int(least * (most / least) ** self._rng.random())

    def _count(self, name: str) -> bool:
        self.drawn += 1
        if self.drawn in self._deleted:
            return False
        self.fired.append(name)
        self.seen[name] += 1
        return True

    def _is_on(self) -> bool:
        return self._rng.random() < self._share

    def _rate(self, most: float) -> float:
        return most * 10 ** (-1.5 * self._rng.random())
