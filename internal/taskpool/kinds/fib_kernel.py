# cython: annotation_typing=False
"""Naive doubly recursive Fibonacci: about 1.6 ** n calls, nothing but the processor.

Valid Python. fib_kernel.pxd gives it C types when Cython compiles it (the line above makes the types
there win over the annotations here); neither form needs Cython to run.
"""

from __future__ import annotations


def fib(n: int) -> int:
    """The n-th Fibonacci number. Compiled, it overflows beyond n = 92."""
    return n if n < 2 else fib(n - 1) + fib(n - 2)
