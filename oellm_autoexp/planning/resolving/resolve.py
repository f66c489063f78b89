"""From a composed config to each job's own: points, filters, group choices, siblings. Pure but for composing a choice.

Nothing is kept of a job but its point and its stage; its config is evaluated when it is asked for, and of its siblings
only the values that it refers to. So ten thousand jobs cost no more memory than their points.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from oellm_autoexp.config.loader import Composed, Places
from oellm_autoexp.config.values.expressions import evaluate
from oellm_autoexp.config.values.interpolation import MISSING, Path, where
from oellm_autoexp.config.values.overlay import Applied, Overlay
from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem, SweepError
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import plural, scalar
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.sbatch.shell_code import Parts, as_shell_reads
from oellm_autoexp.sweep.axes import with_lists
from oellm_autoexp.sweep.expander import Filter, Point, allows_duplicates, expand, keys_set
from oellm_autoexp.sweep.paths import path_of, plain
from oellm_autoexp.sweep.siblings import Member, Siblings, order

_PROJECT_FIELDS = ("name", "output_dir", "log_path", "log_path_current")
"""`${sibling.STAGE.name}` is short for `${sibling.STAGE.project.name}`, and so with the others."""
_PATHS = ("output_dir", "log_path", "log_path_current")
PLACES = tuple(f"project.{name}" for name in _PROJECT_FIELDS)
"""What is each job's own, and makes no other job of it."""
_CONDITIONS = ("start_conditions", "cancel_conditions", "done_conditions")
ENOUGH_PROBLEMS = 20
_ENOUGH_WRONG = 100  # points with mistakes: the others most likely have the same ones
_log = logging.getLogger(__name__)


class SweepResolver:
    """The jobs of a composed config, in the order of the sweep, numbered from 0 after filtering.

    Raises SweepError or ConfigError: the sweep is wrong, a filter fails or removes everything.
    """

    def __init__(self, composed: Composed, circumstances: PlanContext) -> None:
        self._composed = composed
        self._circumstances = circumstances
        self._work_dir = str(circumstances.work_dir)
        self._overlays: dict[tuple[str, ...], Overlay] = {}
        self._wrong: dict[tuple[str, ...], tuple[Problem, ...]] = {}
        self._chosen: dict[tuple[str, ...], dict[str, Any]] = {}
        self._places: dict[tuple[str, ...], Places] = {}
        self._code: dict[tuple[str, ...], Mapping[str, Parts]] = {}
        self._not_listed: set[str] = set()
        points = expand(with_lists(composed.sweep, self._listed))
        kept = self._filtered(points)
        if points and not kept:
            where = points[0].filters[0].where
            raise SweepError(Problem(f"the filter removes all {plural(len(points), 'job')}", where))
        self.members = [Member(index, stage, point) for index, (point, stage) in enumerate(kept)]
        _log.info("%s, of which the filters keep %s", plural(len(points), "point"), plural(len(kept), "job"))
        self._begin()

    def _begin(self) -> None:
        """Nothing is known yet of what the members come to."""
        self._siblings = Siblings(self.members)
        self._tree = lru_cache(maxsize=64)(self._laid)
        self._uses: dict[int, dict[int, None]] = {}
        self._under_way: list[tuple[int, str]] = []

    def overriding(self, index: int, values: Mapping[str, Any]) -> SweepResolver:
        """The same jobs, of which one has further values (by dotted key) over those of its point.

        Filters are not asked again. Raises nothing: wrong values are told when the job's config is asked for.
        """
        jobs = copy(self)
        member = self.members[index]
        jobs.members = [*self.members]
        jobs.members[index] = replace(member, point=member.point | Point(staged=values))
        jobs._begin()
        return jobs

    def code(self, index: int) -> dict[str, Parts]:
        """The parts of those values of a job that hold shell code, by dotted key.

        A value that the sweep, or a new attempt, has set in the place of one from a YAML file is text.
        """
        point = self.members[index].point
        overlay, code = self._overlay_of(point), self._code[self._choices(point)]
        if not code:
            return {}
        tree = self._tree(index)
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

    def code_of_choices(self) -> Mapping[tuple[str, ...], Mapping[str, Parts]]:
        """The shell code in the configs of the group choices that the sweep has made so far, by those choices."""
        return self._code

    def chosen(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """The unresolved configs of the group choices that the sweep has made so far, by those choices."""
        return self._chosen

    def groups_chosen(self, index: int) -> frozenset[str]:
        """The config groups of which the sweep chooses a config for a job."""
        return frozenset(choice.partition("=")[0] for choice in self._choices(self.members[index].point))

    def placed(self, index: int, problems: Iterable[Problem]) -> list[Problem]:
        """Problems of a job, in the files of those configs that the sweep chooses for it, if it does."""
        places = self._places.get(self._choices(self.members[index].point))
        return [*map(places.placed, problems)] if places else [*problems]

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
        found = overlay.resolve(self._tree(index), self._sibling_values(member))
        if self._not_listed:
            self._check_lists(member, found)
        return found

    def config_mostly(self, index: int) -> tuple[dict[str, Any], dict[Path, ConfigError]]:
        """As `config`, with what can't be evaluated left as it is, and told by its path. Raises ConfigError."""
        member = self.members[index]
        return self._overlay_of(member.point).resolve_mostly(self._tree(index), self._sibling_values(member))

    def parts(self, index: int, paths: Iterable[Path]) -> tuple[dict[Path, Any], dict[Path, ConfigError]]:
        """The resolved values at those of some paths where a job has any, and why others can't be evaluated.

        Raises ConfigError.
        """
        member = self.members[index]
        overlay, tree, siblings = self._overlay_of(member.point), self._tree(index), self._sibling_values(member)
        found, failed = {}, {}
        for path in paths:
            if value_at(tree, path) is not None:
                try:
                    found[path] = overlay.at(tree, path, siblings)
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
        found = self._overlay_of(point).resolve(tree, self._sibling_values(member))
        return {key: value for key, value in found.items() if key != "index"}

    def base_of(self, index: int) -> dict[str, Any]:
        """The unresolved config that a job's point is laid over."""
        return self._overlay_of(self.members[index].point).base

    def allows_duplicates(self) -> bool:
        """Whether several jobs may be the same."""
        return allows_duplicates(self._composed.sweep)

    def depends_on(self, index: int) -> list[int]:
        """The siblings that a job refers to, once its config was evaluated."""
        return list(self._uses[index])

    def check_order(self) -> None:
        """Raises SweepError naming a circle, if there is one among the jobs whose configs have been evaluated."""
        if any(self._uses.values()):
            names = {m.index: f"{m.stage} (job {m.index})" for m in self.members}
            order({index: list(used) for index, used in self._uses.items()}, names)

    # -----------------------------------------------------------------------------------------------------------------

    def _listed(self, key: str, text: str) -> list[Any] | None:
        """The values of an axis of one text: an interpolation to a list, or a text where the config has one, too."""
        if "${" not in text:
            now = value_at(self._composed.base, path_of(key))
            return [text] if isinstance(now, str) and "," in now else None
        overlay, tree = self._beside
        try:
            found = overlay.select(tree, text)
        except ConfigError:
            self._not_listed.add(text)
            return None
        return found if isinstance(found, list) else None

    @cached_property
    def _beside(self) -> tuple[Overlay, Applied]:
        """The config beside the sweep, in which a value that the sweep sets, or that reads one, is an error."""
        overlay = self._overlay(())
        keys = {key.partition("@")[0].replace("/", ".") for key in keys_set(self._composed.sweep)}
        for unknown in ({f"++{key}": MISSING for key in keys}, {}):
            with suppress(ConfigError):
                tree = overlay.lay(unknown)
                break
        tree["index"] = MISSING
        return overlay, tree

    def _check_lists(self, member: Member, config: dict[str, Any]) -> None:
        """Raises SweepError for a list that came out of an axis of one text, which was to be an axis of its values."""
        for key, text in member.point.chosen.items():
            if isinstance(text, str) and text in self._not_listed and isinstance(value_at(config, path_of(key)), list):
                what = f"'{text}' is a list only in the jobs themselves, which make no axis of it"
                hint = f'write the list where the sweep does not set it, or ["{text}"] for one value'
                raise SweepError(Problem(what, CONFIG / plain(key), hint))

    def _overlay(self, choices: tuple[str, ...]) -> Overlay:
        """The overlay of the config with these group choices; each is composed once, also if it is wrong."""
        if choices in self._wrong:
            raise ConfigError(*self._wrong[choices])
        if choices not in self._overlays:
            try:
                composed = self._composed.choosing(choices) if choices else self._composed
            except ConfigError as error:
                places = {Location(text=choice): CONFIG / plain(choice.partition("=")[0]) for choice in choices}
                self._wrong[choices] = _placed(error, places).problems
                raise ConfigError(*self._wrong[choices]) from None
            if choices:
                self._chosen[choices] = composed.base
                self._places[choices] = composed.locations
            self._code[choices] = composed.code
            around = self._circumstances
            self._overlays[choices] = composed.overlay(
                around.environment, around.now, around.python, around.image.get("shipped", "")
            )
        return self._overlays[choices]

    def _overlay_of(self, point: Point) -> Overlay:
        return self._overlay(self._choices(point))

    def _choices(self, point: Point) -> tuple[str, ...]:
        chosen = ((key, value) for key, value in point.values.items() if self._composed.is_choice(key, value))
        return tuple(key if value is None else f"{key}={value}" for key, value in chosen)

    def _lay(self, point: Point) -> Applied:
        """The config with a point's values, unresolved. Raises ConfigError."""
        values = {key: value for key, value in point.values.items() if not self._composed.is_choice(key, value)}
        try:
            return self._overlay_of(point).lay(values)
        except ConfigError as error:
            raise _placed(error, {Location(text=key): CONFIG / plain(key) for key in values}) from None

    def _laid(self, index: int) -> Applied:
        return self._laid_for(self.members[index])

    def _laid_for(self, member: Member) -> Applied:
        tree = self._lay(member.point)
        tree["index"] = member.index
        self._leave_out_own_stage(tree, member)
        return tree

    def _leave_out_own_stage(self, tree: Applied, member: Member) -> None:
        """Drop those of the conditions for all jobs that are about the stage which the job is in itself.

        `job.start_conditions` outside of the sweep can so let one stage wait for another.
        """
        base, job = self._overlay_of(member.point).base.get("job"), tree.get("job")
        if member.stage is None or not isinstance(base, dict) or not isinstance(job, dict):
            return
        own = f"${{sibling.{member.stage}."
        for key in _CONDITIONS:
            everyones = base.get(key)
            if job.get(key) is everyones and isinstance(everyones, list) and own in str(everyones):
                tree["job"] = job = {**job, key: [each for each in everyones if own not in str(each)]}
                tree.changed.append(("job", key))

    def _filtered(self, points: Sequence[Point]) -> list[tuple[Point, str | None]]:
        """The points that their filters keep, with their stages. Raises ConfigError or SweepError with all mistakes."""
        kept: list[tuple[Point, str | None]] = []
        problems: dict[Problem, type[AutoexpError]] = {}
        wrong = 0
        for point in points:
            try:
                tree = self._tree_to_judge(point)
                if tree is None or self._passes(point, tree):
                    kept.append((point, self._stage(point, tree)))
            except AutoexpError as error:
                problems.update(dict.fromkeys(error.problems, type(error)))
                wrong += 1
                if wrong == _ENOUGH_WRONG or len(problems) >= ENOUGH_PROBLEMS:
                    break
        if problems:
            raise (ConfigError if ConfigError in problems.values() else SweepError)(*problems)
        return kept

    def _tree_to_judge(self, point: Point) -> Applied | None:
        """The config of a point, where its filters or its stage need it."""
        stages = [value for key, value in point.values.items() if plain(key) == "stage"]
        if len(stages) == 1 and isinstance(stages[0], str) and "${" not in stages[0] and not point.filters:
            return None
        tree = self._lay(point)
        tree["index"] = MISSING
        return tree

    def _passes(self, point: Point, tree: Applied) -> bool:
        overlay = self._overlay_of(point)
        return all(_holds(overlay, tree, condition) for condition in point.filters)

    def _stage(self, point: Point, tree: Applied | None) -> str | None:
        if tree is None:
            return str(next(value for key, value in point.values.items() if plain(key) == "stage"))
        stage = tree.get("stage")
        if isinstance(stage, str) and "${" in stage:
            stage = self._overlay_of(point).select(tree, stage)
        return None if stage is None else str(stage)

    def _sibling_values(self, member: Member) -> Callable[[tuple[str, ...]], Any]:
        """What answers `sibling.STAGE.FIELD` for a job. Raises SweepError."""

        def value(path: tuple[str, ...]) -> Any:
            stage, field = self._siblings.named(path)
            if not field:
                raise SweepError(Problem(f"'sibling.{stage}' names a job", hint=f"write sibling.{stage}.output_dir"))
            other = self._siblings.of(member, stage)
            self._uses.setdefault(member.index, {})[other.index] = None
            return self._value_of(other, field, f"sibling.{'.'.join(path)}")

        return value

    def _value_of(self, member: Member, field: tuple[str, ...], called: str) -> Any:
        path = ("project", *field) if field[0] in _PROJECT_FIELDS and len(field) == 1 else field
        found = self._found_in(member, path, called)
        if path == ("project", "log_path") and re.search("%[jJAaxN]", str(found).replace("%%", "")):
            found = self._found_in(member, ("project", "log_path_current"), called)  # of the attempt that counts
        return self.absolute(found) if path[0] == "project" and path[-1] in _PATHS else found

    def _found_in(self, member: Member, path: tuple[str, ...], called: str) -> Any:
        step = (member.index, ".".join(path))
        if step in self._under_way:
            steps = self._under_way[self._under_way.index(step) :]
            first = steps.index(min(steps))  # it is the same circle, whichever job is looked at
            steps = [*steps[first:], *steps[:first], steps[first]]
            circle = " → ".join(f"{self.members[i].stage}.{name}" for i, name in steps)
            raise SweepError(Problem(f"jobs refer to each other in a circle: {circle}"))
        self._under_way.append(step)
        try:
            tree, siblings = self._tree(member.index), self._sibling_values(member)
            return self._overlay_of(member.point).at(tree, path, siblings, called)
        except ConfigError as error:
            raise ConfigError(*(_with_fields(problem, path, called) for problem in error.problems)) from None
        finally:
            self._under_way.pop()

    def absolute(self, path: str) -> str:
        """A path of the config, from the directory that the plan is made in."""
        return from_directory(self._work_dir)(path)


def _with_fields(problem: Problem, path: Path, called: str) -> Problem:
    """The problem of a value that a sibling does not have, with those that it has."""
    if problem.about != where(path):
        return problem
    stage = called.removesuffix(f".{'.'.join(path)}")
    fields = f"{stage} has {', '.join(_PROJECT_FIELDS)}, and the keys of its config ({stage}.slurm.sbatch.nodes)"
    return replace(problem, hint=" ".join(filter(None, (problem.hint, fields))))


def from_directory(directory: str) -> Callable[[str], str]:
    """What makes a path of a config absolute that is meant from a directory."""
    return lambda path: posixpath.normpath(posixpath.join(directory, posixpath.expanduser(path)))


def without_sweep(composed: Composed, circumstances: PlanContext) -> tuple[dict[str, Any], dict[Path, ConfigError]]:
    """The config without the sweep's values, resolved but for what can't be, and that by its path."""
    overlay = composed.overlay(circumstances.environment, circumstances.now, circumstances.python)
    return overlay.resolve_mostly(overlay.lay({}))


def value_at(tree: Any, path: Path) -> Any:
    """What stands at a path of mappings; None if there is nothing."""
    for part in path:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _placed(error: ConfigError, places: Mapping[Location, Location]) -> ConfigError:
    """An error whose problems are at these places, with the places that are meant by them."""
    return ConfigError(*(replace(p, where=places.get(p.where, p.where)) for p in error.problems))


def _holds(overlay: Overlay, tree: Applied, condition: Filter) -> bool:
    """Whether a filter holds in a config. Raises SweepError."""
    try:
        value = overlay.select(tree, condition.text)
        return bool(evaluate(value, _Names(overlay, tree)) if isinstance(value, str) else value)
    except ConfigError as error:
        raise SweepError(*(_at_filter(problem, condition) for problem in error.problems)) from None


def _at_filter(problem: Problem, condition: Filter) -> Problem:
    if problem.where == CONFIG / "index":
        return Problem("a filter can't use the index: jobs are numbered after it", condition.where)
    return Problem(problem.what, condition.where, problem.hint)


class _Names(Mapping[str, Any]):
    """The values of a job's config by dotted path, for filters that name them without `${}`."""

    def __init__(self, overlay: Overlay, tree: Applied) -> None:
        self._overlay = overlay
        self._tree = tree

    def __getitem__(self, key: str) -> Any:
        return self._overlay.named(self._tree, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)
