"""In what jobs differ: values of the sweep, options and words of their commands, variables, resources. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oellm_autoexp.core.nouns import JobSpec
from oellm_autoexp.core.redaction import redact, redact_words
from oellm_autoexp.core.text import scalar
from oellm_autoexp.session.job_state import JobState

_MOST_VALUES = 1000
"""A key with more values than so many is too long to read, and is left out beyond these jobs."""
_ABSENT = -1


@dataclass(frozen=True)
class Difference:
    """A key that has several values: the values, as text, and which of them each job has (-1: it has none)."""

    key: str
    values: tuple[str, ...]
    of: tuple[int, ...]


def differences(jobs: Sequence[tuple[JobSpec, JobState | None]]) -> list[Difference]:
    """What is not the same in all jobs, without secrets; what only repeats another key is left out.

    What differs by the job's own name or folder alone is the same.
    """
    settings = [_settings(spec, job) for spec, job in jobs]
    found: list[Difference] = []
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for key in dict.fromkeys(key for each in settings for key in each):
        numbers: dict[str, int] = {}
        of = tuple(numbers.setdefault(each[key], len(numbers)) if key in each else _ABSENT for each in settings)
        alike = (_last_word(key), of)
        if len({*of}) > 1 and alike not in seen and len(numbers) <= max(_MOST_VALUES, len(jobs) // 2):
            seen.add(alike)
            found.append(Difference(key, tuple(numbers), of))
    return found


def _last_word(key: str) -> str:
    """`lr` of `backend.megatron.lr` and of `--lr`."""
    return key.rpartition(".")[2].lstrip("-").replace("-", "_")


def _settings(spec: JobSpec, job: JobState | None) -> dict[str, str]:
    """Keys and their values as texts."""
    found = {key: _text(value) for key, value in redact(spec.parameters).items()}
    found |= _of_words(_without_places(redact_words(spec.argv), spec))
    found |= {f"env.{key}": _place(str(value), spec) for key, value in redact(spec.env).items()}
    found |= {key: _text(value) for key, value in spec.resources.model_dump().items()}
    if job is not None and job.changes.overrides:
        found |= {f"later attempts: {key}": _text(value) for key, value in redact(job.changes.overrides).items()}
    return found


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else scalar(value)


def _place(text: str, spec: JobSpec) -> str:
    """A text in which the job's own folder and name are as in every job."""
    return text.replace(spec.output_dir, "{output_dir}").replace(spec.name, "{name}")


def _without_places(words: Iterable[str], spec: JobSpec) -> list[str]:
    return [_place(word, spec) for word in words]


def _of_words(words: Sequence[str]) -> Mapping[str, str]:
    """The options of a command with their values, and its other words by their number."""
    found: dict[str, str] = {}
    option = ""
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            option = name
            found[name] = value if equals else "given"
            if equals:
                option = ""
        elif option:
            found[option] = word if found[option] == "given" else f"{found[option]} {word}"
        elif equals and name.replace(".", "").replace("_", "").isalnum():
            found[name] = value
        else:
            found[f"word {number}"] = word
    return found
