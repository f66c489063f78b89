"""Where the jobs of a plan run if they have a copy of the code (project.code). Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG

if TYPE_CHECKING:  # a session is shown without what plans are made of
    from oellm_autoexp.config.schema import ProjectSection
    from oellm_autoexp.planning.resolving.provenance import PlanContext


@dataclass(frozen=True)
class Snapshot:
    """A copy of a checkout for the jobs of a plan: its `top` is copied into `folder`, and jobs run in `work_dir`."""

    top: str
    folder: str
    work_dir: str

    @classmethod
    def of(cls, top: str, work_dir: str, folder: str) -> Snapshot:
        """The snapshot in `folder` of the checkout at `top`, in which the plan was made at `work_dir`."""
        return cls(top, folder, posixpath.normpath(posixpath.join(folder, posixpath.relpath(work_dir, top))))

    def moved(self, words: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
        """Words of which those that are one of these files of the checkout name its copy."""
        copies = {
            file: f"{self.folder}{file.removeprefix(self.top)}" for file in files if file.startswith(f"{self.top}/")
        }
        return tuple(copies.get(word, word) for word in words)


def snapshot_for(project: ProjectSection, context: PlanContext, place: str) -> Snapshot | None:
    """The copy that a job runs, in the folder `place`; None where it runs the code as it is. Raises ConfigError."""
    if project.code == "inplace":
        return None
    top = str(context.git.get("top") or "")
    if not top or not f"{context.work_dir}/".startswith(f"{top}/"):
        hint = "plan in a checkout that has a commit, or set project.code: inplace"
        if context.git_trouble:
            what = f"the git checkout here can't be copied: {context.git_trouble}"
            raise ConfigError(Problem(what, CONFIG / "project.code", "or set project.code: inplace"))
        raise ConfigError(Problem("there is no git checkout here to copy", CONFIG / "project.code", hint))
    return Snapshot.of(top, str(context.work_dir), str(context.code_dir or place))
