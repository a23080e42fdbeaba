from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpool import limits
from taskpool.codec import encode
from taskpool.errors import ExitCode, QueueLimit
from taskpool.ipc.sizing import LADDER, LOCK, SHARE, KernelLimits, Layout, Shape, choose, room
from taskpool.messages import Hello, Spilled, Welcome

STOCK = KernelLimits(msg_max=10, msgsize_max=8192, queues_max=256, bytes_max=819_200)
LAVISH = KernelLimits(msg_max=1000, msgsize_max=65_536, queues_max=1024, bytes_max=2**63 - 1)
ROOMY, WIDE, PLAIN, SMALL = LADDER


def test_a_queue_costs_what_the_kernel_charges() -> None:
    assert Shape(10, 8192).bytes == 82_880  # measured
    assert Shape(1, 3104).bytes == 3_200


def test_a_layout_needs_the_sum_of_its_queues() -> None:
    layout = Layout(Shape(1, 4), Shape(1, 8), Shape(1, 16), Shape(2, 32), Shape(1, 64))
    assert layout.need(3) == 100 + 104 + 112 + LOCK.bytes + 3 * 2 * 128 + limits.REPLY_SLOTS_MAX * 160


def test_stock_limits_give_the_stock_layout() -> None:
    assert choose(1, STOCK) == choose(64, STOCK) == PLAIN


def test_64_workers_and_all_generators_that_can_be_connected_fit_the_stock_limits() -> None:
    workers, generators = limits.WORKER_QUEUES_MIN, limits.CONNECTIONS_MAX
    more = (generators - limits.REPLY_SLOTS_MAX) * PLAIN.reply.bytes
    assert PLAIN.need(workers) + more <= STOCK.bytes_max
    assert workers + generators + 4 <= STOCK.queues_max


def test_sizes_do_not_change_as_a_pool_scales_within_the_budgeted_workers() -> None:
    assert len({choose(workers, STOCK) for workers in range(limits.WORKER_QUEUES_MIN + 1)}) == 1


def test_more_workers_than_the_stock_layout_carries_get_smaller_queues() -> None:
    assert choose(78, STOCK) == PLAIN
    assert choose(79, STOCK) == SMALL
    assert choose(220, STOCK) == SMALL


def test_larger_limits_are_used_when_they_are_there() -> None:
    assert choose(64, LAVISH) == ROOMY
    assert choose(64, STOCK._replace(bytes_max=2**63 - 1)) == WIDE
    assert choose(limits.WORKERS_MAX, LAVISH) == ROOMY


@given(workers=st.integers(0, limits.WORKERS_MAX), bytes_max=st.integers(0, 2**25), msg_max=st.sampled_from([10, 64]))
def test_a_chosen_layout_fits_and_no_roomier_one_would(workers: int, bytes_max: int, msg_max: int) -> None:
    kernel = KernelLimits(msg_max, 8192, 1024, bytes_max)

    def fits(layout: Layout) -> bool:
        need = layout.need(max(workers, limits.WORKER_QUEUES_MIN))
        return need * SHARE <= bytes_max and max(shape.maxmsg for shape in layout) <= msg_max

    try:
        chosen = choose(workers, kernel)
    except QueueLimit:
        assert not any(map(fits, LADDER))
    else:
        assert chosen == next(filter(fits, LADDER))


def test_too_few_bytes_names_limit_value_need_and_cure() -> None:
    need = SMALL.need(64) * SHARE
    assert choose(1, STOCK._replace(bytes_max=need)) == SMALL
    with pytest.raises(QueueLimit) as caught:
        choose(1, STOCK._replace(bytes_max=need - 1))
    text = str(caught.value)
    for word in ("RLIMIT_MSGQUEUE", str(need - 1), f"ulimit -q {need}", f"LimitMSGQUEUE={need}", f"msgqueue={need}"):
        assert word in text
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    ("kernel", "limit", "need"),
    [
        (STOCK._replace(msg_max=9), "fs.mqueue.msg_max is 9", "fs.mqueue.msg_max=10"),
        (STOCK._replace(msgsize_max=1023), "fs.mqueue.msgsize_max is 1023", "fs.mqueue.msgsize_max=1024"),
        (STOCK._replace(queues_max=99), "fs.mqueue.queues_max is 99", "fs.mqueue.queues_max=100"),
    ],
)
def test_a_lowered_sysctl_is_named_with_its_cure(kernel: KernelLimits, limit: str, need: str) -> None:
    with pytest.raises(QueueLimit) as caught:
        choose(64, kernel)
    assert limit in str(caught.value)
    assert need in str(caught.value)


def test_the_room_for_more_workers_ends_with_the_bytes_or_the_queues() -> None:
    layout = choose(64, STOCK)
    few, limit = room(layout, STOCK._replace(bytes_max=layout.need(100) + layout.worker.bytes - 1))
    assert (few, limit) == (100, f"RLIMIT_MSGQUEUE is {layout.need(101) - 1} bytes")
    assert room(layout, STOCK._replace(bytes_max=10**9)) == (220, "fs.mqueue.queues_max is 256 queues")


@pytest.mark.parametrize("layout", LADDER)
def test_what_cannot_be_spilled_fits_on_every_rung(layout: Layout) -> None:
    number, name = 2**63 - 1, "x" * 64
    hello = Hello(client=number, slot=31, pid=2**32 - 1, batch=name, cursor=number)
    welcome = Welcome(number, number, 2**32 - 1, "/" * 255, number, number, number, True)
    spilled = Spilled(name="f" * 32, size=limits.SPILL_BYTES_MAX, digest=bytes(32))
    assert len(encode(hello)) <= layout.control.msgsize
    assert len(encode(welcome)) <= layout.reply.msgsize
    assert len(encode(spilled)) <= min(shape.msgsize for shape in layout)
