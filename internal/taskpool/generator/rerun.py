"""`rerun`: jobs of a batch that have ended badly get a new run each, and their outcomes are waited for.

What has ended, and in which run, is read from the batch's outcomes. The pool is asked for new runs by that number, and
asked again in each new connection: a job that has had its new run is not given another one.
"""

from __future__ import annotations

import sys
from argparse import Namespace

from taskpool.errors import ExitCode
from taskpool.generator.advice import Advice, output_options
from taskpool.generator.options import submit_options
from taskpool.generator.output.console import Console
from taskpool.generator.resume import batch_of, begun_by, prepare
from taskpool.generator.selection import selection_of
from taskpool.generator.submit import Jobs, run_batch
from taskpool.procs.garbage import collect_rarely


def rerun(args: Namespace, console: Console) -> ExitCode:
    """Have jobs of a batch run again, and wait for their outcomes. Raises TaskpoolError."""
    batch = batch_of(args)
    selection = selection_of(args)  # before anything is started
    collect_rarely()
    words = prepare(args, begun_by(args, batch, console))
    # In the order in which they end: their places among the others were printed by the run before.
    words.keep_order, words.halt = False, args.halt
    options = submit_options(words)
    advice = Advice(sys.argv[0], batch, options.pool, output=output_options(words))
    return run_batch(options, Jobs(None, again=selection), console, advice)
