"""What is wrong with a config, collected while it is composed, so that all of it is reported together. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import KeyPath

EVERYTHING: KeyPath = ()
"""The path below which nothing is known: a file that holds any part of the config can't be read."""
FilePath = tuple[str, ...]
"""The keys and indices from the root of a file to a value; () is the whole file."""
LeftOut = frozenset[tuple[str, FilePath]]
"""Values of files: of each the file's name, and its path in it."""


@dataclass
class Findings:
    """The mistakes found so far, and what was left out of the config so that the rest could be composed and checked.

    `unclear` are paths in the config whose values nobody knows because of a mistake: nothing is said about them.
    """

    problems: dict[Problem, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    unclear: dict[KeyPath, None] = field(default_factory=dict)
    left_out: dict[str, set[FilePath]] = field(default_factory=lambda: defaultdict(set))
    """By the file's name."""

    @property
    def all_left_out(self) -> LeftOut:
        """The values that were left out, of all files."""
        return frozenset((file, path) for file, paths in self.left_out.items() for path in paths)

    def add(self, problems: Iterable[Problem], *unclear: KeyPath) -> None:
        """Keep problems, and the paths whose values are unclear because of them."""
        self.problems.update(dict.fromkeys(problems))
        self.unclear.update(dict.fromkeys(unclear))

    @property
    def hopeless(self) -> bool:
        """Whether nothing more can be said about the config."""
        return EVERYTHING in self.unclear


def within(path: KeyPath, other: KeyPath) -> bool:
    """Whether a path is another one or lies below it."""
    return path[: len(other)] == other


def uncertain(problem: Problem, unclear: Iterable[KeyPath]) -> bool:
    """Whether a problem is at, above or because of a path whose value nobody knows, and so may be none."""
    places = [*problem.where.paths(), *problem.about.paths()]
    return any(within(place, path) or within(path, place) for path in unclear for place in places)
