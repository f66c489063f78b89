"""The text of a job's script. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from oellm_autoexp.backends.base import Command
from oellm_autoexp.config.schema import AutoexpConfig
from oellm_autoexp.containers import kinds as containers
from oellm_autoexp.core.nouns import Chain
from oellm_autoexp.planning.checks import shell_texts
from oellm_autoexp.sbatch.directives import directives
from oellm_autoexp.sbatch.in_job import layout
from oellm_autoexp.sbatch.launch import Launcher
from oellm_autoexp.sbatch.script import MARKS, render
from oellm_autoexp.sbatch.shell_code import with_variables


@dataclass(frozen=True)
class JobPlaces:
    """Where a job runs and writes; absolute. `log_path` is in SLURM's notation."""

    work_dir: str
    base_output_dir: str
    output_dir: str
    log_path: str


def job_script(
    config: AutoexpConfig,
    command: Command,
    code: shell_texts.Code,
    places: JobPlaces,
    template: str,
    chain: Chain | None = None,
) -> str:
    """The template filled with a job's directives, its environment and the line that starts its program.

    Raises ConfigError.
    """
    slurm, name = config.slurm, config.project.name
    env, evaluated = shell_texts.environment(config, command, code)
    asked = layout.sbatch_section(slurm)
    lines = directives(
        asked if chain is None else {"requeue": False, **asked},
        slurm.sbatch_extra_directives,
        name=name,
        log_path=places.log_path,
        work_dir=places.work_dir,
    )
    folders = (places.base_output_dir, places.output_dir)
    entry = config.container.entry(containers.Job(places.work_dir, folders, tuple(env)))
    return render(
        template,
        name=name,
        lines=lines,
        env=evaluated,
        work_dir=places.work_dir,
        log_path=places.log_path,
        marks=f"{places.output_dir}/{MARKS}",
        launcher=Launcher.of(
            shell_texts.launcher_words(slurm, code),
            {**entry.srun, **slurm.srun, **layout.srun_section(slurm)},
            env=(*env, *entry.variables),
            wrapper=entry.words,
        ),
        argv=with_variables(command.argv, of_slurm_alone=True),
        for_slurm=not slurm.client.runs_here,
        modules=(*slurm.modules, *config.container.modules),
        more=entry.lines,
        chain=chain,
        steps=layout.steps(slurm, lines, places.log_path, config.container.image_file(places.work_dir)),
    )
