"""The scripts under deploy/, which are no package, as modules."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from support.source_tree import ROOT

FOLDERS = (ROOT / "deploy", ROOT / "deploy" / "pyinstaller")


def load(path: str) -> ModuleType:
    """`deploy/PATH` as a module; it finds its neighbours."""
    name = "deploy_" + path.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    added = [str(folder) for folder in FOLDERS]
    sys.path[:0] = added
    sys.modules[name] = module  # named tuples look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        for folder in added:
            sys.path.remove(folder)
    return module
