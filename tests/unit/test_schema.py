"""The typed config: each mistake is one problem with its path, in our words, and all come at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from oellm_autoexp.backends.command import CommandBackend
from oellm_autoexp.config.schema import AutoexpConfig, decode, decode_parts
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import Location
from oellm_autoexp.planning.checks.rule_checks import Decoder

GOOD: dict[str, Any] = {
    "index": 3,
    "stage": None,
    "metadata": {"notes": [1, {"a": None}]},
    "project": {
        "name": "run",
        "base_output_dir": "out",
        "output_dir": "out/run",
        "log_path": "out/run/%j.out",
        "log_path_current": "out/run/current.log",
        "monitoring_state_dir": "out/state",
    },
    "backend": {"class_name": "CommandBackend", "argv": "python 'a b.py'", "options": {"lr": 1e-4, "l": [1, "a"]}},
    "slurm": {"client": {"class_name": "LocalClient"}},
}
ABSENT = object()


def changed(**changes: Any) -> dict[str, Any]:
    """GOOD with values set (or ABSENT) at paths whose parts are joined by two underscores."""
    tree = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        if value is ABSENT:
            del node[last]
        else:
            node[last] = value
    return tree


def problems(**changes: Any) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as error:
        decode(changed(**changes))
    return error.value.problems


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("log_events", "it is a key of 'monitoring'"),
        ("argv", "it is a key of 'backend'"),
        ("backend.megatron.lr", "write it as keys within keys: 'backend:', and below that 'megatron.lr'"),
    ],
)
def test_a_key_at_the_root_that_belongs_elsewhere_is_reported_where(key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        decode({**GOOD, key: 1})
    assert error.value.problems == (Problem(f"unknown key '{key}'", Location((key,)), hint),)


def test_a_right_config_is_decoded() -> None:
    config = decode(GOOD)
    assert isinstance(config.backend, CommandBackend)
    assert config.backend.argv == ("python", "a b.py")
    assert config.project.resume is True
    assert config.slurm.submit_cmd == ("sbatch",)
    assert (config.index, config.stage) == (3, None)


def test_the_tree_is_not_changed_by_decoding_it() -> None:
    tree = copy.deepcopy(GOOD)
    decode(tree)
    assert tree == GOOD


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("project__name", 1e-4, "0.0001"),
        ("stage", 6, "6"),
        ("scheduler__max_jobs", "5", 5),
        ("slurm__submit_cmd", ["sbatch", "--parsable", 3], ("sbatch", "--parsable", "3")),
        ("slurm__env", {"A": 1, "B": None, "C": True, "D": 1e-5}, {"A": "1", "C": "true", "D": "1e-05"}),
        ("slurm__sbatch", {"a": [1, None, "x"], "b": True, "c": None}, {"a": [1, None, "x"], "b": True, "c": None}),
        ("slurm__array", "true", True),
    ],
)
def test_a_value_is_taken_as_it_is_meant(key: str, value: Any, wanted: Any) -> None:
    found: Any = decode(changed(**{key: value}))
    for part in key.split("__"):
        found = getattr(found, part)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (["a=1", "b=x=y"], "write {a: 1, b: x=y}"),
        ("a=1", "write {a: 1}"),
        ("a", ""),
        (["a=1", 2], ""),
        (["=="], ""),
        (None, ""),
        ([], "write {}"),
    ],
)
def test_texts_where_keys_and_values_are_wanted_are_shown_as_such(value: Any, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        decode(changed(metadata=value))
    assert error.value.problems[0].hint == hint


@pytest.mark.parametrize(
    ("key", "value", "where", "message"),
    [
        ("slurm", None, "$.slurm", "must be keys and values, not null"),
        ("slurm", [1], "$.slurm", "must be keys and values, not a list"),
        ("project", ABSENT, "$.project", "this key is required"),
        ("project__name", ABSENT, "$.project.name", "this key is required"),
        ("project__name", None, "$.project.name", "must be text, not null"),
        ("project__name", {"a": 1}, "$.project.name", "must be text, not a mapping"),
        ("project__output_dir", 5, "$.project.output_dir", "must be text, not 5"),
        ("project__resume", "perhaps", "$.project.resume", "must be true or false, not 'perhaps'"),
        ("index", "x", "$.index", "must be a whole number, not 'x'"),
        ("metadata", [1], "$.metadata", "must be keys and values, not a list"),
        ("scheduler__max_jobs", 1.5, "$.scheduler.max_jobs", "must be a whole number, not 1.5"),
        ("scheduler__max_jobs", True, "$.scheduler.max_jobs", "must be a number, not true"),
        ("scheduler__max_jobs", 0, "$.scheduler.max_jobs", "must be at least 1, not 0"),
        ("monitoring__poll_interval_seconds", 0, "$.monitoring.poll_interval_seconds", "must be greater than 0, not 0"),
        (
            "monitoring__poll_interval_seconds",
            1e308,
            "$.monitoring.poll_interval_seconds",
            "must be at most 1000000000",
        ),
        ("monitoring__poll_interval_seconds", 1e-9, "$.monitoring.poll_interval_seconds", "must be at least 0.01"),
        ("scheduler__submit_rate_limit_seconds", 1e300, "$.scheduler.submit_rate_limit_seconds", "must be at most"),
        ("monitoring__poll_interval_seconds", "a", "$.monitoring.poll_interval_seconds", "must be a number, not 'a'"),
        ("monitoring__poll_interval_seconds", float("nan"), "$.monitoring.poll_interval_seconds", "must be a number"),
        ("slurm__client", 3, "$.slurm.client", "must be keys and values, not 3"),
        ("slurm__client", {}, "$.slurm.client.class_name", "this key is required"),
        ("slurm__client__class_name", "Slurm", "$.slurm.client.class_name", "unknown class_name 'Slurm'"),
        ("slurm__client__class_name", ["x"], "$.slurm.client.class_name", "unknown class_name a list"),
        ("slurm__client__slots", "x", "$.slurm.client.slots", "must be a whole number, not 'x'"),
        ("slurm__client__slot", 3, "$.slurm.client.slot", "unknown key 'slot'"),
        ("slurm__sbatch", {"a": {"b": 1}}, "$.slurm.sbatch.a", "must be one value or a list of values, not a mapping"),
        ("slurm__sbatch", {"a": [1, [2]]}, "$.slurm.sbatch.a[1]", "must be one value or a list of values, not a list"),
        ("slurm__srun", {"int": {"b": 1}}, "$.slurm.srun.int", "must be one value or a list of values"),
        ("slurm__srun", {"LocalClient": {}}, "$.slurm.srun.LocalClient", "must be one value or a list of values"),
        ("slurm__sbatch", {True: 1}, "$.slurm.sbatch", "the key True is not text"),
        ("slurm__sbatch", {7: 1}, "$.slurm.sbatch", "the key 7 is not text"),
        ("slurm__env", {"A": 1, "B": [1]}, "$.slurm.env.B", "must be text, not a list"),
        ("slurm__sbatch_extra_directives", "x", "$.slurm.sbatch_extra_directives", "must be a list, not 'x'"),
        ("slurm__sbatch_extra_directives", [1], "$.slurm.sbatch_extra_directives[0]", "must be text, not 1"),
        ("slurm__submit_cmd", "a 'b", "$.slurm.submit_cmd", "can't be split into words: no closing quotation"),
        ("slurm__submit_cmd", ["a", None], "$.slurm.submit_cmd[1]", "must be text, not null"),
        ("backend__argv", [{"a": 1}], "$.backend.argv[0]", "must be text, not a mapping"),
        ("backend__argv", 3, "$.backend.argv", "must be a list, not 3"),
        ("backend__class_name", "Foo", "$.backend.class_name", "unknown class_name 'Foo'"),
        ("backend__class_name", ABSENT, "$.backend.class_name", "this key is required"),
        ("backend__agrv", [], "$.backend.agrv", "unknown key 'agrv'"),
        ("job__start_conditions", None, "$.job.start_conditions", "must be a list, not null"),
        ("job__start_conditions", [3], "$.job.start_conditions[0]", "must be keys and values, not 3"),
        ("job__start_conditions", [{}], "$.job.start_conditions[0].class_name", "this key is required"),
        (
            "job__start_conditions",
            [{"class_name": "AlwaysTrueCondition"}, {"class_name": "FileExistsCondition", "path": 3}],
            "$.job.start_conditions[1].path",
            "must be text, not 3",
        ),
        ("slurn", {}, "$.slurn", "unknown key 'slurn'"),
    ],
)
def test_one_mistake_is_one_problem_with_its_path(key: str, value: Any, where: str, message: str) -> None:
    (problem,) = problems(**{key: value})
    assert str(problem.where) == where
    assert message in problem.what


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("slurn", {}, "did you mean 'slurm'?"),
        ("slurm__arrray", True, "did you mean 'array'?"),
        ("slurm__client__slot", 1, "did you mean 'slots'?"),
        ("slurm__client__class_name", "LocalClien", "did you mean 'LocalClient'?"),
        ("job__start_conditions", [{"class_name": "FileExistCondition"}], "did you mean 'FileExistsCondition'"),
        ("slurm__client", {}, "one of: FakeSlurmClient, LocalClient, SlurmClient"),
    ],
)
def test_a_near_miss_is_reported_the_right_word(key: str, value: Any, hint: str) -> None:
    (problem,) = problems(**{key: value})
    assert problem.hint.startswith(hint)


def test_ten_mistakes_are_reported_at_once() -> None:
    found = problems(
        slurn={},
        index="x",
        stage=[],
        project__name=None,
        project__nmae="a",
        backend__argv=5,
        slurm__array=3,
        slurm__sbatch={"a": {}},
        slurm__client__slots=-1,
        scheduler__max_jobs=0,
    )
    assert len(found) == 10
    assert len({str(problem.where) for problem in found}) == 10


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=2),
    max_leaves=4,
)
JARGON = ("input", "valid", "dict", "instance", "tuple", "pydantic", "validat", "union", "discriminator", "function")


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The paths of all keys of the config, as `changed` takes them."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}__")


@given(st.sampled_from(sorted(fields(AutoexpConfig))), ANYTHING)
def test_whatever_a_key_holds_it_is_taken_or_refused_in_plain_words_at_a_path_below_it(key: str, value: Any) -> None:
    found: tuple[Problem, ...] = ()
    try:
        decode(changed(**{key: value}))
    except ConfigError as error:
        found = error.problems
    path = "$." + key.replace("__", ".")
    for problem in found:
        assert str(problem.where).startswith(path)
        words = problem.what.split(", not ")[0].split("key '")[0].lower()
        assert not any(jargon in words for jargon in JARGON), problem
    assert len({str(problem.where) for problem in found if "the key" not in problem.what}) == len(
        [problem for problem in found if "the key" not in problem.what]
    )


def test_the_sections_of_a_config_are_what_is_right_in_them() -> None:
    client = {"class_name": "LocalClient", "slots": -1}
    tree = changed(slurm__sbatch={"time": "1"}, slurm__array="x", slurm__client=client, project__name=ABSENT, job=5)
    sections, right = decode_parts(tree)
    assert sections["slurm"].sbatch == {"time": "1"}
    assert "array" not in right["slurm"]
    assert right["slurm"]["client"] == {"class_name": "LocalClient"}
    assert not {"project", "job"} & sections.keys()
    assert tree["slurm"]["array"] == "x", "what is given is left as it is"


@pytest.mark.parametrize("first", [1, True])
def test_jobs_with_one_section_share_it_and_others_have_their_own(first: int) -> None:
    decoder = Decoder()
    exclusive = (first, first, not first, 1)
    made = [decoder.config(changed(slurm__sbatch={"nodes": 1, "exclusive": value})) for value in exclusive]
    assert made[0].slurm is made[1].slurm
    assert [repr(config.slurm.sbatch["exclusive"]) for config in made] == list(map(repr, exclusive))
