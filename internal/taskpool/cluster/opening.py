"""A connection with the engine, whose client library may be missing: it is an extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskpool.cluster.subjects import Address
from taskpool.errors import ConfigurationError

if TYPE_CHECKING:
    from taskpool.cluster.nats_connection import NatsEngine


def open_engine(address: Address, pool: str) -> NatsEngine:
    """Return a connection with the brokers that is not begun.

    Raises ConfigurationError when a file cannot be read, or the client library is missing.
    """
    for option, path in (("--cluster-creds", address.creds), ("--cluster-ca", address.ca)):
        _check_readable(option, path)
    try:
        from taskpool.cluster.nats_connection import NatsEngine
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--cluster needs the client library of NATS, and there is no module {error.name}: "
            "pip install 'taskpool[cluster]'"
        ) from error
    return NatsEngine(address, pool)


def _check_readable(option: str, path: str | None) -> None:
    try:
        if path is not None:
            with open(path, "rb"):
                pass
    except OSError as error:
        raise ConfigurationError(f"{option} {path}: cannot be read: {error.strerror}") from error
