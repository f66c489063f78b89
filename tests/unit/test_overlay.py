"""Laying a point over the base and resolving it equals composing with Hydra; and every failure has its place."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from oellm_autoexp.config.defaults import with_defaults
from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.values.interpolation import MISSING, where
from oellm_autoexp.config.values.overlay import OPEN_SECTIONS, Applied, Overlay
from oellm_autoexp.config.values.resolvers import make_resolvers
from oellm_autoexp.core.errors import ConfigError, Problem
from tests.resolvers import register_resolver

NOW = datetime(2026, 1, 31, tzinfo=UTC)
RESOLVERS = make_resolvers(
    {"HOME": "/home/me", "DATA_DIR": "/data"}, NOW, lambda relative: Path("/shipped", relative), "python3"
)


def overlay(**base: Any) -> Overlay:
    return Overlay(base, RESOLVERS)


def resolved(**base: Any) -> dict[str, Any]:
    applied = overlay(**base)
    return applied.resolve(applied.apply({}))


def problems_of(action: Callable[[], Any]) -> list[Problem]:
    with pytest.raises(ConfigError) as error:
        action()
    return list(error.value.problems)


# ---------------------------------------------------------------------------------------------------------------------
# What Hydra and OmegaConf would make of it


@contextmanager
def registered() -> Iterator[None]:
    """OmegaConf with our resolvers in the place of its own.

    It would write a container into a text with the container's own interpolations unresolved; that is of no use.
    """

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: function(*map(plain, arguments))

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value

    def text(container: Container) -> str:
        return str(plain(container))

    try:
        for name, function in RESOLVERS.items():
            register_resolver(name, wrapped(function))
        with mock.patch.object(BaseContainer, "__str__", text):
            yield
    finally:
        OmegaConf.clear_resolvers()


REFUSALS = (OmegaConfBaseException, HydraException, RecursionError, ValueError, IndexError, TypeError, AttributeError)


def overridden(config: DictConfig, key: str, value: Any) -> DictConfig | None:
    """The config with one of Hydra's overrides; None where Hydra refuses it."""
    bare = key[0] == "~" and value is None  # Hydra 1.4 compares what is deleted with any value that is written
    (override,) = OverridesParser.create().parse_overrides([key if bare else f"{key}=0"])
    override._value = value
    changed = copy.deepcopy(config)
    try:
        ConfigLoaderImpl._apply_overrides_to_config([override], changed)
    except REFUSALS:
        return None
    return changed


def values_by_omegaconf(config: DictConfig) -> dict[str, Any]:
    """Each top value that OmegaConf can resolve with all that is in it."""
    found = {}
    for key in config:
        try:
            value = config[key]
            found[str(key)] = OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value
        except REFUSALS:
            continue
    return found


NAMES = ["a", "b", "c", "d1", "2"]
KEYS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(".".join)
REFERENCES = st.one_of(
    KEYS.map("${{{}}}".format),
    KEYS.map("${{.{}}}".format),
    KEYS.map("${{..{}}}".format),
    KEYS.map("${{l.{}}}".format),
    st.sampled_from(["${l.0}", "${l.1.a}", "${l[1][a]}", "${m}", "${m.x}", "${m.y.z}", "${alias.x}", "${alias}"]),
    st.sampled_from(["${m.${word}}", "${m.${word}.z}", "${oc.select:nope,3}", "${ m.x }", "$${m.x}", "${m.$x}"]),
)
PLAIN = (
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from([1e-4, 0.5, "", "text", "a b", "y", "'q'", "é"])
)
CALLS = st.one_of(
    REFERENCES.map("${{oc.concat:x,{}}}".format),
    REFERENCES.map("${{oc.if:{},1,[2,a]}}".format),
    REFERENCES.map("${{oc.concat:'{} \\'y\\' ',\"b\"}}".format),
    st.tuples(REFERENCES, REFERENCES).map(lambda pair: "${oc.muli:%s,%s}" % pair),  # noqa: UP031
    REFERENCES.map("${{oc.eval:'1 + {}'}}".format),
    REFERENCES.map("${{oc.len:{}}}".format),
    REFERENCES.map("${{oc.dict_merge:{{k:{},j:[1]}},${{m}}}}".format),
    st.sampled_from(["${oc.env:HOME}", "${oc.env:NOPE,null}", "${nope:1}", "${oc.create:[1,{a:2}]}"]),
)
TEXTS = st.one_of(
    REFERENCES,
    CALLS,
    st.tuples(st.sampled_from(["pre_", "a\\b", "\\${x} ", "\\\\", "$"]), REFERENCES | CALLS, st.just("_post")).map(
        "".join
    ),
    st.tuples(REFERENCES, REFERENCES).map("/".join),
)
LEAVES = PLAIN | TEXTS
TREES = st.recursive(
    LEAVES,
    lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=4) | st.lists(inner, max_size=2),
    max_leaves=5,
)
BASES = st.dictionaries(st.sampled_from(NAMES), TREES, min_size=2, max_size=5).map(
    lambda tree: {
        "l": [1, {"a": "${..0}", "b": "${m.x}"}],
        "m": {"x": "${.y.z}", "y": {"z": 7, "up": "${...word}"}, "via": "${alias.x}"},
        "alias": "${m}",
        "word": "y",
        **tree,
    }
)
SIGNS = st.sampled_from(["", "", "", "+", "++", "~"])
ROOTED = KEYS.filter(lambda key: key[0] != "2") | st.sampled_from(
    ["m.x", "m.y", "m.y.z", "m", "l.0", "l.1.a", "l", "l.5", "alias", "alias.x", "word"]
)
POINTS = st.dictionaries(st.tuples(SIGNS, ROOTED).map("".join), TREES, max_size=3)


def test_what_refers_to_a_section_is_evaluated_anew_where_a_point_changes_what_that_refers_to() -> None:
    overlay = Overlay({"m": {"x": "${word}"}, "alias": "${m}", "word": "y"}, RESOLVERS)
    assert overlay.resolve(overlay.apply({"word": "z"}))["alias"] == {"x": "z"}


@pytest.mark.slow
@pytest.mark.skipif(hydra.__version__ >= "1.4", reason="Hydra 1.4 follows interpolations to set and delete keys")
@settings(max_examples=150, deadline=None)
@given(BASES, POINTS)
def test_laying_and_resolving_is_composing_with_hydra(base: dict[str, Any], point: dict[str, Any]) -> None:
    untouched = copy.deepcopy((base, point))
    applied = Overlay(base, RESOLVERS)
    values: dict[str, Any] = {}
    with registered():
        config = OmegaConf.create(copy.deepcopy(base))
        OmegaConf.set_struct(config, True)
        for key, value in point.items():
            changed = overridden(config, key, value)
            if changed is None:
                refused_too(applied, values, key, value)
            else:
                config, values[key] = changed, value
        wanted = values_by_omegaconf(config)
    tree = applied.apply(values)
    for key, value in wanted.items():
        assert applied.at(tree, (key,)) == value
    if len(wanted) == len(tree):
        assert applied.resolve(tree) == wanted
    assert (base, point) == untouched


def refused_too(applied: Overlay, values: dict[str, Any], key: str, value: Any) -> None:
    """Check that an override that Hydra refuses is an error here as well."""
    tree = applied.apply(values)
    try:
        applied.apply({**values, key: value})
    except ConfigError:
        return
    # Hydra takes a null, or what can't be resolved, for absent, and can't put a list in the place of a mapping.
    path = tuple(key.lstrip("~+").split("."))
    with suppress(ConfigError):
        if applied.at(tree, path) is not None:
            assert {type(raw(tree, path)), type(value)} == {list, dict}
    assert key[0] in "~+" or isinstance(value, list | dict)


def raw(tree: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path, unresolved."""
    for part in path:
        tree = tree[int(part) if isinstance(tree, list) else part]
    return tree


CONFIGS = Path(__file__).resolve().parents[2] / "config"
SHIPPED = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))
VALUES = {
    "project.name": "x_${slurm.array}_${..index}",
    "slurm.array": True,
    "slurm.sbatch.time": "${oc.slurmtime:5400}",
    "slurm.sbatch.constraint": "${.time}",
    "metadata": {"where": "${project.output_dir}", "list": ["${.0}x", "${project}"][1:]},
    "scheduler.max_jobs": 5,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_point_over_a_shipped_config_is_what_hydra_composes_with_the_points_values(name: str) -> None:
    group, _, choice = name.rpartition("/")
    experiment = name.startswith("experiments/")
    outer = group.split("/")  # backend/megatron is a group of backend=megatron
    chosen = (*([f"{outer[0]}={outer[1]}"] if len(outer) > 1 else []), f"{group}={choice}")
    source = Source(config_ref=name) if experiment or not group else Source(overrides=chosen)
    words = [
        "project.name=x_${slurm.array}_${..index}",
        "slurm.array=true",
        "slurm.sbatch.time=${oc.slurmtime:5400}",
        "slurm.sbatch.constraint=${.time}",
        "metadata={where: '${project.output_dir}', list: ['${project}']}",
        "scheduler.max_jobs=5",
    ]
    composed = load(Source(source.config_ref, (), (*source.overrides, *words)))
    with registered():
        wanted = OmegaConf.to_container(OmegaConf.create(with_defaults(composed.base)[0]), resolve=True)
    applied = load(source).overlay({"HOME": "/home/me"}, NOW, "python3")
    ours = Overlay(applied.base, RESOLVERS)
    assert ours.resolve(ours.apply(VALUES)) == wanted


# ---------------------------------------------------------------------------------------------------------------------


def test_nothing_is_changed_by_laying_and_resolving_and_what_is_untouched_is_shared() -> None:
    base = {"a": {"x": 1, "y": "${b.z}"}, "b": {"z": 2}, "c": [{"d": 1}], "e": {"f": {"g": "${a.x}"}, "h": {"i": 1}}}
    before = copy.deepcopy(base)
    applied = Overlay(base, RESOLVERS)
    tree = applied.apply({"a.x": 5, "e.f": {"g": 3}})
    found = applied.resolve(tree)
    assert base == before
    assert found == {**before, "a": {"x": 5, "y": 2}, "e": {"f": {"g": 3}, "h": {"i": 1}}}
    assert tree["b"] is base["b"] is found["b"]
    assert found["c"] is base["c"]
    assert tree["e"]["h"] is base["e"]["h"]  # type: ignore[index]


def test_the_top_level_of_what_is_given_out_is_the_callers_own() -> None:
    applied = overlay(a=1)
    tree = applied.apply({})
    tree["index"] = 3
    found = applied.resolve(tree)
    found["more"] = 1
    assert (applied.base, tree) == ({"a": 1}, {"a": 1, "index": 3})


def test_a_value_of_a_point_is_not_changed_by_another_value_of_it() -> None:
    value = {"x": {"y": 1}}
    applied = overlay(a={})
    assert applied.apply({"++a": value, "++a.x.z": 2}) == {"a": {"x": {"y": 1, "z": 2}}}
    assert value == {"x": {"y": 1}}


def test_a_value_set_after_laying_is_seen_by_others() -> None:
    applied = overlay(name="run_${index}", index=0)
    tree = applied.apply({})
    tree["index"] = 7
    assert applied.resolve(tree) == {"name": "run_7", "index": 7}


READERS: dict[str, Any] = {
    "a": 1,
    "m": {"x": 1, "y": {"z": 1}},
    "direct": "${a}",
    "through": "<${direct}>",
    "near": {"own": "${.other}", "other": "${m.x}"},
    "whole": "${oc.len:${m}}",
    "keys": "${oc.dict.keys:m}",
    "inside": "${whole_alias.y.z}",
    "whole_alias": "${m}",
    "chosen": "${m.${which}}",
    "which": "x",
    "maybe": "${oc.select:new,absent}",
    "maybe_below": "${oc.select:m.new.deep,absent}",
    "sibling_or_not": "${oc.select:sibling.s.name,alone}",
    "job": "${index}",
    "needed": "${required}",
    "required": MISSING,
    "listed": ["${a}", {"k": "${m.y}"}],
    "index": 0,
    "via": {"b": "${m}"},
    "far": "${oc.select:via.b.y.z,9}",
    "item": "${listed.0}",
}


@pytest.mark.parametrize(
    "values",
    [
        {"++via.b.c": 5},
        {"listed.0": 7},
        {"listed.00": 7},
        {},
        {"a": 2},
        {"m.x": 5},
        {"m.y.z": 5},
        {"m.y": 3},
        {"++m.w": 3},
        {"~m.x": None, "which": "y"},
        {"m": {"x": 9}},
        {"m": None},
        {"which": "y.z"},
        {"+new": 4},
        {"++m.new.deep": 4},
        {"near.other": 8},
        {"near": {"own": 3}},
        {"direct": "${m.x}"},
        {"through": "plain"},
        {"listed.1.k": "${which}"},
        {"whole_alias": {"y": {"z": "${a}"}}},
    ],
)
def test_what_reads_a_changed_value_is_evaluated_anew_whatever_was_known_of_the_base(values: dict[str, Any]) -> None:
    def all_of(applied: Overlay, tree: Applied) -> Any:
        try:
            return applied.resolve(tree, lambda path: f"the sibling's {path[-1]}")
        except ConfigError as error:
            return [problem.what for problem in error.problems]

    applied = overlay(**READERS)
    tree = applied.apply({"required": 1, **values})
    tree["index"] = 7
    afresh = Overlay(json.loads(json.dumps(tree)), RESOLVERS)
    assert all_of(applied, tree) == all_of(afresh, afresh.apply({}))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"a.b": {"y": 2}}, {"x": 1, "y": 2}),
        ({"a.b": [1]}, [1]),
        ({"a.b": None}, None),
        ({"+a.b.z": 3}, {"x": 1, "y": 0, "z": 3}),
        ({"++a.b": {"z": 3}}, {"x": 1, "y": 0, "z": 3}),
        ({"++a.b.x": 3}, {"x": 3, "y": 0}),
        ({"~a.b.x": None}, {"y": 0}),
        ({"~a.b.x": 1}, {"y": 0}),
        ({"a.b.x": 3, "~a.b.y": None, "+a.b.y": 4}, {"x": 3, "y": 4}),
        ({"++a.b.x.deep.er": 1}, {"x": {"deep": {"er": 1}}, "y": 0}),
    ],
)
def test_a_key_sets_merges_adds_or_deletes(values: dict[str, Any], wanted: Any) -> None:
    assert overlay(a={"b": {"x": 1, "y": 0}}).apply(values)["a"]["b"] == wanted


def test_an_item_of_a_list_is_set_by_its_index() -> None:
    assert overlay(a=[1, {"b": 2}]).apply({"a.0": 5, "a.1.b": 6})["a"] == [5, {"b": 6}]


@pytest.mark.parametrize("section", OPEN_SECTIONS)
def test_a_new_key_of_an_open_section_needs_no_sign(section: str) -> None:
    *parents, last = section.rstrip(".").split(".")
    base: dict[str, Any] = {last: {"old": 1}}
    for part in reversed(parents):
        base = {part: base}
    applied = Overlay(base, RESOLVERS)
    found: Any = applied.apply({f"{section}new": 2, section.rstrip("."): {"newer": 3}})
    for part in (*parents, last):
        found = found[part]
    assert found == {"old": 1, "new": 2, "newer": 3}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("a.bb", 1, "no key 'a.bb'"),
        ("a.b", {"xx": 1}, "no key 'a.b.xx'"),
        ("aa", 1, "no key 'aa'"),
        ("a.b.x.y", 1, "no key 'a.b.x.y'"),
        ("l.5", 1, "no key 'l.5'"),
        ("+l.5", 1, "no key 'l.5'"),
        ("l.x", 1, "no key 'l.x'"),
        ("~a.c", None, "no key 'a.c'"),
        ("~a.b.x", 5, "'a.b.x' is 1, not 5"),
        ("~l.0", None, "an item of a list can't be deleted"),
        ("+a.b.x", 5, "has 'a.b.x' already"),
        ("+alias.x", 5, "has 'alias.x' already"),
        ("", 1, "is not a dotted key"),
        ("+", 1, "is not a dotted key"),
        ("a..b", 1, "is not a dotted key"),
        (".a", 1, "is not a dotted key"),
        ("a.", 1, "is not a dotted key"),
        ("+++a", 1, "is not a dotted key"),
        ("+~a", 1, "is not a dotted key"),
    ],
)
def test_a_wrong_key_is_reported(key: str, value: Any, message: str) -> None:
    applied = overlay(a={"b": {"x": 1}}, l=[1], alias="${a.b}")
    (problem,) = problems_of(lambda: applied.apply({key: value}))
    assert str(problem.where) == key
    assert message in problem.what


def test_all_wrong_keys_are_reported_at_once_with_the_nearest_ones() -> None:
    applied = overlay(backend={"options": {"lr": 1, "seed": 2}})
    found = problems_of(
        lambda: applied.apply({"backend.options.lrr": 1, "backend.options": {"sead": 1, "x": 2}, "~backend.y": None})
    )
    assert [str(problem.where) for problem in found] == [
        "backend.options.lrr",
        "backend.options",
        "backend.options",
        "~backend.y",
    ]
    assert "'backend.options.lr'" in found[0].hint
    assert "'backend.options.seed'" in found[1].hint


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("${n}", 3),
        ("${m.x}", 1),
        ("${m}", {"x": 1, "up": 3}),
        ("${l.1.a}", 5),
        ("${l[1][a]}", 5),
        ("${alias.x}", 1),
        ("${chain}", {"x": 1, "up": 3}),
        ("${chain.x}", 1),
        ("${m.${word}}", 1),
        ("${l.${zero}}", 4),
        ("${2a}", 8),
        ("${m.x}/${n}_${none}", "1/3_None"),
        ("a ${n} $ b \\ c", "a 3 $ b \\ c"),
        ("\\${n}", "${n}"),
        ("\\\\${n}", "\\3"),
        ("$${n}", "$3"),
        ("${oc.concat:'${m.x}',\"q'\",a b}", "1q'a b"),
        ("${oc.create:{k: ${n}, j: [${m.x}, x]}}", {"k": 3, "j": [1, "x"]}),
        ("${${resolver}:1,2}", 3),
        ("${list_of.0}", 9),
        ("plain", "plain"),
    ],
)
def test_an_interpolation_has_the_value_it_names(text: str, wanted: Any) -> None:
    base = {
        "n": 3,
        "m": {"x": 1, "up": "${..n}"},
        "l": [4, {"a": 5}],
        "alias": "${m}",
        "chain": "${alias}",
        "word": "x",
        "zero": 0,
        "2a": 8,
        "none": None,
        "resolver": "oc.add",
        "list_of": "${oc.create:[9]}",
    }
    applied = Overlay(base, RESOLVERS)
    assert applied.select(applied.apply({}), text) == wanted
    assert applied.resolve(applied.apply({"+new": text}))["new"] == wanted


def test_what_an_interpolation_yields_is_not_read_again() -> None:
    assert resolved(a="\\${n}", b="${a}", c="${d.x}", d="${oc.create:{x: '\\${n}'}}", n=1)["b"] == "${n}"
    assert resolved(c="${d.x}", d="${oc.create:{x: '\\${n}'}}", n=1)["c"] == "${n}"


def test_a_relative_interpolation_starts_from_where_it_is_written() -> None:
    found = resolved(a={"b": {"x": "${.y}", "y": "${..c}", "z": "${...d}"}, "c": 1}, d=2, e="${a.b}")
    assert found["a"]["b"] == found["e"] == {"x": 1, "y": 1, "z": 2}


def test_values_of_one_container_may_refer_to_each_other_through_another_name_for_it() -> None:
    assert resolved(a="${b}", b={"x": 1, "y": "${a.x}"})["b"] == {"x": 1, "y": 1}


def test_only_what_is_asked_for_is_evaluated() -> None:
    applied = overlay(a={"x": 1, "broken": "${nope}"}, b=MISSING)
    tree = applied.apply({})
    assert applied.select(tree, "${a.x}") == applied.at(tree, ("a", "x")) == 1


@pytest.mark.parametrize(
    ("base", "place", "message"),
    [
        ({"a": "${b}"}, "$.a", "${b} refers to 'b', which does not exist"),
        ({"a": {"b": ["${.x}"]}}, "$.a.b[0]", "${.x} refers to 'a.b.x', which does not exist"),
        ({"a": 5, "b": "${a.x}"}, "$.b", "'a.x', which does not exist"),
        ({"a": "text", "b": "${a.x}"}, "$.b", "'a.x', which does not exist"),
        ({"a": [1], "b": "${a.1}"}, "$.b", "'a.1', which does not exist"),
        ({"a": [1], "b": "${a.x}"}, "$.b", "'a.x', which does not exist"),
        ({"a": "${oc.create:[1]}", "b": "${a.1}"}, "$.b", "'a.1', which does not exist"),
        ({"a": "${...b}"}, "$.a", "goes above the root"),
        ({"a": MISSING}, "$.a", "a value is required here"),
        ({"a": {"b": MISSING}, "c": "${a.b}"}, "$.a.b", "a value is required here"),
        ({"a": "${a}"}, "$.a", "in a circle: $.a → $.a"),
        ({"a": "x${b}", "b": "${c.0}", "c": ["${a}"]}, "$.a", "in a circle: $.a → $.b → $.c[0] → $.a"),
        ({"a": {"b": "${a}"}}, "$.a.b", "in a circle"),
        ({"a": "${a.x}"}, "$.a", "in a circle"),
        ({"a": "${nope:1}"}, "$.a", "there is no resolver 'nope'"),
        ({"a": "${oc.sqrt:}"}, "$.a", "takes 1 argument, not 0"),
        ({"a": "${oc.env}"}, "$.a", "'oc.env', which does not exist"),
        ({"a": "${b"}, "$.a", "does not parse"),
        ({"a": "${oc.eval:(1)}"}, "$.a", "does not parse"),
        ({"a": "${" * 2000}, "$.a", "does not parse"),
    ],
)
def test_what_can_not_be_evaluated_is_reported_with_its_path(base: dict[str, Any], place: str, message: str) -> None:
    applied = Overlay(base, RESOLVERS)
    problem = problems_of(lambda: applied.resolve(applied.apply({})))[0]
    assert str(problem.where) == place
    assert message in problem.what


def test_a_missing_key_gets_a_suggestion_and_a_missing_value_the_way_to_set_it() -> None:
    assert problems_of(lambda: resolved(lr=1, a={"x": "${lrr}"}))[0].hint == "did you mean 'lr'?"
    assert problems_of(lambda: resolved(a={"x": MISSING}))[0].hint == "set a.x=…"


def test_every_failure_is_reported_once_at_the_place_where_it_is() -> None:
    found = problems_of(
        lambda: resolved(a="${nope}", b=["${a}", "x_${a}"], c={"d": "${oc.int:x}", "e": "${c.d}"}, f=MISSING, g=1)
    )
    assert [str(problem.where) for problem in found] == ["$.a", "$.c.d", "$.f"]


@pytest.mark.slow
def test_a_chain_without_end_is_an_error() -> None:
    base = {f"k{n}": f"${{k{n + 1}}}" for n in range(3000)}
    assert "too many other values" in problems_of(lambda: resolved(**base))[0].what
    applied = Overlay(base, RESOLVERS)
    assert "too many" in problems_of(lambda: applied.select(applied.apply({}), "${k0}"))[0].what


def test_a_long_chain_is_evaluated() -> None:
    base: dict[str, Any] = {f"k{n}": f"${{k{n + 1}}}" for n in range(60)}
    assert set(resolved(**base, k60=5).values()) == {5}


def test_a_character_that_stands_for_interpolations_inside_is_refused_in_a_text() -> None:
    (problem,) = problems_of(lambda: resolved(a="\ufdd0${oc.env:HOME}$"))
    assert str(problem.where) == "$.a"


def test_siblings_answer_what_is_asked_of_them() -> None:
    applied = overlay(a="${sibling.stable.output_dir}/x", b="${oc.len:${sibling.stable.name}}")
    tree = applied.apply({})
    answers: dict[tuple[str, ...], str] = {("stable", "output_dir"): "/out", ("stable", "name"): "abc"}
    assert applied.resolve(tree, answers.__getitem__) == {"a": "/out/x", "b": 3}
    assert applied.at(tree, ("a",), answers.__getitem__) == "/out/x"
    assert "'sibling.stable.output_dir', which does not exist" in problems_of(lambda: applied.resolve(tree))[0].what


def test_a_path_that_is_not_there_is_an_error_also_when_asked_for_directly() -> None:
    applied = overlay(abc={"d": 1})
    (problem,) = problems_of(lambda: applied.at(applied.apply({}), ("abd", "d")))
    assert problem.hint == "did you mean 'abc.d'?"


def test_a_place_is_written_with_indices_in_brackets() -> None:
    assert str(where(("a", "b-c", "0", "d"))) == "$.a.b-c[0].d"
    assert str(where(())) == "$"
