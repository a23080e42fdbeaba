"""The command line: its words, but nothing of what they do."""

from __future__ import annotations

from argparse import ArgumentParser, _ArgumentGroup, _SubParsersAction
from collections.abc import Sequence

import taskpool
from taskpool.arguments import Parser
from taskpool.generator.examples import BRIEF, EXAMPLES, GROUPS
from taskpool.generator.job_limits import limit_options
from taskpool.kinds import TYPED_KINDS
from taskpool.kinds.parallel import absent

_SUBMITTING = (*TYPED_KINDS, "jobs")
_JOBS_HELP = "job objects as JSON Lines, of any kinds"
# Commands of one verb. The table is all there is of them on this side: `admin.request_from` reads it too.
# verb: (help, metavar of its target or None, whether a whole batch may be the target)
VERBS: dict[str, tuple[str, str | None, bool]] = {
    "status": ("the pool at a glance", None, False),
    "show": ("one job, and what became of its attempts", "JOB", False),
    "cancel": ("cancel a batch, or one job of it", "BATCH|JOB", True),
    "requeue": ("give a job that ended badly a new run", "JOB", False),
    "pause": ("let no more jobs begin", None, False),
    "unpause": ("let jobs begin again after pause", None, False),
    "drain": ("finish what runs, take nothing new, and leave", None, False),
}
QUERIES = {
    "wait": "wait until a batch has ended, and end with the exit code that its own run would have had",
    "results": "print the outcomes that a batch has so far",
    "logs": "print what a job has printed",
}
KEYS_OF_TOP = (
    "Keys: q quits; s sorts; / filters, and escape shows all again; tab, up and down choose a job or a batch; p pauses "
    "its pool, or lets it go on; c cancels it, when y is pressed twice."
)
QUARANTINE = {"list": "say which", "requeue": "give them a new run", "drop": "forget them"}


class _Parser(Parser):
    """Says of GNU parallel's options what to do instead."""

    def advice(self, unknown: Sequence[str], leaf: Parser) -> str:
        # With the options of `command`, whichever kind of jobs is submitted.
        known = self.subparsers()["command"]._option_string_actions
        said = absent.advice(unknown, known) if leaf in map(self.subparsers().get, _SUBMITTING) else None
        return said or super().advice(unknown, leaf)


def build_parser() -> Parser:
    """Return the parser of the whole command line. After parsing, `args.subcommand` says which part was used."""
    parser = _Parser(
        prog="tp-generator",
        description="Submit jobs to a crash-proof pool, and command a running one.",
        epilog="JOB is BATCH/NUMBER. Durations: 90 (seconds), 500ms, 1.5s, 2m, 1h30m. Options of a submission can "
        "also come from TP_NAME variables and taskpool.toml: see config.",
    )
    parser.add_argument("--version", action="version", version=f"tp-generator {taskpool.__version__}")
    subcommands = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", required=True)
    # A kind brings its own arguments, so that a new kind needs no line here.
    for kind in TYPED_KINDS.values():
        sub = subcommands.add_parser(kind.name, help=kind.summary, description=kind.summary)
        _add_submission(sub)
        kind.add_arguments(sub)
        # An option -0 makes argparse take every negative number for an option, that of --priority -5 included.
        sub._has_negative_number_optionals.clear()
    sub = subcommands.add_parser("jobs", help=_JOBS_HELP, description=_JOBS_HELP)
    _add_submission(sub)
    sub.add_argument("--schema", action="store_true", help="print the JSON Schema of one job object, run nothing")
    sub.add_argument("file", nargs="?", metavar="FILE|-", help="a file, or - for standard input")
    _add_verbs(subcommands)
    _add_queries(subcommands)
    _add_kept(subcommands)
    _add_host(subcommands)
    parser.describe(EXAMPLES, BRIEF, GROUPS)
    return parser


def _add_verbs(subcommands: _SubParsersAction[_Parser]) -> None:
    for verb, (text, target, _) in VERBS.items():
        sub = subcommands.add_parser(verb, help=text, description=text)
        _add_command_options(sub)
        if target is not None:
            sub.add_argument("target", metavar=target)
    text = "more or fewer workers"
    sub = subcommands.add_parser("scale", help=text, description=text)
    _add_command_options(sub)
    sub.add_argument("change", metavar="+N|-N")
    text = "jobs that crashed too often"
    quarantine = subcommands.add_parser("quarantine", help=text, description=text)
    actions = quarantine.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, text in QUARANTINE.items():
        sub = actions.add_parser(action, help=text, description=text)
        _add_command_options(sub)
        if action != "list":  # always whole; its answer is bounded by the dealer
            sub.add_argument("target", metavar="BATCH|JOB|all")


def _add_queries(subcommands: _SubParsersAction[_Parser]) -> None:
    for verb, text in QUERIES.items():
        sub = subcommands.add_parser(verb, help=text, description=text)
        _add_command_options(sub)
        nargs = "?" if verb == "results" else None
        sub.add_argument("target", metavar="JOB" if verb == "logs" else "BATCH", nargs=nargs)
        if verb == "wait":
            sub.add_argument("--timeout", metavar="TIME", help="end with exit code 124 if it lasts longer")
        elif verb == "results":
            sub.add_argument("--output", choices=("value", "json"), default="value", help="what to print (value)")
            sub.add_argument("--results", metavar="FILE|-", help="write outcome objects as JSON Lines")
            sub.add_argument("--output-dir", metavar="DIR", help="write DIR/NUMBER/stdout, stderr and outcome.json")
            sub.add_argument("--failed", action="store_true", help="only of jobs that did not succeed: a line for each")
            sub.add_argument("--schema", action="store_true", help="print the JSON Schema of an outcome object only")


def _add_kept(subcommands: _SubParsersAction[_Parser]) -> None:
    text = "go on with a batch, without its command being typed again: only what has no outcome runs"
    _add_going_on(subcommands.add_parser("resume", help=text, description=text))
    text = "have jobs of a batch that ended badly run again, and wait for their outcomes"
    sub = subcommands.add_parser("rerun", help=text, description=text)
    for option, states in (
        ("--failed", "that failed"),
        ("--timed-out", "that timed out"),
        ("--quarantined", "in quarantine"),
        ("--all", "that did not succeed, cancelled ones among them (the default)"),
    ):
        sub.add_argument(option, action="store_true", help=f"jobs {states}")
    sub.add_argument("--jobs", metavar="LIST", help="only of these, by number: 3,7-9")
    _add_going_on(sub)
    text = "list the batches that are kept, and those of a running pool"
    sub = subcommands.add_parser("batches", help=text, description=text)
    sub.add_argument("--pool", metavar="NAME", help="of this running pool only (default: all that are known here)")
    sub.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    _add_common(sub)
    text = "remove what is kept of private batches that have ended or were interrupted"
    sub = subcommands.add_parser("forget", help=text, description=text)
    sub.add_argument("target", metavar="BATCH", nargs="*", help="the ids of the batches")
    sub.add_argument("--succeeded", action="store_true", help="all of which every job has succeeded")
    sub.add_argument("--older-than", metavar="TIME", help="all that were not used for so long; with --succeeded: both")
    _add_common(sub)


def _add_host(subcommands: _SubParsersAction[_Parser]) -> None:
    text = "watch running pools at a terminal: their jobs, batches, speed and last deaths"
    sub = subcommands.add_parser("top", help=text, description=text, epilog=KEYS_OF_TOP)
    sub.add_argument("--pool", metavar="NAME", help="only this one (default: all pools of yours that run here)")
    sub.add_argument("--refresh", metavar="TIME", help="ask the dealers so often (1s)")
    _add_common(sub)
    text = "look at this host for what a pool would trip over, and say the cure of each"
    sub = subcommands.add_parser("doctor", help=text, description=text)
    sub.add_argument("--fix", action="store_true", help="remove what dead pools and expired batches have left")
    sub.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    sub.add_argument(
        "-j", "-P", "--workers", metavar="N|N%|+N", help="of the pool that is to run here (default: as it would have)"
    )
    _add_config(sub)
    _add_common(sub)
    text = "run a pool of its own under real crashes and kills, and audit what became of each job"
    sub = subcommands.add_parser("selftest", help=text, description=text)
    sub.add_argument("--seed", metavar="N", help="repeat the self-test that told this seed (default: random)")
    sub.add_argument(
        "--rounds", metavar="N", help="how many kills from outside, 3 to 15; each third is the dealer's (6)"
    )
    sub.add_argument("--patience", metavar="TIME", help="give up when nothing happens for so long (60s)")
    sub.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    _add_common(sub)
    text = "the settings that a submission from here would have, and where each comes from"
    sub = subcommands.add_parser("config", help=text, description=text)
    sub.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    _add_config(sub)
    _add_common(sub)


def _add_going_on(parser: ArgumentParser) -> None:
    # The batch's own limits stay; how its outcomes are shown, and by how many workers it runs, may change.
    parser.add_argument("target", metavar="BATCH", nargs="?", help="the id of the batch")
    parser.add_argument("--pool", metavar="NAME", help="the running pool that has it (default: it is a private one)")
    _add_halt(_add_output(parser))
    _add_dealer(parser)
    _add_common(parser)


def _add_command_options(parser: ArgumentParser) -> None:
    # A default here and none for submissions: without a pool those start a private one, and there is none to command.
    parser.add_argument("--pool", metavar="NAME", default="default", help="which running pool (default: default)")
    parser.add_argument("--json", action="store_true", help="answer in JSON, for programs")
    _add_config(parser)
    _add_common(parser)


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dealer-timeout",
        metavar="TIME",
        help="how long to wait for a dealer (5s, a private one 20s, to come back 60s) and for one's turn (60s)",
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="of what goes to standard error")
    # Exclusive rather than the last one wins: in a script, two of them are a mistake.
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help="one line for each event")
    loudness.add_argument("-q", "--quiet", action="store_true", help="errors only")


def _add_config(parser: ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE|none", help="take settings from FILE, not from taskpool.toml")


def _add_submission(parser: ArgumentParser) -> None:
    parser.add_argument("--pool", metavar="NAME", help="a running pool; without it a private dealer is started")
    parser.add_argument(
        "--cluster", metavar="URL", help="the pool that several hosts share: nats://A:4222,B:4222,C:4222; with --pool"
    )
    parser.add_argument("--cluster-creds", metavar="FILE", help="who this submitter is to the brokers")
    parser.add_argument("--cluster-ca", metavar="FILE", help="check the brokers' certificates by these (PEM)")
    parser.add_argument("--batch", metavar="ID", help="name the batch (default: random)")
    _add_resume(parser)
    _add_limits(parser)
    _add_detaching(_add_output(parser))
    _add_dealer(parser, "--jobs")  # as GNU parallel has it
    _add_config(parser)
    _add_common(parser)


def _add_resume(parser: ArgumentParser) -> None:
    # Two options, not one with a value: `--resume 40-45` would take the job for it.
    for name, value, text in (
        ("--resume", "known", "go on with --batch ID: only what has no outcome runs"),
        ("--resume=or-begin", "or-begin", "begin --batch ID, or go on with it where it is known: for scripts"),
    ):
        parser.add_argument(name, dest="resume", action="store_const", const=value, default="", help=text)


def _add_limits(parser: ArgumentParser) -> None:
    # No defaults here or among the dealer's options: what was not given stays None, so that options.py can tell it
    # from what was, and the defaults have one place each.
    group = parser.add_argument_group("jobs")
    for option in limit_options():
        convert = int if option.is_integer else str
        group.add_argument(option.name, metavar=option.metavar, type=convert, help=option.help.replace("%", "%%"))
    _add_halt(group)


def _add_halt(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--halt",
        metavar="WHEN,WHY=N|N%",
        help="stop early: now|soon,fail|success|done|quarantined=N, or =N%% of all jobs, as GNU parallel",
    )


def _add_output(parser: ArgumentParser) -> _ArgumentGroup:
    group = parser.add_argument_group("output")
    group.add_argument("--output", choices=("value", "json"), help="on standard output (value)")
    group.add_argument("-k", "--keep-order", action="store_true", help="print in the order of the jobs' numbers")
    group.add_argument(
        "--results",
        metavar="FILE|-",
        help="write outcome objects as JSON Lines (--resume: append); -: to standard output, and nothing else",
    )
    group.add_argument(
        "--output-dir", metavar="DIR", help="write DIR/NUMBER/stdout, stderr and outcome.json of each job"
    )
    group.add_argument("--joblog", metavar="FILE", help="write GNU parallel's job log (--resume: append)")
    group.add_argument(
        "--progress",
        choices=("auto", "bar", "plain", "json", "none"),
        default="auto",
        help="how far the batch is, on standard error (auto: a bar on a terminal)",
    )
    return group


def _add_detaching(group: _ArgumentGroup) -> None:
    group.add_argument("--dry-run", action="store_true", help="print the jobs, run nothing")
    group.add_argument("--detach", action="store_true", help="print the batch's id once all is accepted, and leave")
    group.add_argument("--no-wait", action="store_true", help="end with exit code 7 when the pool is full")


def _add_dealer(parser: ArgumentParser, *aliases: str) -> None:
    group = parser.add_argument_group("private pool")
    group.add_argument(
        "-j", "-P", "--workers", *aliases, metavar="N|N%|+N", help="default: the CPUs this process may use"
    )
    group.add_argument("--spares", metavar="N", help="workers kept ready (1)")
    group.add_argument(
        "--journal",
        metavar="PATH|none",
        help="where accepted jobs and their outcomes are kept (default: in the pool's state directory, until all have "
        "succeeded); a file named here is yours and stays; none: a killed dealer loses them",
    )
    group.add_argument(
        "--journal-sync",
        choices=("full", "normal"),
        help="full: the journal survives a loss of power; normal: any kill, but not the last moments before a loss of "
        "power (full)",
    )
    group.add_argument("--retain", metavar="TIME", help="how long a kept journal keeps finished batches (168h)")
    group.add_argument("--metrics", metavar="HOST:PORT|none", help="serve metrics (none)")
    group.add_argument("--worker-exec", metavar="PATH", help="the worker program, as of a virtual environment")
    group.add_argument("--chaos", metavar="SPEC", help="inject faults: crash=0.3:SEGV,exit=0.01,hang=0.01,seed=7")
    group.add_argument("--drain-timeout", metavar="TIME", help="how long running jobs may finish after TERM (8s)")
    group.add_argument("--nice", metavar="N", help="niceness of its jobs, -20 to 19 (as here)")
    group.add_argument("--delay", metavar="TIME", help="start no job sooner than this after the one before (0)")
