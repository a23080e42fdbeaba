"""The journal's file: how it comes to be, how it is opened again, and what is refused.

Rules of this file:
1. A path that exists is never initialised. A journal is made under another name, whole, and then given its own.
2. Nothing is deleted or repaired at opening. What does not look right is refused, with what to do about it. Every page
   and every frame is looked at before SQLite opens the file, because SQLite would cut a broken -wal off (seal.py).
3. A journal in use says in the database file itself that there must be a -wal beside it. So a -wal that was removed, or
   left behind by a copy, is noticed.
4. One connection, and no other process has the file open meanwhile: SQLite up to 3.51.2 can corrupt a WAL that two
   connections write (https://www.sqlite.org/wal.html#the_wal_reset_bug).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

from taskpool.errors import JournalError
from taskpool.journal import indexes, seal, trouble
from taskpool.journal.schema import APPLICATION_ID, MIGRATIONS, PAGE_BYTES, READINGS, SENTINEL, TABLES, VERSION

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100  # https://www.sqlite.org/fileformat2.html#the_database_header
WAL_PAGES_MAX = 1000  # then the WAL is copied into the database; less than the ballast (engine.py asserts it)
WAL_BYTES_MAX = WAL_PAGES_MAX * PAGE_BYTES  # what a burst made larger is cut back to this
_CACHE_KIB = 16 * 1024
_FULL_LEVEL = 2  # of PRAGMA synchronous
# Of a path that SQLite opens: its MAX_PATHNAME, less what it keeps for its own endings (os_unix.c, pager.c).
_PATH_BYTES_MAX = 512 - 8
_MAKING = ".new"
_LOCK_AT, _LOCK_BYTES = 2**30, 512  # SQLite's locks: https://www.sqlite.org/fileformat2.html#the_lock_byte_page


def wal_of(path: Path) -> Path:
    """The write-ahead log: the newest commits, as long as nothing has copied them into the database."""
    return Path(f"{path}-wal")


def create(path: Path, created_wall_ns: int) -> None:
    """Makes an empty journal. Raises JournalError when it cannot, or when a -wal shows that one was here."""
    making = Path(f"{path}{_MAKING}")  # left by a dealer that was killed here; nothing was ever accepted into it
    try:
        _check_nothing_was_here(path)
        # A kill between the making and the link leaves these; nothing of them was ever in use.
        for left_over in (making, wal_of(making)):
            left_over.unlink(missing_ok=True)
        # Made here, so that the mode is 0600 before SQLite writes the first byte.
        os.close(os.open(making, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        _fill(making, created_wall_ns)
        os.link(making, path)  # unlike a rename it cannot replace anything
        making.unlink()
        # The name itself must survive a loss of power, or the first commits would be in a file that cannot be found.
        _sync(path.parent, os.O_DIRECTORY)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            making.unlink(missing_ok=True)
        if trouble.is_full(error):
            raise JournalError(trouble.full_text(path)) from error
        raise JournalError(f"the journal {path} cannot be made: {trouble.cause(error)}") from error


def check_length(path: Path) -> None:
    """Refuse a path that SQLite does not open, of which it says no more than that it cannot. Raises JournalError."""
    # It follows links first.
    size, most = len(os.fsencode(os.path.realpath(path))), _PATH_BYTES_MAX - len(_MAKING)
    if size > most:
        raise JournalError(
            f"the path of the journal {path} has {size} bytes, and SQLite takes {most}: set XDG_STATE_HOME (a "
            "service: STATE_DIRECTORY) to a shorter path, or name a file with --journal"
        )


def _check_nothing_was_here(path: Path) -> None:
    check_length(path)
    if not path.parent.is_dir():
        raise JournalError(f"the journal {path} cannot be made: the directory {path.parent} is missing: create it")
    if wal_of(path).exists():
        raise JournalError(
            f"the journal {path} is missing, but its {wal_of(path).name} is there: bring the journal back, or, if "
            "what it held may be lost, remove that file too"
        )


def _fill(path: Path, created_wall_ns: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # Before WAL is switched on: then SQLite keeps its index in memory and makes no -shm file.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        head = f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
        connection.executescript(f"{head} {TABLES} COMMIT;")
        meta = {"sentinel": SENTINEL, "created_wall_ns": created_wall_ns, "epoch": 0, "clean": 1, "wal": 0}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    _sync(path)


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """Open the one connection to an existing journal, which no other process can open until it is closed.

    `synchronous` is FULL (what is committed survives a loss of power) or NORMAL (it survives the process).
    Raises JournalError, naming what is wrong with the file and what to do.
    """
    _check_file(path)
    _check_writable(path)
    # Looked at before SQLite opens the file: it makes a -wal of its own when there is none.
    had_wal = wal_of(path).exists()
    found = examine(path)
    if found.problems:
        raise JournalError(trouble.damaged(path, "; ".join(found.problems)))
    if not found.ours:
        _make_seal(path)
    try:
        # Opened by the loop, used by the thread: never by both at a time. timeout=0: who else holds the file is told at
        # once.
        connection = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
        try:
            _set_up(connection, synchronous)
            _check_content(connection, path, found)
            if lines := indexes.incomplete(connection):
                raise JournalError(trouble.damaged(path, "; ".join(lines)))
            migrate(connection, path, MIGRATIONS)
        except BaseException:
            close(connection, path, had_wal=had_wal)
            raise
    except trouble.UNREADABLE as error:
        raise JournalError(trouble.explain(path, error)) from error
    return connection


def examine(path: Path) -> seal.Examination:
    """Look at everything before SQLite does. Raises JournalError when it is no journal, or another process has it
    open."""
    _check_file(path)
    try:
        with path.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_AT)
        return seal.examine(path, wal_of(path))
    except BlockingIOError:
        raise JournalError(trouble.in_use(path)) from None
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be read: {trouble.cause(error)}") from error


def _make_seal(path: Path) -> None:
    try:
        seal.make(path)
    except OSError as error:
        if trouble.is_full(error):
            raise JournalError(trouble.full_text(path)) from error
        raise JournalError(f"{seal.seal_of(path)} cannot be made: {trouble.cause(error)}") from error


def begin_life(connection: sqlite3.Connection, path: Path, epoch: int) -> None:
    """From here on the database says that it is in use and that its -wal belongs to it. Raises OSError too."""
    (level,) = connection.execute("PRAGMA synchronous").fetchone()
    with _sealed(path, synced=level >= _FULL_LEVEL) as sealed:
        sealed.expect(epoch)
        connection.execute("BEGIN IMMEDIATE")
        # The mark `wal` is copied into the database at once, by the checkpoint below: in the -wal alone it would be
        # lost with it.
        connection.executemany("UPDATE meta SET value = ? WHERE key = ?", [(0, "clean"), (1, "wal"), (epoch, "epoch")])
        connection.execute("COMMIT")
        sealed.took()
    with trouble.tolerating_full():
        checkpoint(connection, path)


def end_life(connection: sqlite3.Connection, path: Path, *, clean: bool) -> None:
    """Everything into the database; its -wal goes with the connection."""
    if clean:
        connection.execute("UPDATE meta SET value = 1 WHERE key = 'clean'")
    connection.execute("UPDATE meta SET value = 0 WHERE key = 'wal'")
    checkpoint(connection, path)


def accept_loss(path: Path) -> None:
    """Says of a journal whose -wal is gone that it goes on without: the commits in it are lost. What an index lacks is
    not: it is built anew."""
    _check_file(path)
    _check_writable(path)
    # What the seal knows would not go on: the next start makes another.
    seal.seal_of(path).unlink(missing_ok=True)
    # A connection of its own: the one that had the journal open is gone, or never was.
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        _set_up(connection, "FULL")
        connection.execute("UPDATE meta SET value = 0 WHERE key = 'wal'")
        indexes.rebuild(connection)


def close(connection: sqlite3.Connection, path: Path, *, had_wal: bool = True) -> None:
    """Ends the connection whatever became of it. With it SQLite may copy the WAL into the database and remove it;
    that one must not be missed at the next opening."""
    folded = False
    with suppress(sqlite3.Error, OSError):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        frames = copy_wal(connection)
        with _sealed(path) as sealed:
            sealed.fold(frames, emptied=True)
        folded = True
    connection.close()
    if not had_wal:
        _remove_empty_wal(path)
    elif not folded and not wal_of(path).exists():
        with suppress(sqlite3.Error, JournalError, OSError):
            accept_loss(path)


def read_only(path: Path) -> sqlite3.Connection:
    """Open a journal that no dealer has open, to look at it. The connection changes neither the database nor its -wal,
    and shows what SQLite finds if they are not in good order. `stop_reading` ends it."""
    _check_file(path)
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=0)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise JournalError(trouble.newer(path, version))
        connection.execute("PRAGMA temp_store = MEMORY")
        for statement in (each for older in range(version, VERSION) for each in READINGS.get(older, ())):
            connection.execute(statement)
    except trouble.UNREADABLE as error:
        connection.close()
        raise JournalError(trouble.explain(path, error)) from error
    except JournalError:
        connection.close()
        raise
    return connection


def stop_reading(connection: sqlite3.Connection, path: Path, *, had_wal: bool) -> None:
    """Takes away what only reading needed. A dealer does without a -shm."""
    connection.close()
    with suppress(OSError):
        Path(f"{path}-shm").unlink(missing_ok=True)
    if not had_wal:
        _remove_empty_wal(path)


def _remove_empty_wal(path: Path) -> None:
    """SQLite makes one to read a journal that has none, and does not always take it away again. It would hide that
    the real one is missing."""
    with suppress(OSError):
        if wal_of(path).stat().st_size == 0:
            wal_of(path).unlink()


def copy_wal(connection: sqlite3.Connection) -> int:
    """Copies the WAL into the database and leaves it; the next commit begins it anew. How many frames it has."""
    _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(frames)


def checkpoint(connection: sqlite3.Connection, path: Path, sealed: seal.Seal | None = None) -> None:
    """Copies the WAL into the database and empties it. Raises OSError, and JournalError when the database is then too
    short."""
    frames = copy_wal(connection)
    with _sealed(path) if sealed is None else nullcontext(sealed) as the_seal:
        the_seal.fold(frames, emptied=True)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    # What is missing at a file's end reads as zeros, not as an error (https://www.sqlite.org/c3ref/io_methods.html).
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    size = path.stat().st_size
    if size < pages * page_bytes:
        raise JournalError(trouble.damaged(path, f"it has {size} bytes and should have {pages * page_bytes}"))


def migrate(connection: sqlite3.Connection, path: Path, steps: Mapping[int, tuple[str, ...]]) -> None:
    """Brings an older journal up to VERSION in one transaction; a copy of the old one stays as PATH.v<old>."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found == VERSION:
        return
    kept = Path(f"{path}.v{found}")
    with suppress(FileNotFoundError):
        kept.unlink()  # of a migration that did not get to its end: the journal is still as it was
    os.close(os.open(kept, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))  # SQLite goes by the umask
    # Not a copy of the file: its newest commits may still lie in the -wal.
    try:
        connection.execute("VACUUM INTO ?", (str(kept),))
        _sync(kept)
    except BaseException:
        kept.unlink(missing_ok=True)  # a full disk needs its room, and half a copy is of no use
        raise
    connection.execute("BEGIN IMMEDIATE")
    for version in range(found, VERSION):
        for statement in steps[version]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


@contextmanager
def _sealed(path: Path, *, synced: bool | None = None) -> Iterator[seal.Seal]:
    sealed = seal.Seal(path, wal_of(path), synced=synced)
    try:
        yield sealed
    finally:
        sealed.close()


def _check_file(path: Path) -> None:
    """What the database's first bytes tell. Whatever else a newer version has changed, this it has not."""
    check_length(path)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise JournalError(f"{path} is not a file, so it is no journal: name another with --journal")
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be opened: {trouble.cause(error)}") from error
    if not header:
        raise JournalError(
            f"{path} is empty: it is no journal, or all of one was lost. Bring the journal back, or, if there never "
            "was one, remove the file"
        )
    # Told apart from a damaged journal: the cure is another path, not a backup.
    if not header.startswith(_MAGIC):
        raise JournalError(f"{path} is not a journal, nor any SQLite database; it was left as it is")
    if len(header) < _HEADER_BYTES:
        raise JournalError(trouble.damaged(path, f"it has {len(header)} bytes, less than a header"))
    # Offset 68, big-endian: https://www.sqlite.org/fileformat2.html#application_id
    (application,) = struct.unpack_from(">I", header, 68)
    if application != APPLICATION_ID:
        raise JournalError(
            f"{path} is an SQLite database of another program (application id {application:#x}, a journal has "
            f"{APPLICATION_ID:#x}); it was left as it is"
        )
    (version,) = struct.unpack_from(">i", header, 60)
    if version > VERSION:
        raise JournalError(trouble.newer(path, version))
    if version < 1:
        raise JournalError(trouble.damaged(path, f"its schema version is {version}"))


def _check_writable(path: Path) -> None:
    for place, what in ((path, "file"), (path.parent, "directory")):
        # access(2) alone does not tell the mount from the mode, and the cure is another one.
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            raise JournalError(f"the journal {path} cannot be written: its file system is mounted read-only")
        if not os.access(place, os.W_OK, effective_ids=True):
            raise JournalError(
                f"the journal {path} cannot be written: uid {os.geteuid()} may not write the {what} {place}: check "
                "owner and mode"
            )


def _set_up(connection: sqlite3.Connection, synchronous: str) -> None:
    for pragma in (
        "locking_mode = EXCLUSIVE",  # before the first read: then no -shm, and no other connection
        f"synchronous = {synchronous}",
        "wal_autocheckpoint = 0",  # the engine does it, and keeps the pages' checksums
        f"journal_size_limit = {WAL_BYTES_MAX}",
        f"cache_size = -{_CACHE_KIB}",
        "temp_store = MEMORY",
        "mmap_size = 0",  # a mapped file that shrinks is a SIGBUS
        "secure_delete = OFF",  # some builds overwrite what is deleted
        "cell_size_check = ON",
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchone()


def _check_content(connection: sqlite3.Connection, path: Path, found: seal.Examination) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise JournalError(trouble.newer(path, version))
    if version < 1:
        raise JournalError(trouble.damaged(path, f"its schema version is {version}"))
    statements = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()
    # Without the table it is an empty database, and the sentinel below is missed.
    meta = dict(connection.execute("SELECT key, value FROM meta")) if statements == (1,) else {}
    if found.lacks_log(told=bool(meta.get("wal"))):
        raise JournalError(
            f"the journal {path} was in use when its dealer ended, but {wal_of(path).name} is missing, and with it the "
            "newest commits: bring that file back or restore a backup; to go on without what it held, run "
            "`tp-dealer journal check --accept-loss`"
        )
    if meta.get("sentinel") != SENTINEL:
        raise JournalError(trouble.damaged(path, "its sentinel row is missing"))
    connection.execute("PRAGMA journal_mode = WAL").fetchone()


def _sync(path: Path, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
