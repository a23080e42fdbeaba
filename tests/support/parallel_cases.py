"""Command lines that GNU parallel and `tp-generator command` both understand, and must take for the same jobs.

What is behind the name of the program, as one types it; where more than that matters, with the standard input. All run
in a directory that `lay_out` has filled.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FILES: dict[str, bytes] = {
    "abc": b"a\nb\nc\n",
    "num": b"1\n2\n",
    "open": b"x\ny",  # its last line has no end
    "empty": b"",
    "blank": b"a\n\n  \nb\n",
    "csv": b"a,1,x y\nb,2,\nc,,z\n",
    "tsv": b"name\tsize\none\t1\ntwo\t2\n",
    "paths": b"/d/a.tar.gz\nb.c\n./.rc\nplain\nx/y/\n",
    "nul": b"a\0b c\0d\ne\0",
    "spaced": b"  a  \n\tb\n",
    "more": b"a \nb\nc\nd \n",
    "bytes": b"\xff\xfe\nb\n",
    "hats": b"x\r\n1\n2\n",
}

# Without --shell: the words of a command.
WORDS = r"""
echo ::: a b c
echo {} ::: a b c
echo x{}y ::: a b
echo {}{} ::: a b
echo {1} ::: a b
echo {-1} ::: a b
echo {1}{1} {} ::: a b
echo {0} ::: a
echo {} ::: a 'b c' 'd  e'
echo {} ::: ''
echo {} ::: a '' b
echo :::
echo ::: :::
echo {#} ::: a b c
echo {#} {} ::: a b c
echo {.} {/} {//} {/.} ::: /d/a.tar.gz b.c ./.rc plain x/y/
echo {1.} {1/} {1//} {1/.} ::: /d/a.tar.gz b.c
echo {-1.} {-1/} ::: /d/a.tar.gz b.c
echo {1 } {1 .} ::: a.b
printf %s_ {} ::: -n -e --x
echo {} ::: '*' '$HOME' '`id`' 'a;b' "it's" '"'
echo { } {x} ::: a
echo {{}} ::: a
echo {} ::: a b ::: 1 2
echo ::: a b ::: 1 2
echo {1}{2} ::: a b ::: 1 2
echo {2}{1} ::: a b ::: 1 2 3
echo x{}y ::: a b ::: 1 2
echo {1} {2} {3} ::: a b ::: 1 2 ::: X Y
echo {3}{2}{1} ::: a b ::: 1 2 ::: X Y Z
echo {-1}{-2} ::: a b ::: 1 2
echo {1/} {2.} ::: d/a ::: b.c e.f
echo {.} ::: a.b ::: c.d
echo {1} {2} ::: a b :::
echo {1} {2} ::: ::: 1 2
echo {} ::: a b :::+ 1 2
echo {1}-{2} ::: a b c :::+ 1 2
echo {1}-{2} ::: a b :::+ 1 2 3
echo {1}-{2} ::: a b :::+
echo {1}{2}{3} ::: a b :::+ 1 2 ::: X Y
echo {1}{2}{3} ::: a b :::+ 1 2 :::+ X Y
echo {1}{2}{3} ::: X Y ::: a b :::+ 1 2
echo {1}{2}{3} ::: X Y ::: a b c :::+ 1 2
echo {1}{2}{3} ::: a b c :::+ 1 2 ::: X Y
echo {1}{2}{3}{4} ::: a b :::+ 1 2 ::: X Y :::+ 8 9
echo :::: abc
echo {} :::: abc num
echo {1}{2} :::: abc num
echo {1}{2} :::: abc ::: X Y
echo {1}{2} ::: X Y :::: abc
echo {1}{2} :::: abc ::::+ num
echo {1}{2} :::: num ::::+ abc
echo {1}{2}{3} :::: abc ::::+ num ::: X Y
echo {1}-{2} :::: abc empty
echo {1}-{2} :::: empty num
echo :::: empty
echo :::: empty empty
echo :::: open
echo :::: paths
echo {/.} :::: paths
echo {1/.}{2} :::: paths num
-a abc echo
-a abc echo {}
-a abc -a num echo {1}{2}
-a num -a abc echo {2}{1}
-a empty echo
-a abc echo {1}{2} ::: X Y
-a blank -r echo
-r echo ::: a '' ' ' b
-a blank echo {}
--arg-file abc echo
--null -a nul echo
-0 -a nul echo {}
-d , -a csv echo
-d '\n' -a abc echo
-d '\t' -a tsv echo
-d '\0' -a nul echo
-d '\054' -a csv echo {}
-d , echo ::: a,b c
-d ab echo ::: 1ab2a3b
-d : echo {1}{2} ::: a:b ::: 1:2
-C , -a csv echo {1} {2} {3}
--colsep , -a csv echo {3}-{1}
--colsep , -a csv echo
--colsep , -a csv echo x{}y
--colsep '\t' -a tsv echo {2} {1}
--colsep '[, ]' -a csv echo {1} {2} {3} {4}
--colsep '\s+' echo {2} ::: 'a  b' 'c d'
--colsep ' ' echo {1}+{2} ::: 'a b'
--colsep , echo {1}{2}{3} ::: a,b ::: c
--colsep , echo {2}{4} ::: a,b ::: c,d
--colsep , echo {-1} ::: a,b,c d
--colsep , --trim n echo {1}_{2}_ ::: 'a , b '
--colsep , echo {1}_{2}_ ::: 'a , b '
--colsep , echo {4} x ::: a,b
--colsep , echo {1.} {2/} ::: a.b,c/d
--colsep , echo {} ::: ''
--header : -a tsv echo {name} {size}
--header : -a tsv echo {size}{name} {1}
--header : -a tsv echo
--header : echo {x} {y} ::: x 1 2 ::: y A B
--header : echo {x.} {y/} {y//} {y/.} ::: x 1.5 ::: y /d/A.c
--header : --colsep , echo {b} {a} ::: a,b 1,2 3,4
--header : -a hats echo {x}
--header : echo {x}{y}{x} ::: x 1 2 :::+ y A B
--header : -N2 echo {x} {2} ::: x 1 2 3
--trim n -a spaced echo {}_
--trim l -a spaced echo {}_
--trim r -a spaced echo {}_
--trim lr -a spaced echo {}_
--trim rl -a spaced echo {}_
--trim lr echo {.}_ ::: ' a.b '
--link echo {1}{2} ::: a b c ::: 1 2
--link echo {1}{2} ::: a b ::: 1 2 3 4 5
--link echo ::: a b ::: 1 2 ::: X
--xapply echo {1}{2} ::: a b ::: 1 2
--link echo {1}{2} :::: abc num
--link -a num -a abc echo
-n2 echo ::: a b c
-n 2 echo {} ::: a b c d
-n2 echo x{}y ::: a b c
-n2 echo {1} {2} ::: a b c
-n2 echo {#} {} ::: a b c
-n1 echo ::: a b
-n3 echo :::: abc num
-n2 echo {1}{2}{3}{4} ::: a b ::: 1 2
--max-args 2 echo ::: a b c
-N2 echo ::: a b c
-N 2 echo x{}y ::: a b c
-N2 echo {1}-{2} ::: a b c
-N2 echo {2}{1} {} ::: a b c d
-N2 echo {.}+{/} ::: a.b c/d e
-N2 echo {-1} ::: a b c
-N3 echo {} ::: a b c d e f g
-N2 echo {1}{} ::: a b ::: 1 2
-N2 echo {#}:{} ::: a b c
-N0 echo hi ::: 1 2 3
-N0 echo hi {#} ::: 1 2 3
-n0 echo hi {} x{} ::: 1 2
--max-replace-args 2 echo ::: a b c
-N2 --colsep , echo {} ::: a,b c,d e,f
-L2 -a more echo
-L1 -a more echo {}
-L 2 -a abc echo x{}y
-j1 -X echo ::: a b c
-j1 -X echo x{}y ::: a b c
-j1 -m echo x{}y ::: a b c
-j1 --xargs echo ::: a b c
-j2 -X echo ::: 1 2 3 4 5 6 7
-j2 -m echo x{}y ::: 1 2 3 4 5
-j3 -X echo ::: 1 2
-j2 --xargs echo ::: 1 2 3 4 5
-j1 -X -n2 echo ::: 1 2 3 4 5
-j2 -X -n3 echo ::: 1 2 3 4 5 6 7 8
-j1 -X echo {.} {/} ::: a.b c/d
-j1 -m echo {.} {/} ::: a.b c/d
-j1 -X echo {1}{2} ::: a b ::: 1 2
-j1 -X -N2 echo x{} ::: a b c
-j1 -X echo {#} {} ::: a b
-I ,, echo ,, ::: a b
-I,, echo ,,{} {1} {.} ::: a.b
-I {x} echo {x} {1x} ::: a
-I XX echo aXXb {/} ::: d/e
--plus echo {..} {...} {+/} {+.} {+..} {+...} {/..} {/...} ::: d/a.b.c.d x/y.z
--plus echo {1+/}/{1/} {1..}.{1+..} ::: d/a.b.c e/f.g.h
--plus echo {2+.} ::: a ::: b.c
--tag echo ::: a b
--tag echo x{} ::: a b
--tag echo {1} ::: a b ::: 1 2
--tag -N2 echo ::: a b c
--tagstring T echo ::: a b
--tagstring {#}:{} echo x ::: a b
--tagstring '{2}\t{1/}' echo ::: d/a ::: 1 2
--tag-string {/.} echo ::: d/a.b
--tag true ::: a b
--tag cat ::: abc num open
-k echo ::: a b
--keep-order echo ::: a b
-j 2 echo ::: a b
--jobs 2 echo ::: a b
-P2 echo ::: a b
-j2 --delay 0.01 echo ::: a b c
-j 200% echo ::: a b
-j +1 echo ::: a b
--wd /usr pwd ::: a
--workdir / pwd ::: ''
true ::: a b
false ::: a b
test {} = a ::: a b
test {1} = {2} ::: a ::: a
ls ::: abc missing
cat :::: empty
printf %s_ ::: a b
printf '[%s]' -n4 ::: a
seq {1} {2} ::: 1 2 ::: 3 4
expr {1} + {2} ::: 1 2 ::: 10 20
basename -a ::: x/y z
echo -k --tag ::: a
env printf %s ::: a%b
"""

# With --shell: one or more words that are a line. GNU parallel has no such option; there, each command is a line.
LINES = r"""
'echo {} | tr a-z A-Z' ::: abc d
'echo {}; echo {}' ::: a b
echo {} '>' out.{#} '&&' cat out.{#} ::: a b
'cat {} | wc -l' ::: abc num empty
'test {} = a && echo yes || echo no' ::: a b
'V={}; echo "${V}x"' ::: 'a b' '*'
'echo {1} $(echo {2})' ::: a ::: 'b c' d
'{}' ::: 'echo a' 'echo b | cat'
{} ::: 'echo a; echo b'
'exit {}' ::: 0 1 0
'for i in 1 2; do echo $i {}; done' ::: a b
'echo {} >&2; echo {}' ::: a
-N2 'echo x{}y; echo {2}' ::: a b 'c d'
-n2 'echo x{}y; echo {1}' ::: a b 'c d'
-j1 -X 'echo x{}y > o; cat o' ::: a b 'c  d'
-j1 -m 'echo x{}y > o; cat o' ::: a b 'c  d'
'cd {//} && pwd' ::: /usr/bin/x
--tag 'echo a; echo b' ::: 1 2
--tag 'printf "a\nb"' ::: 1
--tag 'printf "a\rb\n\n"' ::: 1
--tagstring '{} {}' 'echo {}' ::: 'a b'
--colsep , 'echo {2} {1}' :::: csv
-I @ 'echo @; echo {}' ::: 'a  b'
'echo {/.}' ::: "d/it's.c" 'd/a b.c'
--colsep , 'echo {3}x' ::: a
-j1 --halt now,fail=2 'test {} -gt 3 && exec sleep 60; echo {}; test {} = 2' ::: 1 2 3 4 5
-j1 --halt now,fail=1 'test {} -gt 3 && exec sleep 60; echo {}; test {} -lt 3' ::: 1 2 3 4 5
-j1 --halt now,success=2 'test {} -gt 3 && exec sleep 60; echo {}; test {} -gt 1' ::: 1 2 3 4 5
-j1 --halt now,done=3 'test {} -gt 3 && exec sleep 60; echo {}; test {} = 1' ::: 1 2 3 4 5
-j1 --halt now,fail=30% 'test {} -gt 3 && exec sleep 60; echo {}; false' ::: 1 2 3 4 5 6 7 8 9 10
-j1 --halt now,fail=25% 'test {} -gt 3 && exec sleep 60; echo {}; false' ::: 1 2 3 4 5 6 7 8 9 10
-j1 --halt now,fail=1% 'test {} -gt 1 && exec sleep 60; echo {}; false' ::: 1 2 3 4 5 6 7 8 9 10
-j1 --halt now,success=25% 'test {} -gt 3 && exec sleep 60; echo {}' ::: 1 2 3 4 5 6 7 8 9 10
-j1 --halt now,done=25% 'test {} -gt 3 && exec sleep 60; echo {}; false' ::: 1 2 3 4 5 6 7 8 9 10
-j1 -N2 --halt now,fail=25% 'test {1} -gt 3 && exec sleep 60; echo {}; false' ::: 1 2 3 4 5 6 7 8 9 10
-j1 --halt now,fail=40% 'test {} -gt 3; echo {}' ::: 1 2 3 4 5 6 7 8 9 10
-j1 --halt 2 'test {} -gt 1 && exec sleep 60; echo {}; false' ::: 1 2 3
-j1 --halt -2 'test {} -gt 2 && exec sleep 60; echo {}; test {} = 2' ::: 1 2 3
--halt soon,fail=4 'echo {}; false' ::: 1 2 3
--halt soon,success=100% 'echo {}' ::: 1 2 3
--halt soon,done=100% 'echo {}; test {} = 2' ::: 1 2 3
--halt -1 'echo {}; false' ::: 1 2 3
--halt 0 'echo {}; false' ::: 1 2 3
--halt never 'echo {}; false' ::: 1 2 3
--halt 100% 'echo {}; test {} = 2' ::: 1 2 3
"""

# (arguments, standard input)
PIPED: list[tuple[str, bytes]] = [
    ("echo", b"a\nb\nc\n"),
    ("echo {}", b"a\nb"),
    ("echo {}", b""),
    ("echo [{}]", b"a\n\nb\n"),
    ("-r echo", b"a\n\n \nb\n"),
    ("-0 echo", b"a\0b c\0"),
    ("-0 echo {}", b"a\0b\nc"),
    ("-d , echo", b"a,b,c"),
    ("-d , echo {}_", b"a,b,c\n"),
    ("-d '\\r\\n' echo {}_", b"a\r\nb\r\n"),
    ("-d ,, echo", b"a,,b,c,,"),
    ("-d ' ' echo {}", b"a b c"),
    ("-N2 echo", b"a\nb\nc\n"),
    ("-n2 echo x{}y", b"a\nb\nc\n"),
    ("-N0 echo hi", b"a\nb\n"),
    ("-L2 echo", b"a \nb\nc\nd\ne\n"),
    ("-j1 -X echo", b"a\nb\nc\n"),
    ("-j2 -m echo", b"1\n2\n3\n4\n5\n"),
    ("--colsep , echo {2}-{1}", b"a,1\nb,2\n"),
    ("--colsep , --header : echo {y}{x}", b"x,y\n1,2\n3,4\n"),
    ("--header : echo {x y}", b"x y\n1\n"),
    ("-a - echo", b"a\nb\n"),
    ("echo {1}{2} :::: - ::: X Y", b"a\nb\n"),
    ("echo {1}{2} ::: X Y :::: -", b"a\nb\n"),
    ("echo {1}{2} :::: - abc", b"1\n2\n"),
    ("echo {1}{2} :::: - ::::+ abc", b"1\n2\n"),
    ("echo {1}{2} :::: - ::: X Y", b""),
    ("--link echo {1}{2} :::: - num", b"a\nb\nc\n"),
    ("--trim lr echo {}_", b" a \n b\n"),
    ("--tag echo", b"a\nb c\n"),
    ("echo ::: a", b"not read\n"),
    ("cat", b"abc\nnum\n"),
    ("echo {}", b"\xff\xfe\nb\xe9\n"),
    ("test -n", b"\xff\n\n"),
    ("--pipe cat", b""),
    ("--pipe cat", b"a\nb\n"),
    ("--pipe cat -n", b"a\nb"),
    ("--pipe --block 4 cat -n", b"a\nb\nc\nd\ne\n"),
    ("--pipe --block 5 cat -n", b"a\nb\nc\nd\ne"),
    ("--pipe --block 2 cat -n", b"long\nx\ny\nlonger still\nz\n"),
    ("--pipe --block 1k md5sum", b"0123456789\n" * 1000),
    ("--pipe --block 1K md5sum", b"0123456789\n" * 1000),
    ("--pipe --block-size 3k md5sum", b"0123456789\n" * 1000),
    ("--pipe md5sum", b"0123456789\n" * 300000),
    ("--pipe -N1 cat -n", b"a\nb\nc\n"),
    ("--pipe -N2 cat -n", b"a\nb\nc\n"),
    ("--pipe -N 2 cat -n", b"\n\na\n\nb"),
    ("--pipe -n2 cat -n", b"a\nb\nc\n"),
    ("--pipe --recend '' --block 4 cat -n", b"abcdefghij"),
    ("--pipe --recend '' -N3 cat -n", b"abcdefgh"),
    ("--pipe --recend ';' --block 5 cat -n", b"a;b;c;d;e"),
    ("--pipe --recend '\\t' -N1 cat -n", b"a\tb\tc"),
    ("--pipe --recend '\\0' -N1 md5sum", b"a\0bc\0d"),
    ("--pipe --recstart '>' -N1 cat -n", b">a\nx\n>b\n>c\n"),
    ("--pipe --recstart '>' --block 6 cat -n", b">a\nx\n>b\n>c\n"),
    ("--pipe --recstart '>' -N1 cat -n", b"head\n>b\n>c\n"),
    ("--pipe --recend '\\n' --recstart '>' -N1 cat -n", b">a>\n>b\n>c\n"),
    ("--pipe --recend '\\n' --recstart '>' --block 9 cat -n", b">a>\nx\n>b\n>c\n"),
    ("--pipe --header : -N1 cat -n", b"h\na\nb\n"),
    ("--pipe --header 2 -N2 cat -n", b"h\ni\na\nb\nc\n"),
    ("--pipe --header : --block 4 cat -n", b"h\na\nb\nc\nd\n"),
    ("--pipe --header : cat -n", b"h\n"),
    ("--pipe --header : cat -n", b"h"),
    ("--pipe -r -N1 cat -n", b"a\n\n  \nb\n"),
    ("--pipe -r cat -n", b"\n\n"),
    ("--pipe -N1 --tagstring {#} cat", b"a\nb\n"),
    ("--pipe -N1 grep b", b"a\nb\n"),
]


class Case(NamedTuple):
    """One invocation."""

    words: list[str]
    stdin: bytes | None = None
    shell: bool = False

    def __str__(self) -> str:
        return shlex.join(self.words) + (
            "" if self.stdin is None else f" < {self.stdin[:60]!r}, {len(self.stdin)} bytes"
        )


def cases() -> Iterator[Case]:
    """All invocations."""
    for table, shell in ((WORDS, False), (LINES, True)):
        for line in table.strip().splitlines():
            yield Case(shlex.split(line), shell=shell)
    for line, stdin in PIPED:
        yield Case(shlex.split(line), stdin)


def lay_out(folder: Path) -> None:
    """Write the files that the invocations name."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
