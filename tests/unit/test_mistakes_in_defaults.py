"""What does not go together in defaults lists, and in files with what these choose: a sentence of our own, its line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load_mostly
from oellm_autoexp.core.errors import ConfigError, Problem

HEADER = "# @package _global_\n"


def problems(folder: Path, text: str, others: Mapping[str, str] | None = None) -> list[tuple[str, str, str]]:
    """What is found wrong in an experiment beside other files: the place, what, and the hint of each."""
    for name, content in {"exp": text, **(others or {})}.items():
        (folder / f"{name}.yaml").write_text(HEADER + content)
    found: tuple[Problem, ...]
    try:
        found = load_mostly(Source("exp", (folder,))).problems
    except ConfigError as error:
        found = error.problems
    return [(str(each.where).removeprefix(f"{folder}/"), each.what, each.hint) for each in found]


@pytest.mark.parametrize("entry", ["/sweep: none", "/slurm: local", "/backend/megatron: base"])
def test_of_a_choice_behind_an_override_only_that_is_reported(tmp_path: Path, entry: str) -> None:
    text = f"defaults:\n  - override /backend: [command, tiny_lm]\n  - {entry}\n"
    hint = "move those with 'override' to the end"
    assert problems(tmp_path, text) == [("exp.yaml:4", "an entry with 'override' is before this one", hint)]


@pytest.mark.parametrize(
    ("entries", "line", "what", "hint"),
    [
        ("[/slurm: local, override /slurm: lcoal]", 2, "there is no 'lcoal' in the config group 'slurm'", "did you"),
        ("[base1, override /slurm: lcoal]", 2, "there is no 'lcoal' in the config group 'slurm'", "did you mean"),
        (
            "\n  - /backend: megatron\n  - /backend/megatron: 1B\n  - /backend/megatron: 3BX",
            5,
            "there is no '3BX' in the config group 'backend/megatron'",
            "did you mean '3B'?",
        ),
        ("\n  - /backend: megatron\n  - /backend/megatron: 1B\n  - /backend: megtron", 5, "there is no 'megtron'", ""),
        (
            "\n  - base2\n  - /backend/megatron: 3B",
            4,
            "'backend/megatron' is chosen more than once",
            "to change a choice, write '- override /backend/megatron: 3B' at the end",
        ),
        ("\n  - /autoexp\n  - /slurm: fake", 4, "'slurm' is chosen more than once", "to change a choice, write"),
        ("\n  - /autoexp\n  - /autoexp", 2, "'backend' is chosen more than once", "keep one of the entries"),
        ("\n  - /slurm: local\n  - /slurm: null", 4, "'slurm' is chosen beside null in this list", "keep one of"),
        ("\n  - /slurm: ???", 3, "no config of 'slurm' is chosen; '???' stands for one", "known: base, fake"),
        ("\n  - override /slurm: ???", 3, "no config of 'slurm' is chosen", "known: base, fake"),
        ("\n  - /slurm: ['${oc.env:HOME}', local]", 3, "${oc.env:HOME} can't be one of several choices", "name the"),
        ("\n  - /slurm: ${nosuch:x}", 3, "${nosuch:x} is not known in a defaults list", "it knows environment"),
        ("\n  - /slurm@x: local\n  - override /slurm@y: base", 4, "the config has no 'slurm@y' to", "did you mean"),
        ("\n  - /slurm", 3, "'slurm' is a group of configs", "write '- /slurm: NAME' to choose one"),
        (
            "\n  - 'override /slurm: local'",
            3,
            "'override /slurm: local' is one text because of its quotes, not a group and its choice",
            "write it without quotes: - override /slurm: local",
        ),
        ("\n  - '/slurm: local'", 3, "'/slurm: local' is one text", "write it without quotes: - /slurm: local"),
    ],
)
def test_entries_that_do_not_go_together_are_reported_once_with_the_line(
    tmp_path: Path, entries: str, line: int, what: str, hint: str
) -> None:
    others = {
        "base1": "defaults: [/slurm: local]\n",
        "base2": "defaults: [/backend: megatron, /backend/megatron: 1B]\n",
    }
    ((where, said, written),) = problems(tmp_path, f"defaults: {entries}\n", others)
    assert where == f"exp.yaml:{line}"
    assert said.startswith(what)
    assert written.startswith(hint)


@pytest.mark.parametrize(
    ("entries", "body", "line", "key"),
    [
        ("[override /backend: megatron]", "backend:\n  megatron: [a, b]\n", 4, "backend.megatron"),
        ("[/backend: megatron]", "backend: {megatron: {aux: [a, b]}}\n", 3, "backend.megatron.aux"),
        ("[_self_, /backend: megatron]", "backend: {megatron: [a]}\n", 3, "backend.megatron"),
        ("[/autoexp, _self_]", "slurm: [a]\n", 3, "slurm"),
    ],
)
def test_a_list_where_what_is_chosen_has_keys_is_reported_with_its_line(
    tmp_path: Path, entries: str, body: str, line: int, key: str
) -> None:
    wrong = "must be keys and values, not a list"
    assert problems(tmp_path, f"defaults: {entries}\n{body}") == [(f"exp.yaml:{line} ($.{key})", wrong, "")]
    found = problems(tmp_path, "defaults: [inner]\n", {"inner": f"defaults: {entries}\n{body}"})
    assert found == [(f"inner.yaml:{line} ($.{key})", wrong, "")]
