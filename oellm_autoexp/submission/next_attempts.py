"""The next attempts of jobs, ready for submission, with a new script if the plan's does not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from oellm_autoexp.core.errors import AutoexpError, BackendError, ConfigError, StateError
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.decisions import submissions
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage import trust
from oellm_autoexp.submission.attempts import write_script
from oellm_autoexp.submission.outcomes import Outcomes

_GONE = (FileNotFoundError, NotADirectoryError, PermissionError)


class NextAttempts:
    """The next attempts of a session's jobs. A job whose files can't be used waits for them, and finally fails."""

    def __init__(self, manifest: Manifest, session: Session, outcomes: Outcomes, *, now: Callable[[], float]) -> None:
        self._manifest = manifest
        self._session = session
        self._outcomes = outcomes
        self._now = now
        self._specs = {job.name: job for job in manifest.jobs}

    def spec(self, name: str) -> JobSpec | None:
        """The job to submit, with a new script if needed; None if it can't be submitted now."""
        spec, job, now = self._specs[name], self._session.jobs[name], self._now()
        if job.waiting.retry_at > now:
            if job.waiting.files_missing_since is None or self._unusable_files(spec, job):
                return None
            job = submissions.tried_at_once(replace(job, waiting=replace(job.waiting, files_missing_since=None)))
            self._session.put(job)  # they are as they should be: it goes at once
        if not job.changes.script_path and (job.changes.excluded or job.changes.overrides):
            try:
                written = write_script(
                    self._manifest, spec, job.attempt + 1, job.changes.overrides, job.changes.excluded
                )
            except (ConfigError, BackendError) as error:
                self._outcomes.refused_for_good(job, f"its script can't be written: {error.problems[0].what}", now)
                return None
            except AutoexpError as error:
                self._outcomes.without_files(job, f"its script can't be written: {error.problems[0].what}", now)
                return None
            if written is not None:
                path, asked, made = written
                changes = replace(job.changes, script_path=path, resources=asked, script_digest=made)
                job = replace(job, changes=changes)
                self._session.put(job)
        if unusable := self._unusable_files(spec, job):
            self._outcomes.without_files(job, unusable, now)
            return None
        if not job.changes.script_path:
            return spec
        own: dict[str, object] = {"script_path": job.changes.script_path, "script_digest": job.changes.script_digest}
        own["resources"] = job.changes.resources or spec.resources
        if spec.array_group is not None:  # still a task of an array, whose directives are those of this script
            own["array_group"] = f"{spec.array_group} {name} {job.attempt}"
        return spec.model_copy(update=own)

    def _unusable_files(self, spec: JobSpec, job: JobState) -> str:
        """Why a job can't be submitted with its present files; '' if it can. Only this job waits for them."""
        path, digest = (
            (job.changes.script_path, job.changes.script_digest)
            if job.changes.script_path
            else (spec.script_path, spec.script_digest)
        )
        return _missing_folder(spec.work_dir) or odd_script(self._manifest, path, digest)


def odd_script(manifest: Manifest, path: str, expected: str) -> str:
    """Why a script must not run: it is missing, was changed, or belongs to another user; else ''."""
    try:
        trust.read_script(Path(path), expected, Path(manifest.base_output_dir))
    except StateError as error:
        return f"the script can't be trusted: {error.problems[0].what}: {error.problems[0].where}"
    except OSError as error:  # others are reported by the scheduler in its words
        return f"the script {path} no longer exists" if isinstance(error, _GONE) else ""
    return ""


def _missing_folder(work_dir: str) -> str:
    """A message if the working directory of a job is missing; '' if it exists."""
    if not os.access(work_dir, os.X_OK):
        return f"the working directory {work_dir} no longer exists"
    return ""
