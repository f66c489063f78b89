"""The runs that actions of a plan would start (RunAutoexpAction): tried when planning, as far as they are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from oellm_autoexp.config.hydra.hydra_keys import is_hydras
from oellm_autoexp.config.loader import Composed, Source, load_mostly
from oellm_autoexp.core.errors import AutoexpError, Problem
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.text import fill
from oellm_autoexp.rules.actions import RunAutoexpAction
from oellm_autoexp.rules.rules import MonitoringSection
from oellm_autoexp.rules.templates import keys_of

_ANY = "1"  # stands for what is known when the action fires


def problems(manifest: Manifest, composed: Composed) -> list[Problem]:
    """Why an action's run could not be composed: an unknown config, wrong overrides. Each at its action."""
    found: dict[Problem, None] = {}
    tried: set[tuple[Location, Source]] = set()
    # a job's recorded config may have other keys than the plan's where the sweep chooses configs
    choosing = any(composed.is_choice(*entry) for job in manifest.jobs for entry in job.parameters.items())
    for place, action in _actions(manifest):
        source = _source(action, composed.source)
        of_job = action.config_ref is None and action.config_path is None
        if source is None or (place, source) in tried or (of_job and choosing):
            continue
        tried.add((place, source))
        for problem in _wrong(source):
            if not of_job or problem not in composed.problems:
                found[Problem(problem.sentence, place, problem.hint)] = None
    return [*found]


def _actions(manifest: Manifest) -> Iterator[tuple[Location, RunAutoexpAction]]:
    """The actions that start runs, each with its place in the config."""
    for section in distinct_sections(manifest):
        if "RunAutoexpAction" in str(section):
            for _, binding, place in MonitoringSection.model_validate(section).bindings():
                if isinstance(binding.action, RunAutoexpAction):
                    yield place, binding.action


_FEW = 8


def distinct_sections(manifest: Manifest) -> list[dict[str, Any]]:
    """The sections `monitoring` of a plan; of jobs with the same rules once."""
    sections = [manifest.monitoring, *(job.monitoring for job in manifest.jobs if job.monitoring is not None)]
    return [section for at, section in enumerate(sections) if section not in sections[max(0, at - _FEW) : at]]


def _source(action: RunAutoexpAction, parent: Source) -> Source | None:
    """What the run would compose; None where that depends on the event. Of a recorded config, what it was made of."""
    config = action.config_ref or action.config_path
    if any(map(keys_of, (config or "", *action.config_dirs))):
        return None
    overrides = tuple(fill(text, lambda _: _ANY) for text in action.overrides if _is_known(text))
    folders = (*map(Path, action.config_dirs), *parent.config_dirs)
    if config is not None:
        return Source(config, folders, overrides)
    return Source(parent.config_ref, folders, (*parent.overrides, *overrides))


def _is_known(text: str) -> bool:
    """Whether an override's key, or its choice of a group, is the same whatever the event's values are."""
    key, _, value = text.partition("=")
    return not keys_of(key) and ("." in key or not keys_of(value)) and not is_hydras(key)


def _wrong(source: Source) -> Sequence[Problem]:
    try:
        return load_mostly(source).problems
    except AutoexpError as error:
        return error.problems
