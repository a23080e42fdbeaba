"""`tp-dealer cluster check`: whether the brokers of a cluster keep what they accept, before a pool depends on it.

It connects as a member does, so it makes the pool's streams where there are none yet: how many copies the brokers can
keep of a stream shows when one is made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing

from taskpool.arguments import Parser
from taskpool.cluster.opening import open_engine
from taskpool.cluster.subjects import Address, parse_address
from taskpool.dealer.examples import EXAMPLES
from taskpool.errors import DealerUnreachable, ExitCode
from taskpool.ipc.names import check_pool_name

LOOK_SECONDS = 20.0  # brokers that have just started elect their leaders first


def run(argv: Sequence[str]) -> int:
    """Run the command; return its exit code. Raises UsageError, ConfigurationError, DealerUnreachable."""
    args = build_parser().parse_args(argv)
    pool = check_pool_name(args.pool)
    address = parse_address(args.cluster)._replace(creds=args.cluster_creds, ca=args.cluster_ca)
    return check(address, pool)


def build_parser() -> Parser:
    """Return the parser of the whole command line; man pages and completions are made from it too."""
    parser = Parser(prog="tp-dealer cluster", description="Looks at the brokers of a pool that several hosts share.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "say what the brokers do not keep, and the cure of each; the pool's streams are made where there are none"
    looking = actions.add_parser("check", help=text, description=text)
    looking.add_argument("--pool", metavar="NAME", default="default", help="name of the pool (default: default)")
    looking.add_argument("--cluster", metavar="URL", required=True, help="nats://A:4222,B:4222,C:4222?monitor=8222")
    looking.add_argument("--cluster-creds", metavar="FILE", help="who asks (NATS credentials)")
    looking.add_argument("--cluster-ca", metavar="FILE", help="check the brokers' certificates by these (PEM)")
    parser.describe(EXAMPLES, frozenset())
    return parser


def check(address: Address, pool: str) -> int:
    """Print what is not as it should be. Raises ConfigurationError, DealerUnreachable."""
    with closing(open_engine(address, pool)) as engine:
        if not engine.start(LOOK_SECONDS):
            raise DealerUnreachable(
                f"no broker of {', '.join(address.servers)} could be looked at within {LOOK_SECONDS:g} s"
            )
        findings = engine.findings
    for finding in findings:
        sys.stdout.write(f"{finding.text}\n")
    refuses = any(finding.refuses for finding in findings)
    if not findings:
        sys.stdout.write(f"{', '.join(address.servers)} keep what they accept for pool {pool}\n")
    # Also with unsafe=1 in the address: that is for what goes on all the same, and this asks whether it should.
    return ExitCode.ENVIRONMENT if refuses else ExitCode.OK
