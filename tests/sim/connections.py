"""What generators and people are told, against what they said: who holds a batch, how much may be under way to a
reader, and which wishes the dealer has granted (docs/protocol.md, section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import json

from taskpool import limits
from taskpool.clock import SECOND
from taskpool.messages import Ack, Answer, Bye, Command, Hello, Message, Refused, Submit, Welcome

if TYPE_CHECKING:
    from sim.host import SimHost
    from sim.platform import SimPlatform

DEAD_CONNECTED_NS_MAX = 10 * SECOND  # two looks at its queue, and a third for the one that it may have taken


class Connections:
    """Of one life of a dealer."""

    def __init__(self, host: SimHost, platform: SimPlatform) -> None:
        self._host = host
        self._world = host.world
        self._platform = platform
        self._read: dict[int, int] = {}  # by client: when something of it was read, by the dealer's clock
        self._heard: dict[int, int] = {}  # or when it was welcomed, perhaps long after its hello
        self._holder: dict[str, int] = {}  # by batch: the client that was welcomed last
        self._acknowledged: dict[int, int] = {}  # by client: as the dealer has read it, or was told by a hello
        self._must_refuse: set[int] = set()  # clients that want a batch which another holds
        self._commands: dict[int, Command] = {}
        self.owed: dict[tuple[int, int], tuple[int, int]] = {}  # refusals, by (client, first_seq): see `_judge_jobs`
        self._noted: dict[str, tuple[int, int]] = {}  # by batch: notes of its use, and when the last came
        self._dead: dict[int, int] = {}  # by client: when it was first found dead and connected
        self.confirmed: set[str] = set()  # batches whose reader has acknowledged all, in its present connection

    # --- what the dealer reads ---

    def read(self, message: Message) -> None:
        """On control or intake."""
        client = getattr(message, "client", 0)
        mono = self._platform.clock.now().mono
        if isinstance(message, Hello) and self._is_dead(client):
            self._heard[client] = mono  # whether the dealer minds it depends on whether its queue is a new one
            return
        if isinstance(message, Hello) and message.batch is not None:
            self.confirmed.discard(message.batch)
            self._judge_claim(message, mono)
        elif isinstance(message, Ack):
            self._acknowledge(message)
        elif isinstance(message, Submit):
            self._judge_jobs(message, mono)
        elif isinstance(message, Command):
            self._commands[client] = message
        elif isinstance(message, Bye):
            self._holder = {name: holder for name, holder in self._holder.items() if holder != client}
        if isinstance(message, Hello | Bye):
            self.owed = {key: owed for key, owed in self.owed.items() if key[0] != client}
        self._heard[client] = mono
        self._read[client] = self._platform.supervision.turn_mono_ns()

    def _is_dead(self, client: int) -> bool:
        return any(each.client == client and not each.alive for each in self._host.generators)

    def _judge_claim(self, hello: Hello, mono: int) -> None:
        """Whether another generator holds the batch, and was heard so lately that it keeps it."""
        self._must_refuse.discard(hello.client)
        holder = self._holder.get(hello.batch or "")
        if holder is None or holder == hello.client or holder not in self._platform.connected():
            return
        if mono - self._read.get(holder, 0) < limits.REPLY_OVERDUE_NS - SECOND:
            self._must_refuse.add(hello.client)

    def _judge_jobs(self, submit: Submit, mono: int) -> None:
        """A frame with a job that is another one than was stored under its number is owed a refusal that names it."""
        known = self._host.disk.journal_model.batches.get(submit.batch)
        if known is None or submit.first_seq > known.accepted or self._holder.get(submit.batch) != submit.client:
            return
        for seq, spec in enumerate(submit.jobs[: known.accepted + 1 - submit.first_seq], submit.first_seq):
            if spec.payload != self._host.job(submit.batch, seq).spec.payload:
                self.owed[submit.client, submit.first_seq] = (seq, mono)
                return

    def _acknowledge(self, ack: Ack) -> None:
        if self._holder.get(ack.batch) != ack.client:
            return
        known = self._host.disk.journal_model.batches.get(ack.batch)
        if known is None or ack.upto > known.recorded:
            return
        self._acknowledged[ack.client] = max(self._acknowledged.get(ack.client, 0), ack.upto)
        if ack.upto == known.recorded:
            self.confirmed.add(ack.batch)

    # --- what the dealer tells ---

    def told(self, message: Message) -> None:
        if isinstance(message, Welcome):
            self._welcomed(message)
        elif isinstance(message, Refused):
            self._refused(message)
        elif isinstance(message, Answer):
            self._answered(message)

    def _welcomed(self, message: Welcome) -> None:
        name = self._host.oracle.batch_of.get(message.client)
        if message.client in self._must_refuse:
            self._world.fail("I10", f"generator {message.client} gets batch {name}, which another holds that speaks")
        if name is None:
            return
        self._holder[name] = message.client
        self._noted.pop(name, None)
        self._heard[message.client] = self._platform.clock.now().mono
        known = self._host.disk.journal_model.batches.get(name)
        if message.total is not None and (known is None or known.total != message.total):
            self._world.fail("R1", f"a welcome tells the end of {name} at {message.total}, which is not stored")

    def _refused(self, message: Refused) -> None:
        self._must_refuse.discard(message.client)
        seq, _ = self.owed.pop((message.client, message.first_seq), (message.seq, 0))
        if seq != message.seq and message.reason == "conflict":
            self._world.fail("I2", f"job {message.seq} of {message.batch} is called another one, and job {seq} is")
        holder = self._holder.get(message.batch or "")
        if message.reason != "conflict" or message.first_seq or holder in (None, message.client):
            return
        assert holder is not None
        quiet_ns = self._platform.supervision.turn_mono_ns() - self._heard.get(holder, 0)
        if quiet_ns > limits.REPLY_OVERDUE_NS + SECOND:
            text = f"which generator {holder} holds, silent for {quiet_ns / 1e9:.1f} s"
            self._world.fail("I10", f"generator {message.client} does not get batch {message.batch}, {text}")

    def begin(self, client: int, acknowledged: int) -> None:
        """A connection begins, with so many outcomes acknowledged."""
        self._acknowledged[client] = acknowledged

    def check_window(self, client: int, name: str, no: int) -> None:
        """An outcome is on its way to its reader."""
        under_way = no - self._acknowledged.get(client, no)
        if under_way > limits.OUTCOMES_IN_FLIGHT_MAX:
            self._world.fail("I6", f"{under_way} outcomes of {name} are sent and not acknowledged")

    def _answered(self, message: Answer) -> None:
        command = self._commands.pop(message.client, None)
        if command is None or not message.ok or command.verb != message.verb:
            return
        body = json.decode(message.body)
        if message.verb in ("cancel", "cancel-waiting") and (not command.seq or any(body.values())):
            for job in self._host.jobs_of(command.batch or "", command.seq):
                job.given_up = self._platform.epoch
        elif message.verb == "scale" and body["workers_wanted"] != self._platform.supervision.wanted:
            wanted = self._platform.supervision.wanted
            self._world.fail("I9", f"{body['workers_wanted']} workers are told to be wanted, and {wanted} are")

    def check_owed(self) -> None:
        """At the end of a turn: what was read before it is answered, once the store has said what it knows."""
        turn_ns = self._platform.supervision.turn_mono_ns()
        if self._platform.store_busy or self._platform.store_ready:
            return
        for (client, _), (seq, since_ns) in self.owed.items():
            if since_ns < turn_ns and not self._platform.waits_for(client):
                self._world.fail("I2", f"generator {client} said another job {seq}, and is not told so")

    def look(self, turn_ns: int) -> None:
        """The journal is told now and then that a batch is held: else it would take it for unused. `turn_ns`: what was
        due then must be done."""
        if not self._host.durable:
            return
        notes, connected = self._host.disk.journal_model.notes, self._platform.connected()
        for name, holder in self._holder.items():
            count, since_ns = self._noted.get(name, (-1, 0))
            if notes[name] != count or self._platform.store_busy or holder not in connected:
                self._noted[name] = (notes[name], self._platform.clock.now().mono)
            elif since_ns + limits.HELD_NOTED_NS < turn_ns:
                self._world.fail("I1", f"batch {name} is held, and its journal does not hear of it")

    def look_at_places(self) -> None:
        """The dead hold no place and no queue, be it that they died as they said hello."""
        core = self._platform.core
        clients, asking = core.pool.clients, core.clients._asking.values()
        # By the dealer's clock, which leaves out a standstill, but only behind it: what was due is judged by when the
        # turn began, and the clock may be less than at an earlier look.
        now_ns, turn_ns = self._platform.clock.now().mono, self._platform.supervision.turn_mono_ns()
        for generator in self._host.generators:
            if generator.alive or generator.client not in clients:
                self._dead.pop(generator.client, None)
                continue
            since_ns = self._dead[generator.client] = min(self._dead.get(generator.client, now_ns), now_ns)
            if turn_ns - since_ns > DEAD_CONNECTED_NS_MAX:
                self._world.fail("I6", f"generator {generator.pid} is dead and still connected")
        known = clients.keys() | {client for messages in asking for client, _ in messages}
        if not self._platform.reply_clients() <= known:
            strange = self._platform.reply_clients() - known
            self._world.fail("I6", f"queues of generators that are not connected: {strange}")

    def look_at_files(self) -> None:
        """What lies in the spool for a generator goes with its connection."""
        lines, files = self._platform.reply_lines(), self._platform.reply_files
        for name in sorted(files):
            if name not in self._host.spool.files:
                files.discard(name)
            elif not any(name.encode() in data for line in lines for data in (*line.waiting, *line.sent)):
                self._world.fail("I6", f"the spool file {name} stays, though the connection that it was for is over")
