"""Damage to what was committed is named, wherever it is; a loss of power is no damage (journal/seal.py, wal.py)."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from support.journals import Asked, accepted, attempted, kill_a_writer, open_store, opened, recorded
from taskpool.core.entries import BatchClosed
from taskpool.errors import JournalError
from taskpool.journal import file, seal, tools, wal
from taskpool.journal.schema import PAGE_BYTES
from taskpool.journal.seal import seal_of
from taskpool.messages import State

FLIPS = {"closed": 150, "killed": 150, "killed_late": 40, "killed_between": 100}  # the third has a long -wal


def closed(path: Path) -> None:
    """Some of everything, on pages of every kind, in a journal that was closed well."""
    store = open_store(path)
    asked = Asked(store)
    asked.commit(opened("gone"), *(accepted(n, "gone", payload=bytes(3000)) for n in range(1, 21)))
    asked.commit(opened("b"), *(accepted(n, "b", seq=n - 20, payload=bytes(200)) for n in range(21, 121)))
    asked.commit(*(recorded(n, batch="gone", value=b'"%s"' % (b"x" * 3000)) for n in range(1, 21)))
    asked.commit(BatchClosed("gone", 20), attempted(21), recorded(22, 1, seq=2, state=State.QUARANTINED))
    asked.commit(recorded(23, 2, seq=3, value=b'"%s"' % (b"y" * 9000)))
    store.close(clean=True)


def killed(path: Path) -> None:
    """Its newest commits are in the -wal."""
    kill_a_writer(path, commits=3)


def killed_late(path: Path) -> None:
    """The same, after the -wal was copied into the database and begun anew."""
    closed(path)
    store = open_store(path, 2)
    asked = Asked(store)
    asked.commit(opened("c"))
    for n in range(1, 61):
        asked.commit(*(accepted(200 + 20 * n + k, "c", seq=20 * n + k - 20, payload=bytes(3000)) for k in range(1, 21)))
    files = {place.name: place.read_bytes() for place in path.parent.iterdir()}
    store.close(clean=False)
    for name, data in files.items():
        (path.parent / name).write_bytes(data)
    salts = wal.salts_of(files[file.wal_of(path).name])
    assert files[file.wal_of(path).name].count(salts) < 900, "the -wal was not begun anew"


def killed_between(path: Path) -> None:
    """Both lives of the journal were killed, the second at its first commit."""
    kill_a_writer(path, commits=3)
    kill_a_writer(path, commits=4)


JOURNALS = (closed, killed, killed_late, killed_between)


def records(path: Path) -> list[dict[str, Any]]:
    lines: list[bytes] = []
    tools.export(path, lines.append)
    return [json.loads(line) for line in lines]


def copied(path: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(path.parent, to)
    return to / path.name


def flip(place: Path, bit: int) -> None:
    data = bytearray(place.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    place.write_bytes(data)


@pytest.fixture(params=JOURNALS, ids=lambda make: make.__name__)
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (directory := tmp_path / "whole").mkdir()
    request.param(path := directory / "journal.db")
    return path


def seen(path: Path, use: Callable[[Path], Any]) -> Any:
    """What it gives; None if it says that the journal cannot be used. Nothing else may come of it."""
    try:
        return use(path)
    except JournalError:
        return None


def started(path: Path) -> bool:
    store = open_store(path, 3)
    store.restore()
    store.close(clean=False)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "copied without its seal"])
def test_a_flipped_bit_changes_nothing_or_is_named(
    request: pytest.FixtureRequest, journal: Path, tmp_path: Path, *, sealed: bool
) -> None:
    whole = records(copied(journal, tmp_path / "look"))
    dice = random.Random(20240607)
    places = [place for place in (journal, file.wal_of(journal)) if place.exists()]
    named = 0
    flips = FLIPS[request.node.callspec.params["journal"].__name__]
    for number in range(flips):
        place = places[number % len(places)]
        bit = dice.randrange(place.stat().st_size * 8)
        path = copied(journal, tmp_path / "damaged")
        flip(path.parent / place.name, bit)
        if not sealed:
            seal_of(path).unlink()
        where = f"bit {bit} of {place.name}"
        findings = seen(path, tools.check)
        found = seen(path, records)
        up = seen(path, started)
        verdicts = (findings is not None and not findings.problems, found is not None, up is not None)
        if sealed:
            assert set(verdicts) in ({True}, {False}), f"{where}: {verdicts}"
            if up:
                assert found == whole, where
        named += not up
    assert named > flips / 4 or not sealed


# --- a write-ahead log ------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["salts", "checksum", "page number", "page", "last page", "header"])
def test_a_broken_wal_is_left_as_it_is(tmp_path: Path, part: str) -> None:
    killed(path := tmp_path / "journal.db")
    log = file.wal_of(path)
    last = (log.stat().st_size - wal.HEADER_BYTES) // wal.FRAME_BYTES
    at = {
        "salts": wal.offset_of(2) + 9,
        "checksum": wal.offset_of(last) + 17,
        "page number": wal.offset_of(3) + 3,
        "page": wal.offset_of(1) + 1000,
        "last page": wal.offset_of(last) + 1000,
        "header": 20,
    }[part]
    flip(log, at * 8)
    before = {place.name: place.read_bytes() for place in tmp_path.iterdir()}
    for use in (open_store, records):
        with pytest.raises(JournalError, match=r"damaged: journal\.db-wal (is broken|has no header)"):
            use(path)
    with pytest.raises(JournalError, match=r"journal\.db-wal"):
        tools.backup(path, tmp_path / "copy.db")
    assert "journal.db-wal" in tools.check(path).problems[0]
    assert {place.name: place.read_bytes() for place in tmp_path.iterdir()} == before
    tools.accept_loss(path)
    assert tools.check(path).problems == []
    open_store(path, 3).close(clean=True)


@pytest.mark.parametrize("left", [0, 10, wal.HEADER_BYTES, wal.HEADER_BYTES + 2 * wal.FRAME_BYTES])
def test_a_wal_that_was_cut_is_noticed(tmp_path: Path, left: int) -> None:
    killed(path := tmp_path / "journal.db")
    with file.wal_of(path).open("r+b") as log:
        log.truncate(left)
    with pytest.raises(JournalError, match=r"damaged: journal\.db-wal"):
        open_store(path, 3)


def test_what_was_not_synced_may_be_lost_with_the_power_and_not_by_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory := tmp_path / "live").mkdir()
    store = open_store(path := directory / "journal.db", sync="normal")
    asked = Asked(store)
    asked.commit(opened())
    for n in range(1, 30):
        asked.commit(accepted(n))
    left = copied(path, tmp_path / "left")
    store.close(clean=True)
    flip(file.wal_of(left), 8 * wal.offset_of(20))
    with pytest.raises(JournalError, match=r"journal\.db-wal is broken"):
        open_store(left, 2)
    monkeypatch.setattr(seal, "_boot", lambda: bytes(range(16)))
    for epoch in (2, 3):  # nor is it missed later
        open_store(left, epoch, sync="full").close(clean=False)
    assert tools.check(left).problems == []


def test_an_older_wal_is_noticed(tmp_path: Path) -> None:
    killed_late(path := tmp_path / "journal.db")
    log = file.wal_of(path)
    older = bytearray(log.read_bytes())
    (salt,) = struct.unpack_from(">I", older, 16)
    struct.pack_into(">I", older, 16, salt - 1)
    order = "<" if older[3] & 1 == 0 else ">"
    older[24:32] = wal._packed(wal._sum(order, bytes(older[:24]), (0, 0)))
    log.write_bytes(older)
    with pytest.raises(JournalError, match="an older one"):
        open_store(path, 3)


def test_a_backup_in_the_place_of_the_journal_is_not_taken_for_damage(tmp_path: Path) -> None:
    killed(path := tmp_path / "journal.db")
    tools.backup(path, copy := tmp_path / "copy.db")
    for _ in range(2):  # lives go on, and with them what the seal tells
        store = open_store(path, 4)
        asked = Asked(store)
        asked.commit(opened("more"), *(accepted(1000 + n, "more", seq=n) for n in range(1, 50)))
        store.close(clean=True)
        copy.replace(path) if copy.exists() else None
    assert tools.check(path).problems == []


# --- the reader -------------------------------------------------------------------------------------


def frame(page: int, pages: int, salts: bytes, before: wal.Checksum, fill: int) -> tuple[bytes, wal.Checksum]:
    head, image = struct.pack(">II", page, pages), bytes([fill]) * PAGE_BYTES
    checksum = wal._sum("<", image, wal._sum("<", head, before))
    return head + salts + wal._packed(checksum) + image, checksum


def log_of(*frames: tuple[int, int]) -> bytearray:
    """Frames are (page, pages)."""
    salts = b"saltsalt"
    head = struct.pack(">IIII", 0x377F0682, 3007000, PAGE_BYTES, 0) + salts
    checksum = wal._sum("<", head, (0, 0))
    data = bytearray(head + wal._packed(checksum))
    for number, (page, pages) in enumerate(frames):
        more, checksum = frame(page, pages, salts, checksum, number)
        data += more
    return data


def read(data: bytes | bytearray, *, synced: bool = True) -> wal.Contents:
    return wal.read(BytesIO(bytes(data)), synced=synced)


THREE = ((2, 0), (3, 3), (2, 4), (4, 0), (2, 4))  # three transactions, of two, one and two frames


def test_the_last_whole_transaction_counts() -> None:
    contents = read(log_of(*THREE))
    assert (contents.frames, contents.pages, contents.images, contents.bad) == (5, 4, {2: 5, 3: 2, 4: 4}, None)
    assert list(contents.commits) == [2, 3, 5]
    for size in range(wal.offset_of(5), wal.offset_of(6)):
        contents = read(log_of(*THREE)[:size]) if size % 997 == 0 else contents
        assert contents.frames in (3, 5)
    assert read(b"").salts == read(bytes(32)).salts == b""


@pytest.mark.parametrize(("number", "bad"), [(1, 1), (2, 2), (3, 3), (4, None), (5, None)])
@pytest.mark.parametrize("at", [3, 1000])
def test_a_bad_frame_is_damage_when_a_later_transaction_was_begun(number: int, bad: int | None, at: int) -> None:
    """In the last transaction it is what a loss of power leaves."""
    data = log_of(*THREE)
    data[wal.offset_of(number) + at] ^= 1
    assert read(data).bad == bad
    assert read(data, synced=False).bad is None


def test_what_a_rolled_back_transaction_left_is_no_later_one() -> None:
    """Power is lost amid a commit that was written over it."""
    data = log_of((2, 3), *((page, 0) for page in range(3, 20)))
    over = log_of((2, 3), (3, 0), (2, 3))
    start, end = wal.offset_of(2), wal.offset_of(4)
    data[start:end] = over[start:end]
    data[start + 100] ^= 1  # a sector that did not get to the disk
    contents = read(data)
    assert (contents.frames, contents.bad) == (1, None)
