"""The script of a job's next attempt if it differs from the plan's: directives, excluded nodes, values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import ConfigError, Problem, StateError, raise_all
from oellm_autoexp.core.nouns import JobSpec, Manifest, Resources
from oellm_autoexp.core.text import digest
from oellm_autoexp.sbatch.directives import DIRECTIVES, excluding, options, with_options
from oellm_autoexp.sbatch.resources import resources
from oellm_autoexp.sbatch.signals import signal_problems
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import write_atomic


def write_script(
    manifest: Manifest,
    spec: JobSpec,
    attempt: int,
    overrides: Mapping[str, Any],
    excluded: Iterable[str],
    check: Callable[[JobSpec, str, str], None] | None = None,
) -> tuple[str, Resources, str] | None:
    """Write the script of an attempt beside the plan's; its path, what it asks for, and its digest.

    None: the plan's will do.

    `overrides` under `slurm.sbatch` change directives; anything else plans the job anew from its recorded config.
    `check` gets the job, the path and the text before anything is written, and raises what is wrong with them.
    Raises ConfigError for overrides that can't be, StateError if the script can't be read or written.
    """
    text = make_script(manifest, spec, overrides, excluded)
    if text is None:
        return None
    nodes_, gpus, limit = resources(options(text))
    path = script_place(spec, attempt)
    if check is not None:
        check(spec, str(path), text)
    try:
        trust.check_folders(path.parent, Path(manifest.base_output_dir))
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, text, 0o700)
    except OSError as error:
        raise _no_script(error, path) from None
    return str(path), Resources(nodes=nodes_, gpus=gpus, time_limit_seconds=limit), digest(text)


def script_place(spec: JobSpec, attempt: int) -> Path:
    """Where the script of an attempt is, if it has one of its own."""
    return Path(spec.script_path).parent / f"attempt_{attempt}" / "job.sbatch"


def make_script(manifest: Manifest, spec: JobSpec, overrides: Mapping[str, Any], excluded: Iterable[str]) -> str | None:
    """The script that `write_script` writes; None: the plan's will do. Nothing is written. Raises as `write_script`."""
    directives = {key.removeprefix(DIRECTIVES): v for key, v in overrides.items() if key.startswith(DIRECTIVES)}
    values = {key: value for key, value in overrides.items() if not key.startswith(DIRECTIVES)}
    nodes = list(excluded)
    if not overrides and not nodes:
        return None
    made = _made(manifest, spec, values, directives, nodes)
    if "signal" in directives and signal_problems(made):  # its shell has to be made for that signal
        values = {**values, f"{DIRECTIVES}signal": directives["signal"]}
        made = _made(manifest, spec, values, directives, nodes)
        raise_all(ConfigError, signal_problems(made))
    if "nodes" in directives and spec.in_steps:  # its spare nodes come on top
        values = {**values, f"{DIRECTIVES}nodes": directives.pop("nodes")}
        made = _made(manifest, spec, values, directives, nodes)
    return made


def _made(
    manifest: Manifest,
    spec: JobSpec,
    values: Mapping[str, Any],
    directives: Mapping[str, Any],
    nodes: Iterable[str],
) -> str:
    try:
        if values:
            from oellm_autoexp.planning.replan import replan  # a watch seldom needs the planner, and Hydra with it

            text = replan(manifest, spec, values).script
        else:
            text = trust.read_script(Path(spec.script_path), spec.script_digest, Path(manifest.base_output_dir))
    except OSError as error:
        raise _no_script(error, Path(spec.script_path)) from None
    return excluding(with_options(text, directives), nodes)


def _no_script(error: OSError, path: Path) -> StateError:
    return StateError(
        Problem(f"can't write the script of a new attempt: {error.strerror}", str(error.filename or path))
    )
