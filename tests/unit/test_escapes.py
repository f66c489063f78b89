"""What a backslash in a value means is what OmegaConf says, wherever it stands; and hints at what a shell would say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oellm_autoexp.config.interpolation import Resolution
from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.source import normalise
from oellm_autoexp.errors import AutoexpError, ConfigError
from oellm_autoexp.workflow.plan import job_config
from oellm_autoexp.workflow.provenance import Circumstances

VALUES = {"a": 10, "b": "x y", "c": {"d": "\\"}}
NAMES = {"id": lambda value: value, "oc.eval": lambda *values: ", ".join(map(str, values))}


def ours(text: str) -> Any:
    """The value of a text, with an `oc.eval` that evaluates nothing."""
    return Resolution({**VALUES, "t": normalise(text)}, (), NAMES).at(("t",))


def omegaconfs(text: str) -> Any:
    OmegaConf.clear_resolvers()
    for name, function in NAMES.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
    try:
        return OmegaConf.create({**VALUES, "t": text}).t
    finally:
        OmegaConf.clear_resolvers()


CHARACTERS = st.sampled_from([*"\\\\\\()[]{}:=,. \t+-*/$%'\"1a", "${a}", "\\${a}", "\\\\${a}", "${b}", "${c.d}", "//"])
UNQUOTED = st.sampled_from(["\\\\", *(f"\\{c}" for c in "()[]{}:=, "), *"+-*/%.a1 ", "${a}", "${b}", "${id:\\(}"])


def texts(pieces: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    inside = st.lists(pieces, min_size=1, max_size=8).map("".join)
    calls = st.builds("${{{}:{}{}{}}}".format, st.sampled_from(["id", "oc.eval"]), st.just(""), inside, st.just(""))
    quoted = st.builds("${{{}:{}{}{}}}".format, st.sampled_from(["id", "oc.eval"]), st.just("'"), inside, st.just("'"))
    return st.lists(calls | quoted | inside, min_size=1, max_size=3).map("".join)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(texts(UNQUOTED) | texts(CHARACTERS))
def test_a_text_that_omegaconf_takes_has_the_value_that_omegaconf_gives_it(text: str) -> None:
    try:
        wanted = omegaconfs(text)
    except OmegaConfBaseException:
        assume(False)
    found = ours(text)
    # ours hands oc.eval its whole argument as one text, whose blanks and types are the expression's business
    assert str(found) == str(wanted)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"${oc.eval:\(${a}+1\)//\(4*64\)}", "(10+1)//(4*64)"),
        (r"${oc.eval:(${a}+1)//(4*64)}", "(10+1)//(4*64)"),
        (r"${oc.eval:max\(1\,2\)}", "max(1,2)"),
        (r"${oc.eval:\[1\, 2\]\[0\]}", "[1, 2][0]"),
        (r"""${oc.eval:1 if '\(' == "\\" else 2}""", r"""1 if '\(' == "\\" else 2"""),
        (r"""${oc.eval:'\${a}' + \(1\)}""", "'${a}' + (1)"),
        (r"${oc.eval:a\\b}", r"a\b"),
        (r"${oc.eval:a\\${a}}", r"a\10"),
        (r"${oc.eval:a\\}", "a\\"),
        (r"${oc.eval:'\(${a}+1\)'}", r"\(10+1\)"),
        (r"\${a} \\${a} \\\${a}", r"${a} \10 \${a}"),
    ],
)
def test_escapes_are_omegaconfs(text: str, value: str) -> None:
    assert ours(text) == value
