"""The house rules: who imports whom, what is called where, how long things are.

Every check collects all offences and names file, line and cure, so that one run is enough to repair them.
"""

from __future__ import annotations

import ast
import fnmatch
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support import house
from support.source_tree import PACKAGE, ROOT, Source, complain, imports, project_files, sources, uses

FUNCTION_LINES_MAX = 60  # without the docstring
FILE_LINES_MAX = 400
TEST_FILE_LINES_MAX = 600  # scenarios are read one by one

# What decides whether a stranger finds a way in: (least, most) of the figures of support/house.py, which says with
# `cd tests; python -m support.house` where the worst places are.
FIGURES: dict[str, tuple[float, float]] = {
    "function_lines_median": (0, 6),
    "function_lines_max": (0, FUNCTION_LINES_MAX),
    "file_lines_max": (0, FILE_LINES_MAX),
    "short_files_percent": (0, 35),
    "functions_with_many_parameters": (0, 1),  # the one is `taskpool.Executor`, which is called by name
    "foreign_stores_per_1000_lines": (0, 4.0),
    "comments_per_100_code_lines": (10, 100),
}

# --- who may import whom ---------------------------------------------------------------------------

# Plain data that all parts share; each may import those before it.
WORDS = (
    *("errors", "clock", "limits", "identifiers", "messages", "certificate"),
    *("codec", "log", "durations", "sizes", "chaos", "arguments"),
)

# Nothing that reads a clock, a file, a queue or a random number: the core is handed all of it.
CORE_MODULES = frozenset(
    {"__future__", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools", "math"}
    | {"operator", "typing", "msgspec"}
)
CORE_WORDS = frozenset({"errors", "clock", "limits", "identifiers", "messages", "certificate", "codec"})

# What each part may import beside itself and the shared words. Only what stands above it, so that there is no circle.
EDGES: dict[str, frozenset[str]] = {
    "core": frozenset(),
    "procs": frozenset(),
    "ipc": frozenset({"procs"}),
    "metrics": frozenset({"core", "procs"}),
    "journal": frozenset({"core"}),
    "kinds": frozenset({"procs", "ipc"}),
    # The one protocol client. What is the generator's (notices, a private dealer to look after) is handed in.
    "client": frozenset({"procs", "ipc"}),
    # Between a dealer and the engine that several hosts share: a client of the one, and of the other.
    "cluster": frozenset({"client", "ipc", "procs", "kinds"}),
    # A dealer that is started for one batch: by the generator, and by a program that uses the Python interface.
    "private": frozenset({"client", "ipc", "procs", "kinds"}),
    "worker": frozenset({"ipc", "procs", "kinds"}),
    "executor": frozenset({"private", "client", "ipc", "procs", "kinds"}),
    "joblib": frozenset({"executor"}),
    "generator": frozenset({"private", "client", "cluster", "ipc", "procs", "kinds"}),
    "dealer": frozenset({"core", "ipc", "procs", "metrics", "journal", "kinds", "client", "cluster"}),
}
PROGRAMS = ("generator", "dealer", "worker")

# Parts that not all of a program may use: a dealer talks to its generators, and is a client in its health check only.
ONLY_USERS = {
    "client": ("client/*", "private/*", "generator/*", "executor/*", "cluster/*", "dealer/health.py"),
    "private": ("private/*", "generator/*", "executor/*"),
}

ONLY_IMPORTER = {
    "posix_ipc": "ipc/mqueue.py",
    "prometheus_client": "metrics/*",
    "cheroot": "metrics/*",
    "sqlite3": "journal/*",
    "nats": "cluster/nats_*.py",
    "asyncio": "cluster/nats_*.py",  # 100 ms of imports, and a second sort of loop
    "argparse": "[gd]e*/*|arguments.py",  # a worker must start fast and is not started by people
}


@dataclass(frozen=True)
class Ban:
    """A call that has a better place or a better replacement."""

    what: str
    instead: str
    allowed: tuple[str, ...] = ()


BANS = (
    Ban("time.time", "clock.SystemClock().now().wall", ("clock.py",)),
    Ban("time.time_ns", "clock.SystemClock().now().wall", ("clock.py",)),
    Ban("time.sleep", "wait on a descriptor with a deadline"),
    Ban("print", "taskpool.log.render to stderr; stdout belongs to generator/output/stream.py"),
    # The template has neither lock nor queue nor thread.
    Ban("os.fork", "procs/spawn.py: a forked child keeps locks and queues", ("worker/template.py",)),
    Ban("os.system", "os.posix_spawn with an argument vector"),
    Ban("os._exit", "return an exit code from main", ("worker/*",)),
    Ban("os.waitpid", "procs/reap.py reaps", ("procs/*", "worker/template.py")),
    Ban("os.wait", "procs/reap.py reaps"),
    Ban("signal.signal", "procs/signals.py", ("procs/signals.py", "procs/prctl.py", "worker/*", "generator/main.py")),
    Ban("random.*", "a seed handed in: runs must be repeatable"),
    # Functions and results of Python programs: no other user can write what is read there.
    Ban("pickle.*", "msgspec: what comes off a queue is hostile", ("kinds/pickling.py",)),
    Ban("eval", "a parser"),
    Ban("exec", "importlib", ("worker/helpers.py",)),
    Ban("multiprocessing.*", "procs/spawn.py", ("worker/helpers.py",)),
    Ban("subprocess.*", "procs/spawn.py and procs/reap.py"),
)

# Written in pieces, or this file would offend itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.$}~-])/(" + "|".join(("work", "root", "Users", r"home/(?!USER|user\b)\w+")) + r")/\w"
)


# --- words that are spoken no more (docs/adr/0015-one-vocabulary.md) ----------------------------------

# As parts of names: `crew_size`, `NextCrew` and crew.py all carry the word crew.
OLD_WORDS = re.compile(
    "(?<=_)(dispatcher|dealing|endings|crew|desk|leaving|ledger|tally|verdict|forgive|excuse|careful|door|staff|hire|herald"
    "|transcript|sparing|outbox|conversation|greetings?|post|budget|budgeted|present|alarm|nobody_home|call_again|hang_up|insist|give_in|inquiry|outflow"
    "|linefile|keeporder|limitfields|calendar|surroundings|mailbox|leftovers|statedir)(?=_)"
)

# As names of files and folders, where they once meant something else than a reader expects.
OLD_FILES = {
    "core": {"restart", "restore", "pool", "rows"},
    "dealer": {"machine", "host", "replies", "pages", "start"},
    "generator": {"link", "remote", "reading", "home"},
    "journal": {"fold", "records", "tables", "writer"},
    "worker": {"alarm", "memory", "faults"},
    "procs": {"family", "lifeline"},
    "ipc": {"budget"},
    "metrics": {"series", "access", "pages"},
}

# In no text of the package either: they hide who is meant, a process, a user or the code that calls.
VAGUE_WORDS = re.compile(r"\b(nobody|somebody|whoever|anybody|everybody)\b", re.IGNORECASE)


# --- imports ---------------------------------------------------------------------------------------


def may_import(source: Source, target: str) -> bool:
    """Whether the module may import `target`, the part of the package behind `taskpool.`."""
    part = source.part
    if part in WORDS:
        return target in WORDS[: WORDS.index(part)]
    if part == "core":
        return target == "core" or target in CORE_WORDS
    return target == part or target in EDGES[part] or target in (*WORDS, "", "__version__")


def test_the_table_of_edges_points_up() -> None:
    parts = list(EDGES)
    complain(
        [
            f"EDGES: {part} must not import {target}, which does not stand above it"
            for part, targets in EDGES.items()
            for target in targets
            if target not in parts[: parts.index(part)] or target in PROGRAMS
        ]
    )


def test_imports_point_one_way() -> None:
    offences = []
    for source in sources():
        for line, name in imports(source):
            head, _, rest = name.partition(".")
            if head == "taskpool" and source.part != "__init__" and not may_import(source, rest.split(".")[0]):
                offences.append(f"{source.name}:{line}: {source.part} must not import {name}")
    complain(offences)


@pytest.mark.parametrize("part", ONLY_USERS)
def test_parts_that_not_all_may_use(part: str) -> None:
    users = ONLY_USERS[part]
    offences = []
    for source in sources():
        allowed = any(fnmatch.fnmatch(source.name, pattern) for pattern in users)
        for line, name in imports(source):
            if f"{name}.".startswith(f"taskpool.{part}.") and not allowed:
                offences.append(f"{source.name}:{line}: only {', '.join(users)} import {part}")
    complain(offences)


def test_every_part_has_its_place() -> None:
    known = {"__init__", *WORDS, *EDGES}
    complain(
        [
            f"{source.name}: give {source.part!r} a layer in this file"
            for source in sources()
            if source.part not in known
        ]
    )


def test_core_imports_nothing_that_does_io() -> None:
    offences = []
    for source in sources():
        for line, name in imports(source):
            head = name.split(".")[0]
            if source.part == "core" and head != "taskpool" and head not in CORE_MODULES:
                offences.append(f"{source.name}:{line}: {head}: the core decides, the shell does")
    complain(offences)


def test_programs_never_import_each_other() -> None:
    offences = []
    for source in sources():
        others = [f"taskpool.{program}" for program in PROGRAMS if program != source.part]
        for line, name in imports(source):
            if any(name == other or name.startswith(other + ".") for other in others):
                offences.append(f"{source.name}:{line}: {name} belongs to another program")
    complain(offences)


def test_no_module_imports_itself_in_a_circle() -> None:
    known = {source.module for source in sources()}
    graph: dict[str, set[str]] = {}
    for source in sources():
        wanted = {name for _, name in imports(source)}
        graph[source.module] = {name if name in known else name.rpartition(".")[0] for name in wanted} & known
    while leaves := [module for module, targets in graph.items() if not targets & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    complain([f"{module} is in or behind a circle of imports" for module in sorted(graph)])


def test_every_package_names_its_files() -> None:
    """What to read is said in `__init__.py`, and it is all that is there."""
    known = {source.module for source in sources()}
    offences = []
    for source in sources():
        if not source.name.endswith("__init__.py"):
            continue
        text = ast.get_docstring(source.tree) or ""
        inside = {module.rpartition(".")[2] for module in known if module.rpartition(".")[0] == source.module}
        offences += [
            f"{source.name}: {name} is not named" for name in sorted(inside) if not re.search(rf"\b{name}\b", text)
        ]
    complain(offences)


@pytest.mark.parametrize("library", ONLY_IMPORTER)
def test_single_importer(library: str) -> None:
    home = ONLY_IMPORTER[library]
    offences = []
    for source in sources():
        for line, name in imports(source, typing_too=False):
            allowed = any(fnmatch.fnmatch(source.name, pattern) for pattern in home.split("|"))
            if name.split(".")[0] == library and not allowed:
                offences.append(f"{source.name}:{line}: only {home} imports {library}")
    complain(offences)


# --- shape -----------------------------------------------------------------------------------------


def test_cmd_is_no_package() -> None:
    """A cmd/__init__.py would shadow the standard library's cmd, and with it pdb and pytest."""
    complain([f"{path}: remove it" for path in (ROOT / "cmd").rglob("__init__.py")])


def test_programs_are_three_lines() -> None:
    """All three have a main.py in cmd/ that only calls the package."""
    offences = []
    for program in PROGRAMS:
        path = ROOT / "cmd" / f"tp-{program}" / "main.py"
        if f"taskpool.{program}.main" not in path.read_text():
            offences.append(f"{path.relative_to(ROOT)}: call taskpool.{program}.main")
        if len(ast.parse(path.read_text()).body) > 5:
            offences.append(f"{path.relative_to(ROOT)}: move the code to internal/taskpool/{program}")
    complain(offences)


def test_files_are_short() -> None:
    offences = []
    for directory, most in ((PACKAGE, FILE_LINES_MAX), (ROOT / "tests", TEST_FILE_LINES_MAX)):
        for path in directory.rglob("*.py"):
            lines = len(path.read_text().splitlines())
            if lines > most:
                offences.append(f"{path.relative_to(ROOT)}: {lines} lines, {most} at most: split it by noun")
    complain(offences)


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    is_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_functions_are_short() -> None:
    offences = []
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "setup.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of(node) > FUNCTION_LINES_MAX:
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                offences.append(f"{where}: {node.name} has {lines_of(node)} lines, {FUNCTION_LINES_MAX} at most")
    complain(offences)


def test_the_figures_are_within_their_limits() -> None:
    figures = house.measure(house.modules([])).figures._asdict()
    complain(
        [
            f"{name}: {figures[name]:.1f}, expected {least:g} to {most:g}: cd tests; python -m support.house"
            for name, (least, most) in FIGURES.items()
            if not least <= figures[name] <= most
        ]
    )


# --- words -----------------------------------------------------------------------------------------


def parts_of(name: str) -> str:
    """The words of a name in snake_case or CamelCase: `_NextCrew_2` gives "_next_crew_2_"."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return f"_{split.strip('_').lower()}_"


def old_words_in(name: str) -> list[str]:
    return OLD_WORDS.findall(parts_of(name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("_crew", ["crew"]),
        ("NextCrew", ["crew"]),
        ("HTTPCrew2", []),
        ("CREW_MAX", ["crew"]),
        ("screws", []),
        ("when_nobody_home_ns", ["nobody_home"]),
        ("indoor", []),
    ],
)
def test_old_words_are_found_as_parts_of_names(name: str, words: list[str]) -> None:
    assert old_words_in(name) == words


def test_no_name_speaks_the_old_vocabulary() -> None:
    offences: set[str] = set()
    for source in sources():
        names = [(0, part) for part in source.name.removesuffix(".py").split("/")]
        tokens = tokenize.generate_tokens(io.StringIO(source.text).readline)
        names += [(token.start[0], token.string) for token in tokens if token.type == tokenize.NAME]
        for line, name in names:
            offences.update(f"{source.name}:{line}: {name}: {word} is an old word" for word in old_words_in(name))
    complain(sorted(offences))


def test_no_file_has_an_old_name() -> None:
    offences = []
    for source in sources():
        folder, *rest = source.name.removesuffix(".py").split("/")
        offences += [f"{source.name}: an old name" for part in rest if part in OLD_FILES.get(folder, ())]
    complain(offences)


def test_the_package_says_who_is_meant() -> None:
    offences = []
    for path in (path for path in PACKAGE.parent.rglob("*") if path.suffix in (".py", ".pxd")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            offences += [f"{path.relative_to(PACKAGE)}:{number}: {word}" for word in VAGUE_WORDS.findall(line)]
    complain(offences)


# --- calls -----------------------------------------------------------------------------------------


def banned(source: Source, name: str) -> Iterator[Ban]:
    for ban in BANS:
        allowed = any(fnmatch.fnmatch(source.name, pattern) for pattern in ban.allowed)
        if fnmatch.fnmatchcase(name, ban.what) and not allowed:
            yield ban


def test_banned_calls() -> None:
    offences: set[str] = set()
    for source in sources():
        for line, name in uses(source):
            offences.update(f"{source.name}:{line}: {name}: use {ban.instead}" for ban in banned(source, name))
    complain(sorted(offences))


def test_no_handler_swallows_everything() -> None:
    offences = []
    for source in sources():
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type else ""
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            if not caught or (silent and caught in {"Exception", "BaseException"}):
                offences.append(f"{source.name}:{node.lineno}: catch the narrowest type where you can act")
    complain(offences)


def test_nothing_happens_at_import() -> None:
    """Only definitions, constants and assertions at module level: an import must not open, read or start things."""
    harmless = (
        ast.Import,
        ast.ImportFrom,
        ast.Assign,
        ast.AnnAssign,
        ast.FunctionDef,
        ast.ClassDef,
        ast.Assert,
        ast.If,
        ast.Try,
    )
    offences = []
    for source in sources():
        for node in source.tree.body:
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not is_text and not isinstance(node, harmless):
                offences.append(f"{source.name}:{node.lineno}: move `{ast.unparse(node)[:40]}` into a function")
            calls = [ast.unparse(child.func) for child in ast.walk(node) if isinstance(child, ast.Call)]
            if isinstance(node, ast.Assign | ast.AnnAssign) and {"open", "os.environ.get", "os.getenv"} & set(calls):
                offences.append(f"{source.name}:{node.lineno}: reads the environment or a file at import")
    complain(offences)


def test_no_file_names_a_machine() -> None:
    offences = []
    for path in project_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line):
                offences.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    complain(offences)
