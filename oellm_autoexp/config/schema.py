"""The typed sections of a job's config. Unknown keys are errors; open sections say so.

What pydantic finds wrong is put into our words in `_problem`; near misses come from `core.text.did_you_mean`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from oellm_autoexp.backends.base import BACKENDS, Backend
from oellm_autoexp.config.values.other_names import instead
from oellm_autoexp.containers.kinds import ContainerField, NoContainer
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.fields import (
    AlsoWritten,
    Count,
    Number,
    Pause,
    Seconds,
    Section,
    Text,
    Words,
)
from oellm_autoexp.core.location import Keys, Location
from oellm_autoexp.core.registry import broken, tags
from oellm_autoexp.core.text import CONTROL, did_you_mean, scalar
from oellm_autoexp.rules.conditions import ConditionField
from oellm_autoexp.rules.rules import MonitoringSection
from oellm_autoexp.sbatch.section import SlurmOptions
from oellm_autoexp.schedulers.base import CLIENTS, SchedulerClient


class ProjectSection(Section):
    """Names and places of a job."""

    name: Text
    """The job's name, unique in its plan: a sweep puts what it varies into it."""
    base_output_dir: str
    """The folder below which each job has its own."""
    output_dir: str
    """The job's own folder."""
    log_path: str
    """The log of an attempt. `%j` is the scheduler's job id; in an array, `%A_%a` is the array's id and the task's
    number.
    """
    log_path_current: str
    """A link to the newest attempt's log."""
    monitoring_state_dir: str
    """The folder of sessions."""
    resume: bool = True
    """Whether a job may go on from checkpoints that are in its folder before its first attempt; false: an error."""
    learn_from: tuple[str, ...] = ()
    """Further folders of sessions (beside `monitoring_state_dir`) whose runs plans are compared with."""
    code: Literal["inplace", "snapshot"] = "inplace"
    """Whether jobs run the code that is there when they begin, or a copy from when they were planned."""

    @model_validator(mode="after")
    def _fit_into_lines(self) -> ProjectSection:
        """The first that no directive could hold: the paths below it usually have it in them."""
        for key in ("base_output_dir", "name", "output_dir", "log_path", "log_path_current", "monitoring_state_dir"):
            if CONTROL.search(getattr(self, key)):
                what = "the value contains a line break or control character"
                raise PydanticCustomError("line", what, {"within": (key,)})
        return self


if TYPE_CHECKING:
    BackendField = Backend
    ClientField = SchedulerClient
else:
    BackendField = BACKENDS.union()
    ClientField = CLIENTS.union()


class SlurmSection(SlurmOptions):
    """How jobs are rendered, and handed to the scheduler that `client` names."""

    client: ClientField
    """The scheduler: which one, and its settings."""


class SchedulerSection(Section):
    """Limits on what is handed to the scheduler."""

    max_jobs: Count | None = Field(default=None, ge=1)
    """Jobs in the scheduler's queue at once, at most; null: no limit."""
    first_jobs: Count | None = Field(default=None, ge=1)
    """So many jobs go first; the others wait until one of them has reported an iteration, or succeeded."""
    submit_rate_limit_seconds: Pause = 0
    """Seconds between two submissions."""
    max_gpu_hours: Number | None = Field(default=None, ge=0)
    """A plan that may use more (nodes x GPUs x time limit) is submitted only after a yes; null: no limit."""
    native_dependencies: bool = False
    """Whether SLURM itself waits for the siblings of a job that has no conditions of its own (`--dependency`)."""


def _usual_interval(value: Any) -> Any:
    return 60 if value is None else value


class ChainSection(Section):
    """A long run as a chain of jobs of the scheduler, submitted ahead, which goes on without a monitor."""

    links: Count = Field(default=10, ge=1, le=1000)
    """How many jobs the chain has at most; those that are not needed are removed from the queue."""
    until: Text | None = None
    """The number that completes the chain, or the key of the config that has it (`backend.megatron.train_iters`).

    null: the backend's, where it is known (Megatron: train_iters); else a link with exit code 0 completes the chain.
    """
    progress_file: str | None = None
    """The file that begins with the number that says how far the run is; null: the backend's, where it is known
    (Megatron: that of its newest checkpoint).
    """
    max_fruitless: Count = Field(default=2, ge=1)
    """After so many links in a row without a higher number in `progress_file` the chain ends."""
    stop_file: str | None = None
    """No link begins while this file exists; null: the file STOP in the job's folder."""


class JobSection(Section):
    """What a job waits for, is cancelled by, and is already done with (then it is not run at all)."""

    start_conditions: tuple[ConditionField, ...] = ()
    """The job is submitted when all of these hold. Without any, one that refers to a sibling waits for its success."""
    cancel_conditions: tuple[ConditionField, ...] = ()
    """The job is given up, or ended, when one of these holds."""
    done_conditions: tuple[ConditionField, ...] = ()
    """The job is not run if all of these hold."""
    start_condition_cmd: Words = ()
    """A command that must exit with 0 before the job is submitted."""
    start_condition_interval_seconds: Annotated[
        Seconds, BeforeValidator(_usual_interval), AlsoWritten({"type": "null"})
    ] = 60
    """Seconds between two runs of `start_condition_cmd`."""
    inactivity_threshold_seconds: Seconds | None = None
    """Seconds without a new log line after which the job counts as stalled; null: as `monitoring` says."""
    chain: ChainSection | None = None
    """How a run that is longer than its time limit goes on: as a chain of jobs; null: it is one job."""


class AutoexpConfig(Section):
    """A job's whole config, resolved."""

    index: Count = 0
    """The job's number in its plan; the sweep sets it."""
    stage: Text | None = None
    """The job's stage in an experiment with several; the sweep sets it."""
    metadata: dict[str, Any] = {}
    """Values of the user's own: notes, tags, anything."""
    aux: dict[str, Any] = {}
    """Values of the user's own, as `metadata`."""
    project: ProjectSection
    backend: BackendField
    container: ContainerField = NoContainer()
    slurm: SlurmSection
    scheduler: SchedulerSection = SchedulerSection()
    monitoring: MonitoringSection = MonitoringSection()
    job: JobSection = JobSection()


def decode(tree: dict[str, Any]) -> AutoexpConfig:
    """The typed config of a resolved tree. Raises ConfigError with every mistake, each with its `$.path`."""
    try:
        return AutoexpConfig.model_validate(tree)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False)]
        raise ConfigError(*dict.fromkeys(problems)) from None


def decode_section(name: str, tree: Any) -> Any:
    """One typed section of a resolved tree by its name. Raises ConfigError, as `decode`."""
    section: type[BaseModel] = cast("type[BaseModel]", AutoexpConfig.model_fields[name].annotation)
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        found = [_problem({**detail, "loc": (name, *detail["loc"])}) for detail in error.errors(include_url=False)]
        raise ConfigError(*dict.fromkeys(found)) from None


def decode_parts(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The typed sections of a resolved tree by their names, without the values in them that are wrong; and that tree.

    A section that lacks what it can't do without is in neither.
    """
    sections: dict[str, Any] = {}
    right = dict(tree)
    for name, field in AutoexpConfig.model_fields.items():
        if not sections_of(field.annotation):
            continue
        value, section = _without_wrong(name, tree.get(name, {}))
        right.pop(name, None)
        if section is not None:
            right[name], sections[name] = value, section
    return sections, right


def _without_wrong(name: str, value: Any) -> tuple[Any, Any]:
    """A section's tree without what is wrong in it, and the section; None if it can't do without that."""
    field = AutoexpConfig.model_fields[name]
    kind: Any = field.annotation
    if field.discriminator:
        kind = Annotated[kind, Field(discriminator=field.discriminator), *field.metadata]
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    for _ in range(_MOST_WRONG):
        try:
            return value, adapter.validate_python(value)
        except ValidationError as error:
            before, value = value, deepcopy(value)
            for detail in error.errors(include_url=False):
                _drop(value, _written((name, *detail["loc"]))[0][1:])
            if value == before:
                return value, None
    return value, None


_MOST_WRONG = 20  # levels at which something is wrong that hides what is wrong below


def _drop(node: Any, path: Sequence[int | str]) -> None:
    """Delete what is at a path below a container; an item of a list goes with the list."""
    for depth, part in enumerate(path):
        child = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and (depth == len(path) - 1 or not isinstance(child, dict)):
            node.pop(part, None)
            return
        node = child


_MUST_BE = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "list_type": "a list",
    "tuple_type": "a list",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
}
"""What a value must be, in our words, by pydantic's kind of error."""


UNKNOWN_KEY = "unknown key"


def _problem(detail: Any) -> Problem:
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    location, around, inside = _written(detail["loc"])
    path = Location((*location, *context.get("within", ())))
    if location[-1:] == ("[key]",):  # pydantic names the key and `[key]` behind it; reported where the mapping stands
        return Problem(f"the key {value!r} is not text", Location(location[:-2]), f"write '{scalar(value)}' in quotes")
    if kind == "invalid_key":  # of a section, whose keys are known; reported where the key stands
        *around_it, key = location
        place = Location((*around_it, str(key)))
        return Problem(f"the key {key!r} is not text", place, f"write '{scalar(key)}' in quotes")
    if kind == "extra_forbidden":
        known = [field.alias or name for model in around for name, field in model.model_fields.items()]
        hint = _place_of(str(location[0])) if len(location) == 1 else instead(".".join(map(str, location)))
        if len(location) == 1:
            known.append("defaults")
        return Problem(f"{UNKNOWN_KEY} '{location[-1]}'", path, hint or did_you_mean(str(location[-1]), known))
    if kind == "missing":
        return Problem("this key is required", path, about=path)
    if kind.startswith("union_tag"):
        return _class_name_problem(value, path / "class_name", [tag for model in inside for tag in tags(model)])
    if {"why", "hint"} <= context.keys():
        return Problem(context["why"], path, context["hint"])
    if kind in ("value_error", "state", "event", "line"):
        return Problem(detail["msg"].removeprefix("Value error, "), path)
    what = f"must be {_MUST_BE[kind].format(**context)}" if kind in _MUST_BE else detail["msg"]
    if isinstance(value, list) and context.get("within"):
        value = value[context["within"][0]]
    return Problem(f"{what}, not {_shown(value)}", path, _as_keys(value) if what == _KEYS_AND_VALUES else "")


_KEYS_AND_VALUES = "must be keys and values"


def _as_keys(value: Any) -> str:
    """What to write for a text `key=value`, or a list of such, where keys and values are wanted; '' for others."""
    texts = value if isinstance(value, list) else [value]
    pairs = [text.split("=", 1) for text in texts if isinstance(text, str) and "=" in text.strip("=")]
    return f"write {{{', '.join(f'{key}: {item}' for key, item in pairs)}}}" if len(pairs) == len(texts) else ""


def _place_of(key: str) -> str:
    """Where a key belongs that was written at the root of the config, where that is known."""
    section, dot, rest = key.partition(".")
    if dot and section in AutoexpConfig.model_fields:
        return f"write it as keys within keys: '{section}:', and below that '{rest}'"
    fields = AutoexpConfig.model_fields.items()
    found = [name for name, field in fields for model in sections_of(field.annotation) if key in model.model_fields]
    return f"it is a key of '{found[0]}'" if found else ""


def _class_name_problem(value: Any, where: Location, known: list[str]) -> Problem:
    given = value.get("class_name") if isinstance(value, dict) else None
    if given is None:
        return Problem("this key is required", where, f"one of: {', '.join(known)}")
    hints = [did_you_mean(str(given), known) or f"one of: {', '.join(known)}", *map(str, broken())]
    return Problem(f"unknown class_name {_shown(given)}", where, "; ".join(hints))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return scalar(value) if value is None or isinstance(value, bool) else reprlib.repr(value)


Sections = list[type[BaseModel]]


def _written(location: Keys) -> tuple[Keys, Sections, Sections]:
    """A pydantic location as a person wrote it, without the class names that unions add to it.

    Also the sections that its last part is a key of, and those that its last part may hold.
    """
    written: list[int | str] = []
    around: Sections = []
    inside: Sections = [AutoexpConfig]
    keyed = False
    for part in location:
        if keyed:  # a key that people choose, such as an event's name
            written.append(part)
            keyed = False
            continue
        chosen = [model for model in inside if part in tags(model)]
        if chosen and len(inside) > 1:
            inside = chosen
            continue
        written.append(part)
        if isinstance(part, str):
            around = inside
            fields = [model.model_fields[part] for model in around if part in model.model_fields]
            inside = [model for found in fields for model in sections_of(found.annotation)]
            keyed = bool(inside) and any(get_origin(found.annotation) is dict for found in fields)
    return tuple(written), around, inside


def sections_of(annotation: Any) -> Sections:
    """The sections that a field's type names, also inside of unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in sections_of(argument)]
