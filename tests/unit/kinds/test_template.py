"""Command templates, held against the rules and against GNU parallel itself."""

from __future__ import annotations

import random
import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpool.kinds.template import (
    PLUS,
    SLOT,
    STRINGS,
    Syntax,
    Template,
    base_name,
    directory,
    shell_quote,
    without_extension,
)

PATHS = [
    b"/a/b.c.d", b"a.b", b"b", b"/x", b"/x/", b"x/", b"./.bashrc", b"a/.b", b"a.b/c", b"/a.b/c", b".", b"..", b"/",
    b"//", b"//x", b"a/b/", b"a//b.c", b"a/b//", b".a.b", b"x.", b"dir.d/", b"", b"a/b.c/", b"a b/c d.e f", b"-x",
    b"*.c", b"it's", b"'", b"''", b"a'", b"$HOME", b"`id`", b"a;b", b"\xff\xfe.\xfd", "gr\u00fc\u00dfe/\u00e9".encode(),
    b"{}", b"{.}", b"{%}", b"{#}.txt", b"\\", b"a\tb", b" ", b"  a ", b"~", b"#x", b"a=b", b"!", b"100%", b"\r",
]  # fmt: skip
ALL_STRINGS = "echo {} {.} {/} {//} {/.} {#} {%}"


def render(template: str, argument: str, number: int = 1, *, shell: bool = False) -> list[str]:
    words = Template([word.encode() for word in template.split(" ")], shell=shell).render((argument.encode(),), number)
    return [word.replace(SLOT, b"<slot>").decode() for word in words]


# --- the rules ------------------------------------------------------------------------------------


def test_every_replacement_string() -> None:
    assert render("{} {.} {/} {//} {/.} {#} {%}", "dir/name.tar.gz", 12) == [
        "dir/name.tar.gz",
        "dir/name.tar",
        "name.tar.gz",
        "dir",
        "name.tar",
        "12",
        "<slot>",
    ]


@pytest.mark.parametrize(
    ("template", "argument", "words"),
    [
        ("echo", "a b", ["echo", "a b"]),  # without any: at the end, as one word
        ("echo {#}", "a", ["echo", "1"]),  # {#} is one, so nothing is appended
        ("echo slot={%}", "a", ["echo", "slot=<slot>"]),
        ("cp {} {.}.bak", "x.txt", ["cp", "x.txt", "x.bak"]),
        ("echo {}{}", "a", ["echo", "aa"]),
        ("echo {{}}", "a", ["echo", "{a}"]),
        ("echo {1} {x} {} { }", "a", ["echo", "a", "{x}", "a", "{", "}"]),  # other braces stay
        ("{}", "true", ["true"]),
    ],
)
def test_rendering(template: str, argument: str, words: list[str]) -> None:
    assert render(template, argument) == words


def words_of(template: str, *arguments: str, **how: Any) -> list[str]:
    rendered = Template([word.encode() for word in template.split(" ")], **how).render([*map(str.encode, arguments)], 7)
    return [word.decode() for word in rendered]


@pytest.mark.parametrize(
    ("template", "arguments", "apart", "with_context"),
    [
        ("echo a{}b", "1 2", "echo|a1|2b", "echo|a1b|a2b"),
        ("echo a{}b{.}", "1.x 2.x", "echo|a1.x|2.xb1|2", "echo|a1.xb1|a2.xb2"),
        ("echo {} {#}", "1 2 3", "echo|1|2|3|7", "echo|1|2|3|7"),
        ("echo {2}{1} {-1}", "1 2 3", "echo|21|3", "echo|21|3"),
        ("echo {1}-{}", "1 2", "echo|1-1|2", "echo|1-1|1-2"),
        ("echo {2/} {2//} {2/.} {-2.}", "/x/a.b /y/c.d", "echo|c.d|/y|c|/x/a", "echo|c.d|/y|c|/x/a"),
        ("echo {3} x{3} {-4}", "1 2", "echo|x", "echo|x"),  # as a shell drops a word that is not there
        ("echo {0}", "1 2", "echo|1|2", "echo|1|2"),
    ],
)
def test_several_arguments(template: str, arguments: str, apart: str, with_context: str) -> None:
    given_arguments = arguments.split(" ")
    assert words_of(template, *given_arguments) == apart.split("|")
    assert words_of(template, *given_arguments, context=True) == with_context.split("|")


def test_no_argument_at_all_is_not_an_empty_one() -> None:
    assert words_of("echo {} x{} {1} {#}") == ["echo", "x", "7"]
    assert words_of("echo {} x{} {1} {#}", "") == ["echo", "", "x", "", "7"]


def test_several_arguments_in_a_line_for_the_shell() -> None:
    assert words_of("echo a{}b >c", "1 1", "2", shell=True) == ["echo a'1 1' 2b >c"]
    assert words_of("echo a{}b >c", "1 1", "2", shell=True, context=True) == ["echo a'1 1'b a2b >c"]


def test_other_strings() -> None:
    syntax = Syntax({b"@": STRINGS[b"{}"], b"{.}": STRINGS[b"{.}"], **PLUS})
    template = Template([b"echo", b"@{}{1}", b"{.}{1.}", b"{..}", b"{2+/}"], syntax=syntax)
    assert template.render([b"a.b.c", b"d/e"], 1) == [
        b"echo",
        b"a.b.c",
        b"d/e{}{1}",
        b"a.b",
        b"d/ea.b",
        b"a",
        b"d/e",
        b"d",
    ]


def test_text_in_an_argument_is_never_a_replacement_string() -> None:
    assert render("cat {} {/}", "{%}/{#}{}") == ["cat", "{%}/{#}{}", "{#}{}"]


def test_shell_joins_the_words_and_quotes_what_is_put_in() -> None:
    assert render("echo {} > {/}.out", "a b/c;d", shell=True) == ["echo 'a b/c;d' > 'c;d'.out"]


def test_shell_does_not_quote_where_the_argument_is_the_command() -> None:
    assert render("{}", "echo a | wc", shell=True) == ["echo a | wc"]
    assert Template([], shell=True).render((b"echo a | wc",), 1) == [b"echo a | wc"]
    assert render("X={} env", "a b", shell=True) == ["X='a b' env"]  # a variable's value is no command


@given(st.binary())
def test_shell_quote_survives_a_shell(word: bytes) -> None:
    text = word.replace(b"\0", b"").decode("latin-1")
    assert shlex.split(shell_quote(text.encode("latin-1")).decode("latin-1")) == [text]


@given(st.binary(max_size=20))
def test_the_parts_of_a_path_fit_together(path: bytes) -> None:
    assert b"/" not in base_name(path)
    assert path.endswith(base_name(path))
    assert path.startswith(without_extension(path))
    assert directory(path)
    if base_name(path) and b"//" not in path:
        assert directory(path).rstrip(b"/") + b"/" + base_name(path) in (path, b"./" + path)


# --- the real thing -------------------------------------------------------------------------------


def parallel(template: str, arguments: list[bytes]) -> list[bytes]:
    """The commands that GNU parallel would run, one for each argument. It takes some 10 ms for each."""
    command = ["parallel", "--will-cite", "--dry-run", "--keep-order", "--jobs", "1", template]
    done = subprocess.run(command, input=b"".join(a + b"\n" for a in arguments), capture_output=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix(b"\n").split(b"\n")


def ours(template: str, arguments: list[bytes]) -> list[bytes]:
    compiled = Template([template.encode()], shell=True)
    lines = [compiled.render((argument,), number)[0] for number, argument in enumerate(arguments, 1)]
    return [line.replace(SLOT, b"1") for line in lines]


def random_paths(count: int) -> list[bytes]:
    source = random.Random(20221122)
    alphabet = [b"/", b".", b"a", b"B", b"-", b"_", b" ", b"'", b'"', b"$", b"\xe9", b"{}", b"{.}", b"\\", b"+", b"="]
    return [b"".join(source.choices(alphabet, k=source.randint(0, 9))) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.needs_tool("parallel")
@pytest.mark.parametrize(
    "template",
    [
        ALL_STRINGS,
        "echo",
        "echo a{}b{.}c{/}d{//}e{/.}f",
        "echo {{}} {{.}} }{ {x} {} { }",
        "{}",
        "{} {.}",
        "./{/} x {}",
        "V={} env",
        "echo {#}",
        "echo {%}",
        "echo '{}' \"{}\"",
        "",
    ],
)
def test_same_as_gnu_parallel(template: str) -> None:
    arguments = PATHS + random_paths(150 if template == ALL_STRINGS else 0)
    for argument, expected, rendered in zip(
        arguments, parallel(template, arguments), ours(template, arguments), strict=True
    ):
        assert rendered == expected, argument
