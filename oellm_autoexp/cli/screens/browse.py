"""monitor --cmd browse: a session in one window of the terminal, which stays up to date."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.view.curves.sparkline import can_encode

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest


def browse(options: argparse.Namespace, manifest: Manifest, path: Path) -> int:
    """Browse a session until the person leaves; its jobs go on. Raises ConfigError."""
    if options.json:
        hint = "--cmd status --json is for programs"
        raise ConfigError(Problem("a window is for people", "--cmd browse --json", hint))
    if find_spec("textual") is None:
        what = f"the Python {sys.executable} lacks the package that draws the window"
        raise ConfigError(Problem(what, "--cmd browse", "install it: pip install 'oellm-autoexp[tui]', or textual"))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(Problem("this is no terminal", "--cmd browse", "--cmd status and plot write into pipes"))
    if os.environ.get("TERM") in ("dumb", "unknown") or not can_encode(sys.stdout.encoding):
        what = "this terminal can't draw a window: its TERM is dumb, or its encoding has no boxes"
        raise ConfigError(Problem(what, "--cmd browse", "--cmd watch needs neither; or set LC_ALL=C.UTF-8, TERM=xterm"))
    from oellm_autoexp.cli.screens.window import Window

    Window(manifest, path).run()
    return app.OK
