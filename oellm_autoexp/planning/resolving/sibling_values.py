"""What `${sibling.STAGE.FIELD}` is for a job: a value of the config of another job of the same sweep. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from oellm_autoexp.config.values.compiled import Path
from oellm_autoexp.config.values.interpolation import where
from oellm_autoexp.config.values.overlay import Applied
from oellm_autoexp.core.errors import ConfigError, Problem, SweepError
from oellm_autoexp.planning.resolving.group_choices import ChosenConfigs
from oellm_autoexp.sweep.siblings import Member, Siblings, order

PROJECT_FIELDS = ("name", "output_dir", "log_path", "log_path_current")
"""`${sibling.STAGE.name}` is short for `${sibling.STAGE.project.name}`, and so with the others."""
_PATHS = ("output_dir", "log_path", "log_path_current")


class SiblingValues:
    """The values that jobs read from their siblings' configs; `uses` names these siblings for each job."""

    def __init__(
        self,
        members: Sequence[Member],
        configs: ChosenConfigs,
        tree: Callable[[int], Applied],
        absolute: Callable[[str], str],
    ) -> None:
        """`tree` gives the unresolved config of the job with a number."""
        self._members = members
        self._siblings = Siblings(members)
        self._configs = configs
        self._tree = tree
        self._absolute = absolute
        self._under_way: list[tuple[int, str]] = []
        self.uses: dict[int, dict[int, None]] = {}

    def of(self, member: Member) -> Callable[[tuple[str, ...]], Any]:
        """What answers `sibling.STAGE.FIELD` for a job. Raises SweepError."""

        def value(path: tuple[str, ...]) -> Any:
            stage, field = self._siblings.named(path)
            if not field:
                raise SweepError(Problem(f"'sibling.{stage}' names a job", hint=f"write sibling.{stage}.output_dir"))
            other = self._siblings.of(member, stage)
            self.uses.setdefault(member.index, {})[other.index] = None
            return self._value_of(other, field, f"sibling.{'.'.join(path)}")

        return value

    def check_order(self) -> None:
        """Raises SweepError naming a circle, if there is one among the jobs whose configs have been evaluated."""
        if any(self.uses.values()):
            names = {m.index: f"{m.stage} (job {m.index})" for m in self._members}
            order({index: list(used) for index, used in self.uses.items()}, names)

    def _value_of(self, member: Member, field: tuple[str, ...], called: str) -> Any:
        path = ("project", *field) if field[0] in PROJECT_FIELDS and len(field) == 1 else field
        found = self._found_in(member, path, called)
        if path == ("project", "log_path") and re.search("%[jJAaxN]", str(found).replace("%%", "")):
            found = self._found_in(member, ("project", "log_path_current"), called)  # of the attempt that counts
        return self._absolute(found) if path[0] == "project" and path[-1] in _PATHS else found

    def _found_in(self, member: Member, path: tuple[str, ...], called: str) -> Any:
        step = (member.index, ".".join(path))
        if step in self._under_way:
            steps = self._under_way[self._under_way.index(step) :]
            first = steps.index(min(steps))  # it is the same circle, whichever job is looked at
            steps = [*steps[first:], *steps[:first], steps[first]]
            circle = " → ".join(f"{self._members[i].stage}.{name}" for i, name in steps)
            raise SweepError(Problem(f"jobs refer to each other in a circle: {circle}"))
        self._under_way.append(step)
        try:
            tree, siblings = self._tree(member.index), self.of(member)
            return self._configs.overlay_of(member.point).at(tree, path, siblings, called)
        except ConfigError as error:
            raise ConfigError(*(_with_fields(problem, path, called) for problem in error.problems)) from None
        finally:
            self._under_way.pop()


def _with_fields(problem: Problem, path: Path, called: str) -> Problem:
    """The problem of a value that a sibling does not have, with those that it has."""
    if problem.about != where(path):
        return problem
    stage = called.removesuffix(f".{'.'.join(path)}")
    fields = f"{stage} has {', '.join(PROJECT_FIELDS)}, and the keys of its config ({stage}.slurm.sbatch.nodes)"
    return replace(problem, hint=" ".join(filter(None, (problem.hint, fields))))
