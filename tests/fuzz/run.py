"""The long run of the fuzzers: `make fuzz MINUTES=10`.

Half of the time the message decoders get damaged messages from our own mutation fuzzer, as many as go through: that
is the number of messages printed. The other half goes to the coverage-guided fuzzer, on every target in turn; where
atheris is not installed, to ours on every target.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import time
from collections import Counter
from random import Random, SystemRandom

from fuzz import mutate
from fuzz.targets import MESSAGE_DECODERS, TARGETS

ROUND = 5_000  # messages between two looks at the clock
REPORT_SECONDS = 15.0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def mutator(name: str, random: Random) -> mutate.Mutator:
    return mutate.Mutator(TARGETS[name].seeds, random, prefix=1 if name == "message" else 0)


def pound(names: tuple[str, ...], seconds: float, seed: int, most: int) -> Counter[str]:
    """Our own fuzzer, round after round through these targets, the messages themselves most often."""
    random = Random(seed)
    mutators = {name: mutator(name, random) for name in names}
    done: Counter[str] = Counter()
    began = said = time.monotonic()
    while time.monotonic() - began < seconds and done.total() < most:
        for name in names:
            count = ROUND if name in MESSAGE_DECODERS else ROUND // 50
            mutate.run(TARGETS[name].run, mutators[name], count)
            done[name] += count
        if time.monotonic() - said > REPORT_SECONDS:
            said = time.monotonic()
            say(f"{done.total():,} messages, {done.total() / (said - began):,.0f} a second")
    elapsed = time.monotonic() - began
    say(f"{done.total():,} messages in {elapsed:.0f} s, {done.total() / elapsed:,.0f} a second: {dict(done)}")
    return done


def guided(seconds: float) -> int:
    """The coverage-guided one, a process for each target. How many targets it found something in."""
    found = 0
    share = max(2, int(seconds / len(TARGETS)))
    for name in TARGETS:
        words = [sys.executable, "-m", "fuzz.guided", name, str(share)]
        ended = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        runs = re.search(r"stat::number_of_executed_units: (\d+)", ended.stderr)
        say(f"{name}: {int(runs[1]) if runs else 0:,} inputs in {share} s, exit code {ended.returncode}")
        if ended.returncode != 0:
            found += 1
            say(ended.stdout[-1500:] + ended.stderr[-3000:])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32))
    parser.add_argument("--messages", type=int, default=sys.maxsize, help="stop the decoders' half at so many")
    args = parser.parse_args()
    say(f"seed {args.seed}")
    seconds = args.minutes * 60 / 2
    pound(MESSAGE_DECODERS, seconds, args.seed, args.messages)
    if importlib.util.find_spec("atheris") is None:
        say("atheris is not installed (it has wheels for some systems only): the mutation fuzzer does all")
        pound(tuple(TARGETS), seconds, args.seed + 1, sys.maxsize)
        return 0
    return 1 if guided(seconds) else 0


if __name__ == "__main__":
    raise SystemExit(main())
