"""What GNU parallel has and `tp-generator command` has not, with the way to do it here."""

from __future__ import annotations

from collections.abc import Iterable

_HOSTS = "jobs run on this host; to use others, run a pool on each, or submit commands that call ssh"
_PIPE = "--pipe cuts the input in order, each record for one job: split it into files first"
_STRINGS = "replacement strings have their usual spellings, and -I STR for {}"
_NO_PERL = "there is no Perl here: change arguments before they come here, or in a --shell line"
_WHOLE = "output is printed whole when its job ends; as it comes: --shell '... | tee out.{#}', and tail -f out.*"
_SQL = "the journal keeps jobs and outcomes: --pool NAME, then tp-generator results"
_PLAIN = "outputs are kept as they are"
_SEMAPHORE = "flock(1) or parallel's own sem"
_CPUS = "nproc(1)"
_TERMINAL = "a job has no terminal"
_STATUS = "--progress, and -v for a line of each event"
_CONFIG = "options are on the command line"

ABSENT: dict[tuple[str, ...], str] = {
    # hosts
    ("-S", "--sshlogin", "--sshloginfile", "--slf"): _HOSTS,
    ("--transfer", "--transfer-file", "--transfer-files", "--tf", "--return", "--trc", "--cleanup"): _HOSTS,
    ("-B", "--basefile", "--bf"): _HOSTS,
    (
        "--onall",
        "--nonall",
        "--filter-host",
        "--filter-hosts",
        "--hostgroup",
        "--hostgroups",
        "--hostgrp",
        "--hgrp",
    ): _HOSTS,
    ("-M", "--controlmaster", "--ssh", "--ssh-delay", "--rsync-opts"): _HOSTS,
    # records of standard input
    ("--spreadstdin",): "--pipe",
    ("--pipe-part",): "--pipe -a FILE: the file is read once, and cut as it is read",
    (
        "--block-timeout",
        "--bt",
    ): "a block is sent when it is whole: for a slow input, a smaller --block, or -N",
    ("--round-robin", "--round"): "each block is a job: a larger --block for fewer of them",
    ("--regexp", "--regex"): "--recstart and --recend are texts: mark the records before, as with sed",
    ("--remove-rec-sep", "--rrs"): "remove the marks in the command, as with --shell 'sed ... | ...'",
    ("--cat", "--fifo"): "a job's standard input is a file: --shell 'program /dev/stdin'",
    ("--tee", "--shard", "--bin", "--group-by"): _PIPE,
    # input
    ("--csv",): "--colsep , for fields without quotes; else make job objects of the file for tp-generator jobs",
    ("-E", "-e", "--eof"): "end the input there: sed '/^EOF$/Q'",
    ("-l",): "-L N",
    ("-i", "--replace"): "-I STR",
    ("-x", "--exit"): "an argument that fits no command line is an error always",
    ("--arg-sep", "--arg-file-sep"): "the separators are :::, :::+, :::: and ::::+",
    ("--skip-first-line",): "tail -n +2 FILE | tp-generator command ..., or --header : to name columns by it",
    ("--total-jobs", "--total"): "a file is counted beforehand, a pipe never",
    ("--filter",): "leave arguments out before they come here, or `test ... || exit 0; ...` with --shell",
    ("--interactive", "-p"): "--dry-run shows the jobs; then run it without",
    (
        "-Y",
        "--shebang",
        "--hashbang",
        "--shebang-wrap",
    ): "call tp-generator in the script: tp-generator command -a FILE ...",
    ("--linkinputsource", "--xapplyinputsource"): ":::+ and ::::+, or --link for all",
    # the command
    ("--rpl", "--parens"): _NO_PERL,
    ("-U", "--extensionreplace", "--er", "--basenamereplace", "--bnr", "--dirnamereplace", "--dnr"): _STRINGS,
    ("--basenameextensionreplace", "--bner", "--seqreplace", "--slotreplace"): _STRINGS,
    ("--quote",): "nothing is taken apart by a shell unless --shell is given (-q is --quiet here)",
    ("--shell-quote", "--shell_quote"): "--dry-run shows each command quoted for a shell",
    ("--template", "--tmpl"): "write the file in the command, with --shell",
    ("--process-slot-var",): "a job finds its slot in $TP_SLOT, from 1",
    ("--record-env", "--session"): "a private pool hands the whole environment on; --env NAME=VALUE adds to it",
    ("-W",): "--cwd DIR, --wd DIR",
    # the output
    ("--line-buffer", "--line-buffered", "--lb", "--latest-line", "--ll"): _WHOLE,
    ("-u", "--ungroup"): _WHOLE,
    ("-g", "--group"): "so it is always",
    ("--no-keep-order", "--nok", "--no-k"): "so it is without --keep-order",
    ("--ctag", "--ctag-string", "--color", "--colour"): "--tag, without colours",
    ("--color-failed", "--colour-failed", "--color-fail", "--colour-fail", "--cf"): "--tag, without colours",
    ("--files", "--output-as-files"): "--output-dir DIR",
    ("--compress", "--compress-program", "--use-compress-program", "--tmpdir", "--tempdir"): _PLAIN,
    ("--decompress-program", "--use-decompress-program"): _PLAIN,
    ("-T", "--tty", "-o", "--open-tty", "--tmux", "--tmux-pane"): _TERMINAL,
    ("--fg", "--bg", "--wait", "--semaphore", "--semaphore-name", "--id", "--semaphore-timeout", "--st"): _SEMAPHORE,
    ("--silent",): "commands are not printed unless --dry-run or -v is given",
    ("-t",): _STATUS,
    ("--bar", "--eta"): "--progress bar; it is there on a terminal anyway",
    ("--embed", "--shell-completion"): "tp-generator brings completions for bash, zsh and fish",
    # when jobs run
    (
        "--load",
        "--noswap",
        "--limit",
        "--memsuspend",
    ): "fewer --workers; on a named pool, tp-generator pause and resume",
    ("--memfree",): "--mem-limit for each job and fewer --workers; a job that the kernel ends for want of memory runs "
    "again (--crash-limit)",
    ("--max-procs",): "--workers, -j",
    (
        "--use-cores-instead-of-threads",
        "--use-sockets-instead-of-threads",
        "--use-cpus-instead-of-cores",
    ): "--workers N%",
    # going on
    ("--resume-failed",): "--batch ID --resume runs what has no outcome; --retries N tries again what has failed",
    ("--retry-failed",): "--retries N, or submit those of --results whose state is failed",
    ("-H", "--halt-on-error"): "--halt, which takes the same values",
    ("--ctrl-c", "--no-ctrl-c"): "Ctrl-C lets running jobs finish; a second one stops them",
    # databases
    ("--sql", "--sql-master", "--sql-worker", "--sql-and-worker"): _SQL,
    # other spellings
    ("--dr",): "--dry-run",
    ("--jl",): "--joblog FILE",
    ("--res", "--result"): "--output-dir DIR: a folder for each job; --results FILE: an object a line",
    # about the program
    ("--number-of-cpus", "--number-of-cores", "--number-of-sockets", "--number-of-threads"): _CPUS,
    ("--max-line-length-allowed", "--show-limits"): "getconf ARG_MAX",
    ("-V", "--version", "--min-version"): "tp-generator --version",
    ("-J", "--profile", "--plain", "--gnu", "--tollef"): _CONFIG,
    ("--will-cite", "--no-notice", "--nn", "--citation", "--bibtex"): "nothing of the kind is asked of you here",
    ("-D", "--debug", "--bug"): "-v",
}


def advice(words: Iterable[str], own: Iterable[str] = ()) -> str | None:
    """Return what to say about the first of these unknown words that GNU parallel knows; None: none of them is.

    `own`: the options that there are. GNU parallel takes most long ones without their inner hyphens too.
    """
    ours = {_bare(option): option for option in own}
    absent = {_bare(spelling): cure for spellings, cure in ABSENT.items() for spelling in spellings}
    for word in words:
        option = word.partition("=")[0] if word.startswith("--") else word[:2]
        bare = _bare(option)
        if option in ours.values():
            continue  # of another subcommand
        if bare in ours:
            return f"{option} is spelt {ours[bare]} here"
        if bare in absent:
            return (
                f"{option} is GNU parallel's and not supported here: {absent[bare]} (all of them: "
                "docs/from-gnu-parallel.md)"
            )
    return None


def _bare(option: str) -> str:
    return f"--{option[2:].replace('-', '')}" if option.startswith("--") else option
