"""Every resolver: what it computes, and that wrong input is an error."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.config.values.overlay import Overlay
from oellm_autoexp.config.values.resolvers import Resolver, make_resolvers, number
from oellm_autoexp.core.errors import ConfigError

NOW = datetime(2026, 1, 31, 23, 59, 58, tzinfo=UTC)
RESOLVERS: Mapping[str, Resolver] = make_resolvers(
    {"HOME": "/home/me", "EMPTY": ""}, NOW, lambda relative: Path("/shipped", relative), "/usr/bin/python3"
)


def value(text: str, **values: Any) -> Any:
    """The value of a text with interpolations, in a config of `values`."""
    overlay = Overlay(values, RESOLVERS)
    return overlay.select(overlay.apply({}), text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("${oc.env:HOME}", "/home/me"),
        ("${oc.env:EMPTY}", ""),
        ("${oc.env:NOPE,null}", None),
        ("${oc.env:NOPE,5}", "5"),
        ("${oc.env:NOPE,./outputs}", "./outputs"),
        ("${oc.env:NOPE,${oc.env:HOME}}", "/home/me"),
        ("${oc.decode:'1e-4'}", 1e-4),
        ("${oc.decode:'[a, 2, true]'}", ["a", 2, True]),
        ("${oc.decode:null}", None),
        ("${oc.create:[1,2]}", [1, 2]),
        ("${oc.eval:'1 + 1'}", 2),
        ("${oc.eval:5}", 5),
        ("${oc.eval:'${a} > 1'}", True),
        ('${oc.eval:\'"x" in "${s}"\'}', False),
        ("${oc.if:true,1,2}", 1),
        ("${oc.if:${no},1,2}", 2),
        ("${oc.if:${no},1}", None),
        ("${oc.if:${l},1,2}", 1),
        ("${oc.if:'False',1,2}", 2),
        ("${oc.if:'None',1,2}", 2),
        ("${oc.if:'',1,2}", 2),
        ("${oc.mul:2,3,0.5}", 3.0),
        ("${oc.mul:${a},'5e-1'}", 1.5),
        ("${oc.muli:2,3,4.0}", 24),
        ("${oc.add:1,2,3}", 6),
        ("${oc.addi:1,2}", 3),
        ("${oc.sub:10,3,2}", 5),
        ("${oc.subi:10,2}", 8),
        ("${oc.div:7,2}", 3.5),
        ("${oc.divi:7,2}", 3),
        ("${oc.divi:-7,2}", -4),
        ("${oc.cdivi:7,2}", 4),
        ("${oc.cdivi:8,2}", 4),
        ("${oc.sqrt:9}", 3.0),
        ("${oc.mul_round_int:3,0.9}", 3),
        ("${oc.mul_round_int:2048,2.667,64}", 5440),
        ("${oc.mul_round_int:9007199254740993,1,1}", 9007199254740993),
        ("${oc.mul_round_int:5,1,2}", 4),
        ("${oc.join:${l},'-'}", "1-2-3"),
        ("${oc.join:', ',${l}}", "1, 2, 3"),
        ("${oc.deprecated:a,'use b'}", 3),
        ("${oc.slice:abcdef,1,3}", "bc"),
        ("${oc.slice:${l},1}", [2, 3]),
        ("${oc.slice:${l},null,-1}", [1, 2]),
        ("${oc.concat:a,1,2.5}", "a12.5"),
        ("${oc.concat:${l},[4]}", [1, 2, 3, 4]),
        ("${oc.int:3.9}", 3),
        ("${oc.int:'1e3'}", 1000),
        ("${oc.len:${l}}", 3),
        ("${oc.len:abc}", 3),
        ("${oc.len:${m}}", 1),
        ("${oc.dict_merge:${m},{y:2}}", {"x": 1, "y": 2}),
        ("${oc.dict_merge:${m},{x:2}}", {"x": 2}),
        ("${oc.timestring:}", "20260131-235958"),
        ("${oc.timestring:%Y}", "2026"),
        ("${now:%H:%M}", "23:59"),
        ("${oc.slurmtime:90061}", "1-01:01:01"),
        ("${oc.slurmtime:0.5}", "0-00:00:01"),
        ("${oc.slurmtime:${oc.mul:3600,5}}", "0-05:00:00"),
        ("${oc.select:a}", 3),
        ("${oc.select:nope}", None),
        ("${oc.select:nope,7}", 7),
        ("${oc.select:m.x,7}", 1),
        ("${oc.dict.keys:m}", ["x"]),
        ("${oc.dict.values:m}", [1]),
        ("${oc.dict.values:${m}}", [1]),
        ("${autoexp.shipped:examples/x.py}", "/shipped/examples/x.py"),
        ("${autoexp.python:}", "/usr/bin/python3"),
    ],
)
def test_a_resolver_gives(text: str, wanted: Any) -> None:
    found = value(text, a=3, s="yz", no=False, l=[1, 2, 3], m={"x": 1})
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${oc.env:NOPE}", "export NOPE="),
        ("${oc.decode:'[a'}", "can't read '[a'"),
        ("${oc.decode:3}", "needs text"),
        ("${oc.decode:'\\${a}'}", "interpolations"),
        ("${oc.eval:'1 +'}", "does not parse"),
        ("${oc.eval:'1 / 0'}", "division by zero"),
        ("${oc.if:perhaps,1,2}", "needs true or false, not 'perhaps'"),
        ("${oc.mul:}", "takes at least 1 argument, not 0"),
        ("${oc.mul:2,x}", "needs numbers, not 'x'"),
        ("${oc.mul:2,null}", "needs numbers, not None"),
        ("${oc.mul:2,true}", "needs numbers, not True"),
        ("${oc.mul:2,''}", "needs numbers, not ''"),
        ("${oc.muli:${l},2}", "needs numbers, not [1, 2, 3]"),
        ("${oc.muli:512,3.2}", "with truncated arguments it is 1536, with a truncated result 1638"),
        ("${oc.addi:1.5,2.5}", "with truncated arguments it is 3, with a truncated result 4"),
        ("${oc.subi:10,2.5}", "with truncated arguments it is 8, with a truncated result 7"),
        ("${oc.divi:7.5,2}", "with truncated arguments it is 3, with a truncated result 3"),
        ("${oc.cdivi:7.5,2.5}", "with truncated arguments it is 4, with a truncated result 3"),
        ("${oc.join:${l}}", "a list and the text"),
        ("${oc.muli:inf,2}", "fails"),
        ("${oc.addi:nan}", "fails"),
        ("${oc.add:1,a}", "needs numbers"),
        ("${oc.sub:1}", "takes at least 2 arguments, not 1"),
        ("${oc.div:1,0}", "division by zero"),
        ("${oc.div:1,2,3}", "takes 2 arguments, not 3"),
        ("${oc.divi:1,0}", "fails"),
        ("${oc.cdivi:1,0}", "fails"),
        ("${oc.divi:10,0.5}", "with truncated arguments it is a division by zero, with a truncated result 20"),
        ("${oc.mul_round_int:100,1,2.5}", "no whole number"),
        ("${oc.deprecated:metadata.absent}", "metadata.absent"),
        ("${oc.sqrt:-1}", "fails"),
        ("${oc.sqrt:1,2}", "takes 1 argument, not 2"),
        ("${oc.mul_round_int:inf}", "fails"),
        ("${oc.slice:5,1}", "needs text or a list"),
        ("${oc.slice:abc,1.5}", "needs whole numbers, not 1.5"),
        ("${oc.slice:abc,inf}", "needs whole numbers"),
        ("${oc.slice:abc,x}", "needs numbers"),
        ("${oc.concat:${l},a}", "only lists or only scalars"),
        ("${oc.concat:a,null}", "only lists or only scalars"),
        ("${oc.int:x}", "needs numbers"),
        ("${oc.int:inf}", "fails"),
        ("${oc.int:true}", "needs numbers"),
        ("${oc.len:5}", "needs text"),
        ("${oc.dict_merge:${m},5}", "needs mappings, not 5"),
        ("${oc.timestring:5}", "needs a format"),
        ("${oc.slurmtime:-1}", "fails"),
        ("${oc.slurmtime:soon}", "needs numbers"),
        ("${oc.slurmtime:inf}", "fails"),
        ("${oc.dict.keys:nope}", "'nope', which does not exist"),
        ("${oc.dict.keys:l}", "oc.dict.keys needs a mapping; 'l' is none"),
        ("${oc.evl:1}", "did you mean 'oc.eval'"),
        ("${hydra:job.name}", "there is no resolver 'hydra'"),
        ("${oc.env:''}", "needs the name of an environment variable, not ''"),
        ("${oc.env:null,5}", "needs the name of an environment variable, not None"),
        ("${oc.join:[1,null],','}", "oc.join needs a list of scalars and a text, not None"),
        ("${oc.dict.values:${l}}", "oc.dict.values needs a mapping or the key of one, not [1, 2, 3]"),
        ("${oc.select:${m}}", "oc.select needs the key of a value, not {'x': 1}"),
        ("${oc.deprecated:null}", "oc.deprecated needs the key of a value, not None"),
        ("${oc.mul_round_int:5,1,0}", "division by zero"),
        ("${autoexp.shipped:null}", "autoexp.shipped needs a path, not None"),
    ],
)
def test_wrong_input_is_an_error_that_says_so(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        value(text, l=[1, 2, 3], m={"x": 1})
    assert message in str(error.value)


TAKES = {
    "oc.select": "1 or 2 arguments",
    "oc.deprecated": "1 or 2 arguments",
    "oc.dict.keys": "1 argument",
    "oc.dict.values": "1 argument",
    "oc.env": "1 or 2 arguments",
    "oc.decode": "1 argument",
    "oc.create": "1 argument",
    "oc.eval": "1 argument",
    "oc.if": "2 or 3 arguments",
    "oc.mul": "at least 1 argument",
    "oc.muli": "at least 1 argument",
    "oc.add": "at least 1 argument",
    "oc.addi": "at least 1 argument",
    "oc.sub": "at least 2 arguments",
    "oc.subi": "at least 2 arguments",
    "oc.div": "2 arguments",
    "oc.divi": "2 arguments",
    "oc.cdivi": "2 arguments",
    "oc.sqrt": "1 argument",
    "oc.mul_round_int": "1 to 3 arguments",
    "oc.slice": "1 to 3 arguments",
    "oc.int": "1 argument",
    "oc.len": "1 argument",
    "oc.timestring": "at most 1 argument",
    "now": "1 argument",
    "oc.slurmtime": "1 argument",
    "autoexp.shipped": "1 argument",
    "autoexp.python": "0 arguments",
}


@pytest.mark.parametrize(("name", "takes"), TAKES.items())
def test_a_wrong_number_of_arguments_is_told_in_the_configs_words(name: str, takes: str) -> None:
    counts = [0] if takes.startswith("at least") else [7] if takes[0] in "0a" else [0, 7]
    for count in counts:
        with pytest.raises(ConfigError) as error:
            value(f"${{{name}:{','.join('a' * count)}}}")
        assert str(error.value) == f"{name} takes {takes}, not {count}"


def test_every_resolver_that_takes_no_list_of_any_length_is_among_these() -> None:
    assert {*RESOLVERS} - {*TAKES} == {"oc.concat", "oc.join", "oc.dict_merge"}


@given(st.integers() | st.floats(allow_nan=False))
def test_a_number_and_the_text_of_it_are_the_same_number(given_number: float) -> None:
    assert number(given_number, "r") == given_number
    assert number(repr(given_number), "r") == given_number


NUMERIC = ["mul", "muli", "add", "addi", "sub", "subi", "div", "divi", "cdivi", "sqrt", "mul_round_int", "int"]
ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())


@given(st.sampled_from([*NUMERIC, "slurmtime"]), st.lists(ANYTHING, max_size=3))
def test_a_numeric_resolver_gives_a_number_or_a_config_error(name: str, arguments: list[Any]) -> None:
    try:
        found = RESOLVERS[f"oc.{name}"](*arguments)
    except ConfigError:
        return
    assert isinstance(found, str if name == "slurmtime" else int | float)
    assert all(isinstance(argument, int | float | str) for argument in arguments)
