"""Plan, submit, watch and resume sweeps of training jobs on SLURM clusters and laptops.

`plan`, `submit`, `load` and `results` are for notebooks and other programs: see cli/api.py.
"""

import sys

__version__ = "0.1.0"
MANIFEST_VERSION = 1
"""Of what is in a manifest; here, so that an image can be built by a Python that has no packages."""

if sys.version_info < (3, 11):  # noqa: UP036  in words that Python 3.6 understands: the modules are in newer ones
    sys.stderr.write(
        "error: oellm-autoexp needs Python 3.11 or newer; this is %d.%d (%s)\n"  # noqa: UP031
        "    use another one, such as .venv/bin/python of a checkout, and install into it: pip install -e .\n"
        % (sys.version_info[0], sys.version_info[1], sys.executable)
    )
    sys.exit(2)

__all__ = ["MANIFEST_VERSION", "Planned", "Row", "__version__", "load", "plan", "results", "submit"]


def __getattr__(name):  # type: ignore[no-untyped-def]
    """The names of cli/api.py, loaded when they are asked for."""
    if name in __all__:
        from oellm_autoexp.cli import api

        return getattr(api, name)
    raise AttributeError("module 'oellm_autoexp' has no attribute %r" % name)  # noqa: UP031
