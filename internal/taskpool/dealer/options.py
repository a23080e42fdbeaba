"""The dealer's options: flag before environment variable before configuration file before default."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from taskpool import __version__, chaos, limits
from taskpool.arguments import Parser
from taskpool.cluster.subjects import parse_address
from taskpool.dealer.examples import BRIEF, EXAMPLES
from taskpool.durations import parse_duration
from taskpool.errors import UsageError
from taskpool.ipc.names import check_pool_name
from taskpool.procs import settings
from taskpool.procs.cpus import worker_count
from taskpool.procs.settings import Settings

METRICS_DEFAULT = "127.0.0.1:9743"  # of this machine only: the pages name jobs, and have no secret by default
# What a configuration file and the environment can set. The others are about one start, not about a pool.
FILE_KEYS = (
    "pool",
    "workers",
    "spares",
    "journal",
    "journal_sync",
    "retain",
    "retain_batches",
    "metrics",
    "metrics_tls_cert",
    "metrics_tls_key",
    "metrics_auth_file",
    "drain_timeout",
    "delay",
    "worker_exec",
    "log_format",
    "chaos",
    "cluster",
    "cluster_creds",
    "cluster_ca",
)
_FLAGS_ONLY = ("config", "check_config", "health", "verbose", "quiet", "private", "lifeline_fd")
_RELOADED = ("workers", "drain_timeout")  # what SIGHUP applies
_PREFIX = "TP_DEALER_"
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\s]+):(?P<port>\d{1,5})\Z")


class DealerOptions(Struct, frozen=True, kw_only=True):
    """All options, checked when they were parsed."""

    pool: str = "default"
    workers: int = 1
    spares: int = 1
    metrics: tuple[str, int] | None = None
    metrics_tls: tuple[Path, Path] | None = None  # certificate and key
    metrics_auth_file: Path | None = None
    drain_timeout_ns: int = limits.DRAIN_TIMEOUT_NS
    delay_ns: int = 0
    journal: str | None = None  # a path; "none"; None: in the pool's state directory
    journal_sync: str = "full"
    retain_ns: int = limits.RETAIN_NS
    retain_batches: int = limits.RETAIN_BATCHES_MAX
    worker_exec: str | None = None
    chaos: str | None = None
    cluster: str | None = None  # where the engine is; checked
    cluster_creds: str | None = None
    cluster_ca: str | None = None
    log_format: str = "text"
    verbosity: int = 0
    private: bool = False
    lifeline_fd: int = -1
    check_config: bool = False
    health: bool = False
    argv: tuple[str, ...] = ()  # what they were parsed from: SIGHUP parses it again


def parse(argv: Sequence[str], env: Mapping[str, str] = os.environ) -> DealerOptions:
    """Parse a command line. Raises UsageError naming the option, the value and what was expected."""
    args = build_parser().parse_args(argv)
    below = {**_from_file(args.config), **settings.from_environment(env, _PREFIX, FILE_KEYS, _FLAGS_ONLY)}
    flags = _from_flags(args)
    below = {key: setting for key, setting in below.items() if key not in flags}
    try:
        return _checked(args, {**{key: setting.value for key, setting in below.items()}, **flags}, tuple(argv))
    except UsageError as error:
        raise settings.with_sources(error, below) from None


def _checked(args: Namespace, given: Mapping[str, Any], argv: tuple[str, ...]) -> DealerOptions:
    return DealerOptions(
        pool=check_pool_name(_text(given, "pool", "default")),
        workers=worker_count(_text(given, "workers", "100%")),
        spares=_spares(given.get("spares", 1)),
        # A private pool is short, and several run at a time: the default port is for pools that have a name.
        metrics=_address(_text(given, "metrics", "none" if args.private else METRICS_DEFAULT)),
        metrics_tls=_tls(given),
        metrics_auth_file=Path(given["metrics_auth_file"]) if "metrics_auth_file" in given else None,
        drain_timeout_ns=_duration(given, "drain_timeout", limits.DRAIN_TIMEOUT_NS),
        delay_ns=_duration(given, "delay", 0),
        journal=given.get("journal"),
        journal_sync=_choice(given, "journal_sync", ("full", "normal")),
        retain_ns=_duration(given, "retain", limits.RETAIN_NS),
        retain_batches=_count(given, "retain_batches", limits.RETAIN_BATCHES_MAX),
        worker_exec=given.get("worker_exec"),
        chaos=_chaos(given.get("chaos")),
        cluster=_cluster(args, given),
        cluster_creds=given.get("cluster_creds"),
        cluster_ca=given.get("cluster_ca"),
        log_format=_choice(given, "log_format", ("text", "json")),
        verbosity=args.verbose - args.quiet,
        private=args.private,
        lifeline_fd=args.lifeline_fd,
        check_config=args.check_config,
        health=args.health,
        argv=argv,
    )


def needing_restart(then: DealerOptions, now: DealerOptions) -> list[str]:
    """Return the options, as they are typed, that have another value now and that a running dealer cannot change."""
    changed = (key for key in FILE_KEYS if key not in _RELOADED)
    return [f"--{key.replace('_', '-')}" for key in changed if _field(then, key) != _field(now, key)]


def _field(options: DealerOptions, key: str) -> object:
    if key.startswith("metrics_tls"):
        pair = options.metrics_tls or (None, None)
        return pair[key.endswith("key")]
    return getattr(options, f"{key}_ns" if key in ("delay", "retain") else key)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="tp-dealer",
        description="Runs a pool: hands out jobs, supervises workers, recovers from their crashes.",
        epilog="Signals: TERM drains, INT once drains, twice stops running jobs, three times leaves; QUIT stops "
        "fast; HUP reads --config again; USR1 prints the status; TTIN and TTOU mean one worker more and one fewer. "
        "Every setting is also TP_DEALER_NAME in the environment, and a key of --config. `tp-dealer journal --help` "
        "tells what can be done with the journal of a pool that is down.",
    )
    parser.add_argument("--pool", metavar="NAME", help="name of the pool (default: default)")
    parser.add_argument("--workers", metavar="N|N%|+N", help="workers at work (default: the CPUs we may use)")
    parser.add_argument("--spares", metavar="N", help="ready workers beside them (default: 1)")
    parser.add_argument("--journal", metavar="PATH|none", help="the journal (default: in the pool's state directory)")
    parser.add_argument(
        "--journal-sync",
        metavar="full|normal",
        help="full: what is accepted survives a loss of power; normal: any kill, but perhaps not the last moments "
        "before a loss of power (default: full)",
    )
    parser.add_argument("--retain", metavar="T", help="how long finished batches are kept (default: 168h)")
    parser.add_argument("--retain-batches", metavar="N", help="how many finished batches are kept (default: 1000)")
    parser.add_argument("--metrics", metavar="HOST:PORT|none", help=f"where to serve (default: {METRICS_DEFAULT})")
    parser.add_argument("--metrics-tls-cert", metavar="FILE", help="serve TLS with this certificate chain (PEM) ...")
    parser.add_argument("--metrics-tls-key", metavar="FILE", help="... and this key (PEM)")
    parser.add_argument(
        "--metrics-auth-file", metavar="FILE", help="who may see the pages: lines `bearer TOKEN`, `basic USER:PASSWORD`"
    )
    parser.add_argument("--drain-timeout", metavar="T", help="how long running jobs may take on TERM (default: 8s)")
    parser.add_argument("--delay", metavar="T", help="start no job sooner than this after the one before (default: 0)")
    parser.add_argument("--worker-exec", metavar="PATH", help="the worker program (default: tp-worker beside this one)")
    parser.add_argument("--chaos", metavar="SPEC", help="inject faults: crash=0.3,exit=0.01,hang=0.01,seed=7")
    parser.add_argument(
        "--cluster",
        metavar="URL",
        help="be a member of the pool of this name that several hosts share: nats://A:4222,B:4222,C:4222",
    )
    parser.add_argument("--cluster-creds", metavar="FILE", help="who this member is to the brokers (NATS credentials)")
    parser.add_argument("--cluster-ca", metavar="FILE", help="check the brokers' certificates by these (PEM)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="TOML file with the same names, _ for -")
    parser.add_argument("--log-format", metavar="text|json", help="form of the log (default: text)")
    parser.add_argument("--check-config", action="store_true", help="check options and limits, start nothing")
    parser.add_argument("--health", action="store_true", help="ask the running dealer of this pool; for health checks")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="a line for every job event")
    parser.add_argument("-q", "--quiet", action="count", default=0, help="warnings and errors only")
    parser.add_argument("--version", action="version", version=f"tp-dealer {__version__}")
    parser.add_argument("--private", action="store_true", help="serve one batch and end with it (used by tp-generator)")
    parser.add_argument("--lifeline-fd", type=int, default=-1, metavar="FD", help="leave when this pipe closes")
    parser.describe(EXAMPLES, BRIEF)
    return parser


def _from_flags(args: Namespace) -> dict[str, Any]:
    flags = vars(args)
    return {key: flags[key] for key in FILE_KEYS if flags.get(key) is not None}


def _from_file(path: Path | None) -> Settings:
    return {} if path is None else settings.from_file(path, FILE_KEYS, settings.read_named(path), _FLAGS_ONLY)


def _text(given: Mapping[str, Any], key: str, default: str) -> str:
    return str(given.get(key, default))


def _duration(given: Mapping[str, Any], key: str, default_ns: int) -> int:
    return parse_duration(given[key], f"--{key.replace('_', '-')}") if key in given else default_ns


def _count(given: Mapping[str, Any], key: str, default: int) -> int:
    text = str(given.get(key, default))
    # isascii, because isdigit and int take the digits of every script.
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise UsageError(f"--{key.replace('_', '-')} {text}: expected a number from 0 to 999999999")
    return int(text)


def _choice(given: Mapping[str, Any], key: str, choices: tuple[str, ...]) -> str:
    value = str(given.get(key, choices[0]))
    if value not in choices:
        raise UsageError(f"--{key.replace('_', '-')} {value}: expected {' or '.join(choices)}")
    return value


def _spares(value: object) -> int:
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > limits.SPARES_MAX:
        raise UsageError(f"--spares {text}: expected a number from 0 to {limits.SPARES_MAX}")
    return int(text)


def _address(text: str) -> tuple[str, int] | None:
    if text == "none":
        return None
    match = _ADDRESS.match(text)
    if match is None or int(match["port"]) > 65535:
        raise UsageError(f"--metrics {text}: expected HOST:PORT such as {METRICS_DEFAULT}, or none")
    return match["host"].strip("[]"), int(match["port"])


def _tls(given: Mapping[str, Any]) -> tuple[Path, Path] | None:
    cert, key = given.get("metrics_tls_cert"), given.get("metrics_tls_key")
    if cert is None and key is None:
        return None
    # One without the other would serve in the clear, to a person who thinks it is TLS.
    if cert is None or key is None:
        raise UsageError("--metrics-tls-cert and --metrics-tls-key go together; one of them is missing")
    return Path(cert), Path(key)


def _cluster(args: Namespace, given: Mapping[str, Any]) -> str | None:
    text = given.get("cluster")
    if text is None:
        if needless := next((key for key in ("cluster_creds", "cluster_ca") if key in given), None):
            raise UsageError(f"--{needless.replace('_', '-')} is for --cluster, which is missing")
        return None
    parse_address(text)
    # What a member has taken from the engine must survive its dealer, and a private pool ends with one batch.
    if given.get("journal") == "none" or args.private:
        raise UsageError(f"--cluster {text}: a member of a cluster needs a journal: leave --journal none out")
    return str(text)


def _chaos(spec: str | None) -> str | None:
    # Parsed here, where the error has a reader; passed on as text, on the command lines of workers.
    return None if spec is None else chaos.parse(spec).spec()
