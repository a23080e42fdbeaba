"""Planted bugs: all still fit the package, and a sample of them is found. `make mutants` finds them all."""

from __future__ import annotations

import pytest

from sim.mutants.catalogue import MUTANTS
from sim.mutants.plan import Mutant
from sim.mutants.runner import hunt, misplaced

# One of each kind, and such as are found soon: some need more than ten thousand schedules.
QUICK = {
    "a death is judged before the queue is drained",
    "outcomes that wait for the store are not counted",
    "a worker we stopped counts as a crash",
    "late reports are not looked at",
    "a job in memory is read again",
    "more generators are let in than there are connections",
    "the back-off does not double",
    "a death at boot delays no start",
}
SAMPLE = [mutant for mutant in MUTANTS if mutant.name in QUICK]
RULES = {
    "R1",
    "R2",
    "R3",
    "R4",
    "R5",
    "R6",
    "R7",
    "R8",
    "R9",
    "fence",
    "I1",
    "I2",
    "I4",
    "I5",
    "I6",
    "I7",
    "I9",
    "I10",
    "I11",
    "I12",
    "order",
}


def test_every_planted_bug_fits_the_package() -> None:
    lines = [line for mutant in MUTANTS for line in misplaced(mutant)]
    assert not lines, "the package has changed; change the mutants with it:\n" + "\n".join(lines)


def test_every_rule_has_a_planted_bug() -> None:
    assert {mutant.rule for mutant in MUTANTS} == RULES
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30
    assert len(SAMPLE) == len(QUICK)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", SAMPLE, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    found = hunt(mutant, schedules=2000, seconds=120)
    assert found.schedules, f"not found: {found.what}"
