"""The sweep algebra: its laws, the rules of precedence, the counts of the documented sweeps, every malformed node."""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.errors import Problem, SweepError
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.sweep.axes import bracket_problems
from oellm_autoexp.sweep.expander import MOST_POINTS, Filter, Point, Points, add, expand, multiply

VALUES = st.dictionaries(st.sampled_from(["a", "a.b", "c.d", "e"]), st.integers(0, 3), max_size=3)
FILTERS = st.lists(
    st.sampled_from([Filter("x", CONFIG / "sweep.filter"), Filter("y", CONFIG / "sweep.filter")]), unique=True
)
POINT = st.builds(Point, VALUES, VALUES, VALUES, FILTERS.map(tuple))
POINTS = st.lists(POINT, max_size=3)


@given(POINT, POINT, POINT)
def test_merging_points_is_associative(a: Point, b: Point, c: Point) -> None:
    assert (a | b) | c == a | (b | c)
    assert list(((a | b) | c).values.items()) == list((a | (b | c)).values.items())


@given(POINT)
def test_the_empty_point_changes_nothing(a: Point) -> None:
    assert a | Point() == a == Point() | a


@given(POINTS, POINTS, POINTS)
def test_products_and_sums_are_associative(a: Points, b: Points, c: Points) -> None:
    assert multiply([multiply([a, b]), c]) == multiply([a, multiply([b, c])]) == multiply([a, b, c])
    assert add([add([a, b]), c]) == add([a, add([b, c])]) == add([a, b, c])


@given(POINTS)
def test_one_empty_point_is_the_unit_of_the_product_and_no_points_that_of_the_sum(a: Points) -> None:
    assert multiply([a, [Point()]]) == a == multiply([[Point()], a])
    assert add([a, []]) == a == add([[], a])
    assert multiply([]) == [Point()]
    assert add([]) == []


@given(POINTS, POINTS, POINTS)
def test_a_product_distributes_over_a_sum_on_its_left(a: Points, b: Points, c: Points) -> None:
    assert multiply([add([a, b]), c]) == add([multiply([a, c]), multiply([b, c])])


@given(st.lists(POINTS, max_size=4))
def test_lengths_add_and_multiply(parts: list[Points]) -> None:
    assert len(add(parts)) == sum(map(len, parts))
    assert len(multiply(parts)) == prod(map(len, parts))


AXES = st.dictionaries(st.sampled_from(["a", "b.c", "d"]), st.lists(st.integers(), min_size=1, max_size=3), min_size=1)


@given(AXES)
def test_a_grid_counts_up_with_its_last_axis_fastest(axes: dict[str, list[int]]) -> None:
    points = expand({"params": axes})
    sizes = [len(axis) for axis in axes.values()]
    for number, point in enumerate(points):
        digits = reduce(lambda rest, size: [*divmod(rest[0], size), *rest[1:]], reversed(sizes), [number])[1:]
        assert point.values == {key: axis[digit] for (key, axis), digit in zip(axes.items(), digits, strict=True)}
    assert len(points) == prod(sizes)


@given(AXES)
def test_a_product_of_one_axis_each_is_the_grid(axes: dict[str, list[int]]) -> None:
    assert expand({"groups": [{"params": {key: axis}} for key, axis in axes.items()]}) == expand({"params": axes})


# ---------------------------------------------------------------------------------------------------------------------


def values(sweep: str) -> list[dict[str, Any]]:
    return [point.values for point in expand(yaml.safe_load(sweep))]


def test_no_sweep_is_one_empty_point() -> None:
    assert expand(None) == expand({}) == [Point()]


def test_defaults_alone_are_one_point() -> None:
    assert values("{base_values: {a: 1}, defaults: {b: 2}, c.d: 3}") == [{"a": 1, "b": 2, "c.d": 3}]


def test_grids_are_concatenated_and_a_scalar_is_a_list_of_one() -> None:
    assert values("grids: [{a: [1, 2], b: 3}, {a: 4}]") == [{"a": 1, "b": 3}, {"a": 2, "b": 3}, {"a": 4}]


def test_a_value_may_be_null_or_a_mapping_or_in_a_list_a_list() -> None:
    assert values("params: {a: null, b: {c: 1}, d: [[1, 2]]}") == [{"a": None, "b": {"c": 1}, "d": [1, 2]}]


def test_an_entry_of_configs_may_be_a_node_itself() -> None:
    found = values("configs: [{a: 1}, {defaults: {b: 2}, params: {a: [2, 3]}}, {configs: [{a: 4}]}]")
    assert found == [{"a": 1}, {"b": 2, "a": 2}, {"b": 2, "a": 3}, {"a": 4}]


def test_inner_beats_outer_and_chosen_beats_every_default() -> None:
    found = values(
        """
        defaults: {a: outer, b: outer, c: outer}
        groups:
          - defaults: {b: inner, c: inner}
            params: {c: [chosen]}
        """
    )
    assert found == [{"a": "outer", "b": "inner", "c": "chosen"}]


def test_an_inherited_default_never_overrides_what_a_neighbour_of_a_product_set() -> None:
    for order in (0, -1):
        groups = [{"params": {"a": ["chosen"]}}, {"defaults": {"a": "default"}, "params": {"b": [1]}}]
        points = expand({"groups": groups[order:] + groups[:order]})
        assert [point.values for point in points] == [{"a": "chosen", "b": 1}]


@pytest.mark.parametrize(
    ("sweep", "path", "places"),
    [
        (
            "groups: [{params: {a.b: [1]}}, {params: {a.b: [2, 3]}}]",
            "a.b",
            ("groups[0].params.a.b", "groups[1].params.a.b"),
        ),
        (
            "groups: [{params: {a: [{b: 1}]}}, {grids: [{c: 1, a.b: 2}]}]",
            "a.b",
            ("groups[0].params.a", "groups[1].grids[0].a.b"),
        ),
        (
            "groups: [{params: {a.b: [1]}}, {configs: [{c: 1}, {a: {b: 2}}]}]",
            "a.b",
            ("groups[0].params.a.b", "groups[1].configs[1].a"),
        ),
        (
            "groups: [{params: {a.b: [1]}}, {params: {a.b.c: [1]}}]",
            "a.b.c",
            ("groups[0].params.a.b", "groups[1].params.a.b.c"),
        ),
        (
            "groups: [{params: {a: [1]}}, {groups: [{params: {c: 1}}, {params: {+a: 3}}]}]",
            "a",
            ("groups[0].params.a", "groups[1].groups[1].params.+a"),
        ),
        (
            "groups: [{params: {stage: [a]}}, {configs: [{stage: b}]}]",
            "stage",
            ("groups[0].params.stage", "groups[1].configs[0].stage"),
        ),
    ],
)
def test_two_factors_of_a_product_that_choose_the_same_value_are_reported_with_both_places(
    sweep: str, path: str, places: tuple[str, str]
) -> None:
    with pytest.raises(SweepError) as error:
        expand(yaml.safe_load(sweep))
    (problem,) = error.value.problems
    assert problem.what == f"'{path}' is set by two parts of a product"
    assert str(problem.where) == " and ".join(f"$.sweep.{place}" for place in places)


@pytest.mark.parametrize(
    "sweep",
    [
        "groups: [{params: {a.b: [1]}}, {params: {a.b: [1], c: [2, 3]}}]",
        "{type: list, groups: [{params: {a: [1]}}, {params: {a: [2]}}]}",
        "groups: [{params: {a: [1, 2]}}, {configs: [{stage: s}, {stage: t, a: 5}]}]",
        "groups: [{params: {backend: [x, y]}}, {params: {backend.options.a: [1, 2]}}]",
        "groups: [{params: {a: [{b: 1}, {b: 2}]}}, {params: {a: [{c: 1}, {c: 2}]}}]",
    ],
)
def test_factors_that_agree_or_are_alternatives_or_override_in_a_stage_are_no_mistake(sweep: str) -> None:
    assert expand(yaml.safe_load(sweep))


def test_a_stage_overrides_what_another_factor_chose_in_whatever_order_they_are() -> None:
    groups: list[Any] = [{"params": {"a": [1, 2]}}, {"configs": [{"stage": "s"}, {"stage": "t", "a": 5}]}]
    found = [[point.values for point in expand({"groups": order})] for order in (groups, groups[::-1])]
    wanted = [{"a": 1, "stage": "s"}, {"a": 5, "stage": "t"}, {"a": 2, "stage": "s"}, {"a": 5, "stage": "t"}]
    for points in found:
        assert sorted(points, key=str) == sorted(wanted, key=str)


def test_what_wins_is_laid_last_also_where_a_mapping_below_holds_the_same_key() -> None:
    (found,) = values(
        """
        defaults: {a.x: 1}
        groups: [{defaults: {a: {x: 2}}, groups: [{params: {a.x: [3]}}]}]
        """
    )
    assert list(found.items()) == [("a.x", 3)]


@pytest.mark.parametrize(
    ("outer", "inner", "wanted"),
    [
        ("{a.b: {x: 1}}", "{a.b: {y: 2}}", {"a.b.x": 1, "a.b.y": 2}),
        ("{a.b: {x: 1, z: 3}}", "{a.b.x: 2}", {"a.b.z": 3, "a.b.x": 2}),
        ("{a.b.x: 1}", "{a: {b: {x: 2, y: 3}}}", {"a.b.x": 2, "a.b.y": 3}),
        ("{a.b: {x: {y: 1}}}", "{a.b: {x: {z: 2}}}", {"a.b.x.y": 1, "a.b.x.z": 2}),
        ("{a.b: null}", "{a.b: {x: 1}}", {"a.b": None, "a.b.x": 1}),
        ("{a.b: {x: 1}}", "{a.b: null}", {"a.b.x": 1, "a.b": None}),
        ("{a.b: {x.y: 1}}", "{a.b: {x.z: 2}}", {"a.b": {"x.y": 1, "x.z": 2}}),
        ("{+a.b: {x: 1}}", "{a.b: {y: 2}}", {"++a.b.x": 1, "a.b.y": 2}),
        ("{backend.megatron: {num-layers: 2}}", "{backend.megatron.num_layers: 4}", {"backend.megatron.num_layers": 4}),
    ],
)
def test_mappings_merge_by_path_and_leaves_replace(outer: str, inner: str, wanted: dict[str, Any]) -> None:
    (found,) = values(f"{{defaults: {outer}, groups: [{{defaults: {inner}}}]}}")
    assert list(found.items()) == list(wanted.items())


def test_a_dotted_key_beside_defaults_is_a_default() -> None:
    found = values("{defaults: {stage: decay}, params: {a: [1]}, job.start_conditions: [{class_name: X}]}")
    assert found == [{"stage": "decay", "job.start_conditions": [{"class_name": "X"}], "a": 1}]


@pytest.mark.parametrize(
    ("sweep", "coords"),
    [
        ("params: {a: [1], b: [2]}", {"a": 1, "b": 2}),
        ("grids: [{a: 1}]", {"a": 1}),
        ("configs: [{a: 1, b: 2}]", {"a": 1, "b": 2}),
        ("configs: [{stage: s, a: 1}]", {}),
        ("{defaults: {a: 1}, params: {b: [2]}}", {"b": 2}),
        ("params: {stage: [s], a: [1]}", {"a": 1}),
        ("groups: [{params: {a: [1]}}, {configs: [{stage: s, a: 5, b: 6}]}]", {"a": 1}),
        ("groups: [{configs: [{stage: s, a: 5}]}, {params: {a: [1]}}]", {"a": 1}),
        ("params: {+a: [1]}", {"a": 1}),
        ("configs: [{++stage: s, a: 5}]", {}),
        ("groups: [{configs: [{a: 1}]}, {defaults: {stage: s}, params: {c: [3]}}]", {"a": 1, "c": 3}),
    ],
)
def test_a_points_place_is_what_came_from_grids_and_from_configs_without_a_stage(
    sweep: str, coords: dict[str, Any]
) -> None:
    assert [dict(point.coords) for point in expand(yaml.safe_load(sweep))] == [coords]


def test_a_stage_that_overrides_a_grid_value_keeps_its_coordinate() -> None:
    (point,) = expand(yaml.safe_load("groups: [{params: {a: [1]}}, {configs: [{stage: s, a: 5}]}]"))
    assert (point.values["a"], point.coords["a"]) == (5, 1)


def test_filters_of_all_levels_are_collected_with_their_places() -> None:
    points = expand(
        yaml.safe_load(
            """
            filter: outer
            type: list
            groups:
              - {filter: inner, params: {a: [1]}}
              - {filter: outer, configs: [{a: 2}, {filter: false, a: 3}]}
            """
        )
    )
    outer = ("outer", "$.sweep.filter")
    assert [[(found.text, str(found.where)) for found in point.filters] for point in points] == [
        [outer, ("inner", "$.sweep.groups[0].filter")],
        [outer, ("outer", "$.sweep.groups[1].filter")],
        [outer, ("outer", "$.sweep.groups[1].filter"), ("False", "$.sweep.groups[1].configs[1].filter")],
    ]


# ---------------------------------------------------------------------------------------------------------------------

BLOCKS = {
    "grid": (
        9,
        """
        base_values: {backend.megatron.num_layers: 20, project.name: "experiment_${backend.megatron.lr}"}
        grids:
          - backend.megatron.lr: [1e-4, 5e-4, 1e-3]
            backend.megatron.global_batch_size: [64, 128, 256]
        """,
    ),
    "groups": (
        6 + 6 + 2,
        """
        type: list
        defaults: {project.name: "tuning_${stage}"}
        groups:
          - type: product
            groups: [{params: {lr: [1, 2, 3]}}, {params: {batch: [64, 128]}}]
            defaults: {stage: small_batch, iters: 5000}
          - type: product
            groups: [{params: {lr: [2, 3, 4]}}, {params: {batch: [256, 512]}}]
            defaults: {stage: large_batch, iters: 5000}
          - configs: [{stage: production, lr: 2, batch: 256}, {stage: production, lr: 3, batch: 128}]
        """,
    ),
    "stages": (
        9 + 9,
        """
        type: list
        groups:
          - params: {lr: [1, 2, 3], batch: [64, 128, 256]}
            defaults: {stage: stable}
          - params: {lr: [1, 2, 3], batch: [64, 128, 256]}
            defaults: {stage: decay6B, load: "${sibling.stable.output_dir}/checkpoints"}
            job.start_conditions: [{class_name: FileExistsCondition, path: x}]
        """,
    ),
    "filter": (20, "{filter: x, grids: [{lr: [1, 2, 3, 4], batch: [64, 128, 256, 512, 1024]}]}"),
    "nested": (
        6 + 12 + 1,
        """
        type: list
        filter: x
        groups:
          - {type: product, groups: [{params: {lr: [1, 2, 3]}}, {params: {b: [64, 128]}}], defaults: {stage: small}}
          - {type: product, groups: [{params: {lr: [1, 2, 3, 4]}}, {params: {b: [1, 2, 3]}}], defaults: {stage: large}}
          - configs: [{stage: production, lr: 1, b: 256}]
        """,
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_documented_sweep_has_as_many_points_as_it_says(name: str) -> None:
    count, sweep = BLOCKS[name]
    points = expand(yaml.safe_load(sweep))
    assert len(points) == count
    assert len({yaml.dump(point.values) for point in points}) == count


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sweep", "where", "message"),
    [
        ("[]", "$.sweep", "must hold keys and values, not an empty list"),
        ("text", "$.sweep", "not the text 'text'"),
        ("5", "$.sweep", "not 5"),
        ("{params: {a: 1}, grids: [{a: 1}]}", "$.sweep", "this one has params and grids"),
        ("grids: {a: 1}", "$.sweep.grids", "must be a list of entries, not a mapping"),
        ("grids:", "$.sweep.grids", "not empty"),
        ("grids: [[a]]", "$.sweep.grids[0]", "a grid maps keys to lists of values; this is a list"),
        ("grids: [{a: 1}, 5]", "$.sweep.grids[1]", "this is 5"),
        ("grids: [{a.b: []}]", "$.sweep.grids[0].a.b", "this axis has no values"),
        ("grids: [{1: [2]}]", "$.sweep.grids[0]", "the key 1 is not text"),
        ("params: [a]", "$.sweep.params", "a grid maps keys"),
        ("params:", "$.sweep.params", "this is empty"),
        ("configs: {a: 1}", "$.sweep.configs", "must be a list"),
        ("configs: [5]", "$.sweep.configs[0]", "an entry maps keys to values"),
        ("configs: [{1: 2}]", "$.sweep.configs[0]", "the key 1 is not text"),
        ("configs: [{params: {a: []}}]", "$.sweep.configs[0].params.a", "no values"),
        ("groups: {a: 1}", "$.sweep.groups", "must be a list"),
        ("groups: [{groups: [5]}]", "$.sweep.groups[0].groups[0]", "must hold keys and values, not 5"),
        ("{type: zip, groups: [{}]}", "$.sweep.type", "type is 'zip'"),
        ("{type: [product], groups: [{}]}", "$.sweep.type", "type is ['product']"),
        ("{type: list, params: {a: 1, b: 2}}", "$.sweep.type", "type is 'list', but params are multiplied"),
        ("{type: product, grids: [{a: 1}, {b: 2}]}", "$.sweep.type", "grids are alternatives"),
        ("{params: {index: [1]}}", "$.sweep.params.index", "a sweep can't set the index"),
        ("{++index: 3}", "$.sweep.++index", "a sweep can't set the index"),
        (
            "{base_values: {a: 1, b: 2}, defaults: {a: 2, b: 2}}",
            "$.sweep.base_values.a and $.sweep.defaults.a",
            "'a' has two values for the same jobs",
        ),
        (
            "{defaults: {a.b: 1}, a: {b: 2}}",
            "$.sweep.defaults.a.b and $.sweep.a",
            "'a.b' has two values for the same jobs",
        ),
        ("params: {a.b: [1, 2], a: [{b: 7}]}", "$.sweep.params.a.b and $.sweep.params.a", "'a.b' is set twice"),
        ("params: {a.b: [1, 2], a: {b: [7]}}", "$.sweep.params.a.b and $.sweep.params.a", "'a.b' is set twice"),
        ("params: {a: [1], +a: [2]}", "$.sweep.params.a and $.sweep.params.+a", "'a' is set twice"),
        ("configs: [{a.b: 5, a.b.c: 1}]", "$.sweep.configs[0].a.b and $.sweep.configs[0].a.b.c", "'a.b.c' is set"),
        ("defaults: {a: {b: 1}, a.b: 1}", "$.sweep.defaults.a and $.sweep.defaults.a.b", "'a.b' is set twice"),
        (
            "params: {backend.megatron.num-layers: [1], backend.megatron.num_layers: [2]}",
            "$.sweep.params.backend.megatron.num-layers and $.sweep.params.backend.megatron.num_layers",
            "'backend.megatron.num_layers' is set twice",
        ),
        ("defaults: [a]", "$.sweep.defaults", "must hold keys and values, not a list"),
        ("base_values: 3", "$.sweep.base_values", "must hold keys and values, not 3"),
        ("defaults: {2: 3}", "$.sweep.defaults", "the key 2 is not text"),
        ("{filter: [a]}", "$.sweep.filter", "a filter is an expression, not a list"),
        ("{filter: 5}", "$.sweep.filter", "a filter is an expression, not 5"),
        ("{parms: {a: [1]}}", "$.sweep.parms", "unknown key 'parms'"),
        ("{grid: {a: [1]}}", "$.sweep.grid", "unknown key 'grid'"),
        ("{true: 1}", "$.sweep", "the key True is not text"),
    ],
)
def test_a_malformed_node_is_reported_with_its_path(sweep: str, where: str, message: str) -> None:
    with pytest.raises(SweepError) as error:
        expand(yaml.safe_load(sweep))
    (problem,) = error.value.problems
    assert str(problem.where) == where
    assert message in problem.what


def test_more_points_than_any_plan_has_are_refused_before_they_are_made() -> None:
    with pytest.raises(SweepError, match=f"3200000 points\n.* at most {MOST_POINTS}"):
        expand({"params": {key: list(range(20)) for key in "abcde"} | {"f": [1]}})


def test_a_misspelt_keyword_gets_a_suggestion() -> None:
    with pytest.raises(SweepError, match="did you mean 'params'"):
        expand({"parms": {}})


@pytest.mark.parametrize("key", ["backend", "container", "job", "metadata", "monitoring", "project", "stage"])
def test_a_key_of_the_config_is_not_taken_for_a_misspelt_keyword(key: str) -> None:
    assert expand({key: 1})[0].values == {key: 1}


@pytest.mark.parametrize(
    "sweep",
    [
        f"{{type: {kind}, {part}}}"
        for kind in ("product", "list")
        for part in ("params: {a: [1]}", "grids: [{a: 1}]", "configs: [{a: 1}]", "groups: [{params: {a: 1}}]")
    ],
)
def test_a_type_may_be_written_where_it_changes_nothing(sweep: str) -> None:
    assert values(sweep) == [{"a": 1}]


def test_all_mistakes_are_reported_at_once() -> None:
    sweep = """
        type: zip
        filter: 5
        defaults: 3
        groups:
          - params: {a: []}
          - 7
          - {grids: [{a.b: [1]}], configs: [{a.b: 1}]}
          - configs: [{params: []}]
    """
    with pytest.raises(SweepError) as error:
        expand(yaml.safe_load(sweep))
    assert {str(problem.where) for problem in error.value.problems} == {
        "$.sweep.type",
        "$.sweep.filter",
        "$.sweep.defaults",
        "$.sweep.groups[0].params.a",
        "$.sweep.groups[1]",
        "$.sweep.groups[2]",
        "$.sweep.groups[3].configs[0].params",
    }
    assert len(error.value.problems) == 7


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["grids", "params", "configs", "groups", "type", "defaults", "filter", "a.b", 1, "stage"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_stands_in_a_sweep_there_are_points_or_an_error_with_paths(sweep: Any) -> None:
    problems: tuple[Problem, ...] = ()
    points: Points = []
    try:
        points = expand(sweep)
    except SweepError as error:
        problems = error.problems
    assert points or problems
    assert all(str(problem.where).startswith("$.sweep") for problem in problems)
    assert all(isinstance(key, str) for point in points for key in point.values)


def test_empty_lists_are_no_sweep_and_leave_the_others_as_they_are() -> None:
    for text in ("grids: []", "groups: []", "configs: []", "grids: []\ngroups: []"):
        assert expand(yaml.safe_load(text)) == [Point()]
    assert len(expand(yaml.safe_load("groups: []\nparams: {a.b: [1, 2]}"))) == 2


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1, 2", "write [1, 2]"),
        ("range(1, 4)", "write [1, 2, 3]"),
        ("range(4)", "write [0, 1, 2, 3]"),
        ("range(0, 1000)", "write [0, 1, …, 999]"),
        ("range(1, 4, 0)", "write its values as a list"),
        ("range(0.1, 0.5, 0.1)", "write its values as a list"),
        ("choice(a, b)", "write [a, b]"),
        ("choice('a', [1,2])", "write ['a', [1,2]]"),
        ("en, no, %sv", "write [en, 'no', '%sv']"),
        ("a b, -1e-3, x: y, *z, yes", "write [a b, -1e-3, 'x: y', '*z', 'yes']"),
        ("1..4", "write [1, 2, 3, 4]"),
    ],
)
def test_a_text_that_several_values_were_meant_by_is_refused_with_the_list(text: str, hint: str) -> None:
    (problem,) = bracket_problems(text, CONFIG / "sweep.params.x")
    assert problem.what.endswith("is one text, not a list")
    assert problem.hint.startswith(hint)


@pytest.mark.parametrize("text", ["a", "arrange(3)", "1.5", "${x}", "v1..v2", "f(x)"])
def test_a_text_that_is_one_value_is_not_refused(text: str) -> None:
    assert bracket_problems(text, CONFIG) == []
