"""Going on with a batch that an earlier run has begun: what is known of it, and the command that does it."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence

from taskpool.client.queries import BatchQueries
from taskpool.errors import UsageError
from taskpool.generator.output.console import Console
from taskpool.generator.output.printer import Printer
from taskpool.generator.totals import Totals

_COMMAND_CHARS_MAX = 16 * 1024  # a longer one is no use on a terminal


def recall(queries: BatchQueries, batch: str, totals: Totals, printer: Printer, console: Console) -> int:
    """Counts the outcomes that an earlier run has acknowledged, which nobody tells again; returns the last's number.

    Raises DealerUnreachable, Interrupted, and UsageError when the pool has not kept them.
    """
    facts = queries.batch(batch)
    if facts is None or not facts.accepted:
        console.info(f"There is nothing to resume: batch {batch} begins")
        return 0
    last = 0
    for outcome in queries.outcomes(batch, 0, facts.acknowledged):
        totals.add(outcome)
        printer.skip(outcome.seq)
        last = outcome.no
    if last != facts.acknowledged:
        raise UsageError(
            f"--resume: {facts.acknowledged} outcomes of batch {batch!r} were told to an earlier run, and without a "
            "journal the pool does not keep what was told: nobody can say how the whole batch ends"
        )
    return last


def resume_command(program: str, argv: Sequence[str], batch: str) -> str:
    """The command that goes on with the batch which `program argv...` has begun, ready for a shell."""
    subcommand, *words = argv
    options = words[: words.index("--")] if "--" in words else words
    added = [] if any(word == "--batch" or word.startswith("--batch=") for word in options) else ["--batch", batch]
    added += [] if "--resume" in options else ["--resume"]
    command = shlex.join([_as_typed(program), subcommand, *added, *words])
    if len(command) > _COMMAND_CHARS_MAX:
        return f"the same command with {' '.join(added)} behind {subcommand!r}"
    return command


def _as_typed(program: str) -> str:
    """The name alone, if that finds the same program."""
    name = os.path.basename(program)
    found = shutil.which(name)
    return name if found is not None and os.path.realpath(found) == os.path.realpath(program) else program
