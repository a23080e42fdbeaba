"""The one thing pyproject.toml cannot say: the optional compiled Fibonacci kernel.

`kinds/fib_kernel.py` is plain Python; with the types in `fib_kernel.pxd` Cython makes a C extension of the very
same file. Rule of this file: nothing here may stop an installation. Without Cython or without a C compiler the
plain module is installed alone, the build says so on stderr, and so does every worker that runs it.
"""

from __future__ import annotations

import sys
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

MODULE = "taskpool.kinds.fib_kernel"
SOURCE = "internal/taskpool/kinds/fib_kernel.py"
CYTHON_MAJOR_MIN = 3  # pure-Python mode with a .pxd beside the .py, and `noexcept`


def give_up(reason: str) -> None:
    """To stderr: pip shows it with -v."""
    sys.stderr.write(f"taskpool: {reason}: the fib kernel stays plain Python, about 50 times slower\n")


class BuildWhatCanBeBuilt(build_ext):  # type: ignore[misc]
    """`Extension(optional=True)` alone does not hold: setuptools 84 with Cython lets a missing compiler through."""

    def build_extension(self, ext: Any) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:  # noqa: BLE001 - compilers fail in many classes, and none may stop the installation
            give_up(f"cannot compile {ext.name} ({error})")


def kernel() -> list[Any]:
    """The extension, or nothing where Cython is missing or too old."""
    try:
        from Cython import __version__ as version  # type: ignore[attr-defined]
        from Cython.Build import cythonize
    except ImportError:
        give_up("Cython is not installed")
        return []
    if int(version.split(".")[0]) < CYTHON_MAJOR_MIN:
        give_up(f"Cython {version} is too old, {CYTHON_MAJOR_MIN} is needed")
        return []
    # optional: build_ext does not look for the result of what could not be built.
    extension = Extension(MODULE, [SOURCE], optional=True, extra_compile_args=["-O2"])
    # build_dir keeps the generated C out of the source tree, where it would look like something to edit.
    # annotation_typing off: the .pxd alone says the C types; `int` in the source means Python's.
    modules: list[Any] = cythonize(  # type: ignore[no-untyped-call]
        [extension], build_dir="build/cython", language_level=3, compiler_directives={"annotation_typing": False}
    )
    return modules


setup(ext_modules=kernel(), cmdclass={"build_ext": BuildWhatCanBeBuilt})
