"""From a composed config to each job's own: points, filters, group choices, siblings. Pure but for composing a choice.

Nothing is kept of a job but its point and its stage; its config is evaluated when it is asked for, and of its siblings
only the values that it refers to. So ten thousand jobs cost no more memory than their points.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from oellm_autoexp.config.defaults import with_defaults
from oellm_autoexp.config.loader import Composed
from oellm_autoexp.config.values.compiled import Path
from oellm_autoexp.config.values.overlay import Applied, Overlay
from oellm_autoexp.core.errors import ConfigError, Problem, SweepError
from oellm_autoexp.core.text import plural, scalar
from oellm_autoexp.planning.resolving.filters import filtered
from oellm_autoexp.planning.resolving.group_choices import Choices, ChosenConfigs
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.planning.resolving.sibling_values import PROJECT_FIELDS, SiblingValues
from oellm_autoexp.planning.resolving.text_axes import TextAxes
from oellm_autoexp.planning.resolving.trees import evaluated, value_at, without
from oellm_autoexp.sbatch.shell_code import Parts, as_shell_reads
from oellm_autoexp.sweep.axes import with_lists
from oellm_autoexp.sweep.expander import Point, allows_duplicates, expand
from oellm_autoexp.sweep.paths import path_of
from oellm_autoexp.sweep.siblings import Member

PLACES = tuple(f"project.{name}" for name in PROJECT_FIELDS)
"""What is each job's own, and makes no other job of it."""
CONDITIONS = ("start_conditions", "cancel_conditions", "done_conditions")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResolvedJob:
    """One job of a sweep, with its whole config, which shares what it can with others': it is for reading.

    `code` are the parts of those values that hold shell code, by dotted key: one that the sweep, or a new attempt, has
    set in the place of one from a YAML file is text. `siblings` are the numbers of the jobs that it refers to.
    """

    point: Point
    config: dict[str, Any]
    code: Mapping[str, Parts]
    groups_chosen: frozenset[str]
    siblings: tuple[int, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        """The values that the sweep sets, by dotted key; those that refer to others as they are in this job."""
        return {
            key: value
            if isinstance(value, int | float | None)
            else evaluated(value, value_at(self.config, path_of(key)))
            for key, value in self.point.values.items()
        }


class SweepResolver:
    """The jobs of a composed config, in the order of the sweep, numbered from 0 after filtering.

    Raises SweepError or ConfigError: the sweep is wrong, a filter fails or removes everything.
    """

    def __init__(self, composed: Composed, context: PlanContext) -> None:
        self._composed = composed
        self._configs = ChosenConfigs(composed, context)
        self._axes = TextAxes(composed.sweep, self._configs)
        self.absolute = from_directory(str(context.work_dir))
        points = expand(with_lists(composed.sweep, self._axes.values))
        kept = filtered(points, self._configs)
        if points and not kept:
            where = points[0].filters[0].where
            raise SweepError(Problem(f"the filter removes all {plural(len(points), 'job')}", where))
        self.members = [Member(index, stage, point) for index, (point, stage) in enumerate(kept)]
        _log.info("%s, of which the filters keep %s", plural(len(points), "point"), plural(len(kept), "job"))
        self._begin()

    def _begin(self) -> None:
        """Nothing is known yet of what the members come to."""
        self._tree = lru_cache(maxsize=64)(self._laid)
        self._siblings = SiblingValues(self.members, self._configs, self._tree, self.absolute)

    def overriding(self, index: int, values: Mapping[str, Any]) -> SweepResolver:
        """The same jobs, of which one has further values (by dotted key) over those of its point.

        Filters are not asked again. Raises nothing: wrong values are reported when the job's config is asked for.
        """
        jobs = copy(self)
        member = self.members[index]
        jobs.members = [*self.members]
        jobs.members[index] = replace(member, point=member.point | Point(staged=values))
        jobs._begin()
        return jobs

    def __len__(self) -> int:
        return len(self.members)

    def allows_duplicates(self) -> bool:
        """Whether several jobs may be the same."""
        return allows_duplicates(self._composed.sweep)

    def chosen(self) -> dict[Choices, Composed]:
        """The configs of the group choices that the sweep has made so far, by those choices."""
        return self._configs.made()

    def check_order(self) -> None:
        """Raises SweepError naming a circle, if there is one among the jobs whose configs have been evaluated."""
        self._siblings.check_order()

    def base(self) -> dict[str, Any]:
        """The config without the sweep's values, resolved. Raises ConfigError."""
        overlay = self._configs.overlay(())
        return overlay.resolve(overlay.apply({}))

    # ---- one job

    def job(self, index: int) -> ResolvedJob:
        """A job with its whole config. Raises ConfigError or SweepError."""
        config = self.config(index)
        choices = self._choices_of(index)
        return ResolvedJob(
            self.members[index].point,
            config,
            self._code(index, choices),
            frozenset(choice.partition("=")[0] for choice in choices),
            tuple(self._siblings.uses[index]),
        )

    def config(self, index: int) -> dict[str, Any]:
        """A job's whole config, resolved, for reading. Raises ConfigError."""
        member = self.members[index]
        self._siblings.uses[index] = {}
        found = self._overlay_of(index).resolve(self._tree(index), self._siblings.of(member))
        self._axes.check(member.point, found)
        return found

    def config_mostly(self, index: int) -> tuple[dict[str, Any], dict[Path, ConfigError]]:
        """As `config`, with what can't be evaluated left as it is, and reported by its path. Raises ConfigError."""
        return self._overlay_of(index).resolve_mostly(self._tree(index), self._siblings.of(self.members[index]))

    def value(self, index: int, path: Sequence[Any]) -> Any:
        """The resolved value at a path of a job's config, through lists, too. Raises ConfigError."""
        return self._overlay_of(index).at(self._tree(index), tuple(path), self._siblings.of(self.members[index]))

    def written_value(self, index: int, path: Path) -> Any:
        """The resolved value at a path of a job's config, as a config would have it. Raises ConfigError."""
        return self._overlay_of(index).written(self._tree(index), path, self._siblings.of(self.members[index]))

    def parts(self, index: int, paths: Iterable[Path]) -> tuple[dict[Path, Any], dict[Path, ConfigError]]:
        """The resolved values at those of some paths where a job has any, and why others can't be evaluated.

        Raises ConfigError.
        """
        found, failed = {}, {}
        for path in paths:
            if value_at(self._tree(index), path) is not None:
                try:
                    found[path] = self.value(index, path)
                except ConfigError as error:
                    failed[path] = error
        return found, failed

    def nameless(self, index: int) -> dict[str, Any]:
        """A job's resolved config with a name and places that all jobs have in common here, and no index.

        Raises ConfigError.
        """
        member = self.members[index]
        point = member.point | Point(staged={key: f"/{key}" for key in PLACES})
        tree = self._laid_for(replace(member, point=point))
        found = self._configs.overlay_of(point).resolve(tree, self._siblings.of(member))
        return {key: value for key, value in found.items() if key != "index"}

    def written(self, index: int) -> dict[str, Any]:
        """A job's config as a file would say it: interpolations are text, what only the schema says is left out.

        Raises ConfigError.
        """
        tree, base = self._tree(index), self._configs.config(self._choices_of(index)).base
        filled, added = with_defaults(base)
        paths = {tuple(key.split(".")) for key in added}
        found = without(tree, {path for path in paths if value_at(tree, path) == value_at(filled, path)})
        return {**found, "index": base.get("index", 0)}

    def base_of(self, index: int) -> dict[str, Any]:
        """The unresolved config that a job's point is applied to."""
        return self._overlay_of(index).base

    def placed(self, index: int, problems: Iterable[Problem]) -> list[Problem]:
        """Problems of a job, in the files of those configs that the sweep chooses for it, if it does."""
        chosen = self._configs.made().get(self._choices_of(index))
        return [*map(chosen.locations.placed, problems)] if chosen else [*problems]

    # ----

    def _choices_of(self, index: int) -> Choices:
        return self._configs.choices(self.members[index].point)

    def _overlay_of(self, index: int) -> Overlay:
        return self._configs.overlay(self._choices_of(index))

    def _code(self, index: int, choices: Choices) -> dict[str, Parts]:
        code = self._configs.config(choices).code
        if not code:
            return {}
        overlay, tree = self._configs.overlay(choices), self._tree(index)
        found = {}
        for key, parts in code.items():
            path = path_of(key)[:3] if key.startswith("slurm.env.") else path_of(key)[:2]
            if value_at(tree, path) == value_at(overlay.base, path):
                found[key] = tuple(
                    as_shell_reads(part)
                    if number % 2
                    else (scalar(overlay.select(tree, part)) if "${" in part else part)
                    for number, part in enumerate(parts)
                )
        return found

    def _laid(self, index: int) -> Applied:
        return self._laid_for(self.members[index])

    def _laid_for(self, member: Member) -> Applied:
        tree = self._configs.apply(member.point)
        tree["index"] = member.index
        self._leave_out_own_stage(tree, member)
        return tree

    def _leave_out_own_stage(self, tree: Applied, member: Member) -> None:
        """Drop those of the conditions for all jobs that are about the stage which the job is in itself.

        `job.start_conditions` outside of the sweep can so let one stage wait for another.
        """
        base, job = self._configs.overlay_of(member.point).base.get("job"), tree.get("job")
        if member.stage is None or not isinstance(base, dict) or not isinstance(job, dict):
            return
        own = f"${{sibling.{member.stage}."
        for key in CONDITIONS:
            everyones = base.get(key)
            if job.get(key) is everyones and isinstance(everyones, list) and own in str(everyones):
                tree["job"] = job = {**job, key: [each for each in everyones if own not in str(each)]}
                tree.changed.append(("job", key))


def from_directory(directory: str) -> Callable[[str], str]:
    """What makes a path of a config absolute that is meant from a directory."""

    @lru_cache(maxsize=256)  # the jobs of a plan share folders, and each asks several times
    def absolute(path: str) -> str:
        return posixpath.normpath(posixpath.join(directory, posixpath.expanduser(path)))

    return absolute


def without_sweep(composed: Composed, context: PlanContext) -> tuple[dict[str, Any], dict[Path, ConfigError]]:
    """The config without the sweep's values, resolved but for what can't be, and that by its path."""
    overlay = composed.overlay(context.environment, context.now, context.python)
    return overlay.resolve_mostly(overlay.apply({}))
