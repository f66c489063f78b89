"""Which points of a sweep become jobs: their filters are evaluated, and so is the stage of each. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oellm_autoexp.config.values.expressions import evaluate
from oellm_autoexp.config.values.interpolation import MISSING
from oellm_autoexp.config.values.overlay import Applied, Overlay
from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem, SweepError
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.planning.resolving.group_choices import ChosenConfigs
from oellm_autoexp.sweep.expander import Filter, Point
from oellm_autoexp.sweep.paths import plain

ENOUGH_PROBLEMS = 20
_ENOUGH_WRONG = 100  # points with mistakes: the others most likely have the same ones


def filtered(points: Sequence[Point], configs: ChosenConfigs) -> list[tuple[Point, str | None]]:
    """The points that their filters keep, with their stages. Raises ConfigError or SweepError with all mistakes."""
    kept: list[tuple[Point, str | None]] = []
    problems: dict[Problem, type[AutoexpError]] = {}
    wrong = 0
    for point in points:
        try:
            tree = _tree_to_judge(point, configs)
            if tree is None or _passes(point, configs, tree):
                kept.append((point, _stage(point, configs, tree)))
        except AutoexpError as error:
            problems.update(dict.fromkeys(error.problems, type(error)))
            wrong += 1
            if wrong == _ENOUGH_WRONG or len(problems) >= ENOUGH_PROBLEMS:
                break
    if problems:
        raise (ConfigError if ConfigError in problems.values() else SweepError)(*problems)
    return kept


def _tree_to_judge(point: Point, configs: ChosenConfigs) -> Applied | None:
    """The config of a point, where its filters or its stage need it."""
    stages = [value for key, value in point.values.items() if plain(key) == "stage"]
    if len(stages) == 1 and isinstance(stages[0], str) and "${" not in stages[0] and not point.filters:
        return None
    tree = configs.apply(point)
    tree["index"] = MISSING
    return tree


def _passes(point: Point, configs: ChosenConfigs, tree: Applied) -> bool:
    overlay = configs.overlay_of(point)
    return all(_holds(overlay, tree, condition) for condition in point.filters)


def _stage(point: Point, configs: ChosenConfigs, tree: Applied | None) -> str | None:
    if tree is None:
        return str(next(value for key, value in point.values.items() if plain(key) == "stage"))
    stage = tree.get("stage")
    if isinstance(stage, str) and "${" in stage:
        stage = configs.overlay_of(point).select(tree, stage)
    return None if stage is None else str(stage)


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
