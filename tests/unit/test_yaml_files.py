"""Reading YAML: numbers people mean, keys with their lines, interpolations as people write them."""

from __future__ import annotations

import re
import tempfile
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf, grammar_parser
from omegaconf.grammar_visitor import GrammarVisitor

from oellm_autoexp.config.hydra.hydra_source import Search, unknown_config
from oellm_autoexp.config.hydra.yaml_files import key_lines, read_mapping, read_yaml, shown
from oellm_autoexp.config.hydra.yaml_rules import yaml_text
from oellm_autoexp.config.values.interpolation_syntax import normalise, quote_expressions
from oellm_autoexp.config.values.written import as_written, is_marked, value_of
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.text import escaped


def read(tmp_path: Path, text: str | bytes) -> Any:
    file = tmp_path / "file.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(file)


def problem(tmp_path: Path, text: str | bytes) -> Problem:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    return error.value.problems[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5e4", 5e4),
        ("-2.5E+3", -2500.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("+.5e1", 5.0),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("-.inf", float("-inf")),
        ("0x1F", 31),
        ("0b101", 5),
        ("0o17", 15),
        ("-0x10", -16),
        ("0", 0),
        ("-7", -7),
        ("010", "010"),
        ("0815", "0815"),
        ("12:30:00", "12:30:00"),
        ("1-12:00:00", "1-12:00:00"),
        ("190:20:30.15", "190:20:30.15"),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z"),
        ("1e", "1e"),
        ("e4", "e4"),
        ("1e4x", "1e4x"),
        (".", "."),
        ("-", None),
        ("0x", "0x"),
        ("0x_", "0x_"),
        ("0b_", "0b_"),
        ("=", "="),
        ("true", True),
        ("yes", True),
        ("null", None),
        ("~", None),
        ("'1e-4'", "1e-4"),
        ('"12"', "12"),
        ("nan", "nan"),
        ("1.2.3", "1.2.3"),
        ("${a}", "${a}"),
        ("é ü 日本", "é ü 日本"),
    ],
)
def test_a_scalar_is_what_people_mean(tmp_path: Path, text: str, value: Any) -> None:
    found = read(tmp_path, f"key: {text}" if text != "-" else "key:")["key"]
    found = value_of(as_written(found)) if is_marked(found) else found
    assert found == value
    assert type(found) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_a_number_as_python_writes_it_is_read_as_that_number(
    tmp_path_factory: pytest.TempPathFactory, n: float
) -> None:
    found = read(tmp_path_factory.getbasetemp(), f"key: {n!r}")["key"]
    assert found == n
    assert type(found) is type(n)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "the key 'a' is given twice"),
        ("x:\n  a: 1\n  a: 2\n", 3, "the key 'a' is given twice"),
        ("x: [{a: 1, a: 2}]\n", 1, "the key 'a' is given twice"),
        ("a: 1\n\tb: 2\n", 2, "tab character"),
        ("a: [1, 2\nb: 3\n", 2, "expected"),
        ("a: 'x\n", 2, "quoted scalar"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: &x {b: *x}\n", 1, "*x refers to a value that contains it"),
        ("a: &x\n  - *x\n", 2, "*x refers to a value that contains it"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "could not determine a constructor"),
        ("a: !mine 3\n", 1, "could not determine a constructor"),
        ("? [a, b]\n: 1\n", 1, "unhashable key"),
        ("a: 1\n---\nb: 2\n", 2, "but found another document"),
        ("a: b: c\n", 1, "mapping values are not allowed"),
        ("a: @x\n", 1, "cannot start any token"),
        ("<<: 5\n", 1, "expected a mapping"),
        ("a: 1\nb: {x: 1, 2}\n", 2, "'2' is in braces without a value"),
        ("é: {ö: ä, '\\u00e4', x: 1}\n", 1, "is in braces without a value"),
        ("a: [x, {name}]\n", 1, "a text with braces needs quotes"),
    ],
)
def test_what_does_not_parse_is_reported_with_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    found = problem(tmp_path, text)
    assert str(found.where) == f"{tmp_path}/file.yaml:{line}"
    assert message in found.what


@pytest.mark.parametrize("text", ["{x: , y: 1}", '{x : , "y": }', "{x: ''}", "{x: ~}", "{x: &a , y: *a}", "{}"])
def test_an_entry_in_braces_may_have_no_value_behind_its_colon(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.yaml").write_text(f"# é\na: {text}\n")
    assert isinstance(read_yaml(tmp_path / "file.yaml")["a"], dict)


def test_a_syntax_error_shows_the_line(tmp_path: Path) -> None:
    assert problem(tmp_path, "a: 1\nb: [2\nc: 3\n").hint == "the line reads: c: 3"


def test_a_file_that_is_no_utf8_says_at_which_byte(tmp_path: Path) -> None:
    assert problem(tmp_path, b"a: \xff\n").what == "is not UTF-8 text (byte 3)"


def test_control_characters_and_wrong_explicit_tags_are_errors(tmp_path: Path) -> None:
    assert "characters are not allowed" in problem(tmp_path, "a: \x07\n").what
    assert "invalid literal" in problem(tmp_path, "a: !!int x\n").what


def test_a_file_nested_without_end_is_an_error(tmp_path: Path) -> None:
    what = problem(tmp_path, "a: " + "[" * 3000).what
    assert "nested too deeply" in what or "maximum nesting depth" in what  # ours, or that of a newer PyYAML


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfa: 1\n") == {"a": 1}


def test_a_file_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: can't read it: No such file"):
        read_yaml(tmp_path / "none.yaml")


def test_a_config_is_a_mapping_and_an_empty_file_an_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    for text, wanted in {"": {}, "# only words\n": {}, "a: 1": {"a": 1}}.items():
        file.write_text(text)
        assert read_mapping(file) == wanted
    for text in ("- 1\n", "text\n", "5\n", "[]\n"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="must hold keys and values"):
            read_mapping(file)


MERGED = """\
base: &base
  <<: &deep {x: 0, y: 0}
  x: 1
use:
  <<: *base
  z: 2
several:
  <<: [*deep, *base]
  x: 9
"""


def test_merge_keys_merge_and_may_be_overridden(tmp_path: Path) -> None:
    found = read(tmp_path, MERGED)
    assert found["use"] == {"x": 1, "y": 0, "z": 2}
    assert found["several"] == {"x": 9, "y": 0}


def test_a_mapping_that_is_merged_before_it_is_built_is_not_taken_for_one_with_a_key_twice(tmp_path: Path) -> None:
    text = "b: &b {x: 0}\nouter:\n  inner: {deep: &a {<<: *b, x: 1}}\n  use: {<<: *a}\n"
    assert read(tmp_path, text)["outer"]["use"] == {"x": 1}


def test_keys_of_different_types_that_look_alike_are_two(tmp_path: Path) -> None:
    assert read(tmp_path, "{1: a, '1': b}") == {1: "a", "1": "b"}


def test_every_key_and_item_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("# words\na:\n  b.c: 1\n  l:\n    - x: 1\n    - 2\n'q': {r: [s]}\n")
    assert key_lines(file) == {
        ("a",): 2,
        ("a", "b", "c"): 3,
        ("a", "l"): 4,
        ("a", "l", "0"): 5,
        ("a", "l", "0", "x"): 5,
        ("a", "l", "1"): 6,
        ("q",): 7,
        ("q", "r"): 7,
        ("q", "r", "0"): 7,
    }


def test_a_merged_key_has_the_line_where_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(MERGED)
    lines = key_lines(file)
    assert (lines["use", "x"], lines["use", "y"], lines["use", "z"]) == (3, 2, 6)
    assert (lines["several", "x"], lines["several", "y"]) == (9, 2)


def test_an_empty_file_has_no_keys(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("")
    assert key_lines(file) == {}


# ---------------------------------------------------------------------------------------------------------------------


def evaluated(text: str) -> tuple[Any, list[tuple[str, tuple[Any, ...]]]]:
    """What OmegaConf's grammar makes of a text: its value, and the calls in it; a node's value is `<key>`."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def call(name: str, args: tuple[Any, ...], args_str: tuple[str, ...]) -> str:
        calls.append((name, args))
        return f"[{len(calls)}]"

    def node(key: str, memo: Any) -> Any:
        return f"<{key}>"

    visitor = GrammarVisitor(node_interpolation_callback=node, resolver_interpolation_callback=call, memo=None)
    return visitor.visit(grammar_parser.parse(text)), calls


EVALS = [
    (
        "${oc.eval:int(50e9 / ${backend.megatron.global_batch_size})}",
        ["int(50e9 / <backend.megatron.global_batch_size>)"],
    ),
    ("${oc.eval:'not (${a.lr} > 1e-3 and ${a.bs} > 256)'}", ["not (<a.lr> > 1e-3 and <a.bs> > 256)"]),
    ('${oc.eval:"${a} > 1"}', ["<a> > 1"]),
    ("${oc.eval:max(${a}, 2, [3, 4][0])}", ["max(<a>, 2, [3, 4][0])"]),
    ("${oc.eval:'${stage}' == 'x'}", ["'<stage>' == 'x'"]),
    ("${oc.eval:'a' in ['a', 'b'] and 'c' == 'c'}", ["'a' in ['a', 'b'] and 'c' == 'c'"]),
    ("${oc.eval:'it\\'s'}", ["it's"]),
    ("${oc.eval:len('it\\'s')}", ["len('it\\'s')"]),
    ("${oc.eval:{'a': 1, 'b': {'c': 2}}['a']}", ["{'a': 1, 'b': {'c': 2}}['a']"]),
    ("${oc.eval:len('}{')}", ["len('}{')"]),
    ('${oc.eval:len("}") + 1}', ['len("}") + 1']),
    ("${oc.eval:1 + ${oc.eval:2 * (3)}}", ["2 * (3)", "1 + [1]"]),
    ("${oc.eval:'1 + ${oc.eval:2 * (3)}'}", ["2 * (3)", "1 + [1]"]),
    ("${oc.eval:1 + 1} and ${oc.eval:(2)}", ["1 + 1", "(2)"]),
    ("${ oc.eval : (1) }", ["(1)"]),
    ("${oc.eval:'C:\\\\' + 'x'}", ["'C:\\\\' + 'x'"]),
]


@pytest.mark.parametrize(("text", "wanted"), EVALS)
def test_oc_eval_gets_its_whole_expression_as_one_argument(text: str, wanted: list[str]) -> None:
    _, calls = evaluated(quote_expressions(text))
    assert calls == [("oc.eval", (expression,)) for expression in wanted]


def test_an_expression_inside_of_other_resolvers_is_found() -> None:
    _, calls = evaluated(quote_expressions("x_${oc.if:${oc.eval:${a} > (1)},'${oc.eval:(2)}',b}"))
    assert calls == [("oc.eval", ("<a> > (1)",)), ("oc.eval", ("(2)",)), ("oc.if", ("[1]", "[2]", "b"))]


@pytest.mark.parametrize(
    "text", ["${a.b}", "a ${oc.env:X,'y'} b", "no", "$", "${", "${oc.eval:(1", "${oc.eval:'(1}", "}{"]
)
def test_a_text_with_no_expression_to_quote_stays_as_it_is(text: str) -> None:
    assert quote_expressions(text) == text


def test_an_escaped_interpolation_is_text_and_stays_as_it_is() -> None:
    assert quote_expressions(r"\${oc.eval:(1)} ${oc.eval:(2)}") == r"\${oc.eval:(1)} ${oc.eval:'(2)'}"
    assert quote_expressions(r"\\${oc.eval:(1)}") == r"\\${oc.eval:'(1)'}"


def balanced(text: str) -> bool:
    """Whether quotes, and braces outside of them, come in pairs; a backslash takes the next character with it."""
    plain = re.sub(r"\\.", "", text)
    outside = re.sub(r"'[^']*'|\"[^\"]*\"", "", plain)
    depths = list(accumulate((character == "{") - (character == "}") for character in outside))
    return not re.search(r"['\"\\]", outside) and all(depth >= 0 for depth in depths) and not any(depths[-1:])


@given(st.text("ab1+-*/ ()[]{}<>=,.:'\"\\$%", max_size=20).filter(lambda text: "${" not in text and balanced(text)))
def test_any_expression_without_escapes_reaches_oc_eval_unchanged(text: str) -> None:
    assume("\\" not in re.sub(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", "", text))
    _, ((_, (argument,)),) = evaluated(quote_expressions(f"${{oc.eval:x {text}}}"))
    assert argument.strip() == f"x {text}".strip()


@given(st.text("ab1+ (){}'\"\\$:.", max_size=30))
def test_quoting_twice_is_quoting_once(text: str) -> None:
    once = quote_expressions(text)
    assert quote_expressions(once) == once


@pytest.mark.parametrize("backslashes", range(6))
def test_inside_a_sweep_any_number_of_backslashes_before_an_interpolation_means_none(backslashes: int) -> None:
    escape = "\\" * backslashes
    assert normalise(f"a{escape}${{x}}_{escape}${{y}}", in_sweep=True) == "a${x}_${y}"


FILTER = "${oc.eval:'not (\\\\${backend.megatron.lr} > 1e-3 and \\\\${backend.megatron.global_batch_size} > 256)'}"
ESCAPED = "\\\\${oc.eval:'not (\\\\${backend.megatron.lr} > 2e-3 and \\\\${backend.megatron.global_batch_size} > 512)'}"


@pytest.mark.parametrize(("written", "limits"), [(FILTER, ("1e-3", "256")), (ESCAPED, ("2e-3", "512"))])
def test_both_spellings_of_a_filter_give_the_same_expression(
    tmp_path: Path, written: str, limits: tuple[str, str]
) -> None:
    text = normalise(read(tmp_path, f'filter: "{written}"'), in_sweep=True)["filter"]
    lr, size = "<backend.megatron.lr>", "<backend.megatron.global_batch_size>"
    assert evaluated(text)[1] == [("oc.eval", (f"not ({lr} > {limits[0]} and {size} > {limits[1]})",))]


def test_only_inside_of_a_sweep_backslashes_are_taken_away() -> None:
    tree = {"a": ["\\${x}", {"b": "\\${oc.eval:1}"}], "n": 1}
    assert normalise(tree) == tree
    assert normalise(tree, in_sweep=True) == {"a": ["${x}", {"b": "${oc.eval:'1'}"}], "n": 1}


# ---------------------------------------------------------------------------------------------------------------------


def test_a_folder_is_searched_before_those_behind_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "group").mkdir(parents=True)
        (tmp_path / name / "group" / f"{name}.yaml").touch()
        (tmp_path / name / "both.yaml").touch()
    search = Search((tmp_path / "one", tmp_path / "two"))
    assert search.file("both") == tmp_path / "one" / "both.yaml"
    assert search.file("group/two") == tmp_path / "two" / "group" / "two.yaml"
    assert search.file("group") is None
    assert search.is_group("group")
    assert not search.is_group("both")
    assert not search.is_group("")
    assert search.groups() == ["group"]


def test_an_unknown_config_is_reported_with_the_nearest_names(tmp_path: Path) -> None:
    (tmp_path / "experiments" / "me").mkdir(parents=True)
    (tmp_path / "experiments" / "me" / "scaling.yaml").touch()
    found = unknown_config("scalling", (tmp_path,))
    assert found.hint == "did you mean 'experiments/me/scaling'?"
    assert str(tmp_path) in str(found.where)


def test_a_file_below_here_is_shown_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "a" / "b.yaml") == "a/b.yaml"
    assert shown(Path("/elsewhere/b.yaml")) == "/elsewhere/b.yaml"


def test_a_tab_that_indents_is_reported_as_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="with spaces; this line has a tab"):
        read(tmp_path, "a:\n\tb: 1\n")


def is_read_back(tree: Any, folder: Path) -> bool:
    file = folder / "read.yaml"
    file.write_text(yaml_text(tree))
    of_others = yaml.safe_load(file.read_text()), OmegaConf.to_container(OmegaConf.load(file))
    return all(found == tree for found in (read_mapping(file), *of_others))


@pytest.mark.parametrize(
    "text",
    ["1e3", "0o17", "0x1F", "1_0", "007", "no", "ON", "True", "~", "12:30:01", "2026-01-02", ".5", "1.", "<<", "="],
)
def test_a_text_that_a_reader_would_take_for_something_else_is_quoted(tmp_path: Path, text: str) -> None:
    assert is_read_back({"a": text, "b": [text, {text: text}]}, tmp_path)


@given(st.text("0123456789eE+-._:oxbntrufalsy~ ", min_size=1, max_size=6))
def test_any_text_is_read_back_from_yaml(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert is_read_back({"a": text}, Path(folder))


def test_a_resolved_text_is_read_back_without_an_interpolation() -> None:
    for text in ("${HOME}", r"\${HOME}", r"\\${a} $b ${c"):
        assert OmegaConf.create({"a": escaped({"a": text})["a"]}).a == text
