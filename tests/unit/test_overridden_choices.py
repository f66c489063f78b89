"""Choices with `override` in defaults lists, of the experiment and of what it builds on: what counts is as in Hydra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oellm_autoexp.config.composing import VERSION_BASE
from oellm_autoexp.config.loader import Source, load

HEADER = "# @package _global_\n"
GROUPS = ("slurm", "backend", "backend/inner", "job", "sweep")
ROOT = ["backend: a", "slurm: a", "job: a", "sweep: a", "project: a", "_self_"]
CHOICES = ("a", "b", "c")
Lists = Mapping[str, list[str]]
"""By the name of a file, the entries of its defaults list."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups of a few configs each, and a root that chooses of them."""
    made = tmp_path_factory.mktemp("configs")
    for group in (*GROUPS, "project"):
        (made / group).mkdir(parents=True)
        for name in CHOICES:
            inner = "defaults: [inner: a, _self_]\n" if (group, name) == ("backend", "c") else ""
            (made / group / f"{name}.yaml").write_text(f"{inner}name: {name}\n{name}: 1\n")
    write(made, {"autoexp": ROOT})
    return made


def write(folder: Path, lists: Lists) -> None:
    for name, entries in lists.items():
        (folder / f"{name}.yaml").write_text(f"{HEADER}defaults: [{', '.join(entries)}]\n")


def sections(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {group: tree.get(group) or {} for group in ("slurm", "backend", "job", "sweep")}


def planned(folder: Path) -> dict[str, Any]:
    found = load(Source("exp", (folder,)))
    return sections({**found.base, "sweep": found.sweep})


def of_hydra(folder: Path, lists: Lists) -> dict[str, Any]:
    """What Hydra composes of the same files, and of the root without the groups that they choose themselves."""
    chosen = {entry.partition(":")[0] for entries in lists.values() for entry in entries}
    root = [entry for entry in ROOT if f"/{entry.partition(':')[0]}" not in chosen]
    write(folder, {"rest": root, "primary": ["rest", "exp", "_self_"]})
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), **VERSION_BASE):
        return sections(OmegaConf.to_container(compose("primary"), resolve=False))  # type: ignore[arg-type]


LISTS: list[Lists] = [
    {"exp": ["/slurm: b", "override /slurm: c"]},
    {"exp": ["/slurm: [b]", "override /slurm: [c]"]},
    {"exp": ["/slurm: [b, c]", "override /slurm: a"]},
    {"exp": ["/slurm: b", "override /slurm: [c, a]"]},
    {"exp": ["/backend: b", "/slurm: b", "override /backend: c"]},
    {"exp": ["/slurm: b", "_self_", "override /slurm@slurm: c"]},
    {"exp": ["/job: b", "override /job: null"]},
    {"exp": ["/job: null", "override /job: b"]},
    {"exp": ["/job: null", "/sweep: [b, c]"]},
    {"exp": ["override /slurm: b", "override /sweep: null"]},
    {"exp": ["/sweep: a", "override /sweep: b"]},
    {"exp": ["low", "override /slurm: c", "_self_"], "low": ["/slurm: b"]},
    {"exp": ["low", "_self_"], "low": ["/slurm: b", "override /slurm: c"]},
    {"exp": ["mid", "override /slurm: a"], "mid": ["low", "override /slurm: b"], "low": ["/slurm: c"]},
    {"exp": ["mid"], "mid": ["low", "override /slurm: b"], "low": ["/slurm: c", "override /slurm: a"]},
    {"exp": ["low", "mid"], "mid": ["override /slurm: b"], "low": ["/slurm: c"]},
    {"exp": ["/slurm: c", "mid"], "mid": ["override /slurm: b"]},
    {"exp": ["/backend: c", "override /backend/inner: b"]},
    {"exp": ["/backend/inner: b", "override /backend: b"]},
    {"exp": ["low", "override /backend/inner: b"], "low": ["/backend: a", "override /backend: c"]},
]


@pytest.mark.parametrize("lists", LISTS)
def test_what_is_overridden_is_what_hydra_composes(folder: Path, lists: Lists) -> None:
    write(folder, lists)
    assert planned(folder) == of_hydra(folder, lists)


@st.composite
def entries(draw: st.DrawFn, *builds_on: str) -> list[str]:
    """A defaults list: other files and choices in any order, and those with `override` at its end."""

    def choice(group: str) -> str:
        several = st.lists(st.sampled_from(CHOICES), min_size=1, max_size=2, unique=True)
        of_group = st.sampled_from(CHOICES) | several.map(lambda names: f"[{', '.join(names)}]")
        return draw(of_group | st.just("null") if group in ("job", "sweep") else of_group)

    def line(group: str) -> str:
        return f"/{group}: {choice(group)}".replace("null", "a")  # of one that a file chooses beside others' choices

    chosen = [line(group) for group in draw(st.lists(st.sampled_from(GROUPS), max_size=2))]
    overriding = draw(st.lists(st.sampled_from(GROUPS), max_size=2, unique=True))
    order = draw(st.permutations([*chosen, *builds_on]))
    return [*order, *(f"override /{group}: {choice(group)}" for group in overriding)]


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries({"exp": entries()})
    | st.fixed_dictionaries({"exp": entries("low"), "low": entries()})
    | st.fixed_dictionaries({"exp": entries("mid"), "mid": entries("low"), "low": entries()})
    | st.fixed_dictionaries({"exp": entries("mid", "low"), "mid": entries(), "low": entries()})
)
def test_where_hydra_composes_files_that_build_on_each_other_the_config_is_hydras(folder: Path, lists: Lists) -> None:
    write(folder, lists)
    try:
        expected = of_hydra(folder, lists)
    except (HydraException, OmegaConfBaseException):
        reject()
    assert planned(folder) == expected
