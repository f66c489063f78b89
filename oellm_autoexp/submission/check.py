"""Checks by other programs: bash, the scheduler and the training programs judge a plan, each kind of script once."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

from oellm_autoexp.backends.base import Probe
from oellm_autoexp.backends.megatron.versions import VERSIONS
from oellm_autoexp.config.hydra.yaml_files import text_of
from oellm_autoexp.containers import ready
from oellm_autoexp.core.errors import BackendError, ConfigError, Problem, raise_all
from oellm_autoexp.core.location import Location, in_file
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.planning.checks.rule_checks import known_overrides
from oellm_autoexp.planning.record.secret_marks import NO_VALUE
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.sbatch.directives import array_group, directive_lines, options
from oellm_autoexp.sbatch.resources import resources
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.schedulers.base import Scheduler, client_of
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import write_atomic
from oellm_autoexp.submission.attempts import make_script, script_place


def check(manifest: Manifest, scheduler: Scheduler, *, test: bool = False) -> None:
    """Raise ConfigError with all that bash or the scheduler would refuse, or that would wait for ever.

    That of later attempts, too, whose overrides are known (RestartAction). `test`: the scheduler is also asked to judge
    one script of each kind as if it were submitted.
    """
    with trust.each_folder_once():
        kinds = _kinds(manifest)
    scripts = {job.script_path: text for job, text in kinds}
    problems = [problem for path, text in scripts.items() for problem in _syntax(path, text)]
    problems += container_problems(manifest)
    problems += scheduler.check(scripts, test=test)
    raise_all(ConfigError, problems or _later_problems(manifest, [job for job, _ in kinds], scheduler, test=test))


def container_problems(manifest: Manifest) -> list[Problem]:
    """Why the jobs of a plan could not run in their containers, if these are visible from this machine."""
    client = client_of(manifest)
    away = client.is_slurm and Path(manifest.slurm["submit_cmd"][0]).name != "sbatch"
    if away or client.is_fake:
        return []
    return ready.problems(manifest.container or (), manifest.provenance["work_dir"])


def _later_problems(manifest: Manifest, jobs: Iterable[JobSpec], scheduler: Scheduler, *, test: bool) -> list[Problem]:
    """Problems of new attempts of these jobs, for rules whose overrides are known."""
    checks = AttemptChecks(scheduler)
    found: dict[Problem, None] = {}
    for job in jobs:
        section = manifest.monitoring if job.monitoring is None else job.monitoring
        rules = Rules.of_section(section)
        for place, overrides in known_overrides(rules):
            for problem in checks.overrides(manifest, job, 2, overrides, (), test=test):
                if problem.what != NO_VALUE:  # it may be set where the monitor runs
                    found[Problem(problem.what, place, problem.hint)] = None
    return list(found)


class AttemptChecks:
    """Checks scripts of later attempts as a plan's are, before they are written.

    What the scheduler says of directives is asked for once, and again after a minute: many jobs begin anew at once.
    """

    def __init__(self, scheduler: Scheduler, now: Callable[[], float] = time.monotonic) -> None:
        self._scheduler = scheduler
        self._now = now
        self._judgements: dict[str, tuple[float, list[Problem]]] = {}

    def check(self, spec: JobSpec, path: str, text: str) -> None:
        """Check a script of a job. Raises ConfigError with what bash or the scheduler would refuse.

        What the plan's own script has against it is left out: that was submitted all the same.
        """
        raise_all(ConfigError, self.problems(spec, path, text))

    def overrides(
        self,
        manifest: Manifest,
        spec: JobSpec,
        attempt: int,
        overrides: Mapping[str, Any],
        excluded: Iterable[str],
        *,
        test: bool = False,
    ) -> list[Problem]:
        """Problems of an attempt of a job with these overrides; nothing is written. Raises StateError."""
        try:
            text = make_script(manifest, spec, overrides, excluded)
            if text is None:
                return []
            resources(options(text))
        except (ConfigError, BackendError) as error:
            return list(error.problems)
        return self.problems(spec, str(script_place(spec, attempt)), text, test=test)

    def problems(self, spec: JobSpec, path: str, text: str, *, test: bool = False) -> list[Problem]:
        """Problems of a script, as in `check`; with `test` the scheduler judges it, too (`sbatch --test-only`)."""
        found = [*_syntax(path, text), *self._asked(path, text)]
        if found:
            known = {problem.what for problem in self._asked(spec.script_path, _read(spec))}
            found = [problem for problem in found if problem.what not in known]
        found = found or (self._tested(path, text) if test else [])
        return [problem if problem.where.keys else replace(problem, where=in_file(path)) for problem in found]

    def _asked(self, path: str, text: str) -> list[Problem]:
        kind = array_group(directive_lines(text), "")
        at, problems = self._judgements.get(kind, (-math.inf, []))
        if self._now() - at > _FRESH_SECONDS:
            self._judgements[kind] = at, problems = self._now(), self._scheduler.check({path: text})
        return problems

    def _tested(self, path: str, text: str) -> list[Problem]:
        """Problems that the scheduler finds in a script, which is written to a temporary file for that."""
        place = Path(path).parent.with_name(f".{Path(path).parent.name}.sbatch")
        try:
            write_atomic(place, text, 0o700)
            return self._scheduler.check({str(place): text}, test=True)
        except OSError as error:
            return [Problem(f"can't be written for the test: {error.strerror}", str(place))]
        finally:
            place.unlink(missing_ok=True)


_FRESH_SECONDS = 60.0
_PATIENCE_SECONDS = 600  # for the program to start
_PATIENCE_SECONDS_EACH = 10


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


_MAKING = "scripts/generate_megatron_dataclass.py --name"


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


def _kinds(manifest: Manifest) -> list[tuple[JobSpec, str]]:
    """A job of each stage and set of directives with its script: values are quoted, so that others are like it.

    Raises ConfigError, StateError; also where another user owns the folder that a job writes its marks to.
    """
    found: dict[tuple[str | None, str], tuple[JobSpec, str]] = {}
    for job in manifest.jobs:
        trust.check_owner(Path(job.output_dir, MARKS))
        text = _read(job, Path(manifest.base_output_dir))
        found.setdefault((job.stage, array_group(directive_lines(text), "")), (job, text))
    return list(found.values())


def _read(job: JobSpec, root: Path | None = None) -> str:
    """A job's script, as it was planned; `root` as in trust.open_file. Raises ConfigError, StateError."""
    try:
        return trust.read_script(Path(job.script_path), job.script_digest, root)
    except OSError as error:
        hint = "plan again" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(Problem(f"can't read the script: {error.strerror}", job.script_path, hint)) from None


def _syntax(path: str, text: str) -> list[Problem]:
    """What `bash -n` says of a script, which is or will be at `path`."""
    if "bash" not in text.partition("\n")[0]:
        return []
    words = ["bash", "-n"]
    result = subprocess.run(words, input=text, capture_output=True, text=True, errors="replace", check=False)
    said = result.stderr.strip().splitlines()
    return [Problem(f"bash -n: {said[0] if said else 'failed'}", path)] if result.returncode else []
