"""Which job of a plan writes a path: by the jobs' output directories and logs. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from oellm_autoexp.core.nouns import JobSpec


class Writers:
    """Finds the job that a path belongs to. A job's output directory is its own, and so is all that is below it."""

    def __init__(self, jobs: Iterable[JobSpec] = ()) -> None:
        self._folders: dict[str, str] = {}
        self._files: dict[str, str] = {}
        for job in jobs:
            self._folders[posixpath.normpath(job.output_dir)] = job.name
            for log in (job.log_path, job.log_path_current):
                self._files[posixpath.normpath(log)] = job.name

    def of(self, path: str, work_dir: str = "/") -> str:
        """The name of the job that writes a path, relative to `work_dir`; '' if that is not known.

        Of output directories within each other, the innermost counts.
        """
        path = posixpath.normpath(posixpath.join(work_dir, posixpath.expanduser(path)))
        if path in self._files:
            return self._files[path]
        while path not in self._folders:
            above = posixpath.dirname(path)
            if above == path:
                return ""
            path = above
        return self._folders[path]
