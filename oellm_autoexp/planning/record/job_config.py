"""The recorded config of one job, as the text of a config file that stands alone: what its sweep has set is in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

from oellm_autoexp.config.hydra.yaml_rules import yaml_text
from oellm_autoexp.config.values.braces import with_literal_braces
from oellm_autoexp.config.values.interpolation import where
from oellm_autoexp.core.errors import ConfigError, Problem, raise_all
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.text import escaped
from oellm_autoexp.planning.record.plan_record import recorded
from oellm_autoexp.planning.record.secret_marks import MARK, NO_VALUE, secrets_named
from oellm_autoexp.planning.resolving.resolve import CONDITIONS
from oellm_autoexp.sbatch.shell_code import mark_code, taken_out

Path = tuple[Any, ...]
Value = Callable[[Path], Any]
"""Answers what stands at a path of a resolved config."""
_OF_THE_SWEEP = re.compile(r"(?<![\w.])(?:sibling\.|index\b)")
"""In an interpolation: what a job has as one of several only."""
_REFERENCE = re.compile(r"(?<!\\)\$\{(index|sibling\.[\w.-]+)\}")
_PLAIN_PATH = re.compile(r"/[\w./@+=-]*", re.ASCII)
_OTHER_GROUPS = ("backend", "container", "slurm", "scheduler", "monitoring", "job", "project")
_HEAD = {"defaults": [*({group: None} for group in _OTHER_GROUPS), {"sweep": "none"}, "_self_"]}
"""A defaults list that brings in nothing of the root config's groups."""


def config_file(manifest: Manifest, job: JobSpec) -> str:
    """A config file of which a plan has this job alone, as its own plan described it.

    Interpolations stay, so that they follow an override, but for those about siblings and the job's number: these are
    the values that they had. Conditions on other jobs of its plan are left out.

    Raises ConfigError if it needs a secret that is not to be had, or can't be a file; SweepError or StateError as
    `recorded`.
    """
    plan = recorded(manifest, job)
    with secrets_named(plan.marks):
        value = partial(plan.jobs.value, job.index)
        others = {other.name for other in manifest.jobs} - {job.name}
        tree = _without_conditions_on(others, plan.jobs.written(job.index), value)
        tree = _alone(tree, (), value, partial(plan.jobs.written_value, job.index))
        code = plan.jobs.job(job.index).code.keys()
    raise_all(ConfigError, [*_secrets(tree), *_no_code(tree, code)])
    whole = {**_HEAD, **with_literal_braces(tree), "sweep": {}}
    return f"# @package _global_\n{yaml_text(whole)}"


def _without_conditions_on(others: Collection[str], tree: dict[str, Any], value: Value) -> dict[str, Any]:
    """A job's config without its conditions on the states of other jobs."""
    job = tree.get("job")
    if not isinstance(job, dict):
        return tree

    def is_kept(condition: Any, path: Path) -> bool:
        named = isinstance(condition, dict) and "job_name" in condition
        return not named or value((*path, "job_name")) not in others

    kept = {
        key: [each for number, each in enumerate(job[key]) if is_kept(each, ("job", key, str(number)))]
        for key in CONDITIONS
        if isinstance(job.get(key), list)
    }
    return {**tree, "job": {**job, **kept}}


def _alone(node: Any, path: Path, value: Value, written_value: Value) -> Any:
    """A copy of a part of a config in which the values of siblings, and the job's number, are written out.

    A text is evaluated as a whole where one of these is neither a number nor a plain path: these alone mean the same
    within any interpolation.
    """
    if isinstance(node, dict):
        return {key: _alone(item, (*path, key), value, written_value) for key, item in node.items()}
    if isinstance(node, list):
        return [_alone(item, (*path, str(index)), value, written_value) for index, item in enumerate(node)]
    if not isinstance(node, str) or "${" not in node or not _OF_THE_SWEEP.search(node):
        return node

    def written(match: re.Match[str]) -> str:
        found = value(tuple(match[1].split(".")))
        plain = type(found) is int or (isinstance(found, str) and _PLAIN_PATH.fullmatch(found))
        return str(found) if plain else match[0]

    text = node if _REFERENCE.fullmatch(node) else _REFERENCE.sub(written, node)
    return escaped(written_value(path)) if _OF_THE_SWEEP.search(text) else text


def _secrets(tree: Any) -> list[Problem]:
    """The problems of values that are secrets, which the record lacks."""
    hint = "give config_ref and take secrets from the environment: ${oc.env:NAME}"
    hidden = [path for path, text in _texts(tree, ()) if MARK.search(text)]
    return [Problem(NO_VALUE, where(path), hint) for path in hidden]


def _no_code(tree: dict[str, Any], code: Collection[str]) -> list[Problem]:
    """The problems of texts that a file would make shell code of; `code` are the keys that hold code."""
    hint = "give config_ref, and set it by an override"
    read_as_code = taken_out(mark_code(tree, ""))[1]
    return [
        Problem("in a file this text would be shell code", CONFIG / key, hint) for key in read_as_code.keys() - code
    ]


def _texts(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text of a tree, with its path."""
    if isinstance(node, dict):
        for key, item in node.items():
            yield from _texts(item, (*path, str(key)))
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from _texts(item, (*path, str(index)))
    elif isinstance(node, str):
        yield path, node
