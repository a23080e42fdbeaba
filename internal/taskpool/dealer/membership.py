"""Make the dealer a member of a cluster: the engine's connection and the bridge, begun and ended with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from taskpool.clock import SystemClock
from taskpool.cluster.bridge import Bridge
from taskpool.cluster.opening import open_engine
from taskpool.cluster.subjects import parse_address
from taskpool.dealer.log import DealerLog, WarningLimit
from taskpool.dealer.options import DealerOptions
from taskpool.errors import ConfigurationError
from taskpool.log import Fact

# Brokers that answer are looked at before the dealer begins; for others it does not wait longer. It serves its own
# host's generators meanwhile, and what they keep is judged when they answer.
LOOK_SECONDS = 5.0


class _Notices:
    """What the bridge tells, in the dealer's log. Of warnings that repeat, as those of lost brokers do, not all."""

    def __init__(self, log: DealerLog) -> None:
        self._log = log
        self.warn = WarningLimit(lambda text: log.say(logging.WARNING, text, "Cluster"), SystemClock())

    def detail(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        self._log.say(logging.DEBUG, text, "Cluster", **(fields or {}))

    def info(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        self._log.say(logging.INFO, text, "Cluster", **(fields or {}))

    def warning(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        self.warn(text)


def prepare(options: DealerOptions, log: DealerLog, teardown: ExitStack) -> Callable[[], None]:
    """Connect with the engine and look at it; return what begins the bridge, to be called once the dealer stands.

    Raises ConfigurationError when the client library is missing, a file cannot be read, or the brokers do not keep
    what they accept.
    """
    assert options.cluster is not None
    address = parse_address(options.cluster)._replace(creds=options.cluster_creds, ca=options.cluster_ca)
    engine = open_engine(address, options.pool)
    teardown.callback(engine.close)
    looked = engine.start(LOOK_SECONDS)
    if engine.refusal is not None:
        raise ConfigurationError(f"--cluster {options.cluster}: {engine.refusal}")
    notices = _Notices(log)
    if not looked:
        notices.warning(
            f"no broker of {', '.join(address.servers)} answers yet; this pool serves its own host meanwhile"
        )

    def join() -> None:
        bridge = Bridge(options.pool, engine, notices)
        # Last in, so first out: the bridge ends before the queues and the journal do.
        teardown.callback(bridge.close)
        bridge.start()
        notices.info(f"Member of pool {options.pool} at {', '.join(address.servers)}")

    return join
