"""A dealer's answer, which is JSON, laid out for a person. It knows JSON's shapes, not the answers' words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskpool.log import printable

_INDENT = "  "


def present(body: object) -> str:
    """One or more lines, newline included."""
    if isinstance(body, Mapping):
        lines = _mapping(body)
    elif isinstance(body, Sequence) and not isinstance(body, str):
        lines = _listing(body)
    else:
        lines = [_scalar(body)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _mapping(body: Mapping[object, object]) -> list[str]:
    """Plain values first, aligned; then what has parts, each under its name."""
    plain = {_words(key): _scalar(value) for key, value in body.items() if not _has_parts(value)}
    width = max(map(len, plain), default=0)
    lines = [f"{key:<{width}}  {value}" for key, value in plain.items()]
    for key, value in body.items():
        if isinstance(value, Mapping):
            lines += _section(key, _mapping(value)) if value else [f"{_words(key)}: none"]
        elif _has_parts(value) and isinstance(value, Sequence):
            lines += _section(key, _listing(value)) if value else [f"{_words(key)}: none"]
    return lines


def _section(key: object, lines: list[str]) -> list[str]:
    return [f"{_words(key)}:", *(_INDENT + line for line in lines)]


def _listing(items: Sequence[object]) -> list[str]:
    rows = [item for item in items if isinstance(item, Mapping)]
    if len(rows) < len(items):
        return [_scalar(item) for item in items]
    return _table(rows)


def _table(rows: list[Mapping[object, object]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_words(column) for column in columns]]
    cells += [[_scalar(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]


def _has_parts(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str))


def _words(key: object) -> str:
    return printable(str(key)).replace("_", " ")


def _scalar(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return printable(str(value))
