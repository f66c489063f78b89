"""The text of a job's sbatch script: a pure function of a template and the job's section."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.nouns import Chain
from oellm_autoexp.core.text import Raw, did_you_mean, shell
from oellm_autoexp.sbatch.chains.links import NEEDED_FUNCTION, waiting, with_chain
from oellm_autoexp.sbatch.directives import OWN, directive_lines, is_no_command, is_own_line, options
from oellm_autoexp.sbatch.environment import exports, module_lines
from oellm_autoexp.sbatch.launch import LAUNCHER_VARIABLE, Launcher
from oellm_autoexp.sbatch.log_paths import log_word, slurm_path
from oellm_autoexp.sbatch.options import quoted, too_much
from oellm_autoexp.sbatch.signals import forwarding, signal_to_shell

MARKS = "marks"
"""Folder in a job's output directory: `<id>.start` (seconds since 1970) and `<id>.exit` (exit code of the script).

`<id>.replaced` holds the token of an attempt that must not run again: a newer one was submitted.
"""
_MARKER = re.compile(r"\{\{(\w+)\}\}")
_OF_BASH = re.compile(r"#!\s*\S*(?:/|\s)bash\b")
_MARKERS = ("directives", "name", "env", "work_dir", "log", "marks", "command", "run")


class InSteps(Protocol):
    """How a script runs its program more than once: sbatch/in_job/steps.py."""

    def environment(self, names: Iterable[str], lines: str) -> str:
        """The lines that set these variables, for each run once more."""

    def run(self, command: str, asked: signal.Signals | None, *, of_chain: bool) -> str:
        """The lines that run the command, and pass this signal of the script's shell on to it."""


def render(
    template: str,
    *,
    name: str,
    lines: Sequence[str],
    env: Mapping[str, str | Raw],
    work_dir: str,
    marks: str,
    log_path: str = "",
    launcher: Launcher,
    argv: Sequence[str | Raw],
    for_slurm: bool = True,
    modules: Sequence[str] = (),
    more: str = "",
    chain: Chain | None = None,
    steps: InSteps | None = None,
) -> str:
    """The whole script of a job. `modules` are commands of `module`; they come before the variables in `{{env}}`, and
    the lines `more` after them.

    `{{command}}` becomes one simple command: the launcher, which LAUNCHER_VARIABLE replaces, and the program. `{{run}}`
    is the same and, for a job that asks for `--signal=B:…`, passes that signal on to it; its status is the command's.
    `{{log}}` is the path of the log as a word of shell (`log_path` has SLURM's patterns). `for_slurm`: every srun
    in the script gets what the job asks for and nothing else (environment.py). A job that is a `chain` has its checks
    in `{{run}}`, and waits for earlier links at the end of `{{env}}`. `steps`: the program runs in steps.

    Raises ConfigError: sbatch would refuse the template; it lacks a marker or has an unknown one; or a text holds a
    NUL, which no argument of a program can have.
    """
    found = _MARKER.findall(template)
    problems = [*_template_problems(template)]
    written: dict[Location | str, Iterable[str | Raw]]
    written = {CONFIG / "backend": (*launcher.words, *argv), "the environment": env.values()}
    problems += [
        Problem("it contains a NUL character", where)
        for where, words in written.items()
        if "\0" in "".join(map(str, words))
    ]
    problems += [
        Problem(
            f"unknown marker {{{{{marker}}}}} in the template",
            CONFIG / "slurm.template_path",
            did_you_mean(marker, _MARKERS),
        )
        for marker in dict.fromkeys(found)
        if marker not in _MARKERS
    ]
    if chain is not None and (lacking := [part for part in ("{{run}}", NEEDED_FUNCTION) if part not in template]):
        hint = "see the shipped template"
        problems.append(Problem(f"job.chain needs {lacking[0]} in the template", CONFIG / "slurm.template_path", hint))
    problems += [
        Problem(f"the template has no {{{{{marker}}}}}", CONFIG / "slurm.template_path", "see the shipped template")
        for marker, wanted in (("directives", {"directives"}), ("env", {"env"}), ("command", {"command", "run"}))
        if not wanted & {*found}
    ]
    if steps is not None and not ("run" in found and "autoexp_in_marks()" in template and _OF_BASH.match(template)):
        what = "restarts in the job and preflight checks need a script of bash with {{run}} and autoexp_in_marks()"
        problems.append(Problem(what, CONFIG / "slurm.template_path", "begin with a copy of the shipped template"))
    if problems:
        raise ConfigError(*problems)
    command = launcher.command(argv)
    to_shell = signal_to_shell("\n".join((*lines, *directive_lines(template))))
    variables = "\n".join(filter(None, (module_lines(modules) + exports(env, for_slurm=for_slurm), more)))
    run = launcher.guard() + forwarding(command, to_shell)
    if steps is not None:
        own = "\n".join(filter(None, (exports(env, for_slurm=False), more)))
        variables = module_lines(modules) + exports({}, for_slurm=for_slurm) + steps.environment(env, own)
        run = launcher.guard() + steps.run(command, to_shell, of_chain=chain is not None)
    if chain is not None and for_slurm:
        variables = "\n".join(filter(None, (variables, waiting(LAUNCHER_VARIABLE))))
    values = {
        "directives": "\n".join(lines),
        "name": " ".join(name.split()),
        "env": variables,
        "work_dir": shell([work_dir]),
        "log": log_word(log_path),
        "marks": shell([marks]),
        "command": command,
        "run": run if chain is None else with_chain(run, chain, LAUNCHER_VARIABLE, by_slurm=for_slurm),
    }
    return _MARKER.sub(lambda match: values[match.group(1)], template)


@lru_cache(maxsize=8)  # most jobs share one
def _template_problems(template: str) -> tuple[Problem, ...]:
    """What sbatch would refuse, or would silently read in another way than it looks."""
    where = CONFIG / "slurm.template_path"
    problems = []
    if not template.startswith("#!"):
        problems.append(Problem("the template does not begin with #!", where, "begin it with #!/bin/bash"))
    if "\r" in template:
        problems.append(
            Problem("the template has the line ends of Windows", where, "sbatch refuses them: use dos2unix")
        )
    above, marker, _ = template.partition("{{directives}}")
    if marker and not all(map(is_no_command, above.split("\n"))):
        hint = "sbatch reads no directive below the first command"
        problems.append(Problem("{{directives}} is below a command", where, hint))
    # Of two directives the last one counts, so those of a template would overrule those that the program needs.
    own = options(template.replace("{{directives}}", "#"))
    return (
        *problems,
        *(
            Problem(f"the template's '{key.replace('_', '-')}' is set by the program", where, OWN[key])
            for key in own
            if key in OWN
        ),
        *(Problem(why, where) for key, value in own.items() if (why := too_much(key, value))),
    )


def array_script(job_script: str, array_dir: str, log_name: str) -> str:
    """The script of an array whose task `i` runs `<array_dir>/<i>/job.sbatch`, a link to a job's output directory.

    `job_script` is any member's script: its directives, which all members share, are kept but for name, log and
    working directory. `log_name` is the log's path below an output directory, with SLURM's patterns.
    """
    shared = [line for line in directive_lines(job_script) if not is_own_line(line)]
    output = f"#SBATCH --output={quoted(f'{slurm_path(array_dir)}/%a/{log_name}')}"
    interpreter = job_script.partition("\n")[0].removeprefix("#!").strip()
    return "\n".join(
        (
            "#!/bin/bash",
            *shared,
            output,
            "",
            "# Each task runs the script of its own job, unless it has become another user's since.",
            f'script={shell([array_dir])}/"$SLURM_ARRAY_TASK_ID"/job.sbatch',
            '[[ -O $script ]] || { echo "$script is gone, or belongs to another user: it is not run" >&2; exit 1; }',
            f'exec {shell(interpreter.split(maxsplit=1))} "$script"',
            "",
        )
    )
