"""Descriptors whose reader does not read: pairs of the reader's end and the writer's."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_SECONDS = 30.0

Make = Callable[[], tuple[int, int]]


def terminal() -> tuple[int, int]:
    master, slave = os.openpty()
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST  # or it makes \r\n of \n
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    return master, slave


def stopped_terminal() -> tuple[int, int]:
    """As by a ^S that was typed."""
    master, slave = terminal()
    os.write(master, b"\x13")
    return master, slave


def stream_socket() -> tuple[int, int]:
    """What a service manager connects its services to."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return reader.detach(), writer.detach()


def packet_socket() -> tuple[int, int]:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return reader.detach(), writer.detach()


def full_pipe() -> tuple[int, int]:
    """Full from the start, of blank lines."""
    reader, writer = os.pipe()
    os.write(writer, b"\n" * fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))
    return reader, writer


def non_blocking_pipe() -> tuple[int, int]:
    """Made so by another program that has it, too."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    return reader, writer


UNREAD: tuple[Make, ...] = (
    os.pipe,
    full_pipe,
    non_blocking_pipe,
    terminal,
    stopped_terminal,
    stream_socket,
    packet_socket,
)


def gone_pipe() -> tuple[int, int]:
    """Its reader is gone; the first end is no use."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.open(os.devnull, os.O_RDONLY), writer


def gone_terminal() -> tuple[int, int]:
    master, slave = os.openpty()
    os.close(master)
    return os.open(os.devnull, os.O_RDONLY), slave


def full_disk() -> tuple[int, int]:
    return os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)


BROKEN: tuple[Make, ...] = (gone_pipe, gone_terminal, full_disk)


@contextmanager
def opened(make: Make) -> Iterator[tuple[int, int]]:
    """Both ends, closed at the end."""
    reader, writer = make()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def read_until(reader: int, last: bytes) -> list[bytes]:
    """All lines that come, up to one, without those that filled the pipe. A stopped terminal is started again."""
    if os.isatty(reader):
        os.write(reader, b"\x11")
    data = b""
    while last not in data or not data.endswith(b"\n"):
        assert select.select([reader], [], [], PATIENCE_SECONDS)[0], f"{last!r} does not come: {data[-500:]!r}"
        data += os.read(reader, 65_536)
    return [line for line in data.splitlines(keepends=True) if line != b"\n"]
