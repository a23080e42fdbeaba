"""`--pipe`: where the input is cut. What is the same in GNU parallel is compared by test_like_parallel."""

from __future__ import annotations

import random

import pytest

from taskpool.errors import UsageError
from taskpool.kinds.parallel.blocks import BLOCK_BYTES_MAX, BlockCutter, BlockOptions


def cut(options: BlockOptions, data: bytes, chunk: int = 1 << 20) -> list[bytes]:
    cutter = BlockCutter(options)
    found = [block for at in range(0, len(data), chunk) for block in cutter.feed(data[at : at + chunk])]
    return [*found, *cutter.end()]


@pytest.mark.parametrize(
    ("options", "data", "blocks"),
    [
        (BlockOptions(), b"", []),
        (BlockOptions(), b"a\nb", [b"a\nb"]),
        (BlockOptions(4), b"a\nb\nc\nd", [b"a\nb\n", b"c\nd"]),
        (BlockOptions(5), b"a\nb\nc\nd\n", [b"a\nb\n", b"c\nd\n"]),
        (BlockOptions(4, recend=b""), b"abcdefghij", [b"abcd", b"efgh", b"ij"]),
        (BlockOptions(6, recstart=b">", recend=b""), b">a\n>b\n>c\n", [b">a\n", b">b\n", b">c\n"]),
        (BlockOptions(records=2), b"a\nb\nc\n", [b"a\nb\n", b"c\n"]),
        (BlockOptions(records=2, recend=b""), b"abcde", [b"ab", b"cd", b"e"]),
        (BlockOptions(records=1, recstart=b">", recend=b""), b">a\n>b\n", [b">a\n", b">b\n"]),
        (BlockOptions(records=1, header_lines=1), b"h\na\nb\n", [b"h\na\n", b"h\nb\n"]),
        (BlockOptions(header_lines=2), b"h\ni\n", []),
        (BlockOptions(header_lines=2), b"h\ni", [b"h\ni"]),
        (BlockOptions(records=1, skip_blank=True), b"a\n\n \nb\n", [b"a\n", b"b\n"]),
        (BlockOptions(2, skip_blank=True), b"\n\n\n\n", []),
        (BlockOptions(2), b"long\nx\ny\n", [b"long\nx\n", b"y\n"]),  # a record longer than a block: which grows
    ],
)
def test_cuts(options: BlockOptions, data: bytes, blocks: list[bytes]) -> None:
    assert cut(options, data) == blocks


@pytest.mark.parametrize("seed", range(40))
def test_the_cuts_do_not_depend_on_how_the_input_comes_and_nothing_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    data = bytes(rng.choices(b"ab>\n", k=rng.randrange(200)))
    options = BlockOptions(
        rng.randint(1, 40), rng.choice([b"", b">"]), rng.choice([b"", b"\n"]), rng.choice([None, 1, 3])
    )
    whole = cut(options, data)
    assert b"".join(whole) == data
    assert all(whole)
    assert cut(options, data, 1) == cut(options, data, 7) == whole


def test_a_record_that_no_job_takes_is_refused() -> None:
    for options in (BlockOptions(), BlockOptions(header_lines=1), BlockOptions(records=10**9)):
        with pytest.raises(UsageError, match=f"longer than {BLOCK_BYTES_MAX} bytes.*--recend, --recstart"):
            cut(options, b"x" * (2 * BLOCK_BYTES_MAX + 1))
    with pytest.raises(UsageError, match="longer than"):
        cut(BlockOptions(header_lines=1, recend=b""), b"h" * 3_500_000 + b"\n" + b"x" * 2_100_000)


def test_no_more_than_a_block_is_held() -> None:
    cutter = BlockCutter(BlockOptions(10_000))
    for _ in range(200):
        list(cutter.feed(b"x" * 99 + b"\n"))
        assert len(cutter._held) <= 10_000
