"""What commands say of what to do next: other commands, as the user would type them, that work as printed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.commands import command as command  # also by this name

if TYPE_CHECKING:
    from oellm_autoexp.model import Manifest
    from oellm_autoexp.monitor.session import Session


def next_steps(manifest: Manifest, opened: Session) -> list[str]:
    """What a person may want to do next, as commands that work as they are."""
    resume = resume_command(manifest)
    lines = [f"see this again    {resume} --cmd status"]
    if any(job.failed for job in opened.jobs.values()):
        lines.append(f"why did it fail   {resume} --cmd tail --failed")
    lines += of_queue(manifest, opened)
    if manifest.config_ref == "autoexp" and "project=default" in manifest.overrides:
        lines.append(f"train longer      {command('run', 'project=default', 'backend.options.train_iters=400')}")
        lines.append("your own runs     see 'Your own experiments' in README.md")
    return lines


def of_queue(manifest: Manifest, opened: Session) -> list[str]:
    """The commands that carry out what waits in the queue, and that give up actions that wait; if some do."""
    from oellm_autoexp.monitor.queue import Queue

    resume, queued = resume_command(manifest), Queue(opened.path).unfinished()
    lines = [f"queued actions    {resume} --cmd actions"] if queued else []
    if queued or any(job.pending for job in opened.jobs.values()):
        lines.append(f"give actions up   {resume} --cmd skip")
    return lines


def resume_command(manifest: Manifest) -> str:
    """The exact command that goes on watching a session."""
    return command("monitor", "--session", manifest.plan_id, *_state_dir_option(manifest))


def _state_dir_option(manifest: Manifest) -> list[str]:
    directory = Path(manifest.monitoring_state_dir)
    usual = Path("outputs", "monitoring_state").absolute()  # a variable that is set here may not be in the next shell
    found_without = directory == usual == default_state_dir().absolute()
    return [] if found_without else ["--monitoring-state-dir", str(directory)]


def default_state_dir() -> Path:
    """Where sessions are unless told otherwise: $OELLM_MONITORING_STATE_DIR, else below $OUTPUT_DIR or ./outputs."""
    own = os.environ.get("OELLM_MONITORING_STATE_DIR")
    return Path(own) if own else output_root() / "monitoring_state"


def output_root() -> Path:
    """Where plans are written unless told otherwise, as config/project/base.yaml; an empty variable is none."""
    return Path(os.environ.get("OUTPUT_DIR") or Path(os.environ.get("PROJECT_DIR") or ".", "outputs"))


def no_sessions(directory: Path, *, unfinished: bool = False) -> str:
    """Say that a folder has no sessions, by its whole path, as a relative one does not tell where it is looked for."""
    return f"no {'unfinished ' if unfinished else ''}sessions in {directory.absolute()}"


def other_folder() -> str:
    """What to do where sessions are looked for in the folder that no option has named, and are not there."""
    variables = ("OELLM_MONITORING_STATE_DIR", "OUTPUT_DIR", "PROJECT_DIR")
    name = next((name for name in variables if os.environ.get(name)), "")
    why = f"the folder is that of ${name}" if name else "$OUTPUT_DIR is not set"
    return f"{why}; run this where you planned, or name the folder with --monitoring-state-dir"


def show(lines: list[str]) -> None:
    """Print what to try next."""
    from oellm_autoexp.view.tables import console

    screen = console()
    screen.print("\nnext:")
    for line in lines:
        screen.print(f"  {line}", soft_wrap=True)
