"""Completions for bash, zsh and fish from the programs' own parsers: `python deploy/completions/generate.py FOLDER`.

Run with deploy/ and internal/ on PYTHONPATH, or taskpool installed. One rule serves all shells: the words before
the cursor that name subcommands choose a table of options; the word before may be an option that wants a value. Pools,
batches and jobs come from `tp-generator --complete`, which is quiet when a pool does not answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from commandline import Command, Option, programs

FILES = ("FILE", "PATH", "DIR", "FILE|-", "FILE|none", "PATH|none")  # metavars whose value is a path
KEPT = ("resume", "rerun", "forget")  # subcommands about batches that are kept
TARGETS = {"JOB": "jobs", "BATCH": "batches", "BATCH|JOB": "jobs", "BATCH|JOB|all": "jobs"}  # by metavar


BASH_ASK = (
    "_tp_ask() {",
    "    local pool= index",
    "    for ((index = 1; index + 1 < COMP_CWORD; index++)); do",
    "        if [[ ${COMP_WORDS[index]} == --pool ]]; then pool=${COMP_WORDS[index+1]}; fi",
    "    done",
    '    mapfile -t COMPREPLY < <(tp-generator --complete "$1" "$pool" "$2" 2>/dev/null)',
    "    compopt +o default +o bashdefault 2>/dev/null",
    "    if [[ ${COMPREPLY[0]} == */ ]]; then compopt -o nospace 2>/dev/null; fi",
    "}",
)
ZSH_ASK = (
    "_tp_ask() {",
    '    local -a found=("${(@f)$(tp-generator --complete $1 "${opt_args[--pool]}" "$PREFIX" 2>/dev/null)}")',
    "    compadd -S '' -a found",
    "}",
    "",
)
FISH_ASK = """\
function __tp_ask
    set -l words (commandline -opc)
    set -l pool ''
    for index in (seq (math (count $words) - 1))
        if test "$words[$index]" = --pool
            set pool $words[(math $index + 1)]
        end
    end
    command -q tp-generator
    and tp-generator --complete $argv[1] "$pool" (commandline -ct) 2>/dev/null
end
"""


def asked(command: Command, option: Option) -> str | None:
    """Return what `tp-generator --complete` is asked for the values of an option or argument; None: nothing."""
    if not option.names:
        kind = TARGETS.get(option.metavar)
        return "kept" if kind == "batches" and command.words[-1] in KEPT else kind
    if "--batch" in option.names:
        return "kept"
    if "--pool" in option.names:
        return "pools" if command.words[0] == "tp-generator" else "states"
    return None


def target(command: Command) -> str | None:
    """Return what is asked for the arguments of a command."""
    return next((kind for option in command.options if not option.names and (kind := asked(command, option))), None)


def bash(program: Command) -> str:
    """A file for /usr/share/bash-completion/completions."""
    function = "_" + program.words[0].replace("-", "_")
    lines = [
        f"# bash completion for {program.words[0]}; generated from its parser",
        f"{function}() {{",
        "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} path= word",
        '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        '        case "$path $word" in',
        *_bash_paths(program),
        '            *" --" | *" :::") COMPREPLY=(); return ;;',
        "        esac",
        "    done",
        '    case "$path:$before" in',
        *_bash_values(program),
        "    esac",
        '    case "$path" in',
        *_bash_words(program),
        "    esac",
        "}",
        *BASH_ASK,
        f"complete -o bashdefault -o default -F {function} {program.words[0]}",
    ]
    return "\n".join(lines) + "\n"


def _bash_paths(program: Command) -> Iterator[str]:
    for command in list(program.walk())[1:]:
        before = "".join(f"/{word}" for word in command.words[1:-1])
        here = "".join(f"/{word}" for word in command.words[1:])
        yield f'            "{before} {command.words[-1]}") path={here} ;;'


def _bash_values(program: Command) -> Iterator[str]:
    """Options with a value: their choices, or a file, or nothing to offer."""
    for command in program.walk():
        path = "".join(f"/{word}" for word in command.words[1:])
        for option in command.options:
            if option.names and option.metavar:
                pattern = "|".join(f'"{path}:{name}"' for name in option.names)
                if words := _choices(option):
                    action = f'mapfile -t COMPREPLY < <(compgen -W {quote(" ".join(words))} -- "$current"); return'
                elif kind := asked(command, option):
                    action = f'_tp_ask {kind} "$current"; return'
                elif option.metavar in FILES:
                    action = "return"  # readline completes files
                else:
                    action = "compopt +o default +o bashdefault; return"
                yield f"        {pattern}) {action} ;;"


def _bash_words(program: Command) -> Iterator[str]:
    for command in program.walk():
        path = "".join(f"/{word}" for word in command.words[1:])
        options = " ".join(name for option in command.options for name in option.names)
        words = " ".join(part.words[-1] for part in command.subcommands)
        yield f'        "{path}")'
        yield "            if [[ $current == -* ]]; then"
        yield f'                mapfile -t COMPREPLY < <(compgen -W {quote(options)} -- "$current")'
        if words:
            yield "            else"
            yield f'                mapfile -t COMPREPLY < <(compgen -W {quote(words)} -- "$current")'
        elif kind := target(command):
            yield "            else"
            yield f'                _tp_ask {kind} "$current"'
        yield "            fi ;;"


def zsh(program: Command) -> str:
    """A file for /usr/share/zsh/vendor-completions."""
    name = program.words[0]
    lines = [f"#compdef {name}", f"# zsh completion for {name}; generated from its parser", "", *ZSH_ASK]
    for command in reversed(list(program.walk())):
        lines += _zsh_function(command)
    return "\n".join([*lines, f'{_zsh_name(program)} "$@"', ""])


def _zsh_function(command: Command) -> Iterator[str]:
    yield f"{_zsh_name(command)}() {{"
    yield "    local context state state_descr line"
    yield "    typeset -A opt_args"
    yield "    _arguments -s -C \\"
    for option in command.options:
        if option.names:
            yield f"        {_zsh_option(command, option)} \\"
    if command.subcommands:
        yield "        '1: :->subcommand' '*:: :->rest'"
        yield '    case "$state" in'
        described = " ".join(_zsh_described(part) for part in command.subcommands)
        yield f"        subcommand) local -a known=({described}); _describe subcommand known ;;"
        yield '        rest) case "${line[1]}" in'
        for part in command.subcommands:
            yield f"            {part.words[-1]}) {_zsh_name(part)} ;;"
        yield "        esac ;;"
        yield "    esac"
    else:
        kind = target(command)
        yield f"        '*: :{{_tp_ask {kind}}}'" if kind else "        '*: :_files'"
    yield "}"
    yield ""


def _zsh_option(command: Command, option: Option) -> str:
    text = option.help.replace("[", "(").replace("]", ")").replace(":", " ")
    value = ""
    if option.metavar:
        if words := _choices(option):
            action = f"({' '.join(words)})"
        elif kind := asked(command, option):
            action = f"{{_tp_ask {kind}}}"
        else:
            action = "_files" if option.metavar in FILES else " "
        value = f":{option.metavar.replace(':', ' ')}:{action}"
    return " ".join(quote(f"*{name}[{text}]{value}") for name in option.names)


def _zsh_described(command: Command) -> str:
    return quote(f"{command.words[-1]}:{command.summary}")


def _zsh_name(command: Command) -> str:
    return "_" + "_".join(command.words).replace("-", "_")


def fish(program: Command) -> str:
    """A file for /usr/share/fish/vendor_completions.d."""
    name = program.words[0]
    at = f"__{name.replace('-', '_')}_at"
    paths = " ".join(quote(" ".join(command.words[1:])) for command in list(program.walk())[1:])
    lines = [
        f"# fish completion for {name}; generated from its parser",
        FISH_ASK,
        f"function {at}",
        "    set -l path",
        "    for word in (commandline -opc)[2..-1]",
        "        if contains -- $word -- ':::'",
        "            return 1",
        "        end",
        f"        if contains -- (string join -- ' ' $path $word) {paths}",
        "            set path $path $word",
        "        end",
        "    end",
        '    test "$path" = "$argv"',
        "end",
        "",
    ]
    for command in program.walk():
        here = f"complete -c {name} -n '{at} {' '.join(command.words[1:])}'"
        lines += [
            f"{here} -f -a {quote(part.words[-1])} -d {_fish_quote(part.summary)}" for part in command.subcommands
        ]
        if kind := target(command):
            lines.append(f"{here} -f -a '(__tp_ask {kind})'")
        lines += [f"{here} {_fish_option(command, option)}" for option in command.options if option.names]
    return "\n".join(lines) + "\n"


def _fish_option(command: Command, option: Option) -> str:
    described = f"-d {_fish_quote(option.help)}"
    if any("=" in name for name in option.names):
        return f"-f -a {_fish_quote(' '.join(option.names))} {described}"
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    if not option.metavar:
        return f"{names} -f {described}"
    if words := _choices(option):
        return f"{names} -x -a {quote(' '.join(words))} {described}"
    if kind := asked(command, option):
        return f"{names} -x -a '(__tp_ask {kind})' {described}"
    return f"{names} {'-r -F' if option.metavar in FILES else '-x'} {described}"


def _fish_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _choices(option: Option) -> tuple[str, ...]:
    """The words a value may be, where they are few: declared, or spelled out as `text|json`."""
    if option.choices:
        return option.choices
    words = tuple(option.metavar.split("|"))
    return words if len(words) > 1 and all(word.islower() and word.isalpha() for word in words) else ()


def write_all(folder: Path) -> list[Path]:
    """Every file, in folders by shell; their paths."""
    paths = []
    for program in programs():
        name = program.words[0]
        made = {f"bash/{name}": bash, f"zsh/_{name}": zsh, f"fish/{name}.fish": fish}
        for path, text in ((folder / place, write(program)) for place, write in made.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            paths.append(path)
    return paths


if __name__ == "__main__":
    sys.stdout.write("".join(f"{path}\n" for path in write_all(Path(sys.argv[1]))))
