"""The JSON Schema of configs, by a validator: what is shipped is right, what is wrong is found at its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from oellm_autoexp.cli import config_schema
from oellm_autoexp.config.schema import AutoexpConfig
from oellm_autoexp.rules.actions import ACTIONS
from oellm_autoexp.rules.conditions import CONDITIONS
from oellm_autoexp.sweep.expander import KEYWORDS
from tests.editor.wrong import WRONG, unmarked

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
SCHEMA = CONFIG / "schema.json"
SHIPPED = sorted(CONFIG.rglob("*.yaml"))
EXPERIMENTS = [path for path in SHIPPED if path.is_relative_to(CONFIG / "experiments")]
Path_ = tuple[Any, ...]


@cache
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCHEMA.read_text())
    return found


def validator(definition: str = "") -> jsonschema.Draft7Validator:
    """A validator of whole configs, or of the files that a definition is for."""
    whole = schema()
    if definition:
        whole = {"$ref": f"#/definitions/{definition}", "definitions": whole["definitions"]}
    return jsonschema.Draft7Validator(whole)


def marked(error: jsonschema.ValidationError, content: Any) -> Iterator[Path_]:
    """The places in a config that an error is about; of a key that is not known, the key itself."""
    path = tuple(error.absolute_path)
    schema: Any = error.schema
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        patterns = schema.get("patternProperties", {})
        for key in instance:
            if key not in schema["properties"] and not any(re.search(pattern, key) for pattern in patterns):
                yield (*path, key)
    elif error.validator is None:  # refused whatever its value is, by `false`: jsonschema names what it is in
        yield from ((*path, key) for key, inner in _at(content, path).items() if inner is instance)
    elif error.validator in ("required", "maxProperties"):  # a mapping begins with its first key
        yield (*path, next(iter(instance)))
    else:
        yield path


def _at(node: Any, path: Iterable[Any]) -> Any:
    for key in path:
        node = node[key]
    return node


def found(place: str) -> Any:
    """What is at a place of the schema."""
    return _at(schema(), place.removeprefix("#/").split("/"))


def reference(path: Path) -> str:
    """The definition that the comment of a file names; '' for the whole."""
    named = re.search(r"^# yaml-language-server: \$schema=(\S+)$", path.read_text(), re.MULTILINE)
    assert named, f"{path} names no schema"
    file, _, place = named[1].partition("#/definitions/")
    assert (path.parent / file).resolve() == SCHEMA
    return place


def test_the_shipped_schema_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert config_schema.main([]) == 0
    assert capsys.readouterr().out == SCHEMA.read_text(), "python scripts/config_schema.py --output config/schema.json"
    jsonschema.Draft7Validator.check_schema(schema())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(CONFIG)))
def test_what_is_shipped_is_right(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert [(error.json_path, error.message) for error in validator(reference(path)).iter_errors(content)] == []


def test_every_file_names_what_it_is() -> None:
    for path in SHIPPED:
        package = re.match(r"# @package (\S+)", path.read_text())
        group = path.relative_to(CONFIG).parent.parts[:2]
        usual = "megatron" if group == ("backend", "megatron") else group[0] if group else ""
        named = "" if package and package[1] == "_global_" else usual
        assert reference(path) == ("" if group[:1] == ("experiments",) else named), path


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found_at_its_place(name: str) -> None:
    text, place = unmarked(WRONG[name])
    content = yaml.safe_load(text)
    assert {path for error in validator().iter_errors(content) for path in marked(error, content)} == {place.path}


def values(node: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths of all values below the root."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in children:
        yield (*path, key)
        yield from values(inner, (*path, key))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_any_value_may_be_an_interpolation(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    check = validator()
    for place in values(content):
        if place[0] == "defaults":  # Hydra's own
            continue
        changed = deepcopy(content)
        _at(changed, place[:-1])[place[-1]] = "${metadata.x}"
        assert check.is_valid(changed), place


def test_every_section_action_and_condition_and_each_of_their_keys_is_explained() -> None:
    definitions = schema()["definitions"]
    known = {*ACTIONS.classes(), *CONDITIONS.classes(), *AutoexpConfig.model_fields} - {"index", "stage"}
    assert known - {"metadata", "aux"} <= definitions.keys()
    assert definitions["sweep"]["properties"].keys() >= KEYWORDS
    for name, definition in definitions.items():
        for key, inner in definition.get("properties", {}).items():
            about = inner if isinstance(inner, dict) else {"description": "refused"}
            while "description" not in about and "$ref" in about:
                about = found(about["$ref"])
            assert about.get("description") or key == "class_name" or "if" in about, f"{name}.{key}"


def test_megatrons_arguments_have_its_own_words() -> None:
    learning_rate = found("#/definitions/megatron/properties/lr")["description"]
    assert learning_rate.startswith("Initial learning rate. Depending on decay style and initial warmup")
    assert learning_rate.endswith("`--lr`")


def test_it_is_written_to_a_file_with_the_choices_of_folders_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm/mine.yaml").write_text("array: true\n")
    assert config_schema.main(["-C", str(tmp_path), "-o", str(tmp_path / "schema.json")]) == 0
    written = json.loads((tmp_path / "schema.json").read_text())
    choices = written["definitions"]["defaults"]["items"]["properties"]["override /slurm"]["anyOf"][0]["enum"]
    assert {"mine", "base"} <= {*choices}
