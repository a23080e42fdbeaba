"""What the pool does meanwhile: how many jobs of the batch run, and whether it starts any."""

from __future__ import annotations

import msgspec

from taskpool.client.session import Session
from taskpool.clock import SECOND
from taskpool.generator.output.console import Console
from taskpool.messages import Answer

_LOOK_OFTEN_NS = 1 * SECOND  # where a person watches
_LOOK_NS = 5 * SECOND


class _Running(msgspec.Struct):
    job: str = ""
    started: bool = False


class _Status(msgspec.Struct):
    """What is used of the answer to `status`."""

    state: str = ""
    running: list[_Running] = []


class PoolWatch:
    """Asks the pool for its status from time to time, and tells when it stops starting jobs."""

    def __init__(self, session: Session, console: Console, *, often: bool, private: bool) -> None:
        """`often`: the number that runs is shown. `private`: the pool is our own, and drains when we tell it to."""
        self._session = session
        self._console = console
        self._period_ns = _LOOK_OFTEN_NS if often else _LOOK_NS
        self._private = private
        self._due = 0
        self._state = "running"
        self.running: int | None = None  # jobs of the batch, as last told

    @property
    def due(self) -> int | None:
        """When to call `ask` next; None: no dealer is there to be asked."""
        return None if self._session.connecting else self._due

    def ask(self, now: int) -> None:
        """Ask, if it is time. An answer that is lost with a dealer does not matter: the next one comes."""
        if now >= self._due and not self._session.connecting:
            self._due = now + self._period_ns
            self._session.command("status")

    def answered(self, answer: Answer) -> None:
        """Take note of an answer to `status`."""
        try:
            status = msgspec.json.decode(answer.body, type=_Status)
        except msgspec.MsgspecError:
            return
        ours = f"{self._session.batch}/"
        self.running = sum(each.started and each.job.startswith(ours) for each in status.running)
        if status.state != self._state:
            before, self._state = self._state, status.state
            self._tell(before)

    def _tell(self, before: str) -> None:
        pool = self._session.pool
        match self._state:
            case "paused":
                self._console.info(
                    f"Pool {pool!r} is paused: jobs that run go on, no other starts until `tp-generator unpause --pool "
                    f"{pool}`"
                )
            case "draining" if not self._private:
                journaled = self._session.welcome is not None and self._session.welcome.journaled
                rest = "wait for its next dealer" if journaled else "are lost with it, as it keeps no journal"
                self._console.info(
                    f"The dealer of pool {pool!r} is leaving: jobs that run end first, the others {rest}"
                )
            case "running" if before == "paused":
                self._console.info(f"Pool {pool!r} starts jobs again")
