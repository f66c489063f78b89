"""Sweeps made at random, written with dotted keys, with mappings or with both, and what their jobs must come to."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from hypothesis import strategies as st

BASE: dict[str, Any] = {
    "stage": None,
    "backend": {"options": {"x": 1, "y": {"p": 1, "q": 2}, "z": 0}},
    "slurm": {"env": {"A": "a", "KEPT": "k"}},
    "metadata": {"t": 0},
}
"""A config to which the sweeps are applied."""
PATHS = (
    "backend.options.x",
    "backend.options.y.p",
    "backend.options.y.q",
    "backend.options.z",
    "slurm.env.A",
    "slurm.env.B",
    "metadata.t",
    "metadata.u.v",
)
Values = dict[str, Any]


@dataclass(frozen=True)
class Factor:
    """A group: axes by path, or entries; what is in `staged` entries names a stage. `inner` are its defaults."""

    axes: dict[str, list[Any]]
    entries: list[Values]
    inner: Values

    def choices(self) -> list[Values]:
        """What each point of it chooses."""
        if self.entries:
            return self.entries
        return [dict(zip(self.axes, values, strict=True)) for values in product(*self.axes.values())]


@dataclass(frozen=True)
class Made:
    """A sweep: its factors, how they combine, and its defaults."""

    factors: tuple[Factor, ...]
    kind: str
    outer: Values

    def jobs(self) -> list[list[tuple[str, Any]]]:
        """For each job the values to set, one after another, each the value of one path."""
        combined = (
            product(*(factor.choices() for factor in self.factors))
            if self.kind == "product"
            else [(choice,) for factor in self.factors for choice in factor.choices()]
        )
        owners = [[factor] for factor in self.factors for _ in factor.choices()]
        found = []
        for number, choices in enumerate(combined):
            inners = [factor.inner for factor in (self.factors if self.kind == "product" else owners[number])]
            ordered = sorted(choices, key=lambda choice: "stage" in choice)
            found.append([item for values in (self.outer, *inners, *ordered) for item in values.items()])
        return found


VALUES = st.integers(0, 99) | st.sampled_from(["w", "a b", None, [1, 2]])
INNER = st.dictionaries(st.sampled_from(PATHS), VALUES, max_size=2)


@st.composite
def sweeps(draw: st.DrawFn) -> Made:
    """Sweeps whose factors choose different paths where they are multiplied, but for stages."""
    kind = draw(st.sampled_from(["product", "list"]))
    order = draw(st.permutations(PATHS))
    factors = []
    staged = False
    for number in range(draw(st.integers(1, 3))):
        paths = order[number * 2 : number * 2 + 2] if kind == "product" else draw(st.permutations(PATHS))[:2]
        axes: dict[str, list[Any]] = {}
        entries: list[Values] = []
        if draw(st.booleans()):
            values = st.lists(VALUES, min_size=1, max_size=3, unique_by=str)
            axes = {path: draw(values) for path in paths[: draw(st.integers(1, 2))]}
        elif draw(st.booleans()) and not staged:
            staged = True
            some = st.dictionaries(st.sampled_from(PATHS), VALUES, max_size=2)
            entries = [{"stage": name, **draw(some)} for name in ("one", "two")]
        else:
            some = st.dictionaries(st.sampled_from(paths), VALUES, min_size=1, max_size=2)
            entries = draw(st.lists(some, min_size=1, max_size=2))
        factors.append(Factor(axes, entries, draw(INNER)))
    outer = draw(INNER)
    if draw(st.booleans()):
        outer = {"slurm.env": None, **{path: value for path, value in outer.items() if "slurm" not in path}}
    return Made(tuple(factors), kind, outer)


def shaped(draw: st.DrawFn, values: Values, *, lists: bool = False) -> dict[str, Any]:
    """The same values with each path cut anywhere: `a.b.c: 1`, `a.b: {c: 1}`, `a: {b: {c: 1}}`."""
    block: dict[str, Any] = {}
    for path, value in values.items():
        parts = path.split(".")
        cut = len(parts) if value is None and path == "slurm.env" else draw(st.integers(1, len(parts)))
        node, rest = block, [".".join(parts[:cut]), *parts[cut:]]
        for part in rest[:-1]:
            node = node.setdefault(part, {})
        node[rest[-1]] = value if lists or not isinstance(value, list) else [*value]
    return block


@st.composite
def written(draw: st.DrawFn, made: Made) -> dict[str, Any]:
    """A sweep section that says it."""
    groups = []
    for factor in made.factors:
        group: dict[str, Any] = {"defaults": shaped(draw, factor.inner)} if factor.inner else {}
        if factor.entries:
            group["configs"] = [shaped(draw, entry) for entry in factor.entries]
        else:
            group["params"] = shaped(draw, factor.axes, lists=True)
        groups.append(group)
    return {"type": made.kind, "defaults": shaped(draw, made.outer), "groups": groups}


def set_in(tree: Any, path: str, value: Any) -> None:
    """Set one value, making the mappings above it."""
    *parents, last = path.split(".")
    for part in parents:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[last] = value
