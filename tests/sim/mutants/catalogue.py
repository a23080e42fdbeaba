"""All planted bugs."""

from __future__ import annotations

from sim.mutants.bookkeeping import BOOKKEEPING
from sim.mutants.decisions import DECISIONS
from sim.mutants.ordering import ORDERING
from sim.mutants.plan import Mutant

MUTANTS: tuple[Mutant, ...] = (*ORDERING, *DECISIONS, *BOOKKEEPING)
