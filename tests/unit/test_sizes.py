"""Amounts of memory, as people write them (sizes.py)."""

from __future__ import annotations

import pytest

from taskpool import limits
from taskpool.errors import UsageError
from taskpool.sizes import human_size, parse_size

MIB, GIB = 1024**2, 1024**3


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (2097152, 2 * MIB),
        ("1048576", MIB),
        ("7B", 7),
        ("512M", 512 * MIB),
        ("512mb", 512 * MIB),
        (" 2GiB ", 2 * GIB),
        ("1.5G", GIB + 512 * MIB),
        ("0.5k", 512),
        ("1T", 1024 * GIB),
        ("1024T", limits.MEMORY_BYTES_MAX),
    ],
)
def test_what_is_taken(text: object, size: int) -> None:
    assert parse_size(text, "--mem-limit") == size


@pytest.mark.parametrize("text", ["", "M", "1 G", "1P", "-1", "1e9", "1.G", ".5G", "1GG", "\u0661G", 1.5, True, None])
def test_what_is_not_an_amount(text: object) -> None:
    with pytest.raises(UsageError, match=r"^--mem-limit: expected an amount of memory such as 512M"):
        parse_size(text, "--mem-limit")


@pytest.mark.parametrize("text", [-1, "1025T", 2**51, "999999999999999999T"])
def test_what_is_out_of_range(text: object) -> None:
    with pytest.raises(UsageError, match=r"is out of range; the largest is 1024 TiB$"):
        parse_size(text, "--mem-limit")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (900, "900 B"), (512 * MIB, "512 MiB"), (1536 * MIB, "1.5 GiB"), (71 * MIB + 5, "71.0 MiB")],
)
def test_what_people_read(size: int, text: str) -> None:
    assert human_size(size) == text
