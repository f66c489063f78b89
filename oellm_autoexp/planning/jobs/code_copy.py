"""Where the jobs of a plan run if they have a copy of the code (project.code), and what of them is in it. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from oellm_autoexp.backends.base import Note
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG

if TYPE_CHECKING:  # a session is shown without what plans are made of
    from oellm_autoexp.backends.base import Command
    from oellm_autoexp.config.schema import AutoexpConfig, ProjectSection
    from oellm_autoexp.planning.resolving.provenance import PlanContext

_SEARCH_PATH = "PYTHONPATH"
"""A variable that names folders of code only."""
_FEW = 3


@dataclass(frozen=True)
class Snapshot:
    """A copy of a checkout for the jobs of a plan: `files` of its `top` are copied into `folder`.

    Jobs run in `work_dir`. A word of theirs that is the path of such a file is that of the copy: the program, scripts
    among its words (also `--option=PATH`), the launcher's, and variables. Of folders only those of PYTHONPATH are, as
    another one may be a place to write to, or hold data that git ignores. A relative path in one of the `places` where
    the job writes, as seen from `origin`, where the plan was made, is whole there: the copy has no such folder.
    """

    top: str
    folder: str
    work_dir: str
    origin: str
    places: tuple[str, ...]
    files: frozenset[str] = frozenset()
    """The files of the copy, relative to `top`."""
    _folders: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def of(cls, top: str, origin: str, folder: str, places: tuple[str, ...], files: Iterable[str] = ()) -> Snapshot:
        """The snapshot in `folder` of the checkout at `top`, in which the plan was made at `origin`."""
        held = frozenset(files)
        folders = {parent for name in held for parent in _parents(name)}
        place = posixpath.normpath(posixpath.join(folder, posixpath.relpath(origin, top)))
        return cls(top, folder, place, origin, places, held, frozenset(folders))

    def command(self, command: Command) -> Command:
        """A program's command as it is in the copy."""
        return replace(command, argv=self.words(command.argv), env=self.variables(command.env))

    def config(self, config: AutoexpConfig) -> AutoexpConfig:
        """A config whose launcher and variables name the copy."""
        slurm, container = config.slurm, config.container
        of_slurm = {"launcher_cmd": self.words(slurm.launcher_cmd), "env": self.variables(slurm.env)}
        changed = {
            "slurm": slurm.model_copy(update=of_slurm),
            "container": container.model_copy(update={"env": self.variables(container.env)}),
        }
        return config.model_copy(update=changed)

    def words(self, words: Sequence[str]) -> tuple[str, ...]:
        """The words of a command."""
        return tuple(map(self._word, words))

    def variables(self, env: Mapping[str, Any]) -> dict[str, Any]:
        """Variables, also those that name several paths with colons between them."""
        return {
            name: ":".join(self._path(part, folders=name == _SEARCH_PATH) for part in value.split(":"))
            if isinstance(value, str)
            else value
            for name, value in env.items()
        }

    def notes(self, script: str) -> list[Note]:
        """What of the checkout itself a script names, but for where its job writes."""
        known = (self.folder, *self.places)
        named = re.finditer(rf"(?<![\w./-]){re.escape(self.top)}(?:/[^\s'\";:,=]*)?(?![\w.-])", script)
        used = list(dict.fromkeys(one[0] for one in named if not script.startswith(known, one.start())))
        if not used:
            return []
        more = f" and {len(used) - _FEW} more" if len(used) > _FEW else ""
        what = f"{', '.join(used[:_FEW])}{more}"
        hint = "the copy of the code has them only as paths of its files, or relative to where the plan is made"
        return [Note(f"in place {what}", f"jobs use {what} of the checkout itself (project.code: snapshot): {hint}")]

    def _word(self, word: str) -> str:
        option, sign, path = word.partition("=") if word.startswith("-") else ("", "", word)
        return f"{option}{sign}{self._path(path)}"

    def _path(self, path: str, *, folders: bool = False) -> str:
        if "/" in path and not path.startswith("/"):
            whole = posixpath.normpath(posixpath.join(self.origin, path))
            return whole if any(f"{whole}/".startswith(f"{place}/") for place in self.places) else path
        inside = posixpath.relpath(path, self.top) if f"{path}/".startswith(f"{self.top}/") else ""
        if inside in self.files or (folders and inside in self._folders):
            return posixpath.normpath(posixpath.join(self.folder, inside))
        return path


def _parents(name: str) -> Iterable[str]:
    """The folders that a file is in; `.` is the top."""
    while name := posixpath.dirname(name):
        yield name
    yield "."


def snapshot_for(
    project: ProjectSection,
    context: PlanContext,
    folder: str,
    places: tuple[str, ...],
    files: Callable[[str], Iterable[str]],
) -> Snapshot | None:
    """The copy that a job runs, in `folder`; None where it runs the code as it is.

    `places` are where the job writes; `files` lists those of the checkout at a path. Raises ConfigError.
    """
    if project.code == "inplace":
        return None
    top = str(context.git.get("top") or "")
    if not top or not f"{context.work_dir}/".startswith(f"{top}/"):
        hint = "plan in a checkout that has a commit, or set project.code: inplace"
        if context.git_trouble:
            what = f"the git checkout here can't be copied: {context.git_trouble}"
            raise ConfigError(Problem(what, CONFIG / "project.code", "or set project.code: inplace"))
        raise ConfigError(Problem("there is no git checkout here to copy", CONFIG / "project.code", hint))
    return Snapshot.of(top, str(context.work_dir), str(context.code_dir or folder), places, files(top))
