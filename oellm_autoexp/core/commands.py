"""Our commands as the user would type them, for messages: they work as they are printed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Command(NamedTuple):
    """One of our commands: the name of its script and of its module, what it does, the folder of the module in cli/."""

    script: str
    what: str
    folder: str = ""

    @property
    def module(self) -> str:
        """The name of the module that has its `parser` and its `main`."""
        return ".".join(filter(None, ("oellm_autoexp.cli", self.folder, self.script)))


PARENT_VARIABLE = "AUTOEXP_PARENT"
"""In the environment of a run that an action has started: `<generation>/<plan id>/<job>/<event id>`."""
COMMANDS = {
    "run": Command("run_autoexp", "plan, submit and watch in one go"),
    "run-container": Command(
        "run_autoexp_container", "plan inside of a container image, submit and watch here", "container"
    ),
    "plan": Command("plan_autoexp", "expand the sweep, write scripts and the manifest"),
    "submit": Command("submit_autoexp", "submit a manifest's jobs, each once, and watch them"),
    "monitor": Command("monitor_autoexp", "watch or resume a session, look at sessions"),
    "report": Command("report_autoexp", "make one page of sessions: table, curves, time line, GPU-hours", "reporting"),
    "run-sweep-entry": Command("run_sweep_entry", "run one entry of a sweep in this terminal"),
    "visualize-plan": Command("visualize_plan", "draw an experiment's stages and what waits for what"),
    "render-config": Command("render_config", "print the composed config"),
    "schema": Command("config_schema", "print the JSON Schema of configs, for editors"),
    "completion": Command("shell_completion", "print what completes these words in bash, zsh or fish", "completion"),
    "check-cluster": Command("check_cluster", "show what this cluster offers, and test it with a job of one minute"),
    "generate-megatron-config": Command(
        "generate_megatron_config", "write the defaults of a version of Megatron-LM", "megatron"
    ),
    "generate-megatron-dataclass": Command(
        "generate_megatron_dataclass", "write the types, table and help texts of its arguments", "megatron"
    ),
}
"""Every command, by the word that `oellm-autoexp` knows it by."""


def monitor(session: Path, *words: str) -> str:
    """The monitor command for the session in a file, wherever its folder is."""
    return command("monitor", "--session", session.stem, *state_folder(session.parent), *words)


def state_folder(directory: Path, *, anywhere: bool = False) -> list[str]:
    """The option that names the folder of a session; empty if this shell searches that folder by default.

    `anywhere`: none only where any shell in this folder does, with the variables of this one and without.
    """
    found = directory == default_state_dir().absolute()
    if anywhere:
        found = found and directory == Path("outputs", "monitoring_state").absolute()
    return [] if found else ["--monitoring-state-dir", str(directory)]


def default_state_dir() -> Path:
    """The default folder of sessions: $OELLM_MONITORING_STATE_DIR, else below $OUTPUT_DIR or ./outputs."""
    own = os.environ.get("OELLM_MONITORING_STATE_DIR")
    return Path(own) if own else output_root() / "monitoring_state"


def output_root() -> Path:
    """The default folder of plans, as in config/project/base.yaml; an empty variable counts as not set."""
    return Path(os.environ.get("OUTPUT_DIR") or Path(os.environ.get("PROJECT_DIR") or ".", "outputs"))


def command(name: str, *words: str) -> str:
    """One of our commands as the user would type it, in the form in which this one was called."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return shlex.join([_found_as("python", sys.executable), "-m", "oellm_autoexp", name, *words])
    if called.suffix == ".py" and called.parent.name == "scripts":
        return shlex.join([_found_as("python", sys.executable), str(called.with_name(f"{name}_autoexp.py")), *words])
    return shlex.join([_found_as("oellm-autoexp", sys.argv[0]), name, *words])


def program() -> str:
    """What the user typed to reach the command at work: `run_autoexp.py`, `oellm-autoexp run`; for usage lines."""
    installed = _installed()
    return " ".join([installed, *sys.argv[1:2]]) if installed else Path(sys.argv[0]).name


def in_examples(text: str, names: Mapping[str, str]) -> str:
    """Examples that say `python scripts/NAME.py`, in the form in which this command was called.

    `names` has the command's name by that of its script.
    """
    installed = _installed()

    def typed(match: re.Match[str]) -> str:
        return f"{installed} {names[match[1]]}" if match[1] in names else match[0]

    return re.sub(r"python scripts/(\w+)\.py", typed, text) if installed else text


def _installed() -> str:
    """How the installed program was called, which has commands as words; '' where it was not."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "oellm_autoexp":
        return "python -m oellm_autoexp"
    return called.name if called.name == "oellm-autoexp" else ""


def _found_as(name: str, path: str) -> str:
    """The plain name of a program where that finds it, else its path.

    A virtual environment's Python is a link to another one, which lacks what is installed: their folders differ.
    """
    found = shutil.which(name)
    if found is not None and Path(path).exists() and Path(found).parent == Path(path).absolute().parent:
        return name
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
