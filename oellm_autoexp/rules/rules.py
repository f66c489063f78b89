"""The YAML of monitoring: what is looked for in logs and in the scheduler's states, and what follows. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from oellm_autoexp.causes.rule import CauseRules
from oellm_autoexp.core.fields import (
    MOST_SECONDS,
    TEXTS_IN_YAML,
    Count,
    Directives,
    MappingOrList,
    Number,
    Scalar,
    Seconds,
    Section,
    Text,
    Words,
    listed,
)
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.states import BLOCKED, CRASH, FINAL, IN_QUEUE, LIKE_A_CRASH, OURS
from oellm_autoexp.core.text import did_you_mean
from oellm_autoexp.exporters.base import EXPORTERS, Exporter
from oellm_autoexp.notifiers.base import Address
from oellm_autoexp.rules.actions import BareAction, EventAction, PublishEventAction, as_event_action
from oellm_autoexp.rules.metric_rules import Metrics
from oellm_autoexp.search.patterns import group_names

STATES = tuple(state for state in OURS if state in {BLOCKED} | IN_QUEUE | FINAL)
"""The states that events can be declared for."""
_OTHER_WORDS = {
    "stalled": "stall",
    "crashed": "crash",
    "failed": "crash",
    "completed": "success",
    "succeeded": "success",
    "timedout": "timeout",
    "canceled": "cancelled",
    "nodefail": "node_fail",
    "nodefailed": "node_fail",
    "outofmemory": "oom",
    "out_of_memory": "oom",
}
_WHOLE = "match"
"""In `extract_groups`, what the whole pattern matched."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")


def _state(value: Any) -> Any:
    """A state's word: `stall`, `StalledState`, or `{class_name: StalledState}`."""
    if isinstance(value, dict) and set(value) == {"class_name"}:
        value = value["class_name"]
    if not isinstance(value, str):
        raise PydanticCustomError("state", "must be a state's name or {{class_name: …State}}")
    word = value.lower().removesuffix("state")
    word = _OTHER_WORDS.get(word, word)
    if word not in STATES:
        raise PydanticCustomError(
            "state",
            "'{word}' is no state; {hint}",
            {"word": value, "hint": did_you_mean(word, STATES) or f"known: {', '.join(STATES)}"},
        )
    return word


def _any_case(word: str) -> str:
    return "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in word)


_STATE_WORDS = "|".join(map(_any_case, (*STATES, *_OTHER_WORDS)))
_STATE_PATTERN = f"^({_STATE_WORDS})({_any_case('state')})?$"
_STATE_IN_YAML = WithJsonSchema(
    {
        "anyOf": [
            {"enum": [*STATES]},
            {"type": "string", "pattern": _STATE_PATTERN, "patternErrorMessage": f"one of: {', '.join(STATES)}"},
            {"type": "object", "properties": {"class_name": {"type": "string"}}, "required": ["class_name"]},
        ]
    }
)
State = Annotated[str, BeforeValidator(_state), _STATE_IN_YAML]


def _by_name(value: Any) -> Any:
    """Events as a mapping by name, whether they were written as one or as a list; null entries are left out."""
    if isinstance(value, dict):
        named = {name: item for name, item in value.items() if item is not None}
        return {name: {"name": name, **item} if isinstance(item, dict) else item for name, item in named.items()}
    if not isinstance(value, list):
        return value
    found: dict[str, Any] = {}
    for index, item in enumerate(value):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise PydanticCustomError("event", "entry {index} must be a mapping with a name", {"index": index})
        if item["name"] in found:
            raise PydanticCustomError("event", "two events have the name '{name}'", {"name": item["name"]})
        found[item["name"]] = item
    return found


def _names(value: dict[str, Any]) -> dict[str, Any]:
    for name, event in value.items():
        if not _NAME.fullmatch(name):
            raise PydanticCustomError("event", "'{name}' can't be an event's name: it names a folder", {"name": name})
        if event.name != name:
            raise PydanticCustomError(
                "event", "'{name}' contains a different name: '{other}'", {"name": name, "other": event.name}
            )
    return value


class _Event(Section):
    name: Text
    """The event's name, where events are written as a list."""
    metadata: dict[str, Scalar] = {}
    """Values that conditions and texts of actions may use."""
    actions: tuple[BareAction, ...] = ()
    """What follows, in this order."""

    @property
    def bindings(self) -> tuple[EventAction, ...]:
        """Its actions, each with its mode and conditions."""
        return tuple(map(as_event_action, self.actions))


class LogEvent(_Event):
    """What is looked for in the log (and in `monitoring.output_paths`), while the job runs.

    `regex` and `substring`: each line that matches makes one event. `inactivity`: no new line for
    `inactivity_threshold_seconds`. `progress`: the number in `counter` (a group; by default the first) has not risen
    for `stall_seconds`, though the log may grow. Both allow `startup_seconds` until the first line or number.
    `state` is what the job counts as, should it end badly after that; with `overrules_success` also if its exit code is
    0. `success` says so only of a job that an action of the same event cancels.
    Without a pattern, an event is one that PublishEventAction makes.
    """

    pattern: str | None = None
    pattern_type: Literal["regex", "substring", "inactivity", "progress"] = "regex"
    extract_groups: dict[str, Text] = {}
    state: State | None = None
    overrules_success: bool = False
    inactivity_threshold_seconds: Seconds | None = None
    stall_seconds: Seconds | None = None
    startup_seconds: Seconds | None = None
    counter: Text | None = None

    @property
    def searches(self) -> bool:
        """Whether it looks for a pattern."""
        return self.pattern is not None

    @model_validator(mode="before")
    @classmethod
    def _without_empty_pattern(cls, value: Any) -> Any:
        """Rules of inactivity are written with an empty pattern, too."""
        if isinstance(value, dict) and value.get("pattern") == "" and value.get("pattern_type") == "inactivity":
            return {**value, "pattern": None}
        return value

    @model_validator(mode="after")
    def _fits(self) -> LogEvent:
        kind = self.pattern_type
        groups: tuple[str, ...] = ()
        if self.pattern is not None and kind in ("regex", "progress"):
            try:
                groups = group_names(self.pattern)
            except re.error as error:
                raise ValueError(f"the pattern is no regular expression: {error}") from None
        if self.pattern is not None and kind == "inactivity":
            raise ValueError("an inactivity rule has no pattern")
        if self.pattern == "":
            raise ValueError("the pattern is empty")
        if kind == "progress" and (self.pattern is None or not groups or self.stall_seconds is None):
            raise ValueError("a progress rule needs stall_seconds, and a pattern with a group for the number")
        allowed = {
            "stall_seconds": kind == "progress",
            "counter": kind == "progress",
            "inactivity_threshold_seconds": kind == "inactivity",
            "startup_seconds": kind in ("inactivity", "progress"),
        }
        if self.overrules_success and self.state is None:
            raise ValueError("overrules_success needs a state")
        wrong = [name for name, fits in allowed.items() if getattr(self, name) is not None and not fits]
        if wrong:
            raise ValueError(f"{wrong[0]} can't be used with pattern_type: {kind}")
        whole = [_WHOLE] if self.pattern is not None else []
        for group in (*self.extract_groups.values(), *([self.counter] if self.counter else [])):
            if group not in (*groups, *whole):
                hint = did_you_mean(group, groups) or "the pattern has no groups"
                raise ValueError(f"'{group}' is no group of the pattern; {hint}")
        return self

    def extracted(self, groups: Mapping[str, str], whole: str = "") -> dict[str, str]:
        """What a match finds: its named groups, and those of `extract_groups` under their new names (`match`: all)."""
        named = {name: text for name, text in groups.items() if not name.isdecimal()}
        known = {_WHOLE: whole, **groups} if whole else groups
        return named | {key: known[group] for key, group in self.extract_groups.items() if group in known}


class StateEvent(_Event):
    """What follows when a job comes into a state; `state` is by default the event's name."""

    state: State | None = None
    """The job's state; by default the event's name."""

    @model_validator(mode="before")
    @classmethod
    def _named_state(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("state") is None:
            return {**value, "state": value.get("name")}
        return value


LogEvents = Annotated[dict[str, LogEvent], BeforeValidator(_by_name), AfterValidator(_names), MappingOrList()]
StateEvents = Annotated[dict[str, StateEvent], BeforeValidator(_by_name), AfterValidator(_names), MappingOrList()]


SHIPPED_CAUSES = "config/monitoring/causes.yaml"
"""The rules of causes that every run uses, below those of its config."""


class Rules(Section):
    """What one job is watched by."""

    inactivity_threshold_seconds: Seconds | None = None
    """Seconds without a new log line after which a job counts as stalled."""
    startup_seconds: Seconds | None = None
    """Seconds that a job has until its first log line."""
    termination_string: str | None = Field(default=None, min_length=1)
    """A text in the log of a job that is complete: such a job is never started again."""
    termination_command: Words = ()
    """A command that is run before each new attempt; with exit status 0, the job is complete."""
    log_events: LogEvents = {}
    """What is looked for in the log, by name."""
    state_events: StateEvents = {}
    """What follows a state of the job, by name."""
    metrics: Metrics = {}
    """Numbers in log lines, by name, beside those of known programs."""
    causes: CauseRules = {}
    """Lines that show why a run failed, by name, asked before the shipped ones of config/monitoring/causes.yaml."""

    @classmethod
    def of_section(cls, section: Mapping[str, Any]) -> Rules:
        """The rules in a section `monitoring`, whose other keys say how to watch. Raises ValidationError."""
        return cls.model_validate({key: value for key, value in section.items() if key in cls.model_fields})

    def for_state(self, state: str) -> StateEvent | None:
        """The event declared for a state; for those that count as crashes, that of `crash` in the last resort."""
        for wanted in (state, CRASH) if state in LIKE_A_CRASH else (state,):
            for event in self.state_events.values():
                if event.state == wanted:
                    return event
        return None

    def named(self, name: str) -> LogEvent | StateEvent | None:
        """The event of that name."""
        return self.log_events.get(name) or self.state_events.get(name)

    def binding(self, name: str, number: int) -> EventAction | None:
        """The action of that number of the event of that name; None if the configuration has none."""
        event = self.named(name)
        return event.bindings[number] if event and number < len(event.actions) else None

    def bindings(self) -> Iterator[tuple[LogEvent | StateEvent, EventAction, Location]]:
        """Every action, with its event and its place in the config."""
        for kind, events in (("log_events", self.log_events), ("state_events", self.state_events)):
            for name, event in events.items():
                for index, binding in enumerate(event.bindings):
                    yield event, binding, Location(("monitoring", kind, name, "actions", index))

    def published(self) -> set[str]:
        """The names of events that some action makes."""
        actions = [binding.action for _, binding, _ in self.bindings()]
        return {action.event_name for action in actions if isinstance(action, PublishEventAction)}


class Alive(Section):
    """The signal that the monitor is alive, given after a look, at most every `every_seconds`.

    The address in the variable `url` (`$NAME`) is fetched, and the time of `file` is set, where they are given.
    """

    url: Address | None = None
    file: str | None = Field(default=None, min_length=1)
    every_seconds: Seconds = 300


def _whole_path(value: str) -> str | None:
    """A path that means the same folder in each plan; an empty one (of a variable that is set to nothing) is none."""
    if value and not value.startswith(("/", "~", "${")):  # the last one where it is not resolved yet
        raise PydanticCustomError("path", "must be a whole path, which begins with '/' or '~'")
    return value or None


class Nodes(Section):
    """Nodes that failed, over all plans: where that is noted, and from when on jobs are kept from them."""

    folder: Annotated[str, AfterValidator(_whole_path)] | None = None
    """The folder with the node logs of a group; null: the folder of the sessions."""
    exclude_after: Annotated[Count, Field(ge=1)] | None = 2
    """How many failed attempts are enough to leave a node out of jobs; null: none is left out."""
    expires_after_hours: Annotated[Number, Field(gt=0, le=MOST_SECONDS / 3600)] = 168
    """Hours after which what a node was blamed for no longer counts."""
    max_share: Annotated[Number, Field(ge=0, le=1)] = 0.1
    """The largest part of a partition's nodes that is left out of a job; at least one node may be, unless it is 0."""


if TYPE_CHECKING:
    ExporterField = Exporter
else:
    ExporterField = EXPORTERS.union()


HOLD_AFTER = "hold_after_same_failures"
"""The key of MonitoringSection that says so."""


class MonitoringSection(Rules):
    """How a session is watched. `poll_interval_seconds: null` means 1 locally, 60 to 180 on SLURM.

    `output_paths` are more files whose growth counts as activity and whose lines the rules see.
    """

    poll_interval_seconds: Annotated[Seconds, Field(ge=0.01)] | None = None
    """Seconds between two looks; null: 1 locally, 60 to 180 on SLURM."""
    output_paths: Annotated[tuple[str, ...], BeforeValidator(listed), TEXTS_IN_YAML] = ()
    """Further files whose growth counts as activity and whose lines the rules see."""
    detach: Directives = {}
    """Options of the small SLURM job that `--detach slurm` watches by."""
    hold_after_same_failures: Annotated[Count, Field(ge=1)] | None = 3
    """After so many jobs that failed in the same way, without any iteration, the jobs that have not begun are held."""
    report: bool = False
    """Whether the watch keeps a page of the session fresh, `<session>.report.html`."""
    exporters: tuple[ExporterField, ...] = ()
    """Programs to which the watch hands the metrics of jobs: TensorBoard, Weights & Biases, MLflow, Prometheus."""
    alive: Alive = Alive()
    """A signal that the monitor is alive, for whoever watches it from outside."""
    nodes: Nodes = Nodes()
    """Nodes that failed, over all plans, and from when on jobs are kept from them."""
    class_name: str | None = None
    """Of no effect here: configs of other tools have one."""
