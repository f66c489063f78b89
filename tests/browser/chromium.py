"""Chromium for tests, as Debian has it, driven by Playwright, which brings none along and downloads none.

python tests/browser/chromium.py install          # once, as root: the Debian package
"""

import importlib.util
import os
import shutil
import subprocess
import sys

INSTALL_COMMAND = "python tests/browser/chromium.py install"
PACKAGES = ("chromium", "fonts-dejavu-core")


def program() -> str | None:
    """Where it is; None where it is not."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def missing() -> str | None:
    """What is not here, and how to get it; None if nothing is missing."""
    if importlib.util.find_spec("playwright") is None:
        return 'Playwright is not installed; install it: pip install -e ".[dev]"'
    if program() is None:
        return f"Chromium is not installed; install it as root: {INSTALL_COMMAND}"
    return None


def install() -> int:
    """Install it from Debian, unless it is here."""
    if program() is not None:
        return 0
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", *PACKAGES]
    return subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit(f"usage: {INSTALL_COMMAND}")
    sys.exit(install())
