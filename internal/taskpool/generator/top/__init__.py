"""`tp-generator top`: running pools, live, at a terminal.

What it shows comes from questions that any client may ask (`status`, `show`, `batch`, `outcomes`), and from /proc. Each
pool is asked by a thread of its own, so that one that does not answer stops neither the others nor the keyboard. Of an
answer the main thread makes rows, of rows lines, and of lines what the terminal shows; all but the last is pure.

Read `model` first: it is what the others talk about.

    model       what is shown: pools, jobs, batches, deaths
    answers     a dealer's answers, read
    history     answers over time: speed, time left, last deaths; pure
    usage       memory and CPU of workers, from /proc
    watcher     a pool that is asked again and again
    view        what a person has chosen, and what a key does; pure
    cells       text in columns of a terminal, whatever it holds; pure
    screen      the lines of a screen; pure
    terminal    the terminal, by curses
    top         the command

curses and not rich, both measured: a program starts 1 ms later with it (rich: 40 to 90), the bundle has 0.6 MiB more
(rich, with what it needs: 13), and rich reads no keys.
"""
