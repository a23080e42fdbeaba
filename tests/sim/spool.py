"""The pool's spool, its files kept in a dict."""

from __future__ import annotations

from pathlib import Path

from taskpool import limits
from taskpool.codec import encode
from taskpool.errors import MessageError
from taskpool.ipc.spool import Spool, _sha256
from taskpool.messages import Message, Spilled

DIRECTORY = Path("/var/spool/sim")


class SimSpool(Spool):
    """One directory, seen by every process."""

    def __init__(self) -> None:
        super().__init__(DIRECTORY)
        self.files: dict[str, bytes] = {}
        self._count = 0
        self.newest = ""  # file
        self.full_until_ns = 0

    def sweep(self) -> None:
        self.files.clear()

    def pack(self, data: bytes, msgsize: int) -> bytes:
        if len(data) <= msgsize:
            return data
        assert len(data) <= limits.SPILL_BYTES_MAX
        self._count += 1
        self.newest = name = f"{self._count:032x}"
        self.files[name] = data
        return encode(Spilled(name=name, size=len(data), digest=_sha256(data)))

    def peek(self, message: Message) -> Message | None:
        """The real message, its file left where it is."""
        if not isinstance(message, Spilled):
            return message
        data = self.files.get(message.name)
        if data is None:
            return None
        inner = self.unpack(message)
        self.files[message.name] = data
        return inner

    def _discard(self, name: str) -> None:
        self.files.pop(name, None)

    def _take(self, message: Spilled) -> bytes:
        data = self.files.pop(message.name, None)
        if data is None:
            raise MessageError(f"spool file {message.name} is not there")
        return data
