"""Folders that programs write in while a test changes them."""

import shutil
from pathlib import Path


def remove(folder: Path) -> None:
    """Remove a folder, also while a program writes in it."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
