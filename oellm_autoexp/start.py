"""Runs a module of this package in a Python of its own: `python -P start.py MODULE ARGUMENTS`.

The package is found by where this file lies, and not by a search path: whatever lies in the current folder, in the
folder of a checkout, or in an empty entry of PYTHONPATH (`random.py`, `queue.py`) is not imported in place of what the
standard library has. This file imports nothing of the package, which is not there yet when it runs.
"""

from __future__ import annotations

import os
import sys


def words(module: str) -> tuple[str, ...]:
    """The words that run a module of this package (`oellm_autoexp.notifiers.send`) with this Python."""
    return sys.executable, "-P", os.path.abspath(__file__), module  # noqa: PTH100


def search_path() -> str:
    """The user's PYTHONPATH without entries that mean the current folder; '' where nothing is left."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if os.path.isabs(entry))  # noqa: PTH117


def main() -> None:
    """Load the package from its folder, and run the module that the first argument names."""
    import importlib.util
    import runpy

    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    name = os.path.basename(folder)  # noqa: PTH119
    file = os.path.join(folder, "__init__.py")  # noqa: PTH118
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        sys.exit(f"{file} can't be loaded")
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    module = sys.argv.pop(1)
    sys.argv[0] = module
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
