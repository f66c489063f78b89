"""Plan, submit, watch and resume sweeps of training jobs on SLURM clusters and laptops."""

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
