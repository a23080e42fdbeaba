"""What `--help` shows of each subcommand: three command lines that work, and the options that are used most."""

from __future__ import annotations

# Options that `--help` shows of a submission, which has many more.
BRIEF = frozenset(
    {"--pool", "--batch", "--resume", "--timeout", "--retries", "--workers", "--keep-order", "--output", "--dry-run"}
)

# A line for each of so many subcommands would leave no room for the examples on a screen of 24 lines.
GROUPS = {
    "submit jobs": ("command", "python", "fib", "jobs"),
    "go on": ("batches", "resume", "rerun", "forget"),
    "a batch": ("wait", "results", "cancel"),
    "a job": ("show", "logs", "requeue", "quarantine"),
    "a running pool": ("status", "top", "scale", "pause", "unpause", "drain"),
    "this program": ("doctor", "selftest", "config"),
}

# Tests parse each with the real parsers: an option that is renamed fails there, and not where a reader tries it.
EXAMPLES = {
    "tp-generator": (
        "tp-generator command -- gzip -k {} ::: *.log    # without a pool: starts one",
        "tp-generator fib 40-45 --pool night --detach    # submits to a running one",
        "tp-generator status --pool night",
    ),
    "tp-generator fib": (
        "tp-generator fib 40-45",
        "tp-generator fib 20 25 30 --repeat 100 --keep-order",
        "tp-generator fib 30-35 --workers 4 --chaos crash=0.3,seed=7 -v",
    ),
    "tp-generator command": (
        "tp-generator command -- sha256sum ::: a b c",
        "ls *.png | tp-generator command --timeout 1m -- convert {} {.}.jpg",
        "tp-generator command --batch night --retries 2 --resume -- ./run.sh :::: list",
    ),
    "tp-generator python": (
        "seq 5 | sed 's/.*/[&]/' | tp-generator python math:factorial",
        "tp-generator python --path src package.module:function < arguments.jsonl",
        "tp-generator python math:gcd --output json --timeout 10s < pairs.jsonl",
    ),
    "tp-generator jobs": (
        "tp-generator jobs work.jsonl --results outcomes.jsonl",
        "make-jobs | tp-generator jobs - --pool night --detach",
        "tp-generator jobs --schema",
    ),
    "tp-generator status": (
        "tp-generator status",
        "tp-generator status --pool night",
        "tp-generator status --pool night --json",
    ),
    "tp-generator top": (
        "tp-generator top",
        "tp-generator top --pool night",
        "tp-generator top --refresh 5s",
    ),
    "tp-generator show": (
        "tp-generator show night/7",
        "tp-generator show night/7 --pool big",
        "tp-generator show night/7 --json",
    ),
    "tp-generator cancel": (
        "tp-generator cancel night",
        "tp-generator cancel night/7",
        "tp-generator cancel night --pool big",
    ),
    "tp-generator requeue": (
        "tp-generator requeue night/7",
        "tp-generator requeue night/7 --pool big",
        "tp-generator requeue night/7 --json",
    ),
    "tp-generator pause": (
        "tp-generator pause",
        "tp-generator pause --pool night",
        "tp-generator pause --pool night --json",
    ),
    "tp-generator unpause": (
        "tp-generator unpause",
        "tp-generator unpause --pool night",
        "tp-generator unpause --pool night --json",
    ),
    "tp-generator drain": (
        "tp-generator drain",
        "tp-generator drain --pool night",
        "tp-generator drain --pool night --json",
    ),
    "tp-generator scale": (
        "tp-generator scale +2",
        "tp-generator scale --pool night -1",
        "tp-generator scale --pool night +4 --json",
    ),
    "tp-generator quarantine": (
        "tp-generator quarantine list --pool night",
        "tp-generator quarantine requeue all --pool night",
        "tp-generator quarantine drop night/7",
    ),
    "tp-generator quarantine list": (
        "tp-generator quarantine list",
        "tp-generator quarantine list --pool night",
        "tp-generator quarantine list --json",
    ),
    "tp-generator quarantine requeue": (
        "tp-generator quarantine requeue all",
        "tp-generator quarantine requeue night --pool big",
        "tp-generator quarantine requeue night/7",
    ),
    "tp-generator quarantine drop": (
        "tp-generator quarantine drop all",
        "tp-generator quarantine drop night --pool big",
        "tp-generator quarantine drop night/7",
    ),
    "tp-generator wait": (
        "tp-generator wait night",
        "tp-generator wait night --timeout 1h30m",
        "tp-generator wait night --pool big && echo all succeeded",
    ),
    "tp-generator results": (
        "tp-generator results night",
        "tp-generator results night --failed --pool big",
        "tp-generator results --schema    # of --output json",
    ),
    "tp-generator logs": (
        "tp-generator logs night/7",
        "tp-generator logs night/7 --pool big",
        "tp-generator logs night/7 --json",
    ),
    "tp-generator resume": (
        "tp-generator resume night",
        "tp-generator resume night --workers 2",
        "tp-generator resume night --pool big --results outcomes.jsonl",
    ),
    "tp-generator rerun": (
        "tp-generator rerun night",
        "tp-generator rerun night --timed-out --quarantined",
        "tp-generator rerun night --jobs 3,7-9 --pool big",
    ),
    "tp-generator batches": (
        "tp-generator batches",
        "tp-generator batches --pool night",
        "tp-generator batches --json",
    ),
    "tp-generator forget": (
        "tp-generator forget night",
        "tp-generator forget --succeeded",
        "tp-generator forget --succeeded --older-than 24h",
    ),
    "tp-generator doctor": (
        "tp-generator doctor",
        "tp-generator doctor --fix",
        "tp-generator doctor --workers 64 --json",
    ),
    "tp-generator selftest": (
        "tp-generator selftest",
        "tp-generator selftest --seed 7 --rounds 15 -v",
        "tp-generator selftest --json && echo this installation keeps its promise",
    ),
    "tp-generator config": (
        "tp-generator config",
        "TP_TIMEOUT=5m tp-generator config",
        "tp-generator config --config other.toml --json",
    ),
}
