"""Which jobs go to the scheduler together: as tasks of one array, or alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oellm_autoexp.core.nouns import JobSpec, Manifest, Submission
from oellm_autoexp.sbatch.log_paths import slurm_path


@dataclass(frozen=True)
class Ready:
    """A job that may go now; `after` are the ids of jobs in the queue whose success the scheduler is to await.

    `attempt`: the number of the attempt that this is, from 1.
    """

    spec: JobSpec
    after: tuple[str, ...] = ()
    attempt: int = 1


@dataclass(frozen=True)
class Batch:
    """Jobs of one submission, by their task; a job that goes alone has the task None.

    A chain is an array that one job has for itself: its task is the number of the link that is the next attempt.
    """

    jobs: Mapping[int | None, JobSpec]
    dependency: str = ""

    @property
    def is_array(self) -> bool:
        """Whether the jobs are the tasks of an array."""
        return None not in self.jobs and not self.is_chain

    @property
    def is_chain(self) -> bool:
        """Whether this is one job whose links are the tasks of an array."""
        return any(job.chain is not None for job in self.jobs.values())

    def halves(self) -> tuple[Batch, Batch]:
        """Two arrays in the place of this one; tasks that correspond to those of another array keep their numbers."""
        tasks = list(self.jobs)
        middle = len(tasks) // 2
        return self._part(tasks[:middle]), self._part(tasks[middle:])

    def _part(self, tasks: Sequence[int | None]) -> Batch:
        numbers = tasks if self.dependency else range(len(tasks))
        return Batch({number: self.jobs[task] for number, task in zip(numbers, tasks, strict=True)}, self.dependency)


def batches(ready: Iterable[Ready], largest: int) -> list[Batch]:
    """Arrays of jobs that are alike, of at most `largest` tasks (0: no arrays), and the others alone; by first jobs.

    An array that waits for the tasks of another one has their task numbers (sbatch(1): aftercorr).
    """
    groups: dict[tuple[str, ...], dict[int | None, JobSpec]] = {}
    parts: dict[tuple[str, str], int] = {}  # the part that a group is at, as one array has a largest size
    for job in ready:
        if job.spec.chain is not None:
            groups["", _afterok(job.after), job.spec.name] = {job.attempt: job.spec}
            continue
        array, task = _corresponding(job.after)
        if job.spec.array_group is None or largest < 1 or (job.after and array is None):
            groups["", _afterok(job.after), job.spec.name] = {None: job.spec}
            continue
        kind = (job.spec.array_group, f"aftercorr:{array}" if array else "")
        members = groups.setdefault((*kind, str(parts.setdefault(kind, 0))), {})
        if task in members or (array is None and len(members) == largest):
            parts[kind] += 1
            members = groups.setdefault((*kind, str(parts[kind])), {})
        members[len(members) if task is None else task] = job.spec
    return [Batch(jobs, dependency) for (_, dependency, _), jobs in groups.items()]


def _afterok(ids: tuple[str, ...]) -> str:
    return "afterok:" + ":".join(ids) if ids else ""


def followed(dependency: str, task: int | None) -> tuple[str, ...]:
    """The ids of the jobs that a job, or a task of an array, waits for in the queue by this dependency."""
    kind, *ids = dependency.split(":")
    return tuple(f"{array}_{task}" for array in ids) if kind == "aftercorr" else tuple(ids)


def _corresponding(after: tuple[str, ...]) -> tuple[str | None, int | None]:
    """The array and the task that a job waits for, if it waits for exactly one such task."""
    array, _, task = after[0].partition("_") if len(after) == 1 else ("", "", "")
    return (array, int(task)) if task else (None, None)


def array_folder(manifest: Manifest, token: str) -> Path:
    """Where the script of a submitted array is, with a folder for each task."""
    return Path(manifest.base_output_dir, "manifests", f"{manifest.plan_id}.arrays", token)


def submission(manifest: Manifest, token: str, batch: Batch) -> Submission:
    """What the scheduler is handed for a batch."""
    task, first = next(iter(batch.jobs.items()))
    limit = first.resources.time_limit_seconds
    if not batch.is_array:
        links = () if task is None else range(task, (first.last_link(task) or task) + 1)
        return Submission(
            token,
            first.name,
            first.script_path,
            first.work_dir,
            first.log_path,
            limit,
            array=tuple(links),
            array_limit=1 if links else None,
            dependency=batch.dependency,
            script_digest=first.script_digest,
        )
    folder = array_folder(manifest, token)
    return Submission(
        token,
        manifest.project,
        str(folder / "array.sbatch"),
        first.work_dir,
        f"{slurm_path(str(folder))}/%a/{log_name(first)}",
        limit,
        array=tuple(sorted(task for task in batch.jobs if task is not None)),
        array_limit=manifest.slurm["array_task_limit"],
        dependency=batch.dependency,
    )


def log_name(job: JobSpec) -> str:
    """The log's path below the job's output directory, with its patterns."""
    return job.log_path.removeprefix(f"{slurm_path(job.output_dir)}/")
