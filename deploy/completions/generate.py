"""Completions for bash and zsh from the programs' own parsers: `python deploy/completions/generate.py FOLDER`.

Run with deploy/ and internal/ on PYTHONPATH, or taskpool installed. One rule serves both shells: the words before
the cursor that name subcommands choose a table of options; the word before may be an option that wants a value.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from commandline import Command, Option, programs

FILES = ("FILE", "PATH", "DIR", "FILE|-")  # metavars whose value is a path


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
        yield "            fi ;;"


def zsh(program: Command) -> str:
    """A file for /usr/share/zsh/vendor-completions."""
    name = program.words[0]
    lines = [f"#compdef {name}", f"# zsh completion for {name}; generated from its parser", ""]
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
            yield f"        {_zsh_option(option)} \\"
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
        yield "        '*: :_files'"
    yield "}"
    yield ""


def _zsh_option(option: Option) -> str:
    text = option.help.replace("[", "(").replace("]", ")").replace(":", " ")
    value = ""
    if option.metavar:
        action = f"({' '.join(words)})" if (words := _choices(option)) else "_files" if option.metavar in FILES else " "
        value = f":{option.metavar.replace(':', ' ')}:{action}"
    return " ".join(quote(f"*{name}[{text}]{value}") for name in option.names)


def _zsh_described(command: Command) -> str:
    return quote(f"{command.words[-1]}:{command.summary}")


def _zsh_name(command: Command) -> str:
    return "_" + "_".join(command.words).replace("-", "_")


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
        for path, text in ((folder / "bash" / name, bash(program)), (folder / "zsh" / f"_{name}", zsh(program))):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            paths.append(path)
    return paths


if __name__ == "__main__":
    sys.stdout.write("".join(f"{path}\n" for path in write_all(Path(sys.argv[1]))))
