"""All jobs of a plan: each by itself, and what is wrong with them together. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from oellm_autoexp.core.errors import (
    AutoexpError,
    BackendError,
    Collector,
    ConfigError,
    Problem,
    SweepError,
    raise_all,
)
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.text import plural
from oellm_autoexp.planning.checks import twins
from oellm_autoexp.planning.checks.job_checks import ReadTemplate
from oellm_autoexp.planning.checks.places_checks import check_places
from oellm_autoexp.planning.checks.plan_checks import LISTED, check_job_names, check_unique
from oellm_autoexp.planning.jobs.job_planner import JobPlanner, PlannedJob, plan_job
from oellm_autoexp.planning.resolving.filters import ENOUGH_PROBLEMS
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.planning.resolving.resolve import SweepResolver
from oellm_autoexp.sbatch.times import TIME

_THOROUGHLY = 20  # jobs whose mistakes are all reported; the others most likely have the same ones
_ENOUGH_WRONG = 200


class AllJobs:
    """The jobs of a sweep, planned by `planner`; `notes` are what a person should know of them together."""

    def __init__(
        self, jobs: SweepResolver, planner: JobPlanner, context: PlanContext, read_template: ReadTemplate
    ) -> None:
        self.notes: list[str] = []
        self._jobs = jobs
        self._planner = planner
        self._context = context
        self._read_template = read_template

    def planned(self, subset: frozenset[int] | None, progress: Callable[[int, int], None]) -> list[PlannedJob]:
        """Every job, in order. Raises the collected problems."""
        found = Collector()
        wanted = [index for index in range(len(self._jobs)) if subset is None or index in subset]
        if subset is not None and (unknown := sorted(subset - set(wanted))):
            listed = ", ".join(map(str, unknown[:LISTED])) + (", …" if len(unknown) > LISTED else "")
            hint = f"the indices are 0 to {len(self._jobs) - 1}"
            found.add([Problem(f"no job has index {listed}", "--array-subset", hint)])
        planned: list[PlannedJob] = []
        rough: list[JobSpec] = []
        wrong = 0
        for done, index in enumerate(wanted):
            try:
                planned.append(self._planner.checked(index, thoroughly=wrong < _THOROUGHLY))
            except (ConfigError, BackendError) as error:
                of_job = (replace(problem, job=index) for problem in error.problems)
                found.add(self._jobs.placed(index, of_job), type(error))
                rough += self._planner.rough(index) if wrong < _THOROUGHLY else []
                wrong += 1
                if found.kinds >= ENOUGH_PROBLEMS or wrong >= _ENOUGH_WRONG:
                    if left := len(wanted) - done - 1:
                        what = f"{left} of {plural(len(wanted), 'job')} were not checked, after so many problems"
                        found.add([Problem(what, CONFIG / "sweep")])
                    break
            progress(done, len(wanted))
        if planned and not wrong:
            with found.step():
                self._check_later_attempts()
            with found.step():
                self._check_twins([job.spec.index for job in planned])
        with found.step():
            check_unique([*(job.spec for job in planned), *rough])
        found.raise_all()
        if subset is not None:
            planned = self._without_those_left_out(planned)
        with found.step():
            check_job_names([job.spec for job in planned])
        with found.step():
            self._jobs.check_order()
        found.raise_all()
        names = {job.spec.index: job.spec.name for job in planned}
        planned = [
            replace(job, spec=job.spec.model_copy(update={"depends_on": tuple(parents)})) if parents else job
            for job in planned
            for parents in ([names[index] for index in job.siblings if index in names],)
        ]
        check_places([(job.spec, job.places) for job in planned])
        return planned

    def _without_those_left_out(self, planned: list[PlannedJob]) -> list[PlannedJob]:
        """The jobs of a part of the plan: neither waiting for siblings that are not in it, nor cancelled by them."""
        names = {job.spec.name for job in planned}
        indices = {job.spec.index for job in planned}
        alone = [job.spec.name for job in planned if not indices.issuperset(job.siblings)]
        if alone:
            self.notes.append(
                f"{plural(len(alone), 'job')} of this part ({alone[0]}{', …' if len(alone) > 1 else ''}) "
                "would wait for jobs that --array-subset leaves out; this dependency is ignored"
            )
        kept = []
        for job in planned:
            left = [each for each in job.spec.cancel_conditions if each.get("job_name", job.spec.name) in names]
            kept.append(replace(job, spec=job.spec.model_copy(update={"cancel_conditions": tuple(left)})))
        return kept

    def _check_twins(self, indices: list[int]) -> None:
        """Raises SweepError for jobs that are the same, which is a note where the sweep allows it."""
        found = twins.twins(self._jobs, indices)
        if found and not self._jobs.allows_duplicates():
            raise SweepError(twins.problem(found, len(indices)))
        if found:
            self.notes.append(twins.summary(found, len(indices)))

    def _check_later_attempts(self) -> None:
        """Raises ConfigError for new attempts that could not be planned: of each stage, one job with their values."""
        problems = []
        for index, place, values in self._planner.gathered.later.values():
            limit = self._planner.automatic.get(index)
            values = {TIME: limit, **values} if limit else values
            try:
                plan_job(self._jobs.overriding(index, values), self._context, self._read_template, index)
            except AutoexpError as error:
                # but that the overrides themselves could not be set: they are, already, in this config
                problems += [Problem(p.sentence, place, p.hint) for p in error.problems if not _is_at(p.where, place)]
        raise_all(ConfigError, problems)


def _is_at(where: Location, place: Location) -> bool:
    """Whether a key is the one at a place, or below it."""
    keys = place.keys or ()
    return (where.keys or ())[: len(keys)] == keys
