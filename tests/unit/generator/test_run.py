"""The generator against a dealer of a few lines, over the kernel's queues, a real spool and real signals."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.fake_dealer import FakeDealer, outcome
from taskpool import limits
from taskpool.errors import DealerUnreachable, ExitCode, QueueEmpty, QueueMissing, TaskpoolError, counted
from taskpool.generator import main as program
from taskpool.ipc import names
from taskpool.ipc.sizing import Shape
from taskpool.messages import (
    Ack,
    Answer,
    Bye,
    Close,
    Command,
    Hello,
    JobSpec,
    Message,
    Outcome,
    Output,
    Ping,
    Refused,
    State,
    Submit,
)
from taskpool.procs import signals


@pytest.fixture
def dealer(tmp_path: Path) -> Iterator[FakeDealer]:
    fake = FakeDealer(f"test-{os.getpid()}-{os.urandom(4).hex()}", tmp_path)
    yield fake
    fake.close()


Run = Callable[..., ExitCode]


@pytest.fixture
def run(dealer: FakeDealer) -> Run:
    def call(*words: str) -> ExitCode:
        if dealer.thread.ident is None:
            dealer.start()
        return ExitCode(program.main([*words, "--pool", dealer.pool]))

    return call


@pytest.fixture
def stdin() -> Iterator[int]:
    """The writing end of a pipe that is standard input."""
    saved = os.dup(0)
    reader, writer = os.pipe()
    os.dup2(reader, 0)
    os.close(reader)
    yield writer
    os.dup2(saved, 0)
    os.close(saved)
    with suppress(OSError):
        os.close(writer)


# --- the course of things -----------------------------------------------------------------------------


def test_a_batch_from_end_to_end(run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("fib", "1-50", "--repeat", "10", "-v", "--batch", "x") == ExitCode.OK
    out, err = capfd.readouterr()
    assert out.split() == [str(n) for n in range(1, 501)]
    assert f"[TaskGenerator] Queue created: /tp.{dealer.pool}.reply.0\n" in err
    assert "500 jobs: 500 succeeded" in err and "respawn" not in err and "CPU" in err
    dealer.hears(Bye)
    acks = [message.upto for message in dealer.seen if isinstance(message, Ack)]
    assert acks == sorted(acks) and acks[-1] == 500


def test_large_jobs_and_outcomes_travel_through_the_spool(
    run: Run, dealer: FakeDealer, stdin: int, capfd: pytest.CaptureFixture[str]
) -> None:
    big = "x" * 20_000
    os.write(stdin, json.dumps({"kind": "command", "argv": ["echo", big]}).encode())
    os.close(stdin)
    dealer.finish = lambda seq, job: outcome(seq, seq, "command", output=Output(stdout=big))  # type: ignore[method-assign]
    assert run("jobs", "-") == ExitCode.OK
    assert capfd.readouterr().out == big
    assert list(dealer.spool.directory.iterdir()) == []


def test_a_pipe_is_served_before_it_ends(run: Run, dealer: FakeDealer, stdin: int) -> None:
    def next_line() -> None:
        if dealer.accepted < 3:
            os.write(stdin, b'{"kind": "fib", "n": 1}\n')
        else:
            os.close(stdin)

    def finish(seq: int, job: JobSpec) -> Outcome:
        next_line()  # only now, so each job was accepted before the next one was written
        return outcome(seq, seq)

    dealer.finish = finish  # type: ignore[method-assign]
    next_line()
    assert run("jobs", "-") == ExitCode.OK
    assert [len(message.jobs) for message in dealer.seen if isinstance(message, Submit)] == [1, 1, 1]


def test_a_bad_line_in_a_pipe_ends_the_reading_only(run: Run, stdin: int, capfd: pytest.CaptureFixture[str]) -> None:
    os.write(stdin, b'{"kind": "fib", "n": 1}\noops\n')
    assert run("jobs", "-", "--results", "/dev/null") == ExitCode.USAGE
    err = capfd.readouterr().err
    assert "standard input:2: not JSON" in err and "1 job: 1 succeeded" in err


def test_keep_order_and_files(run: Run, dealer: FakeDealer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    held: list[tuple[int, JobSpec]] = []

    def finish(seq: int, job: JobSpec) -> Outcome | None:
        held.append((seq, job))
        return None

    def hear(message: Message) -> None:
        FakeDealer.hear(dealer, message)
        if isinstance(message, Close):  # all at once, in the wrong order
            dealer.outcomes = [outcome(no, seq, value=b"%d" % seq) for no, (seq, _) in enumerate(reversed(held), 1)]
            dealer.tell(dealer.outcomes)

    dealer.finish, dealer.hear = finish, hear  # type: ignore[method-assign]
    results, joblog = tmp_path / "results", tmp_path / "joblog"
    assert run("fib", "7-9", "--keep-order", "--results", str(results), "--joblog", str(joblog)) == ExitCode.OK
    assert capfd.readouterr().out == "1\n2\n3\n"
    assert [json.loads(line)["seq"] for line in results.read_text().splitlines()] == [3, 2, 1]
    assert [line.split("\t")[-1] for line in joblog.read_text().splitlines()[1:]] == ["fib 7", "fib 8", "fib 9"]


def test_detach_waits_for_acceptance_only(run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str]) -> None:
    dealer.finish = lambda seq, job: None  # type: ignore[method-assign]
    assert run("fib", "1-9", "--detach", "--batch", "later") == ExitCode.OK
    assert capfd.readouterr().out == "later\n"
    assert dealer.total == 9


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (State.FAILED, ExitCode.JOBS_FAILED),
        (State.TIMED_OUT, ExitCode.JOBS_FAILED),
        (State.CANCELLED, ExitCode.JOBS_FAILED),
        (State.QUARANTINED, ExitCode.QUARANTINED),
    ],
)
def test_exit_codes(run: Run, dealer: FakeDealer, state: State, code: ExitCode) -> None:
    dealer.finish = lambda seq, job: outcome(seq, seq, state=state if seq == 2 else State.SUCCEEDED)  # type: ignore[method-assign]
    assert run("fib", "1-3") == code


@pytest.mark.parametrize(("when", "verb"), [("now", "cancel"), ("soon", "cancel-waiting")])
def test_halt_stops_submitting_and_cancels(run: Run, dealer: FakeDealer, when: str, verb: str) -> None:
    dealer.finish = lambda seq, job: outcome(seq, seq, state=State.FAILED)  # type: ignore[method-assign]
    assert run("fib", "1-50", "--repeat", "100", "--halt", f"{when},fail=5", "-q") == ExitCode.HALTED
    assert dealer.total is not None and dealer.total < 5000
    dealer.hears(Command)
    assert verb in [message.verb for message in dealer.seen if isinstance(message, Command)]


# --- what goes wrong ----------------------------------------------------------------------------------


def test_lost_messages_are_made_up_for(run: Run, dealer: FakeDealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESEND_NS", 50_000_000)
    monkeypatch.setattr(limits, "PING_NS", 50_000_000)
    dropped: set[type] = set()

    def hear(message: Message) -> None:
        if type(message) in dropped or isinstance(message, (Ping, Command)):
            FakeDealer.hear(dealer, message)
        dropped.add(type(message))  # the first of each kind is never heard

    dealer.hear = hear  # type: ignore[method-assign]
    assert run("fib", "1-50", "--repeat", "20", "-q") == ExitCode.OK
    assert {Hello, Submit, Close, Ack} <= dropped


def test_a_missing_outcome_is_asked_for_by_a_new_hello(
    run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str]
) -> None:
    tell, lost = dealer.tell, [True]

    def lossy(outcomes: list[Outcome]) -> None:
        if lost and len(outcomes) > 2:
            lost.clear()
            outcomes = [outcomes[0], *outcomes[2:]]
        tell(outcomes)

    dealer.tell = lossy  # type: ignore[method-assign]
    assert run("fib", "1-9") == ExitCode.OK
    assert capfd.readouterr().out.split() == [str(n) for n in range(1, 10)]
    assert len([message for message in dealer.seen if isinstance(message, Hello)]) == 2


def test_garbage_in_the_reply_queue_is_survived(run: Run, dealer: FakeDealer) -> None:
    say = dealer.say

    def noisy(message: Message) -> None:
        assert dealer.reply is not None
        with suppress(TaskpoolError):
            dealer.reply.send(b"\x01garbage")
        say(message)

    dealer.say = noisy  # type: ignore[method-assign]
    assert run("fib", "1-9") == ExitCode.OK


def test_queues_that_lost_their_names_are_found_again(
    run: Run, dealer: FakeDealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUE_CHECK_NS", 50_000_000)

    def hear(message: Message) -> None:
        if isinstance(message, Submit) and dealer.epoch == 1:
            dealer.epoch = 2
            for queue in (dealer.intake, dealer.control):
                queue.unlink()
                queue.close()
            dealer.intake = dealer.namespace.create(names.intake(dealer.pool), Shape(4, 512))
            dealer.control = dealer.namespace.create(names.control(dealer.pool), Shape(4, 512))
            raise QueueEmpty("start again")
        FakeDealer.hear(dealer, message)

    dealer.hear = hear  # type: ignore[method-assign]
    assert run("fib", "1-9") == ExitCode.OK
    assert dealer.epoch == 2


def test_jobs_lost_with_a_dealer_are_told(
    run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLY_OVERDUE_NS", 200_000_000)

    def hear(message: Message) -> None:
        if isinstance(message, Close):  # dies, and its successor knows nothing
            dealer.accepted, dealer.batch, dealer.epoch = 0, "", 2
            dealer.outcomes.clear()
        elif isinstance(message, (Submit, Hello)):
            FakeDealer.hear(dealer, message)

    dealer.hear = hear  # type: ignore[method-assign]
    dealer.finish = lambda seq, job: None if seq > 2 else outcome(seq, seq)  # type: ignore[method-assign]
    assert run("fib", "1-9") == ExitCode.UNREACHABLE
    assert "7 accepted jobs without an outcome are gone" in capfd.readouterr().err


def test_no_dealer(run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str]) -> None:
    dealer.stop.set()  # its queues are there, and are not read
    assert run("fib", "1", "--dealer-timeout", "0.1s") == ExitCode.UNREACHABLE
    assert "no dealer answers" in capfd.readouterr().err
    with pytest.raises(QueueMissing):
        dealer.namespace.open(names.reply(dealer.pool, 0), send=True, receive=False)


def test_every_reply_slot_taken(run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str]) -> None:
    taken = [
        dealer.namespace.create(names.reply(dealer.pool, slot), Shape(1, 64)) for slot in range(limits.REPLY_SLOTS_MAX)
    ]
    try:
        assert run("status", "--dealer-timeout", "0.1s") == ExitCode.UNREACHABLE
        error = capfd.readouterr().err
        assert error.count("all 32 names for reply queues") == 2, "that it waits, and that it has"
        taken[7].unlink()
        assert run("status") == ExitCode.OK
    finally:
        for queue in taken:
            queue.unlink()
            queue.close()


@pytest.mark.parametrize(
    ("reason", "words", "code"),
    [
        ("draining", (), ExitCode.REFUSED),
        ("conflict", (), ExitCode.USAGE),
        ("full", ("--no-wait",), ExitCode.REFUSED),
    ],
)
def test_refusals(
    run: Run, dealer: FakeDealer, reason: str, words: tuple[str, ...], code: ExitCode,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def submit(message: Submit) -> None:
        if message.first_seq == 1:
            FakeDealer.submit(dealer, message)
        else:
            dealer.say(Refused(dealer.client, dealer.batch, message.first_seq, message.first_seq, reason, "because"))

    dealer.submit = submit  # type: ignore[method-assign]
    assert run("fib", "1-50", "--repeat", "10", *words) == code
    assert f"({reason}): because; {counted(dealer.accepted, 'job')} accepted" in capfd.readouterr().err
    assert dealer.accepted > 0
    assert dealer.total == (dealer.accepted if code is ExitCode.USAGE else None), "another run may add the others"


def test_a_bad_first_line_in_a_pipe_closes_no_batch(
    run: Run, dealer: FakeDealer, stdin: int, capfd: pytest.CaptureFixture[str]
) -> None:
    os.write(stdin, b"oops\n")
    os.close(stdin)
    assert run("jobs", "-") == ExitCode.USAGE
    error = capfd.readouterr().err
    assert error.count("standard input:1: not JSON") == 1 and "jobs:" not in error
    assert dealer.total is None and not any(isinstance(message, Close) for message in dealer.seen)


def test_a_full_pool_is_waited_for(run: Run, dealer: FakeDealer) -> None:
    refusals = [3]

    def submit(message: Submit) -> None:
        if message.first_seq > 1 and refusals[0]:
            refusals[0] -= 1
            dealer.say(Refused(dealer.client, dealer.batch, message.first_seq, message.first_seq, "full", "wait"))
        else:
            FakeDealer.submit(dealer, message)

    dealer.submit = submit  # type: ignore[method-assign]
    assert run("fib", "1-50", "--repeat", "10", "-q") == ExitCode.OK
    assert dealer.accepted == 500


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)]
)
def test_a_signal_leaves_a_named_pool_to_itself(
    run: Run, dealer: FakeDealer, number: int, code: ExitCode, capfd: pytest.CaptureFixture[str]
) -> None:
    def finish(seq: int, job: JobSpec) -> Outcome | None:
        return outcome(seq, seq) if seq == 1 else None

    def interrupt() -> None:
        dealer.hears(Ack)
        os.kill(os.getpid(), number)

    dealer.finish = finish  # type: ignore[method-assign]
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    assert run("fib", "1-9") == code
    interrupter.join()
    assert "live on in pool" in capfd.readouterr().err


def test_standard_output_that_closes_ends_quietly_with_a_goodbye(
    run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "die_of_broken_pipe", lambda: ExitCode.JOBS_FAILED)
    reader, writer = os.pipe()
    os.close(reader)
    saved = os.dup(1)
    os.dup2(writer, 1)
    try:
        assert run("fib", "1-9") == ExitCode.JOBS_FAILED
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(writer)
    assert capfd.readouterr().err == ""
    dealer.hears(Bye)


# --- commands -----------------------------------------------------------------------------------------


def test_a_command_and_its_answer(run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str]) -> None:
    dealer.answer = encode_json  # type: ignore[method-assign]
    assert run("cancel", "b/7") == ExitCode.OK
    assert capfd.readouterr().out == "verb    cancel\nbatch   b\nseq     7\nnumber  0\n"
    assert run("scale", "-2", "--json") == ExitCode.OK
    assert json.loads(capfd.readouterr().out) == {"verb": "scale", "batch": None, "seq": 0, "number": -2}
    hello = next(message for message in dealer.seen if isinstance(message, Hello))
    assert hello.batch is None


def test_a_request_that_is_refused(run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str]) -> None:
    def hear(message: Message) -> None:
        if isinstance(message, Command):
            dealer.say(Answer(dealer.client, message.verb, False, b'{"error": "no such job"}'))
        else:
            FakeDealer.hear(dealer, message)

    dealer.hear = hear  # type: ignore[method-assign]
    assert run("cancel", "b/7") == ExitCode.USAGE
    assert capfd.readouterr() == ("", "tp-generator: no such job\n")
    assert run("show", "b/7") == ExitCode.USAGE  # the pool has no outcome of it either
    assert capfd.readouterr() == ("", "tp-generator: no such job\n")
    assert run("show", "b/7", "--json") == ExitCode.USAGE
    assert capfd.readouterr() == ('{"error": "no such job"}\n', "tp-generator: no such job\n")


def test_a_dealer_that_does_not_answer_a_command(
    run: Run, dealer: FakeDealer, capfd: pytest.CaptureFixture[str]
) -> None:
    def hear(message: Message) -> None:
        if isinstance(message, Hello):
            FakeDealer.hear(dealer, message)

    dealer.hear = hear  # type: ignore[method-assign]
    assert run("pause", "--dealer-timeout", "2s") == DealerUnreachable.exit_code
    assert "did not answer 'pause'" in capfd.readouterr().err


def encode_json(command: Command) -> bytes:
    return json.dumps(
        {"verb": command.verb, "batch": command.batch, "seq": command.seq, "number": command.number}
    ).encode()
