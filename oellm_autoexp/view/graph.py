"""A plan as a picture: its stages, what is swept, what each stage waits for. Pure: a manifest in, text out."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.redaction import redact_words
from oellm_autoexp.core.text import number, plural, printable, printable_json, scalar, shell
from oellm_autoexp.learning.words import needs

WIDTH = 70
_UNNAMED = "jobs"
_LISTED = 8


@dataclass(frozen=True)
class Stage:
    """One stage: how many jobs, what they wait for and are cancelled by (in words), the stages they depend on."""

    name: str
    count: int
    jobs: tuple[str, ...]
    start: tuple[str, ...]
    cancel: tuple[str, ...]
    done: tuple[str, ...]
    after: tuple[str, ...]
    time: tuple[str, ...] = ()
    """How long its jobs run by earlier runs, and which are chains, in words."""


@dataclass(frozen=True)
class Graph:
    """A plan's stages in the order of their first jobs, and the swept axes with their values."""

    title: str
    total: int
    combinations: int
    axes: Mapping[str, tuple[Any, ...]]
    stages: tuple[Stage, ...]


def graph(manifest: Manifest, max_jobs_per_stage: int = 0) -> Graph:
    """The graph of a plan; each stage lists at most so many of its jobs' names."""
    by_stage: dict[str, list[JobSpec]] = {}
    for job in manifest.jobs:
        by_stage.setdefault(job.stage or _UNNAMED, []).append(job)
    jobs = {job.name: job for job in manifest.jobs}
    places = {json.dumps(job.coords, sort_keys=True, default=str) for job in manifest.jobs}
    axes: dict[str, dict[str, Any]] = {}
    for job in manifest.jobs:
        for key, value in job.coords.items():
            axes.setdefault(key, {}).setdefault(json.dumps(value, default=str), value)
    return Graph(
        manifest.project,
        len(manifest.jobs),
        len(places),
        {key: _ordered(tuple(values.values())) for key, values in axes.items()},
        tuple(_stage(name, members, jobs, max_jobs_per_stage) for name, members in by_stage.items()),
    )


def _ordered(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numbers by size; anything else in the order of the sweep."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return tuple(sorted(values)) if numbers else values


def _stage(name: str, members: Sequence[JobSpec], jobs: Mapping[str, JobSpec], listed: int) -> Stage:
    after = dict.fromkeys(
        jobs[parent].stage or _UNNAMED for job in members for parent in job.depends_on if parent in jobs
    )
    gates = [_gate(job, [jobs[parent] for parent in job.depends_on if parent in jobs]) for job in members]
    start = _of_how_many([gate.start for gate in gates], none="Immediate")
    cancel, done = (_of_how_many(part) for part in ([gate.cancel for gate in gates], [gate.done for gate in gates]))
    names, time = tuple(job.name for job in members[:listed]), _of_how_many([_time(job) for job in members])
    return Stage(name, len(members), names, start, cancel, done, tuple(after), time)


def _time(job: JobSpec) -> list[str]:
    expected = job.workload.estimate if job.workload else None
    found = [needs(expected, job.resources.time_limit_seconds, job.chain.links if job.chain else 1)] if expected else []
    if job.chain:
        goal = "" if job.chain.until is None else f", until {job.chain.until} is reached"
        found.append(f"a chain of at most {plural(job.chain.links, 'link')}{goal}")
    return found


class _Gate(NamedTuple):
    """What one job waits for, is cancelled by and is done with, in words in which its siblings' names do not occur."""

    start: list[str]
    cancel: list[str]
    done: list[str]


def _gate(job: JobSpec, parents: Sequence[JobSpec]) -> _Gate:
    start, cancel, done = (
        [_condition(condition, parents) for condition in conditions]
        for conditions in (job.start_conditions, job.cancel_conditions, job.done_conditions)
    )
    if parents and not start:
        names = " and ".join(dict.fromkeys(parent.stage or _UNNAMED for parent in parents))
        start.append(f"{names}: success")
        cancel.append(f"{names}: ended without success")
    if job.start_condition_cmd:
        start.append(f"Command: {shell(redact_words(job.start_condition_cmd))}")
    return _Gate(start, cancel, done)


def _of_how_many(conditions: Sequence[Sequence[str]], none: str = "") -> tuple[str, ...]:
    """Each condition that jobs have, and how many have it if not all; `none` is what those have that have none."""
    counts = Counter(text for texts in conditions for text in dict.fromkeys(texts))
    if not counts:
        return ()
    if none and (without := sum(not texts for texts in conditions)):
        counts[none] = without
    lines = [
        text if count == len(conditions) else f"{text} ({count} of {plural(len(conditions), 'job')})"
        for text, count in counts.items()
    ]
    rest = len(lines) - _LISTED
    return (*lines[:_LISTED], f"… {rest} more") if rest > 0 else tuple(lines)


def _condition(condition: Mapping[str, Any], parents: Iterable[JobSpec]) -> str:
    """`FileExists: .../done.txt`: what belongs to one parent job is shortened, as it differs from job to job."""
    kind = str(condition["class_name"]).removesuffix("Condition")
    values = [_value(key, value, parents) for key, value in condition.items() if key != "class_name"]
    return f"{kind}: {' = '.join(values)}" if values else kind


def _value(key: str, value: Any, parents: Iterable[JobSpec]) -> str:
    items = [scalar(item) for item in (value if isinstance(value, list | tuple) else [value])]
    items = [_shortened(item, parents) for item in items]
    return shell(redact_words(tuple(items))) if key == "command" else " or ".join(items)


def _shortened(text: str, parents: Iterable[JobSpec]) -> str:
    """A value in which a parent's folder is `...`, and its name, where it is all of a word of a path, `STAGE_job`."""
    for parent in sorted(parents, key=lambda parent: -len(parent.output_dir)):
        if f"{text}/".startswith(f"{parent.output_dir}/"):
            return f"...{text[len(parent.output_dir) :]}"
        text = re.sub(rf"(?<![^/]){re.escape(parent.name)}(?![^/])", f"{parent.stage}_job".replace("\\", r"\\"), text)
    return text


def as_text(drawn: Graph) -> str:
    """The boxed picture."""
    rule = "=" * WIDTH
    lines = [rule, f" Multi-Stage Experiment Plan: {' '.join(drawn.title.split())}", rule]
    lines += [f"Total: {plural(drawn.total, 'job')} across {len(drawn.stages)} stage(s)", ""]
    if drawn.axes:
        axes = [f"• {key.rsplit('.', 1)[-1]}: [{', '.join(map(number, values))}]" for key, values in drawn.axes.items()]
        lines += [*_box([["Hyperparameter Sweep", *axes, f"Total combinations: {drawn.combinations}"]]), ""]
    for stage in drawn.stages:
        if stage.after:
            lines += [_arrows(len(drawn.stages)), ""]
        lines += [*_box(_rows(stage)), ""]
    return printable("\n".join(lines).rstrip()) + "\n"


def _arrows(stages: int) -> str:
    return " " * 14 + "             ".join("│" * max(1, min(stages - 1, 4)))


def _rows(stage: Stage) -> list[list[str]]:
    body = []
    for heading, conditions in (("Start", stage.start), ("Cancel", stage.cancel), ("Done", stage.done)):
        if conditions:
            body += [f"{heading} Conditions:", *(f"  • {condition}" for condition in conditions)]
        elif heading == "Start":
            body.append("Start: Immediate")
    if stage.time:
        body += ["Time:", *(f"  • {text}" for text in stage.time)]
    if stage.jobs:
        rest = stage.count - len(stage.jobs)
        body += ["Jobs:", *(f"  {name}" for name in stage.jobs), *([f"  … {rest} more"] if rest else [])]
    return [[f"Stage: {stage.name} ({plural(stage.count, 'job')})"], body]


def _box(parts: Sequence[Sequence[str]]) -> list[str]:
    inner = WIDTH - 4
    bar = "─" * (WIDTH - 2)
    lines = [f"┌{bar}┐"]
    for index, part in enumerate(parts):
        if index:
            lines.append(f"├{bar}┤")
        for line in part:
            indent = " " * (len(line) - len(line.lstrip()) + 2)
            wrapped = textwrap.wrap(line, inner, subsequent_indent=indent, drop_whitespace=False) or [""]
            lines += [f"│ {piece:<{inner}} │" for piece in wrapped]
    return [*lines, f"└{bar}┘"]


def as_mermaid(drawn: Graph) -> str:
    """A Mermaid flowchart, as Markdown viewers draw it."""
    lines = ["flowchart TD"]
    ids = {stage.name: f"s{index}" for index, stage in enumerate(drawn.stages)}
    lines += [
        f'    {ids[stage.name]}["{_mermaid(stage.name)}<br/>{plural(stage.count, "job")}"]' for stage in drawn.stages
    ]
    for stage in drawn.stages:
        label = f'|"{_mermaid("; ".join(stage.start))}"|' if stage.start else ""
        lines += [f"    {ids[parent]} -->{label} {ids[stage.name]}" for parent in stage.after]
    return "\n".join(lines) + "\n"


_MERMAID = str.maketrans({"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\n": " "})
"""What would end a quoted label, or begin an entity, a tag or Markdown in it."""


def _mermaid(text: str) -> str:
    return printable(text.translate(_MERMAID))


def as_dot(drawn: Graph) -> str:
    """A Graphviz digraph."""
    lines = [f"digraph {_dot(drawn.title)} {{", "    node [shape=box];"]
    lines += [f"    {_dot(stage.name)} [label={_dot(f'{stage.name} ({stage.count})')}];" for stage in drawn.stages]
    for stage in drawn.stages:
        label = f" [label={_dot('; '.join(stage.start))}]" if stage.start else ""
        lines += [f"    {_dot(parent)} -> {_dot(stage.name)}{label};" for parent in stage.after]
    return "\n".join([*lines, "}"]) + "\n"


def _dot(text: str) -> str:
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")) + '"'


def as_json(drawn: Graph) -> str:
    """The graph as one JSON document."""
    return printable_json(json.dumps(asdict(drawn), indent=2, ensure_ascii=False)) + "\n"


FORMATS: Mapping[str, Callable[[Graph], str]] = {
    "text": as_text,
    "mermaid": as_mermaid,
    "dot": as_dot,
    "json": as_json,
}
