"""From a composed config to each job's own: points, filters, group choices, siblings. Pure but for composing a choice.

Nothing is kept of a job but its point and its stage; its config is evaluated when it is asked for, and of its siblings
only the values that it refers to. So ten thousand jobs cost no more memory than their points.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

from oellm_autoexp.config.expressions import evaluate
from oellm_autoexp.config.loader import Composed
from oellm_autoexp.config.overlay import Laid, Overlay
from oellm_autoexp.errors import ConfigError, Problem, SweepError
from oellm_autoexp.sweep.expander import Point, expand
from oellm_autoexp.sweep.siblings import Member, Siblings, order
from oellm_autoexp.text import plural
from oellm_autoexp.workflow.provenance import Circumstances

_PROJECT_FIELDS = ("name", "output_dir", "log_path", "log_path_current")
"""`${sibling.STAGE.name}` is short for `${sibling.STAGE.project.name}`, and so with the others."""
_PATHS = ("output_dir", "log_path", "log_path_current")


class Jobs:
    """The jobs of a composed config, in the order of the sweep, numbered from 0 after filtering.

    Raises SweepError or ConfigError: the sweep is wrong, a filter fails or removes everything.
    """

    def __init__(self, composed: Composed, circumstances: Circumstances) -> None:
        self._composed = composed
        self._circumstances = circumstances
        self._work_dir = str(circumstances.work_dir)
        self._overlays: dict[tuple[str, ...], Overlay] = {}
        points = expand(composed.sweep)
        kept = [(point, stage) for point in points if (stage := self._kept(point)) is not None]
        if points and not kept:
            raise SweepError(Problem(f"the filter removes all {plural(len(points), 'job')}", "$.sweep.filter"))
        self.members = [Member(index, stage[0], point) for index, (point, stage) in enumerate(kept)]
        self._begin()

    def _begin(self) -> None:
        """Nothing is known yet of what the members come to."""
        self._siblings = Siblings(self.members)
        self._tree = lru_cache(maxsize=64)(self._laid)
        self._uses: dict[int, dict[int, None]] = {}
        self._under_way: list[tuple[int, str]] = []

    def overriding(self, index: int, values: Mapping[str, Any]) -> Jobs:
        """The same jobs, of which one has further values (by dotted key) over those of its point.

        Filters are not asked again. Raises nothing: wrong values are told when the job's config is asked for.
        """
        jobs = copy(self)
        member = self.members[index]
        jobs.members = [*self.members]
        jobs.members[index] = replace(member, point=member.point | Point(chosen=values))
        jobs._begin()
        return jobs

    def chosen(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """The unresolved configs of the group choices that the sweep has made so far, by those choices."""
        return {choices: overlay.base for choices, overlay in self._overlays.items() if choices}

    def __len__(self) -> int:
        return len(self.members)

    def base(self) -> dict[str, Any]:
        """The config without the sweep's values, resolved. Raises ConfigError."""
        overlay = self._overlay(())
        return overlay.resolve(overlay.lay({}))

    def config(self, index: int) -> dict[str, Any]:
        """A job's whole config, resolved; shares what it can with others', so it is for reading. Raises ConfigError."""
        member = self.members[index]
        self._uses[index] = {}
        overlay = self._overlay_of(member.point)
        return overlay.resolve(self._tree(index), self._sibling_values(member))

    def depends_on(self, index: int) -> list[int]:
        """The siblings that a job refers to, once its config was evaluated."""
        return list(self._uses[index])

    def check_order(self) -> None:
        """Raises SweepError naming a circle, if there is one among the jobs whose configs have been evaluated."""
        if any(self._uses.values()):
            names = {m.index: f"{m.stage} (job {m.index})" for m in self.members}
            order({index: list(used) for index, used in self._uses.items()}, names)

    # -----------------------------------------------------------------------------------------------------------------

    def _overlay(self, choices: tuple[str, ...]) -> Overlay:
        """The overlay of the config with these group choices; each distinct choice is composed once."""
        if choices not in self._overlays:
            composed = self._composed.choosing(choices) if choices else self._composed
            around = self._circumstances
            self._overlays[choices] = composed.overlay(around.environment, around.now, around.python)
        return self._overlays[choices]

    def _overlay_of(self, point: Point) -> Overlay:
        return self._overlay(self._choices(point))

    def _choices(self, point: Point) -> tuple[str, ...]:
        chosen = ((key, value) for key, value in point.values.items() if self._composed.is_choice(key, value))
        return tuple(key if value is None else f"{key}={value}" for key, value in chosen)

    def _values(self, point: Point) -> dict[str, Any]:
        return {key: value for key, value in point.values.items() if not self._composed.is_choice(key, value)}

    def _laid(self, index: int) -> Laid:
        point = self.members[index].point
        tree = self._overlay_of(point).lay(self._values(point))
        tree["index"] = index
        return tree

    def _kept(self, point: Point) -> tuple[str | None] | None:
        """The point's stage (in a tuple, as it may be None) if its filters keep it, else None."""
        stage = point.values.get("stage")
        if isinstance(stage, str) and "${" not in stage and not point.filters:
            return (stage,)
        overlay = self._overlay_of(point)
        tree = overlay.lay(self._values(point))
        for text in point.filters:
            if not self._holds(overlay, tree, text):
                return None
        stage = tree.get("stage")
        if isinstance(stage, str) and "${" in stage:
            stage = overlay.select(tree, stage)
        return (None if stage is None else str(stage),)

    def _holds(self, overlay: Overlay, tree: Laid, text: str) -> bool:
        try:
            value = overlay.select(tree, text)
            return bool(evaluate(value, _Names(overlay, tree)) if isinstance(value, str) else value)
        except ConfigError as error:
            raise SweepError(*(Problem(p.what, "$.sweep.filter", p.hint) for p in error.problems)) from None

    def _sibling_values(self, member: Member) -> Callable[[tuple[str, ...]], Any]:
        """What answers `sibling.STAGE.FIELD` for a job. Raises SweepError."""

        def value(path: tuple[str, ...]) -> Any:
            stage, *field = path
            if not field:
                raise SweepError(Problem(f"'sibling.{stage}' names a job", hint=f"write sibling.{stage}.output_dir"))
            other = self._siblings.of(member, stage)
            self._uses.setdefault(member.index, {})[other.index] = None
            return self._value_of(other, tuple(field))

        return value

    def _value_of(self, member: Member, field: tuple[str, ...]) -> Any:
        path = ("project", *field) if field[0] in _PROJECT_FIELDS and len(field) == 1 else field
        step = (member.index, ".".join(path))
        if step in self._under_way:
            circle = " → ".join(f"{self.members[i].stage}.{name}" for i, name in (*self._under_way, step))
            raise SweepError(Problem(f"jobs refer to each other in a circle: {circle}"))
        self._under_way.append(step)
        try:
            found = self._overlay_of(member.point).at(self._tree(member.index), path, self._sibling_values(member))
        finally:
            self._under_way.pop()
        return self.absolute(found) if path[0] == "project" and path[-1] in _PATHS else found

    def absolute(self, path: str) -> str:
        """A path of the config, from the directory that the plan is made in."""
        return posixpath.normpath(posixpath.join(self._work_dir, posixpath.expanduser(path)))


class _Names(Mapping[str, Any]):
    """The values of a job's config by dotted path, for filters that name them without `${}`."""

    def __init__(self, overlay: Overlay, tree: Laid) -> None:
        self._overlay = overlay
        self._tree = tree

    def __getitem__(self, key: str) -> Any:
        try:
            return self._overlay.at(self._tree, tuple(key.split(".")))
        except ConfigError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)
