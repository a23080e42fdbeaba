"""Everything that decodes what others wrote: for each, bytes in, and nothing but the documented error out.

A target takes any bytes. It returns when they were refused as documented, and when they were taken and all that
is promised of what was taken holds; whatever else it raises is a finding.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from taskpool import chaos, codec
from taskpool.dealer import options
from taskpool.durations import human, parse_duration
from taskpool.errors import MessageError, UsageError
from taskpool.generator.input.jobs_file import parse_job
from taskpool.generator.job_limits import KEYS, parse_limits
from taskpool.ipc import held_reports
from taskpool.ipc.spool import Spool
from taskpool.journal import encoding
from taskpool.kinds import KINDS, call
from taskpool.kinds.call import CALL
from taskpool.messages import DEFAULT_LIMITS, Frame, JobSpec, Limits, Spilled
from unit.test_codec import ONE_OF_EACH, OUTCOME, REPORT, TASKS


class Target(NamedTuple):
    """What is tried, and examples to begin with."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


# --- messages ------------------------------------------------------------------------------------------------


def message(data: bytes) -> None:
    """codec.decode: a message, which is the same after another journey, or MessageError."""
    try:
        found = codec.decode(data)
    except MessageError:
        return
    again = codec.decode(codec.encode(found))
    if type(again) is not type(found) or codec.encode(again) != codec.encode(found):
        raise AssertionError(f"{found} comes back as {again}")
    if isinstance(found, Frame):
        tasks(bytes(found.tasks))


def tasks(data: bytes) -> None:
    """codec.decode_tasks, of a frame's body."""
    try:
        codec.decode_tasks(msgspec.Raw(data))
    except MessageError:
        return


def held(data: bytes) -> None:
    """held_reports.read, of memory that a dead worker's job has overwritten: reports, or none."""
    fd = os.memfd_create("tp-fuzz")
    try:
        os.write(fd, data)
        for report in held_reports.read(fd):
            codec.encode_report(report)
    finally:
        os.close(fd)


def spilled(data: bytes) -> None:
    """Spool.unpack, of a message that says what it likes about a file that says what it likes."""
    half = len(data) // 2
    with _spool() as (spool, directory):
        name = "0" * 32
        (directory / name).write_bytes(data[half:])
        try:
            found = codec.decode(data[:half])
        except MessageError:
            found = Spilled(name, len(data) - half, _sha256(data[half:]))
        try:
            spool.unpack(found)
        except MessageError:
            return


def payload(kind: str) -> Callable[[bytes], None]:
    """A kind's check; what passes it, every other question takes."""

    def run(data: bytes) -> None:
        try:
            KINDS[kind].check(data)
        except MessageError:
            return
        KINDS[kind].describe(data).encode()
        KINDS[kind].command_line(data).encode("utf-8", "surrogateescape")
        KINDS[kind].affinity(data).encode()

    return run


# --- what people write ---------------------------------------------------------------------------------------


def job_line(data: bytes) -> None:
    """A line of a jobs file; the payload it makes passes the dealer's check."""
    try:
        job = parse_job(data, "jobs:1", DEFAULT_LIMITS)
    except UsageError:
        return
    KINDS[job.kind].check(job.payload)


def limit_fields(data: bytes) -> None:
    """Limits as JSON fields."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        fields = dict.fromkeys(KEYS, data.decode("latin-1"))
    for key in KEYS & fields.keys():
        with _usage():
            parse_limits({key: fields[key]}, lambda key: key)


def chaos_spec(data: bytes) -> None:
    """--chaos; what was understood says itself again."""
    with _usage():
        found = chaos.parse(data.decode("utf-8", "surrogateescape"))
        if chaos.parse(found.spec()) != found:
            raise AssertionError(f"{found} comes back as {chaos.parse(found.spec())}")


def duration(data: bytes) -> None:
    with _usage():
        human(parse_duration(data.decode("utf-8", "surrogateescape"), "--timeout"))


def config_file(data: bytes) -> None:
    """A dealer's configuration file."""
    with tempfile.NamedTemporaryFile(prefix="tp-fuzz-") as file:
        file.write(data)
        file.flush()
        with _usage():
            options.parse(["--config", file.name], {})


def environment(data: bytes) -> None:
    """One of a dealer's environment variables: the first byte says which."""
    key = sorted(options.FILE_KEYS)[(data[:1] or b"\0")[0] % len(options.FILE_KEYS)]
    text = data[1:].decode("utf-8", "surrogateescape").replace("\0", "")
    with _usage():
        options.parse([], {f"TP_DEALER_{key.upper()}": text})


# --- the journal ---------------------------------------------------------------------------------------------


def job_record(data: bytes) -> None:
    """A job's row whose bytes are not what was stored: it says so, whatever they are."""
    body, crc = _row(data)
    row = encoding.JobRow(1, "b", 1, 1, 0, 0, 0, 0, 0, 0, body, crc, b"", 0, 0, 0)
    job = encoding.unpack_job(row, limits_lost=False)
    if not job.corrupt:
        raise AssertionError(f"taken for a good job: {job}")


def outcome_record(data: bytes) -> None:
    body, crc = _row(data)
    outcome = encoding.unpack_outcome(encoding.OutcomeRow(1, 1, 1, body, crc))
    if outcome.error is None or outcome.error.type != encoding.CORRUPT_ERROR:
        raise AssertionError(f"taken for a good outcome: {outcome}")


def limits_record(data: bytes) -> None:
    body, crc = _row(data)
    if encoding.unpack_limits(body, crc) is not None:
        raise AssertionError(f"taken for good limits: {body!r}")


def _row(data: bytes) -> tuple[bytes, int]:
    """Bytes, and a checksum that is none of theirs: the first four bytes flip its bits."""
    flips = struct.unpack("<I", data[:4].ljust(4, b"\1"))[0] or 1
    body = data[4:]
    heads = (zlib.crc32(struct.pack("<qqqq", 1, 1, 0, 0)), zlib.crc32(struct.pack("<qqq", 1, 1, 1)), 0)
    right = [zlib.crc32(body, head) for head in heads]
    crc = right[0] ^ flips
    while crc in right:
        crc = (crc + 1) % 2**32
    return body, crc


# --- all of them ---------------------------------------------------------------------------------------------


@contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except UsageError:
        return


@contextmanager
def _spool() -> Iterator[tuple[Spool, Path]]:
    with tempfile.TemporaryDirectory(prefix="tp-fuzz-") as name:
        yield Spool(Path(name)), Path(name)


def _sha256(data: bytes) -> bytes:
    from hashlib import sha256

    return sha256(data).digest()


_JOBS: tuple[dict[str, object], ...] = (
    {"kind": "fib", "n": 40, "label": "x", "timeout": "1m", "retries": 3, "backoff": "1s..60s"},
    {"kind": "command", "argv": ["sha256sum", "a b"], "cwd": "/tmp", "env": {"A": "b"}, "stdin": "x", "shell": False},
    {"kind": "python", "call": "math:factorial", "args": [5, {"a": None}], "kwargs": {"k": 1.5}, "path": ["/p"]},
    {"kind": "fib", "n": 1, "retry_on": "exit:75,signal:KILL,timeout", "crash_limit": "unlimited", "priority": -1},
)
_LINES = tuple(msgspec.json.encode(job) for job in _JOBS)
_MESSAGES = tuple(codec.encode(each) for each in ONE_OF_EACH)
_REPORT = codec.encode_report(REPORT)


def _payloads(kind: str) -> tuple[bytes, ...]:
    if kind == CALL.name:
        small = call.Payload("m.f", (3, 11), b"(pickle", b"(pickle", path=(b"/p",), setup=b"(pickle", calls_max=3)
        return CALL.encode(small), CALL.encode(call.Payload("m.f", (3, 11), b"", b"", b"/f", (3, 4, 5)))
    jobs = [job for job in _JOBS if job["kind"] == kind]
    return tuple(parse_job(msgspec.json.encode(job), "seed", Limits()).payload for job in jobs)


_CONFIG = (
    b'pool = "demo"\nworkers = "2"\nspares = 1\njournal = "none"\nmetrics = "127.0.0.1:9743"\nretain = "7h"\n',
    b'drain_timeout = "1h30m"\nchaos = "crash=0.3:KILL,seed=7"\nlog_format = "json"\nworkers = "50%"\n',
)

TARGETS: dict[str, Target] = {
    "message": Target(message, _MESSAGES),
    "tasks": Target(tasks, (msgspec.msgpack.encode(TASKS),)),
    "held": Target(held, (struct.pack("@Q", 2 << 32 | 2 * len(_REPORT)) + 2 * _REPORT,)),
    "spilled": Target(spilled, tuple(each + each for each in _MESSAGES[-2:])),
    **{f"payload-{kind}": Target(payload(kind), _payloads(kind)) for kind in KINDS},
    "job-line": Target(job_line, _LINES),
    "limits": Target(limit_fields, (*_LINES, b'{"backoff":"5s","crash_limit":3}')),
    "chaos": Target(chaos_spec, (b"crash=0.3:SEGV,exit=0.01,hang=0.01,seed=7",)),
    "duration": Target(duration, (b"1h30m", b"90", b"0.5s", b"5m10.25s")),
    "config": Target(config_file, _CONFIG),
    "environment": Target(environment, (b"\0" + b"2", b"\1127.0.0.1:80", b"\2json", b"\00310s", b"\00450%")),
    "job-record": Target(job_record, (b"\1\0\0\0" + msgspec.msgpack.encode([JobSpec("fib", b"\5"), True, ""]),)),
    "outcome-record": Target(outcome_record, (b"\1\0\0\0" + msgspec.msgpack.encode(OUTCOME),)),
    "limits-record": Target(limits_record, (b"\1\0\0\0" + msgspec.msgpack.encode(Limits()),)),
}

MESSAGE_DECODERS = ("message", "tasks", *(f"payload-{kind}" for kind in KINDS))
"""Those that stand behind a queue: what the large number of messages is about."""
