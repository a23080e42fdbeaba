"""What `--help` shows of tp-dealer: command lines that work, and the options that are used most."""

from __future__ import annotations

# With all options the help would not fit a screen. The subcommands of `journal` and `cluster` have few: all of theirs
# are shown.
BRIEF = frozenset(
    {"--pool", "--workers", "--journal", "--metrics", "--drain-timeout", "--config", "--check-config", "--health"}
)

EXAMPLES = {
    "tp-dealer": (
        "tp-dealer --pool night --workers 4",
        "tp-dealer --pool night --config night.toml --check-config",
        "tp-dealer --pool night --health",
    ),
    "tp-dealer cluster": (
        "tp-dealer cluster check --cluster nats://127.0.0.1",
        "tp-dealer cluster check --pool render --cluster 'nats://a,b,c?monitor=8222'",
        "tp-dealer cluster check --cluster tls://a,b,c --cluster-ca ca.pem",
    ),
    "tp-dealer cluster check": (
        "tp-dealer cluster check --cluster nats://127.0.0.1",
        "tp-dealer cluster check --pool render --cluster 'nats://a,b,c?monitor=8222'",
        "tp-dealer cluster check --cluster tls://a,b,c --cluster-ca ca.pem",
    ),
    "tp-dealer journal": (
        "tp-dealer journal check --pool night",
        "tp-dealer journal export --pool night --failed",
        "tp-dealer journal backup --pool night copy.db",
    ),
    "tp-dealer journal check": (
        "tp-dealer journal check",
        "tp-dealer journal check --pool night",
        "tp-dealer journal check --journal copy.db --accept-loss",
    ),
    "tp-dealer journal export": (
        "tp-dealer journal export --pool night",
        "tp-dealer journal export --pool night --failed",
        "tp-dealer journal export --journal copy.db",
    ),
    "tp-dealer journal prune": (
        "tp-dealer journal prune --pool night",
        "tp-dealer journal prune --pool night --retain 24h",
        "tp-dealer journal prune --pool night --retain-batches 10",
    ),
    "tp-dealer journal backup": (
        "tp-dealer journal backup copy.db",
        "tp-dealer journal backup --pool night copy.db",
        "tp-dealer journal backup --journal other.db copy.db",
    ),
}
