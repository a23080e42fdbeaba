"""Send messages that are larger than their queue as files.

The sender writes the message to a file of the pool's spool and sends its name, size and hash instead; the
receiver checks and removes the file. A spool file is a transfer, not a record (docs/adr/0003): it need not survive a
loss of power, because the queue that refers to it does not either. So nothing is fsynced.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from taskpool import limits
from taskpool.codec import decode, encode
from taskpool.errors import ConfigurationError, MessageError, SpoolFull
from taskpool.messages import Message, Spilled
from taskpool.procs.files import in_directory, open_unnamed

if TYPE_CHECKING:
    from pathlib import Path  # a worker starts without it

# O_EXCL and O_NOFOLLOW: a name or a link that was laid there must not redirect what is written.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HELD_MAX = 2  # the directory as it is, and as it was before it was made anew
_SHORT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
# Errors of reading that are the machine's, not the message's. Were it dropped like a bad message, a report would be
# missing for ever.
_MACHINE_ERRORS = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: opening a FIFO must not wait


class Spool:
    """One pool's directory of messages in transit, as one process sees it."""

    def __init__(self, directory: Path, sender: int = 0) -> None:
        """`sender` is a worker's incarnation, which goes with what it sends."""
        self.directory = directory
        self._sender = sender
        self._held: list[int] = []  # descriptors of what was the directory, the newest last

    def sweep(self) -> None:
        """Make the directory, private to this user and empty. Raises ConfigurationError.

        For a dealer at its start: it has dropped every message that could refer to a file.
        """
        from shutil import rmtree  # brings the compression modules along

        try:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            os.chmod(self.directory, 0o700)
            for entry in os.scandir(self.directory):
                # A directory: an earlier spool that was moved away, and back when another had been made.
                rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        except OSError as error:
            raise ConfigurationError(f"the pool's spool {self.directory} cannot be made ready: {error}") from error
        self._hold()

    def close(self) -> None:
        """Remove the directory, with every message under way in it; for a dealer at its end."""
        from shutil import rmtree

        while self._held:
            os.close(self._held.pop())
        rmtree(self.directory, ignore_errors=True)

    def _hold(self) -> None:
        """Keep hold of the directory: what lies in it can be read if it is moved away, and another is made."""
        with suppress(OSError):
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._held.append(fd)
            if len(self._held) > 1 and os.path.samestat(os.fstat(fd), os.fstat(self._held[-2])):
                os.close(self._held.pop())
            elif len(self._held) > _HELD_MAX:
                os.close(self._held.pop(0))

    def pack(self, data: bytes, msgsize: int) -> bytes:
        """Return `data` itself when it fits a queue of this message size, else a Spilled in its place.

        Raises MessageError for more than SPILL_BYTES_MAX, SpoolFull when the file cannot be written.
        """
        if len(data) <= msgsize:
            return data
        if len(data) > limits.SPILL_BYTES_MAX:
            raise MessageError(f"a message of {len(data)} bytes; the most is {limits.SPILL_BYTES_MAX}")
        name = os.urandom(16).hex()
        self._write(name, data)
        return encode(Spilled(name=name, size=len(data), digest=_sha256(data), sender=self._sender))

    def keep(self, data: bytes) -> str:
        """Write a file for this process's own use; return its name. Raises SpoolFull."""
        name = os.urandom(16).hex()
        self._write(name, data)
        return name

    def kept(self, name: str) -> bytes:
        """Read what was kept. Raises OSError."""
        with open(os.open(self._path(name), _READ), "rb") as file:
            return file.read()

    def forget(self, name: str) -> None:
        """Remove what was kept."""
        with suppress(OSError):  # it is swept by the next dealer
            self._discard(name)

    def has_room(self, size: int) -> bool:
        """Say whether a message of so many bytes could be written now, by trying: a quota shows in no other way."""
        name = os.urandom(16).hex()
        try:
            self._write(name, bytes(size))
            self._discard(name)
        except (SpoolFull, OSError):
            return False
        return True

    def trouble(self) -> str:
        """Say why no file can be made, and the cure; nothing when one can. One that was removed is made anew."""
        try:
            os.close(open_unnamed(os.fspath(self.directory)))
        except OSError as error:
            if error.errno not in _SHORT_OF_DESCRIPTORS:
                return f"files that messages or outputs need {self._unwritable(error)}"
        else:
            self._hold()
        return ""

    def discard(self, packed: bytes) -> None:
        """Remove the file of a packed message that will not be received. One that was received has none any more."""
        message = decode(packed)
        if isinstance(message, Spilled):
            with suppress(OSError):  # it is swept by the next dealer
                self._discard(message.name)

    def unpack(self, message: Message) -> Message:
        """Return the message in the file where `message` is Spilled, else `message`. The file is gone afterwards.

        Raises MessageError when the file is not what was promised, or cannot be reached from here; ConfigurationError
        when this machine has no descriptors or no memory to read it, or its disk fails.
        """
        if not isinstance(message, Spilled):
            return message
        data = self._take(message)
        # The hash says that this is the file its sender wrote, whole: a program of the same user could swap it.
        if len(data) != message.size or _sha256(data) != message.digest:
            raise MessageError(f"spool file {message.name} is not what its sender wrote: size or SHA-256 differ")
        inner = decode(data)
        if isinstance(inner, Spilled):
            # One message would otherwise lead through as many files as a sender likes.
            raise MessageError(f"spool file {message.name} refers to another spool file")
        return inner

    def _unwritable(self, error: OSError) -> str:
        return (
            f"cannot be written: {error.strerror}; the pool's spool {self.directory} must be there, writable, and "
            "have room"
        )

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        try:
            fd = in_directory(self.directory, lambda: os.open(path, _CREATE, 0o600))
            with open(fd, "wb") as file:
                os.fchmod(fd, 0o600)  # a umask may have taken rights that its receiver needs
                file.write(data)
        except OSError as error:
            with suppress(OSError):  # what was written of it, which would take room until the next dealer sweeps
                self._discard(name)
            raise SpoolFull(f"spool file {path} of {len(data)} bytes {self._unwritable(error)}") from error

    def _take(self, message: Spilled) -> bytes:
        """Read and remove a file, with any content, but only one that a program of this user made."""
        path = self._path(message.name)
        try:
            descriptor = self._open(message.name)
            try:
                # The open file is checked, not its path: that could be replaced between check and open.
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    raise MessageError(f"spool file {path} is not a regular file of this user")
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read(message.size + 1)  # one more, to see that there is no more
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _MACHINE_ERRORS:
                raise ConfigurationError(
                    f"spool file {path} cannot be read: {error.strerror}; what it says would be lost"
                ) from error
            raise MessageError(
                f"spool file {path}: {error.strerror}; the pool's spool {self.directory} is not visible here as it "
                "is where the message was written; share that mount"
            ) from error
        # Removed also when its content is refused: no second message can refer to it.
        with suppress(OSError):  # a file that stays is swept by the next dealer
            self._discard(message.name)
        return data

    def _open(self, name: str) -> int:
        try:
            return os.open(self._path(name), _READ)
        except FileNotFoundError:
            for fd in reversed(self._held):
                with suppress(FileNotFoundError):
                    return os.open(name, _READ, dir_fd=fd)
            raise

    def _discard(self, name: str) -> None:
        try:
            os.unlink(self._path(name))
        except FileNotFoundError:
            pass  # it never came to be, or the dealer swept


def _sha256(data: bytes) -> bytes:
    from hashlib import sha256  # brings OpenSSL along: megabytes that most workers never need

    return sha256(data).digest()
