"""What commands say of what to do next: other commands, as the user would type them, that work as printed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.core.commands import command as command  # also by this name
from oellm_autoexp.core.commands import default_state_dir as default_state_dir
from oellm_autoexp.core.commands import output_root as output_root
from oellm_autoexp.core.commands import state_folder

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session

_LENGTH = "backend.options.train_iters"


def next_steps(manifest: Manifest, opened: Session) -> list[str]:
    """What a person may want to do next, as commands that work as they are."""
    from oellm_autoexp.core.states import BLOCKED, SUCCESS

    resume = resume_command(manifest)
    lines = [f"see this again    {resume} --cmd status"]
    if any(job.failed for job in opened.jobs.values()):
        lines.append(f"why did it fail   {resume} --cmd tail --failed")
    if any(job.state == BLOCKED for job in opened.jobs.values()):  # they follow those that failed
        lines.append(f"unblock jobs      {resume} --cmd restart")
    lines += of_queue(manifest, opened)
    succeeded = all(job.state == SUCCESS for job in opened.jobs.values())
    if succeeded and manifest.config_ref == "autoexp" and "project=default" in manifest.overrides:
        from oellm_autoexp.core.redaction import redact_words

        kept = [word for word in manifest.overrides if word.lstrip("+").partition("=")[0] != _LENGTH]
        config_dirs = [f"--config-dir={folder}" for folder in manifest.provenance.get("config_dirs", ())]
        if redact_words(tuple(kept)) == kept:  # what is shown works as it is, and a secret is not shown
            lines.append(f"train longer      {command('run', *config_dirs, *kept, f'{_LENGTH}=400')}")
        lines.append("your own runs     see 'Your own experiments' in README.md")
    return lines


def of_watch(manifest: Manifest, opened: Session) -> list[str]:
    """The commands for a session that is not finished."""
    from oellm_autoexp.core.states import SUBMITTING

    watch = [f"go on watching    {resume_command(manifest)}", *of_queue(manifest, opened)]
    if any(job.state == SUBMITTING for job in opened.jobs.values()):
        watch.append(f"end it            {resume_command(manifest)} --cmd cancel")
    return watch


def of_queue(manifest: Manifest, opened: Session) -> list[str]:
    """The commands that release jobs which are held, carry out what waits in the queue, and abandon actions that wait.

    Only those of which there are some.
    """
    from oellm_autoexp.session.queue import Queue

    resume, queued = resume_command(manifest), Queue(opened.path).unfinished()
    lines = [f"release jobs      {resume} --cmd release"] if opened.hold.fingerprint else []
    lines += [f"queued actions    {resume} --cmd actions"] if queued else []
    if queued or any(job.actions.pending for job in opened.jobs.values()):
        lines.append(f"give actions up   {resume} --cmd skip")
    return lines


def resume_command(manifest: Manifest, *, anywhere: bool = False) -> str:
    """The exact command that goes on watching a session.

    `anywhere`: it works in any shell, also in one that lacks the variables of this one, and so names the state folder.
    """
    folder = state_folder(Path(manifest.monitoring_state_dir), anywhere=anywhere)
    return command("monitor", "--session", manifest.plan_id, *folder)


def no_sessions(directory: Path, *, unfinished: bool = False) -> str:
    """Say that a folder has no sessions, by its whole path, as a relative one does not show where it is looked for."""
    return f"no {'unfinished ' if unfinished else ''}sessions in {directory.absolute()}"


def other_folder() -> str:
    """What to do where sessions are looked for in the folder that no option has named, and are not there."""
    variables = ("OELLM_MONITORING_STATE_DIR", "OUTPUT_DIR", "PROJECT_DIR")
    name = next((name for name in variables if os.environ.get(name)), "")
    why = f"the folder is that of ${name}" if name else "$OUTPUT_DIR is not set"
    return f"{why}; run this where you planned, or name the folder with --monitoring-state-dir"


def lines(steps: list[str]) -> list[str]:
    """What to try next, as it is printed."""
    return ["", "next:", *(f"  {step}" for step in steps)]


def show(steps: list[str]) -> None:
    """Print what to try next."""
    from oellm_autoexp.view.tables import console

    screen = console()
    for line in lines(steps):
        screen.print(line, soft_wrap=True)
