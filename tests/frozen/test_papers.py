"""Man pages and completions, generated from the parsers: complete, and what their readers accept."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from frozen import scripts
from support.source_tree import complain
from taskpool.errors import ExitCode

STAMP = 1_700_000_000


@pytest.fixture(scope="module")
def commandline() -> ModuleType:
    return scripts.load("commandline.py")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made: list[Path] = scripts.load("man/generate.py").write_all(tmp_path_factory.mktemp("man"), STAMP)
    return made


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = scripts.load("completions/generate.py").write_all(tmp_path_factory.mktemp("completions"))
    return {path.name: path for path in made}


def test_every_option_has_its_paragraph(commandline: ModuleType, pages: list[Path]) -> None:
    texts = {path.stem: path.read_text().replace("\\-", "-") for path in pages}
    assert set(texts) == {"tp-generator", "tp-dealer", "tp-worker"}
    offences = []
    for program in commandline.programs():
        for command in program.walk():
            for option in command.options:
                offences += [f"{command.words}: {name}" for name in option.names if name not in texts[command.words[0]]]
    complain(offences)


def test_every_exit_code_is_explained() -> None:
    assert set(scripts.load("man/generate.py").EXIT_STATUS) == set(ExitCode)


@pytest.mark.needs_tool("man")
def test_pages_are_good_roff(pages: list[Path]) -> None:
    for page in pages:
        done = subprocess.run(
            ["man", "--warnings", "--local-file", "-Tutf8", str(page)],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80"},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{page.stem.upper()}(1)" in done.stdout


def complete(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    program = words[0]
    function = "_" + program.replace("-", "_")
    code = (
        f'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); {function} 2>/dev/null; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code, "bash", str(script), *words], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes(completions: dict[str, Path]) -> None:
    script = completions["tp-generator"]
    assert {"fib", "command", "python", "jobs", "status"} <= set(complete(script, "tp-generator", ""))
    assert complete(script, "tp-generator", "quaran") == ["quarantine"]
    assert {"list", "requeue", "drop"} <= set(complete(script, "tp-generator", "quarantine", ""))
    assert "--repeat" in complete(script, "tp-generator", "fib", "--")
    assert "--repeat" not in complete(script, "tp-generator", "command", "--")
    assert complete(script, "tp-generator", "fib", "--log-format", "j") == ["json"]
    assert complete(script, "tp-generator", "command", "--", "sl") == []
    assert "--workers" in complete(completions["tp-dealer"], "tp-dealer", "--wor")


def fish_offers(script: Path, line: str) -> list[str]:
    """Return what fish offers for a line, without the descriptions."""
    code = f"source {script}; complete -C '{line}'"
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [row.split("\t")[0] for row in done.stdout.splitlines()]


@pytest.mark.needs_tool("fish")
def test_fish_completes(completions: dict[str, Path]) -> None:
    script = completions["tp-generator.fish"]
    assert {"fib", "command", "python", "jobs", "status"} <= set(fish_offers(script, "tp-generator "))
    assert fish_offers(script, "tp-generator quaran") == ["quarantine"]
    assert {"list", "requeue", "drop"} <= set(fish_offers(script, "tp-generator quarantine "))
    assert "--repeat" in fish_offers(script, "tp-generator fib --")
    assert "--repeat" not in fish_offers(script, "tp-generator command --")
    assert fish_offers(script, "tp-generator fib --log-format j") == ["json"]
    assert "--timeout" not in fish_offers(script, "tp-generator command -- ls --")
    assert "--workers" in fish_offers(completions["tp-dealer.fish"], "tp-dealer --wor")
    assert "--accept-loss" in fish_offers(completions["tp-dealer.fish"], "tp-dealer journal check --")


@pytest.mark.needs_tool("fish")
def test_fish_knows_every_option(commandline: ModuleType, completions: dict[str, Path]) -> None:
    for program in commandline.programs():
        for command in program.walk():
            offered = fish_offers(completions[f"{program.words[0]}.fish"], f"{' '.join(command.words)} -")
            names = {name for option in command.options for name in option.names}
            assert names <= set(offered)


@pytest.mark.needs_tool("zsh")
def test_zsh_reads_its_files(completions: dict[str, Path]) -> None:
    for name in ("_tp-generator", "_tp-dealer"):
        done = subprocess.run(["zsh", "-n", str(completions[name])], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
