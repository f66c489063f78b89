"""One type says where a mistake is, and one printer shows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from oellm_autoexp.config.hydra.findings import EVERYTHING, uncertain
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import CONFIG, NOWHERE, Line, Location, in_file, path_of

TIME = CONFIG / "slurm.sbatch" / "time"
PARTS = st.one_of(st.integers(0, 99), st.text("abc_", min_size=1, max_size=4))
LOCATIONS = st.builds(
    Location,
    st.none() | st.lists(PARTS, max_size=3).map(tuple),
    st.lists(st.builds(Line, st.text("ab/"), st.none() | st.integers(1, 99)), max_size=2).map(tuple),
    st.text("ab="),
)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        (NOWHERE, ""),
        (CONFIG, "$"),
        (TIME, "$.slurm.sbatch.time"),
        (CONFIG / "a.b" / 0 / "c", "$.a.b[0].c"),
        (in_file("exp.yaml"), "exp.yaml"),
        (in_file("exp.yaml", 3), "exp.yaml:3"),
        (Location(text="--plan-id"), "--plan-id"),
        (Location(TIME.keys, (Line("exp.yaml", 3),)), "exp.yaml:3 ($.slurm.sbatch.time)"),
        (
            Location(TIME.keys, (Line("a.yaml", 3), Line("b.yaml", 4)), "set by the sweep"),
            "a.yaml:3, b.yaml:4 ($.slurm.sbatch.time, set by the sweep)",
        ),
        (Location(("a",), text="override a=1"), "$.a (override a=1)"),
        (Location(("a",), (Line("exp.yaml", 3),), value="/no.sif"), "exp.yaml:3 ($.a /no.sif)"),
        (Location(text="--image", value="/no.sif"), "--image /no.sif"),
        (CONFIG / "a" & CONFIG / "b", "$.a and $.b"),
    ],
)
def test_a_location_is_shown_with_all_that_is_known_of_it(location: Location, shown: str) -> None:
    assert str(location) == shown


def test_a_key_is_named_as_overrides_name_it() -> None:
    assert TIME.key == "slurm.sbatch.time"
    assert (CONFIG.key, NOWHERE.key, Location(text="a=1").key) == ("", "", "")


def test_a_path_has_no_dots_in_its_parts_and_indices_as_text() -> None:
    assert path_of(("a.b", 0, "c")) == ("a", "b", "0", "c")
    assert path_of(()) == EVERYTHING


def test_only_keys_of_which_no_more_is_known_may_be_uncertain() -> None:
    lower = Problem("wrong", TIME)
    assert uncertain(lower, [("slurm", "sbatch")])
    assert uncertain(lower, [(*next(TIME.paths()), "below")])
    assert uncertain(lower, [EVERYTHING])
    assert not uncertain(lower, [("slurm", "sbat")])
    assert uncertain(Problem("twice", CONFIG / "a" & CONFIG / "b"), [("b",)])
    assert not uncertain(Problem("wrong", Location(TIME.keys, (Line("exp.yaml", 3),))), [EVERYTHING])
    assert not uncertain(Problem("wrong", "slurm.sbatch.time=1"), [EVERYTHING])


def test_text_is_shown_as_it_is_and_is_never_read_as_a_key() -> None:
    assert Problem("wrong", "$.a.b").where == Location(text="$.a.b")


@given(LOCATIONS, LOCATIONS)
def test_a_problem_is_the_same_after_it_was_told_as_json(location: Location, other: Location) -> None:
    problem = Problem("what", location & other, "hint", CONFIG / "a", 3)
    adapter = TypeAdapter(Problem)
    reported = adapter.validate_json(adapter.dump_json(problem))
    assert (reported, reported.about, reported.job) == (problem, problem.about, problem.job)
