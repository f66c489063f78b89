"""Which session a person means: by an option, by a word alone, or by the path of one of its files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from oellm_autoexp.cli.steps.misuse import is_override
from oellm_autoexp.core.errors import ConfigError, Problem, StateError

_HEAD_BYTES = 4096
_SUFFIXES = (".json", ".yaml", ".yml")


def understand(options: argparse.Namespace, commands: Iterable[str]) -> None:
    """Take a word alone for `--session`, and a path in either option for what its file is. Raises ConfigError."""
    words = [word for word in options.overrides if not is_override(word)]
    options.overrides = [word for word in options.overrides if is_override(word)]
    if words and words[0] in commands:
        raise ConfigError(Problem("a command of monitor is an option", words[0], f"write --cmd {words[0]}"))
    named = [word for word in (options.session, options.manifest, "--all" if options.all else None) if word]
    if words and len(words) + len(named) > 1:
        hint = "--all watches every unfinished one"
        raise ConfigError(Problem("one session at a time", " ".join(map(str, [*named, *words])), hint))
    if words:
        options.session = words[0]
    if options.overrides and options.cmd != "try":
        hint = "key=value goes with --cmd try; else with plan or run, or --cmd restart --override KEY=VALUE"
        raise ConfigError(Problem("the plan of a session is fixed", options.overrides[0], hint))
    if options.session is not None and ("/" in options.session or options.session.endswith(_SUFFIXES)):
        _by_path(options, Path(options.session))
    elif options.manifest is not None and _is_session(options.manifest):
        _by_path(options, options.manifest)


def _by_path(options: argparse.Namespace, path: Path) -> None:
    """Take the path of a session's file for its folder and id, and that of a manifest for `--manifest`."""
    if not path.exists():
        raise ConfigError(Problem("there is no such file", str(path), "--cmd list shows the ids of sessions"))
    if _is_session(path):
        options.session, options.manifest = path.stem, None
        options.monitoring_state_dir = path.absolute().parent
    else:
        options.session, options.manifest = None, path


def _is_session(path: Path) -> bool:
    """Whether a file begins as sessions do; what can't be read is judged where it is used."""
    from oellm_autoexp.storage import trust

    try:
        with trust.open_file(path, most=None, named=True, lenient=True) as file:
            head = file.read(_HEAD_BYTES).decode(errors="replace")
    except (OSError, StateError):
        return False
    return re.search(r'^ ?"manifest_path": ', head, re.MULTILINE) is not None
