"""run-sweep-entry: run one job of the newest plan here and now, without a scheduler and without its launcher."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.steps import app, hints
from oellm_autoexp.core.errors import AutoexpError, ConfigError, CorruptError, Problem, raise_all
from oellm_autoexp.core.text import plural, printable, shell

if TYPE_CHECKING:
    from oellm_autoexp.storage.lock import Lock

EXAMPLES = """\
  python scripts/run_sweep_entry.py --sweep outputs/sweep.json --index 0
  python scripts/run_sweep_entry.py --sweep outputs/sweep.json --index 0 --dry-run"""

_BEAT_SECONDS = 30.0


def parser() -> app.Parser:
    """The command's options."""
    what = "Run one entry of a sweep in this terminal: its program as one task, without scheduler and launcher."
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
    made.add_argument(
        "--index", metavar="N", type=app.whole_number(0, app.MANY), required=True, help="the entry's index, from 0"
    )
    made.add_argument("--dry-run", action="store_true", help="print the exact command and run nothing")
    made.add_argument("--json", action="store_true", help="with --dry-run: as one JSON document, for programs")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _run, argv)


def _run(options: argparse.Namespace) -> int:
    from oellm_autoexp.sbatch.launch import terminal_problems
    from oellm_autoexp.submission.outputs import held_for_terminal

    if options.json and not options.dry_run:
        raise ConfigError(
            Problem("--json works only with --dry-run, as the program prints its own output", "--json", "add --dry-run")
        )
    entry = _entry(options.sweep, options.index)
    script = _script(entry)
    # The script holds the whole truth: its environment is not in the sweep file.
    own = _environment(script)
    words = [
        *(["env", *(f"{name}={value}" for name, value in own.items())] if own else []),
        "bash",
        entry["script_path"],
    ]
    if options.json:
        print(json.dumps({"command": words, **{key: entry.get(key) for key in ("index", "name", "argv", "work_dir")}}))
        return app.OK
    if options.dry_run:
        comment = printable(shell(entry["argv"])).replace(
            "\n", "\n# "
        )  # what it runs; whoever pastes it runs the script alone
        print(f"{' '.join(map(_typed, words))}  # {comment}")
        return app.OK
    raise_all(ConfigError, [replace(problem, where=entry["script_path"]) for problem in terminal_problems(script)])
    with held_for_terminal(entry["name"], Path(entry["output_dir"])) as lock:
        if left_out := _left_out(script):
            print(f"note: {left_out}", file=sys.stderr)
        return _run_here(["bash", entry["script_path"]], own, lock)


def _typed(word: str) -> str:
    """A word as a person pastes it into bash: what a terminal would obey is written as `$'\\x1b'`."""
    if word.isprintable():
        return shell([word])
    plain = (c.isprintable() and c not in "\\'" for c in word)
    written = (
        c if is_plain else "".join(f"\\x{byte:02x}" for byte in c.encode(errors="surrogateescape"))
        for c, is_plain in zip(word, plain, strict=True)
    )
    return f"$'{''.join(written)}'"


_ONE_TASK = {
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURMD_NODENAME": "localhost",
}
"""What a program takes its rank from where srun would start it (srun(1), OUTPUT ENVIRONMENT VARIABLES)."""


def _environment(script: str) -> dict[str, str]:
    """What the environment gets, so that a script runs its program without its launcher, as a single task."""
    from oellm_autoexp.sbatch.launch import LAUNCHER_VARIABLE, has_launcher

    variables = {LAUNCHER_VARIABLE: ""} if LAUNCHER_VARIABLE in script else {}
    return {**variables, **(_ONE_TASK if has_launcher(script) else {})}


_STREAMS = ("error", "input", "open_mode")
"""Directives that mean nothing in a terminal; those of the program's own aside, a job misses all others."""


def _left_out(script: str) -> str:
    """What a terminal does not give a job, in words; '' if nothing."""
    from oellm_autoexp.sbatch.directives import OWN, options
    from oellm_autoexp.sbatch.launch import launcher_text
    from oellm_autoexp.sbatch.resources import resources, tasks

    asked = options(script)
    nodes, gpus, _ = resources(asked)
    asks = ((nodes, "node"), (tasks(asked) or 1, "task"), (gpus, "GPU"))
    wide = [plural(count, what) for count, what in asks if count > 1]
    more = f" (it asks for {', '.join(wide)})" if wide else ""
    left = [
        f"--{key.replace('_', '-')}{f'={value}' if value else ''}"
        for key, value in asked.items()
        if key not in OWN and key not in _STREAMS
    ]
    more += f"; without {printable(' '.join(left))}" if left else ""
    if launcher := launcher_text(script):
        return f"the job runs here as one task, on this machine and without its launcher ({printable(launcher)}){more}"
    return f"the job runs here, on this machine{more}" if more else ""


def _run_here(words: list[str], own: dict[str, str], lock: Lock) -> int:
    """Run a script to its end, and keep the lock for so long; returns its exit code as a shell reports it.

    Ctrl-C reaches the program from the terminal, and is its to handle; SIGTERM and SIGHUP are sent on to it.
    """
    from oellm_autoexp.schedulers.base import outside_jobs

    with subprocess.Popen(words, env={**outside_jobs(os.environ), **own}) as child:

        def send_on(number: int, _frame: FrameType | None) -> None:
            for process in _programs(child.pid) or [child.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)

        signal.signal(signal.SIGINT, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, send_on)
        while True:
            try:
                code = child.wait(_BEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                _beat(lock)
    return 128 - code if code < 0 else code


def _programs(shell: int) -> list[int]:
    """What a shell waits for: its children (proc(5)); none where there is no /proc."""
    try:
        return [int(word) for word in Path(f"/proc/{shell}/task/{shell}/children").read_text().split()]
    except OSError:
        return []


def _beat(lock: Lock) -> None:
    try:
        lock.beat(_BEAT_SECONDS)
    except (AutoexpError, OSError) as error:  # the program is not ended for that
        print(printable(f"note: can't lock the output directory for this run: {error}"), file=sys.stderr)


def _script(entry: dict[str, Any]) -> str:
    """The entry's script, if it is the one that was planned. Raises ConfigError, StateError."""
    from oellm_autoexp.storage import trust

    path = Path(entry["script_path"])
    try:
        return trust.read_script(path, str(entry.get("script_digest", "")))
    except FileNotFoundError:
        output_dir = Path(str(entry.get("output_dir", "/")))
        moved = "" if output_dir.exists() else f"; maybe {output_dir}, or a folder above it, was moved"
        hint = "move it back, or plan again"
        raise ConfigError(Problem(f"the entry's script no longer exists{moved}", str(path), hint)) from None
    except OSError as error:
        hint = "plan again" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(Problem(f"can't read the script: {error.strerror}", str(path), hint)) from None


def _entry(path: Path, index: int) -> dict[str, Any]:
    from oellm_autoexp import MANIFEST_VERSION
    from oellm_autoexp.storage.files import read_json

    missing = f"plan first (plan_autoexp.py), or name it with --sweep; the newest is {hints.output_root()}/sweep.json"
    data = read_json(path, "sweep", MANIFEST_VERSION, missing=missing, named=True)
    try:
        entries = {entry["index"]: entry for entry in data["entries"]}
    except (AttributeError, KeyError, TypeError):
        raise CorruptError(Problem("not a valid sweep file", str(path), "plan again")) from None
    if index not in entries:
        known = f"{min(entries)} to {max(entries)}" if entries else "none"
        raise ConfigError(Problem(f"no entry {index}", str(path), f"there are {known}"))
    found: dict[str, Any] = entries[index]
    texts = found.get("argv")
    whole = isinstance(texts, list) and all(isinstance(word, str) for word in texts)
    if not whole or not all(isinstance(found.get(key), str) for key in ("name", "output_dir", "script_path")):
        raise CorruptError(Problem("not a valid sweep file", str(path), "plan again"))
    return found
