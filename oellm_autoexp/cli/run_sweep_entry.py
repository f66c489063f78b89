"""run-sweep-entry: run one job of the newest plan here and now, without a scheduler."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oellm_autoexp.cli import app, hints
from oellm_autoexp.errors import ConfigError, CorruptError, Problem

EXAMPLES = """\
  python scripts/run_sweep_entry.py --sweep outputs/sweep.json --index 0
  python scripts/run_sweep_entry.py --sweep outputs/sweep.json --index 0 --dry-run"""


def parser() -> app.Parser:
    """The command's options."""
    what = "Run one entry of a sweep in this terminal, without a scheduler."
    made = app.Parser(
        what, EXAMPLES, "exit codes: 0 the program succeeded, else its own; 2 also wrong use, or no such entry"
    )
    made.add_argument(
        "--sweep",
        metavar="PATH",
        type=Path,
        default=hints.output_root() / "sweep.json",
        help="the file that planning wrote (default: $OUTPUT_DIR/sweep.json, else outputs/sweep.json)",
    )
    made.add_argument("--index", metavar="N", type=int, required=True, help="the entry's index, from 0")
    made.add_argument("--dry-run", action="store_true", help="print the exact command and run nothing")
    made.add_argument("--json", action="store_true", help="with --dry-run: as one JSON document, for programs")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _run, argv)


def _run(options: argparse.Namespace) -> int:
    from oellm_autoexp.text import shell

    if options.json and not options.dry_run:
        raise ConfigError(Problem("the program's own output is what is printed", "--json", "add --dry-run"))
    entry = _entry(options.sweep, options.index)
    words = ["bash", entry["script_path"]]  # the script holds the whole truth: its environment is not in the sweep file
    if options.json:
        print(json.dumps({"command": words, **{key: entry.get(key) for key in ("index", "name", "argv", "work_dir")}}))
        return app.OK
    if options.dry_run:
        comment = shell(entry["argv"]).replace("\n", "\n# ")  # what it runs; whoever pastes it runs the script alone
        print(f"{shell(words)}  # {comment}")
        return app.OK
    if not Path(entry["script_path"]).is_file():
        raise ConfigError(Problem("the entry's script is gone", entry["script_path"], "plan again"))
    result = subprocess.run(words, check=False)
    return 128 - result.returncode if result.returncode < 0 else result.returncode


def _entry(path: Path, index: int) -> dict[str, Any]:
    from oellm_autoexp.files import read_json
    from oellm_autoexp.model import MANIFEST_VERSION

    missing = f"plan first (plan_autoexp.py), or name it with --sweep; the newest is {hints.output_root()}/sweep.json"
    data = read_json(path, "sweep", MANIFEST_VERSION, missing=missing, named=True)
    try:
        entries = {entry["index"]: entry for entry in data["entries"]}
    except (AttributeError, KeyError, TypeError):
        raise CorruptError(Problem("not a whole sweep file", str(path), "plan again")) from None
    if index not in entries:
        known = f"{min(entries)} to {max(entries)}" if entries else "none"
        raise ConfigError(Problem(f"no entry {index}", str(path), f"there are {known}"))
    found: dict[str, Any] = entries[index]
    texts = found.get("argv")
    whole = isinstance(texts, list) and all(isinstance(word, str) for word in texts)
    if not whole or not isinstance(found.get("script_path"), str):
        raise CorruptError(Problem("not a whole sweep file", str(path), "plan again"))
    return found
