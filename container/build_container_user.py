"""Builds an image without fakeroot and without root; see --help. Needs Python 3.11 or newer, and no packages."""

import sys
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036  the Python of a login node may be much older
    sys.exit("build_container_user.py needs Python 3.11 or newer (module load python, or a virtual environment)")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oellm_autoexp.cli.container.build_container import main

if __name__ == "__main__":
    sys.exit(main())
