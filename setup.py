"""The one thing pyproject.toml cannot say: two optional compiled modules.

- `kinds/fib_kernel.py` is plain Python; with the types in `fib_kernel.pxd` Cython makes a C extension of the very
  same file.
- `worker/kernel_state.pyx` looks at a worker's process between two jobs; without it `worker/properties.py` does,
  at three times the price.

Rule of this file: nothing here may stop an installation. Without Cython or without a C compiler neither is made, the
build says so on stderr (pip shows it with -v), and so does every worker that runs `fib`.
"""

from __future__ import annotations

import sys
from typing import Any

from setuptools import Extension, setup

SOURCES = ("internal/taskpool/kinds/fib_kernel.py", "internal/taskpool/worker/kernel_state.pyx")
CYTHON_MAJOR_MIN = 3  # pure-Python mode with a .pxd beside the .py, and `noexcept`


def give_up(reason: str) -> list[Any]:
    sys.stderr.write(f"taskpool: {reason}: the fib kernel stays plain Python, about 50 times slower\n")
    return []


def compiled() -> list[Any]:
    """The extensions, or nothing where Cython is missing or too old."""
    try:
        from Cython import __version__ as version  # type: ignore[attr-defined]
        from Cython.Build import cythonize
    except ImportError:
        return give_up("Cython is not installed")
    if int(version.split(".")[0]) < CYTHON_MAJOR_MIN:
        return give_up(f"Cython {version} is too old, {CYTHON_MAJOR_MIN} is needed")
    # build_dir keeps the generated C out of the source tree, where it would look like something to edit.
    # annotation_typing off: the .pxd alone says the C types; `int` in the source means Python's.
    modules: list[Any] = cythonize(  # type: ignore[no-untyped-call]
        [Extension(_module(source), [source], extra_compile_args=["-O2"]) for source in SOURCES],
        build_dir="build/cython",
        language_level=3,
        compiler_directives={"annotation_typing": False},
    )
    for module in modules:
        # A missing or failing compiler is then a warning. Said here, because cythonize makes new Extensions and
        # forgets an `optional=True` of the old ones (measured with Cython 3.3).
        module.optional = True
    return modules


def _module(source: str) -> str:
    return source.rpartition(".")[0].removeprefix("internal/").replace("/", ".")


setup(ext_modules=compiled())
