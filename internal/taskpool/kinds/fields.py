"""Reading one JSON job object, with errors that name the place, the field, the value and the wish."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from taskpool.errors import UsageError

_T = TypeVar("_T")

_SHOWN_CHARS_MAX = 60


class Fields:
    """The fields of one job object. Take what the kind knows, then call `done`."""

    def __init__(self, job: dict[str, object], where: str) -> None:
        self._left = dict(job)
        self._where = where

    def refuse(self, name: str, expected: str, got: object) -> NoReturn:
        shown = repr(got)
        if len(shown) > _SHOWN_CHARS_MAX:
            shown = shown[:_SHOWN_CHARS_MAX] + "..."
        raise UsageError(f"{self._where}: field {name!r}: expected {expected}, got {shown}")

    def required(self, name: str, expected: str, read: Callable[[object], _T | None]) -> _T:
        """The field as `read` understands it; `read` answers None for what it does not take."""
        if name not in self._left:
            raise UsageError(f"{self._where}: field {name!r} is missing: expected {expected}")
        raw = self._left.pop(name)
        value = read(raw)
        if value is None:
            self.refuse(name, expected, raw)
        return value

    def optional(self, name: str, expected: str, read: Callable[[object], _T | None]) -> _T | None:
        """As `required`; None when the field is not there or is null."""
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return None
        return self.required(name, expected, read)

    def done(self) -> None:
        """Refuses what nobody took: a misspelt field must not be ignored."""
        if self._left:
            names = ", ".join(repr(name) for name in self._left)
            raise UsageError(f"{self._where}: unknown field {names}")


def integer(low: int, high: int) -> Callable[[object], int | None]:
    def read(value: object) -> int | None:
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return value if fits else None  # type: ignore[return-value]

    return read


def boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def text(value: object) -> str | None:
    """Any text that can be encoded: JSON can spell lone surrogates, UTF-8 cannot."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def argument(value: object) -> bytes | None:
    """Text the kernel takes in an argument, a path or the environment: without NUL."""
    plain = text(value)
    return None if plain is None or "\0" in plain else plain.encode()


def arguments(value: object) -> list[bytes] | None:
    if not isinstance(value, list):
        return None
    words = [argument(word) for word in value]
    return [word for word in words if word is not None] if None not in words else None
