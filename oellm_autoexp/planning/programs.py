"""What this machine has of what a plan starts: training programs that judge their own arguments, files, containers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Timer

from oellm_autoexp.backends.base import Probe
from oellm_autoexp.backends.megatron.versions import VERSIONS
from oellm_autoexp.config.hydra.yaml_files import text_of
from oellm_autoexp.core.errors import BackendError, Problem, raise_all
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.schedulers.base import client_of

_PATIENCE_SECONDS = 600  # for the program to start
_PATIENCE_SECONDS_EACH = 10
_MAKING = "scripts/generate_megatron_dataclass.py --name"


def ask(probes: Iterable[Probe], progress: Callable[[], None] = lambda: None) -> None:
    """Let the programs check their own arguments, each started once. Raises BackendError with all that they refuse.

    `progress` is called with every answer.
    """
    by_program: dict[tuple[str, ...], list[Probe]] = defaultdict(list)
    for probe in probes:
        by_program[probe.program].append(probe)
    found = [problem for program, asked in by_program.items() for problem in _problems(program, asked, progress)]
    raise_all(BackendError, dict.fromkeys(found))


def absent(files: Iterable[str], image: str = "") -> tuple[str, ...]:
    """A note for each file that is not here: on this machine, or in the image in which this program runs."""
    if image:
        place, hint = f"in the image {image}", "name another image, or build it from a checkout that has all submodules"
    else:
        place, hint = "on this machine", "if the container does not have it either, get it or name another one"
    get = "git submodule update --init"
    return tuple(f"{file} is not {place}; {hint}: {get}" for file in files if not Path(file).exists())


def of_other_versions(versions: Mapping[str, str]) -> tuple[str, ...]:
    """A note for each script of Megatron-LM (path → version) whose checkout here is of another version."""
    notes = []
    for script, version in versions.items():
        info = Path(script).parent / "megatron/core/package_info.py"
        if not info.is_file():
            continue
        found = dict(re.findall(r"^(MAJOR|MINOR) = (\d+)$", text_of(info), re.MULTILINE))
        here = f"core_v{found.get('MAJOR')}_{found.get('MINOR')}"
        if len(found) == 2 and not version.startswith(f"{here}_"):
            table = f"set backend.version={here}_0" if f"{here}_0" in VERSIONS else f"make its table ({_MAKING})"
            notes.append(
                f"{script} is of {here}_*, and backend.version is {version}: {table}, or name another checkout"
            )
    return tuple(notes)


def _problems(program: tuple[str, ...], probes: Sequence[Probe], progress: Callable[[], None]) -> list[Problem]:
    first = probes[0]
    try:
        answers, failure = _answers(program, probes, progress)
    except OSError as error:
        return [Problem(f"can't ask {program[0]}: {error}", first.where, first.help)]
    if failure:
        return [Problem(f"can't ask the program itself: {failure}", first.where, first.help)]
    refused: dict[tuple[str, Location], list[str]] = defaultdict(list)
    for probe, line in zip(probes, answers, strict=True):
        for what in json.loads(line):
            refused[what, probe.where] += probe.jobs
    return [Problem(f"{_named(jobs)} would be refused: {what}", where) for (what, where), jobs in refused.items()]


def _named(jobs: Sequence[str]) -> str:
    """`job a`, or `job a and 3 others`."""
    if not jobs:
        return "it"
    others = len(jobs) - 1
    return f"job {jobs[0]}" + (f" and {others} other{'s' * (others > 1)}" if others else "")


def _answers(program: tuple[str, ...], probes: Sequence[Probe], progress: Callable[[], None]) -> tuple[list[str], str]:
    """One line of output for each question, and why lines are missing. Raises OSError if it can't be started."""
    patience = _PATIENCE_SECONDS + _PATIENCE_SECONDS_EACH * len(probes)
    with tempfile.TemporaryFile("w+") as questions, tempfile.TemporaryFile("w+", errors="replace") as said:
        questions.writelines(f"{json.dumps(dict(probe.question))}\n" for probe in probes)
        questions.seek(0)
        environment = {**os.environ, "NO_VCS_VERSION": "1"}  # else Megatron asks git for its version
        answers = []
        with subprocess.Popen(
            program, stdin=questions, stdout=subprocess.PIPE, stderr=said, text=True, errors="replace", env=environment
        ) as child:
            late = Timer(patience, child.kill)
            late.start()
            try:
                for line in child.stdout or ():
                    if line.startswith("["):
                        answers.append(line)
                        progress()
            except BaseException:
                child.kill()
                raise
            finally:
                too_late = not late.is_alive()
                late.cancel()
        if child.returncode == 0 and len(answers) == len(probes):
            return answers, ""
        said.seek(0)
        lines = said.read().strip().splitlines()
    if too_late:
        lines = [f"it took more than {patience} seconds"]
    return answers, (lines or [f"exit code {child.returncode}"])[-1]


def container_problems(manifest: Manifest) -> list[Problem]:
    """Why the jobs of a plan could not run in their containers, if these are visible from this machine."""
    client = client_of(manifest)
    away = client.is_slurm and Path(manifest.slurm["submit_cmd"][0]).name != "sbatch"
    if not manifest.container or away or client.is_fake:
        return []
    from oellm_autoexp.containers import ready  # most plans have no container

    return ready.problems(manifest.container, manifest.provenance["work_dir"])
