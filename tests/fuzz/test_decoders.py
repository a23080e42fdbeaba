"""Every decoder with damaged and with arbitrary input: nothing comes out but its documented error.

The long runs are `make fuzz`; what they find becomes an example here.
"""

from __future__ import annotations

import os
from random import Random, SystemRandom

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzz import mutate
from fuzz.run import mutator
from fuzz.targets import MESSAGE_DECODERS, TARGETS
from support.harness import tell
from taskpool.dealer import options

MUTANTS = 3_000  # for each message decoder, a thirtieth for the others: they touch files, or parse a page of text


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))))
@example(data=b"")
@example(data=b"9" * 5000)
@example(data=b"\x01" + b"\x91" * 5000)
def test_anything(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_examples(name: str) -> None:
    seed = int(os.environ.get("TASKPOOL_SEED") or SystemRandom().randrange(2**32))
    tell(f"repeat: TASKPOOL_SEED={seed} pytest tests/fuzz -k {name}")
    count = MUTANTS if name in MESSAGE_DECODERS else MUTANTS // 30
    mutate.run(TARGETS[name].run, mutator(name, Random(seed)), count)


@pytest.mark.parametrize("text", [b"9" * 5000, "\u0663".encode(), b"-1", b"", b"1e999", b"nan"])
def test_every_variable(text: bytes) -> None:
    for number in range(len(options.FILE_KEYS)):
        TARGETS["environment"].run(bytes([number]) + text)


@pytest.mark.parametrize("name", MESSAGE_DECODERS)
def test_the_examples_themselves_are_good(name: str) -> None:
    """Or their damaged copies would all be refused at the first byte."""
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)
    assert TARGETS[name].seeds
