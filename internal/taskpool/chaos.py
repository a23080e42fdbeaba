"""Read `--chaos`, which injects faults for demonstrations and proofs, and decide which tries they hit.

Pure: all three programs parse it and pass it on; only a worker acts on it. Whether a try is hit depends on
the seed, the job's number and the try alone, so a run repeats exactly, whatever the workers, their order
and their speed.
"""

from __future__ import annotations

from enum import StrEnum
from signal import Signals
from typing import NamedTuple

from taskpool.errors import UsageError

_SIGNALS = {
    "SEGV": Signals.SIGSEGV,
    "KILL": Signals.SIGKILL,
    "ABRT": Signals.SIGABRT,
    "BUS": Signals.SIGBUS,
}
_EXPECTED = "expected crash=P[:SEGV|KILL|ABRT|BUS], exit=P, hang=P or seed=N"
_SUM_MAX = 1 + 1e-9  # decimal fractions that add up to 1 for a person may pass it by a rounding error


class Fault(StrEnum):
    """What happens to one try, instead of its job."""

    CRASH = "crash"  # the worker dies by a signal
    EXIT = "exit"  # the worker exits without a report
    HANG = "hang"  # the worker waits for ever


class Chaos(NamedTuple):
    """How often each fault happens (probabilities of a try), and the seed that decides to which tries."""

    crash: float = 0.0
    exit: float = 0.0
    hang: float = 0.0
    seed: int = 0
    crash_signal: Signals = Signals.SIGSEGV

    def fault(self, seq: int, try_: int) -> Fault | None:
        """Return what happens to try `try_` (from 1) of job number `seq`; None: nothing."""
        # One number for all faults, each with its own part of [0, 1): a try has one fault at most, and a higher
        # probability of one fault only takes tries from those behind it.
        drawn = draw(self.seed, seq, try_)
        for fault, probability in ((Fault.CRASH, self.crash), (Fault.EXIT, self.exit), (Fault.HANG, self.hang)):
            if drawn < probability:
                return fault
            drawn -= probability
        return None

    def spec(self) -> str:
        """Return the text that `parse` turns into this very value."""
        signal = self.crash_signal.name.removeprefix("SIG")
        return f"crash={self.crash!r}:{signal},exit={self.exit!r},hang={self.hang!r},seed={self.seed}"


def parse(spec: str) -> Chaos:
    """Parse `crash=0.3[:SEGV|KILL|ABRT|BUS],exit=0.01,hang=0.01,seed=7`, each part optional.

    Raises UsageError naming the part that is wrong.
    """
    chaos = Chaos()
    seen: set[str] = set()
    for part in spec.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"--chaos: {part!r}: {_EXPECTED}")
        if key in seen:
            raise UsageError(f"--chaos: {part!r}: {key} was given before")
        seen.add(key)
        chaos = _with(chaos, key, value, part)
    if (total := chaos.crash + chaos.exit + chaos.hang) > _SUM_MAX:
        raise UsageError(f"--chaos: the probabilities of {spec!r} add up to {total:g}; at most 1 is possible")
    return chaos


def draw(seed: int, seq: int, try_: int) -> float:
    """Return a number in [0, 1) that looks random and is the same for the same three numbers, on every machine."""
    # Not the random module: what it draws for a seed may change with the version of Python.
    mixed = 0
    for number in (seed, seq, try_):
        mixed = _splitmix64(mixed ^ number)
    return (mixed >> 11) / 2**53  # the 53 bits that a float keeps exactly


def _splitmix64(word: int) -> int:
    """Do one step of Steele, Lea and Flood's SplitMix64: every bit of the input changes half of the output."""
    word = (word + 0x9E3779B97F4A7C15) % 2**64
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % 2**64
    return word ^ (word >> 31)


def _with(chaos: Chaos, key: str, value: str, part: str) -> Chaos:
    match key:
        case "crash":
            number, colon, name = value.partition(":")
            signal = _signal(name, part) if colon else chaos.crash_signal
            return chaos._replace(crash=_probability(number, part), crash_signal=signal)
        case "exit":
            return chaos._replace(exit=_probability(value, part))
        case "hang":
            return chaos._replace(hang=_probability(value, part))
        case "seed":
            return chaos._replace(seed=_seed(value, part))
        case _:
            raise UsageError(f"--chaos: {part!r}: {_EXPECTED}")


def _probability(text: str, part: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:  # written so that NaN is refused
        raise UsageError(f"--chaos: {part!r}: expected a probability from 0 to 1, got {text!r}")
    return number


def _seed(text: str, part: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) < 2**64):
        raise UsageError(f"--chaos: {part!r}: expected an integer from 0 to 2**64-1, got {text!r}")
    return int(text)


def _signal(text: str, part: str) -> Signals:
    if text not in _SIGNALS:
        raise UsageError(f"--chaos: {part!r}: expected one of {', '.join(_SIGNALS)}, got {text!r}")
    return _SIGNALS[text]
