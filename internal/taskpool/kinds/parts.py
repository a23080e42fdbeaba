"""What is too long for a message, as parts of a file: a pickle, and behind it the large buffers that it refers to.

Buffers beside the pickle (protocol 5) are not copied into it, nor out of it again: the file is mapped where it is read,
and the arrays of a call stand on its pages. The mapping is private: what is written there is seen by its process only.
The file may be removed once it is mapped.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from taskpool.errors import MessageError

ALIGNMENT_BYTES = 64  # of each part: a cache line, as arrays like it


def padded(parts: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Give what the file holds, in order: the parts, each filled up to where the next one begins."""
    for part in parts:
        yield part
        yield bytes(-len(part) % ALIGNMENT_BYTES)


def read(path: str | bytes | os.PathLike[str], sizes: Sequence[int]) -> list[memoryview]:
    """Map a file of parts of these sizes in bytes. Raises OSError, MemoryError, MessageError for a shorter file."""
    begins = [0, *accumulate(size + -size % ALIGNMENT_BYTES for size in sizes)]
    with open(path, "rb") as file:
        try:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except ValueError:  # the file is empty
            mapped = memoryview(b"")
        except OSError as error:
            if error.errno == errno.ENOMEM:  # more than the call may allocate
                raise MemoryError(f"{path!r} cannot be mapped into memory") from None
            raise
    if len(mapped) < begins[-1]:
        raise MessageError(f"{path!r} has {len(mapped)} bytes, and its parts take {begins[-1]}: was it changed?")
    return [mapped[begin : begin + size] for begin, size in zip(begins, sizes, strict=False)]
