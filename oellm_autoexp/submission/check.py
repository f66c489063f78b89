"""Checks by other programs: bash and the scheduler judge a plan's scripts, each kind of script once."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import BackendError, ConfigError, Problem, raise_all
from oellm_autoexp.core.location import in_file
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.planning.programs import container_problems
from oellm_autoexp.planning.record.secret_marks import NO_VALUE
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.sbatch.directives import array_group, directive_lines, options
from oellm_autoexp.sbatch.resources import resources
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.schedulers.base import Scheduler
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


def _later_problems(manifest: Manifest, jobs: Iterable[JobSpec], scheduler: Scheduler, *, test: bool) -> list[Problem]:
    """Problems of new attempts of these jobs, for rules whose overrides are known."""
    from oellm_autoexp.planning.checks.rule_checks import known_overrides  # a watch needs no planner

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
