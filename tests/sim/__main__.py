"""`python -m sim`: many schedules on every core, or one by its seed, with its trace. See `--help`."""

from __future__ import annotations

import sys

from sim.program import main

sys.exit(main(sys.argv[1:]))
