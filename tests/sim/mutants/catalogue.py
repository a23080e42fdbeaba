"""All planted bugs."""

from __future__ import annotations

from sim.mutants.attempts import ATTEMPTS
from sim.mutants.bookkeeping import BOOKKEEPING
from sim.mutants.connections import CONNECTIONS
from sim.mutants.decisions import DECISIONS
from sim.mutants.dispatch import DISPATCH
from sim.mutants.ordering import ORDERING
from sim.mutants.plan import Mutant

MUTANTS: tuple[Mutant, ...] = (*ORDERING, *DECISIONS, *BOOKKEEPING, *ATTEMPTS, *DISPATCH, *CONNECTIONS)
