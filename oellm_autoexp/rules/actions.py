"""Actions that the YAML can name: each a frozen record that says what it asks for; who has the means does it. Pure.

To add one: a class here with its fields and `request`, and its name in `Action`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from oellm_autoexp.core.fields import Count, Directives, Environment, Pause, Scalar, Seconds, Section, Text, Words
from oellm_autoexp.rules.conditions import ConditionField

# ---- what an action asks for


@dataclass(frozen=True)
class Say:
    """A message for people, in the job's history and, unless its level is `debug`, on the screen."""

    message: str
    level: str


@dataclass(frozen=True)
class Restart:
    """A new attempt of the job. `cause` has a budget of `max_attempts` of them (None: no limit)."""

    reason: str
    cause: str | None
    max_attempts: int | None
    cooldown_seconds: float
    overrides: Mapping[str, Any]
    exclude_nodes: str
    """Nodes that the new attempt must not use, by commas; '' for none."""
    max_fruitless: int | None = None


@dataclass(frozen=True)
class Cancel:
    """The end of a job, or of every job of the plan, for good."""

    reason: str
    scope: Literal["job", "plan"]


@dataclass(frozen=True)
class Publish:
    """Another event of the job."""

    name: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Launch:
    """A program, which no shell runs; None as the limit: it may take for ever. `text` goes to its standard input."""

    words: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None
    text: str = ""


@dataclass(frozen=True)
class LaunchPlan:
    """A run of our own: a config's name (None: the recorded config of the event's job) and overrides."""

    config_ref: str | None
    config_dirs: tuple[str, ...]
    overrides: tuple[str, ...]
    timeout_seconds: float | None


@dataclass(frozen=True)
class Tell:
    """A message to somebody outside, by the webhook whose address is in the variable `$NAME`."""

    webhook: str
    message: str
    timeout_seconds: float


Request = Say | Restart | Cancel | Publish | Launch | LaunchPlan | Tell


# ---- the records


def _said(value: str) -> str:
    """A value as it stands in a text for people: one that is not known is called so."""
    return value or "unknown"


class LogAction(Section):
    """Writes a message into the job's history and shows it: `debug` not, a warning or an error as such."""

    quoted: ClassVar[Mapping[str, Callable[[str], str]]] = {"message": _said}
    class_name: Literal["LogAction"]
    message: str
    level: Literal["debug", "info", "warning", "error"] = "info"

    def request(self) -> Request:
        """What it asks for."""
        return Say(self.message, self.level)


def _nodes(value: Any) -> Any:
    """`exclude_nodes` as a template: true means the nodes that the event names."""
    return "{nodes_at_fault}" if value is True else "" if value is False or value is None else value


class RestartAction(Section):
    """Starts a new attempt of the same job; one that still runs is ended first.

    `overrides` hold for this and all later attempts: `slurm.sbatch.*` become its sbatch flags, anything else plans the
    job anew from its recorded config. `max_attempts` is how many new attempts this `cause` (by default the event's
    name) may have, null: no limit; `max_fruitless` how many attempts in a row may get no further (by the iterations in
    their logs) than those before. `exclude_nodes: true` keeps the nodes at fault out; a text names them.
    """

    class_name: Literal["RestartAction"]
    reason: str = ""
    overrides: dict[str, Any] = {}
    max_attempts: Count | None = Field(default=3, ge=0)
    max_fruitless: Count | None = Field(default=3, ge=1)
    cause: str | None = None
    cooldown_seconds: Pause = 0
    exclude_nodes: Annotated[str, BeforeValidator(_nodes)] = ""

    def request(self) -> Request:
        """What it asks for."""
        return Restart(
            self.reason,
            self.cause,
            self.max_attempts,
            self.cooldown_seconds,
            self.overrides,
            self.exclude_nodes,
            self.max_fruitless,
        )


class CancelAction(Section):
    """Ends the job, or all jobs of the plan, for good: what was cancelled so is not restarted."""

    class_name: Literal["CancelAction"]
    reason: str = ""
    scope: Literal["job", "plan"] = "job"

    def request(self) -> Request:
        """What it asks for."""
        return Cancel(self.reason, self.scope)


class RunCommandAction(Section):
    """Runs a program: split into words as a shell would, then filled, word by word; no shell runs it."""

    class_name: Literal["RunCommandAction"]
    command: Words = Field(min_length=1)
    cwd: str | None = None
    env: Environment = {}
    timeout_seconds: Seconds | None = 3600

    def request(self) -> Request:
        """What it asks for."""
        return Launch(self.command, self.cwd, self.env, self.timeout_seconds)


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_SCRIPTS = ("run_autoexp.py", "oellm-autoexp")
_RECORDED = re.compile(r"\{(?:project\.)?output_dir\}/provenance/(?:un)?resolved_config\.yaml")


class RunAutoexpAction(Section):
    """Plans and submits a run of its own: a config's name (null: the parent's recorded config) and overrides.

    `config_path` is a config's file, or that of the parent's recorded config; `script` names this program.
    """

    class_name: Literal["RunAutoexpAction"]
    config_ref: str | None = None
    config_path: str | None = None
    script: str | None = None
    config_dirs: Annotated[tuple[str, ...], BeforeValidator(_one_or_more)] = ()
    overrides: Annotated[tuple[Text, ...], BeforeValidator(_one_or_more)] = ()
    timeout_seconds: Seconds | None = 3600

    @field_validator("config_path")
    @classmethod
    def _none_for_the_parents(cls, path: str | None) -> str | None:
        return None if path is not None and _RECORDED.fullmatch(path) else path

    @field_validator("script")
    @classmethod
    def _known_script(cls, script: str | None) -> str | None:
        if script is not None and PurePath(script).name not in _SCRIPTS:
            raise ValueError(f"it runs {_SCRIPTS[0]}; for another script, write a RunCommandAction")
        return script

    def request(self) -> Request:
        """What it asks for."""
        return LaunchPlan(self.config_ref or self.config_path, self.config_dirs, self.overrides, self.timeout_seconds)


class PublishEventAction(Section):
    """Makes another event of the job, with the metadata of this one and its own."""

    class_name: Literal["PublishEventAction"]
    event_name: str
    metadata: dict[str, Scalar] = {}

    def request(self) -> Request:
        """What it asks for."""
        return Publish(self.event_name, self.metadata)


_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")


class NotifyAction(Section):
    """Tells somebody: by a webhook (JSON `{"text": message}`), or by a command that reads the message (`mail -s …`).

    A webhook's address is a secret: it is written as `$NAME`, a variable of the monitor's environment.
    """

    quoted: ClassVar[Mapping[str, Callable[[str], str]]] = {"message": _said}
    class_name: Literal["NotifyAction"]
    message: str
    webhook: str | None = None
    command: Words = ()
    timeout_seconds: Seconds = 60

    @model_validator(mode="after")
    def _one_way(self) -> NotifyAction:
        if (self.webhook is None) == (not self.command):
            raise ValueError("give either 'webhook' or 'command'")
        if self.webhook is not None and not _VARIABLE.fullmatch(self.webhook):
            raise ValueError(
                "a webhook's address is a secret: put it into an environment variable, write webhook: $NAME"
            )
        return self

    def request(self) -> Request:
        """What it asks for."""
        if self.webhook is not None:
            return Tell(self.webhook, self.message, self.timeout_seconds)
        return Launch(self.command, timeout_seconds=self.timeout_seconds, text=self.message)


Action = Annotated[
    LogAction | RestartAction | CancelAction | RunCommandAction | RunAutoexpAction | PublishEventAction | NotifyAction,
    Field(discriminator="class_name"),
]


_PROGRAMS = (RunCommandAction, RunAutoexpAction, NotifyAction)


class Executor(Section):
    """Where a queued action runs: in the worker's place, a job of its own through submitit.

    `cluster`: `slurm`, `local` (a process beside the worker) or `debug` (inside the worker). `sbatch`: the job's
    options, as in `slurm.sbatch`.
    """

    cluster: Literal["slurm", "local", "debug"]
    sbatch: Directives = {}


def _executor(value: Any) -> Any:
    return {"cluster": value} if isinstance(value, str) else value


class EventAction(Section):
    """An action with its mode and conditions.

    `inline`: carried out by the monitor. `queue`: put into the queue when the conditions hold, for a worker.
    """

    untemplated: ClassVar[frozenset[str]] = frozenset({"class_name", "mode", "executor", "aux"})
    class_name: Literal["EventAction"]
    aux: dict[str, Any] = {}
    """Values of the user's own, for interpolations to refer to."""
    mode: Literal["inline", "queue"] = "inline"
    conditions: tuple[ConditionField, ...] = ()
    action: Action
    executor: Annotated[Executor | None, BeforeValidator(_executor)] = None

    @model_validator(mode="after")
    def _fits(self) -> EventAction:
        kind = self.action.class_name
        if self.executor is not None and self.mode != "queue":
            raise ValueError("an executor needs mode: queue")
        if self.executor is not None and not isinstance(self.action, _PROGRAMS):
            raise ValueError(f"an executor is for actions that start a program: {kind} is none, leave it out")
        if self.mode == "queue" and isinstance(self.action, PublishEventAction):
            raise ValueError(f"only the monitor can make an event: {kind} is for mode: inline")
        return self


BareAction = Annotated[
    EventAction
    | LogAction
    | RestartAction
    | CancelAction
    | RunCommandAction
    | RunAutoexpAction
    | PublishEventAction
    | NotifyAction,
    Field(discriminator="class_name"),
]
"""An action as it may stand in `actions`: wrapped in an EventAction, or bare."""


def as_event_action(action: Any) -> EventAction:
    """A bare action as an inline one without conditions."""
    return action if isinstance(action, EventAction) else EventAction(class_name="EventAction", action=action)
