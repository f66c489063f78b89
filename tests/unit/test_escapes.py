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

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.values.interpolation import Resolution
from oellm_autoexp.config.values.interpolation_syntax import normalise
from oellm_autoexp.core.errors import AutoexpError, ConfigError
from oellm_autoexp.planning.make_plan import job_config
from oellm_autoexp.planning.resolving.provenance import PlanContext
from tests.resolvers import register_resolver

VALUES = {"a": 10, "b": "x y", "c": {"d": "\\"}}


def a_text(value: Any) -> Any:
    """An `oc.eval` that evaluates nothing. What OmegaConf reads as a number is one to every expression, too."""
    if not isinstance(value, str):
        raise TypeError(value)
    return value


NAMES = {"id": lambda value: value, "oc.eval": a_text}


def ours(text: str) -> Any:
    return Resolution({**VALUES, "t": normalise(text)}, (), NAMES).at(("t",))


def omegaconfs(text: str) -> Any:
    OmegaConf.clear_resolvers()
    for name, function in NAMES.items():
        register_resolver(name, function)
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


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(texts(UNQUOTED) | texts(CHARACTERS))
def test_a_text_that_omegaconf_takes_has_the_value_that_omegaconf_gives_it(text: str) -> None:
    try:
        wanted = omegaconfs(text)
    except (OmegaConfBaseException, TypeError):  # TypeError: several arguments, which are one expression to ours
        assume(False)
    found = ours(text)
    assert str(found) == str(wanted)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"${oc.eval:\(${a}+1\)//\(4*64\)}", "(10+1)//(4*64)"),
        (r"${oc.eval:(${a}+1)//(4*64)}", "(10+1)//(4*64)"),
        ("${oc.eval:a: }", "a: "),
        (r"${oc.eval: a\: }", "a:"),
        (r"${oc.eval: a:\  }", "a: "),
        (r"${oc.eval:max\(1\,2\)}", "max(1,2)"),
        (r"${oc.eval:\[1\, 2\]\[0\]}", "[1, 2][0]"),
        (r"""${oc.eval:1 if '\(' == "\\" else 2}""", r"""1 if '\(' == "\\" else 2"""),
        (r"""${oc.eval:'\${a}' + \(1\)}""", "'${a}' + (1)"),
        (r"${oc.eval:a\\b}", r"a\b"),
        (r"${oc.eval:a\\${a}}", r"a\10"),
        (r"${oc.eval:a\\}", "a\\"),
        ("${oc.eval: \\\t }", "\t"),
        (r"${oc.eval:'\(${a}+1\)'}", r"\(10+1\)"),
        (r"\${a} \\${a} \\\${a}", r"${a} \10 \${a}"),
    ],
)
def test_escapes_are_omegaconfs(text: str, value: str) -> None:
    assert ours(text) == value


def reported(folder: Path, text: str, *overrides: str) -> str:
    file = folder / "exp.yaml"
    file.write_text(f"# @package _global_\n{text}\nsweep: {{}}\n")
    around = PlanContext(datetime(2026, 1, 31, tzinfo=UTC), folder, "python3", {}, (), "user", "host", "nonce")
    with pytest.raises(AutoexpError) as error:
        job_config(load(Source(str(file), (), overrides)), around, 0)
    assert isinstance(error.value, ConfigError)
    (problem,) = error.value.problems
    return str(problem)


OF_A_SHELL = {
    "${HOME}/data": "HOME",
    "${X-unset}": "X",
    "${X:-unset}": "X",
    "${x:-a b}": "x",
    "${SLURM_JOB_ID%%_*}": "SLURM_JOB_ID",
    "${#words[@]}": "words",
    "${x//a/b}": "x",
}


@pytest.mark.parametrize("text", OF_A_SHELL)
def test_what_a_shell_would_take_is_reported_with_what_to_write_instead(tmp_path: Path, text: str) -> None:
    name = OF_A_SHELL[text]
    message = reported(tmp_path, f"metadata:\n  x: '{text}'")
    assert "exp.yaml:3" in message
    for right in (f"write ${name} in slurm.env", "for the plain text write \\${…}", f"${{oc.env:{name}}}"):
        assert right in message
    assert f"write ${name} in slurm.env" in reported(tmp_path, "", f"+metadata.x={text}")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("${projet.name}", "did you mean 'project.name'"),
        ("${metadata.my_key}", "did you mean 'metadata.my-key'"),
        ("${oc.evil:1}", "did you mean 'oc.eval'"),
        ("${oc.eval:(}", ""),
    ],
)
def test_what_no_shell_would_take_has_no_such_hint(tmp_path: Path, text: str, hint: str) -> None:
    message = reported(tmp_path, f"metadata:\n  my-key: 1\n  x: '{text}'")
    assert hint in message
    assert "slurm.env" not in message


def test_what_the_hint_says_to_write_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "exp.yaml"
    file.write_text("# @package _global_\nsweep: {}\nmetadata: {a: '\\${HOME}', b: '${oc.env:HOME}', c: $HOME}\n")
    around = PlanContext(
        datetime(2026, 1, 31, tzinfo=UTC), tmp_path, "python3", {"HOME": "/h"}, (), "user", "host", "nonce"
    )
    assert job_config(load(Source(str(file))), around, 0)["metadata"] == {"a": "${HOME}", "b": "/h", "c": "$HOME"}
