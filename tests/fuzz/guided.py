"""The coverage-guided fuzzer: atheris (libFuzzer) on the targets, instrumenting the package's Python code.

    cd tests && python -m fuzz.guided TARGET SECONDS

libFuzzer ends the process, so each target has one of its own. What it finds is written to ./crash-...
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    atheris: Any = importlib.import_module("atheris")  # it ships no types, and is not installed everywhere
    with atheris.instrument_imports(include=["taskpool"]):
        from fuzz.targets import TARGETS
    name, seconds = sys.argv[1], int(sys.argv[2])
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="tp-fuzz-corpus-") as corpus:
        for number, seed in enumerate(target.seeds):
            Path(corpus, str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=2048", "-print_final_stats=1", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, corpus], target.run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
