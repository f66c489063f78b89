"""What an override may be: groups of configs and their choices, keys and their values, from the shipped JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from oellm_autoexp.cli.completion.command_line import Offer
from oellm_autoexp.storage.files import read_text, shipped

_OVERRIDE = "override /"
_EXPERIMENTS = "experiments"


@cache
def _definitions() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_text(shipped("config/schema.json")))["definitions"]
    return found


def overrides(typed: str, config_dirs: Sequence[Path]) -> Iterator[Offer]:
    """Overrides that begin as what is typed: `slurm=local`, `backend.megatron.lr=`; a level of keys at a time."""
    sign = typed[: len(typed) - len(typed.lstrip("+~"))]
    key, equals, _ = typed.removeprefix(sign).partition("=")
    groups = _groups(config_dirs)
    if equals:
        choices = groups.get(key) or _values(key)
        yield from (Offer(f"{sign}{key}={choice}") for choice in choices)
        return
    end = "" if "~" in sign else "="
    yield from (Offer(f"{sign}{group}{end}", "a group of configs", not end) for group in groups)
    for name, about in _next_level(key):
        yield Offer(f"{sign}{name}" if name.endswith(".") else f"{sign}{name}{end}", about, not end and name[-1] != ".")


def keys(typed: str) -> Iterator[Offer]:
    """Keys of the config, without groups: what a new attempt may override."""
    yield from (
        offer for offer in overrides(typed, ()) if "/" not in offer.text and offer.about != "a group of configs"
    )


def experiments(typed: str, config_dirs: Sequence[Path]) -> Iterator[Offer]:
    """The names of experiments, with `experiments/` if that is typed, and of configs in folders of the user's own."""
    start = f"{_EXPERIMENTS}/" if typed.startswith(_EXPERIMENTS) else ""
    for folder in (*config_dirs, shipped("config")):
        for file in sorted((folder / _EXPERIMENTS).rglob("*.yaml")):
            yield Offer(f"{start}{file.relative_to(folder / _EXPERIMENTS).with_suffix('')}")
    for folder in config_dirs:
        yield from (Offer(file.stem) for file in sorted(folder.glob("*.yaml")))


def _groups(config_dirs: Sequence[Path]) -> dict[str, list[str]]:
    """The choices of each group: those that are shipped, as a defaults list of the schema suggests them, and others."""
    entries = _definitions()["defaults"]["items"]["properties"]
    found = {
        name.removeprefix(_OVERRIDE): [str(choice) for choice in entry["anyOf"][0]["enum"]]
        for name, entry in entries.items()
        if name.startswith(_OVERRIDE)
    }
    for folder in config_dirs:
        for file in sorted((*folder.glob("*/*.yaml"), *folder.glob("*/*/*.yaml"))):
            group = str(file.parent.relative_to(folder))
            if not group.startswith(_EXPERIMENTS):
                found[group] = list(dict.fromkeys((*found.get(group, ()), file.stem)))
    return found


def _next_level(typed: str) -> Iterator[tuple[str, str]]:
    """The keys that begin as what is typed, with what is said of them; of several levels the next one: `backend.`."""
    levels: dict[str, str] = {}
    for key, schema in _definitions()["sweep"]["properties"].items():
        if key.startswith(typed) and ("." in key or key == "stage"):
            head, dot, _ = key[len(typed) :].partition(".")
            levels.setdefault(f"{typed}{head}{dot}", "" if dot else _about(schema))
    yield from levels.items()


def _about(schema: dict[str, Any]) -> str:
    """The first line of what is said of a key."""
    while "description" not in schema and "$ref" in schema:
        schema = _at(schema["$ref"])
    return str(schema.get("description", "")).partition("\n")[0]


def _values(key: str) -> list[str]:
    """The values of a key that has a choice of them; [] if it takes others."""
    schema = _definitions()["sweep"]["properties"].get(key, {})
    while "$ref" in schema:
        if schema["$ref"].rpartition("/")[2].startswith("boolean"):
            return ["true", "false"]
        schema = _at(schema["$ref"])
    choices = [choice for each in schema.get("anyOf", ()) for choice in each.get("enum", ())]
    return ["null" if choice is None else str(choice) for choice in choices]


def _at(reference: str) -> Any:
    node: Any = _definitions()
    for part in reference.removeprefix("#/definitions/").split("/"):
        node = node[part]
    return node
