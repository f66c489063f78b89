"""Actions that the YAML can name: each a frozen record that says what is to be done. Pure: an Engine has the means.

To add one: a subclass of Action here, or in a package of its own with an entry point (core/registry.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from oellm_autoexp.core.fields import (
    TEXTS_IN_YAML,
    AlsoWritten,
    Count,
    Directives,
    Environment,
    Pause,
    Scalar,
    Seconds,
    Section,
    Text,
    Words,
)
from oellm_autoexp.core.redaction import redact_words
from oellm_autoexp.core.registry import Registry, tags
from oellm_autoexp.core.text import shell
from oellm_autoexp.notifiers.base import NOTIFIERS, Notifier
from oellm_autoexp.notifiers.webhook import WebhookNotifier
from oellm_autoexp.rules.conditions import ConditionField
from oellm_autoexp.rules.override_texts import filled_value, filled_word, in_words
from oellm_autoexp.rules.templates import Fill


@dataclass(frozen=True)
class Program:
    """A program to run: its words, which no shell reads, its working directory (None: the job's), more variables.

    `timeout_seconds` None: it may take for ever. `text` goes to its standard input.
    """

    words: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None
    text: str = ""


R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Engine(Protocol[R_co]):
    """What an action can ask for: the monitor and the worker of the queue have the means.

    Each call returns what has become of the action, which `Action.perform` returns.
    """

    def log(self, message: str, level: str) -> R_co:
        """A message for people, in the job's history and, unless its level is `debug`, on the screen."""
        ...

    def restart(self, action: RestartAction) -> R_co:
        """A new attempt of the job."""
        ...

    def cancel(self, reason: str, scope: Literal["job", "plan"]) -> R_co:
        """The end of the job, or of every job of the plan, for good."""
        ...

    def publish(self, name: str, metadata: Mapping[str, Any]) -> R_co:
        """Another event of the job."""
        ...

    def run(self, program: Program) -> R_co:
        """A program beside the monitor."""
        ...

    def run_plan(self, action: RunAutoexpAction) -> R_co:
        """A run of our own."""
        ...

    def post(self, action: NotifyAction) -> R_co:
        """A message to people, which may wait for others of its kind and go with them."""
        ...


class Action(Section):
    """One kind of action, which `class_name` chooses. Its texts may hold `{key}`, filled before it is carried out."""

    starts_program: ClassVar[bool] = False
    """Whether it runs a program, which an executor can run as a job of its own."""
    inline_only: ClassVar[bool] = False
    """Whether only the monitor can carry it out, and no worker of the queue."""
    for_people: ClassVar[frozenset[str]] = frozenset({"reason"})
    """Its fields that people read: no value stands in them whose key says that it is a secret."""

    @property
    def kind(self) -> str:
        """The `class_name` by which the YAML knows it."""
        return tags(type(self))[0]

    def perform(self, engine: Engine[R]) -> R:
        """Ask the engine for what is to be done, and return what it says."""
        raise NotImplementedError

    def summary(self) -> str:
        """What it does, in a line for a table."""
        return self.kind


def _said(value: str) -> str:
    """A value as it stands in a text for people: one that is not known is called so."""
    return value or "unknown"


class LogAction(Action):
    """Writes a message into the job's history and shows it: `debug` not, a warning or an error as such."""

    quoted: ClassVar[Mapping[str, Callable[[str], str]]] = {"message": _said}
    for_people = frozenset({"message"})
    class_name: Literal["LogAction"]
    message: str
    level: Literal["debug", "info", "warning", "error"] = "info"

    def perform(self, engine: Engine[R]) -> R:
        """See Action.perform."""
        return engine.log(self.message, self.level)

    def summary(self) -> str:
        """See Action.summary."""
        return f"say: {self.message}"


def _nodes(value: Any) -> Any:
    """`exclude_nodes` as a template: true means the nodes that the event names."""
    return "{nodes_at_fault}" if value is True else "" if value is False or value is None else value


class RestartAction(Action):
    """Starts a new attempt of the same job; one that still runs is ended first.

    `overrides` hold for this and all later attempts: `slurm.sbatch.*` become its sbatch flags, anything else plans the
    job anew from its recorded config. `max_attempts` is how many new attempts this `cause` (by default the event's
    name) may have, null: no limit; `max_fruitless` how many attempts in a row may get no further (by the iterations in
    their logs) than those before; `max_same_failures` how many in a row may fail in the same way, by
    the fingerprint of their cause, with no progress in between, where that is a fault of the program, its config or its
    data. `exclude_nodes: true` keeps the nodes at fault out; a text names them.
    """

    filled_by: ClassVar[Mapping[str, Fill]] = {"overrides": filled_value}
    class_name: Literal["RestartAction"]
    reason: str = ""
    overrides: Annotated[dict[str, Any], AfterValidator(in_words)] = {}
    max_attempts: Count | None = Field(default=3, ge=0)
    max_fruitless: Count | None = Field(default=3, ge=1)
    max_same_failures: Count | None = Field(default=2, ge=1)
    cause: str | None = None
    cooldown_seconds: Pause = 0
    exclude_nodes: Annotated[str, BeforeValidator(_nodes), AlsoWritten({"type": ["boolean", "null"]})] = ""

    def perform(self, engine: Engine[R]) -> R:
        """See Action.perform."""
        return engine.restart(self)

    def summary(self) -> str:
        """See Action.summary."""
        return f"restart: {self.reason}" if self.reason else "restart"


class CancelAction(Action):
    """Ends the job, or all jobs of the plan, for good: what was cancelled so is not restarted."""

    class_name: Literal["CancelAction"]
    reason: str = ""
    scope: Literal["job", "plan"] = "job"

    def perform(self, engine: Engine[R]) -> R:
        """See Action.perform."""
        return engine.cancel(self.reason, self.scope)

    def summary(self) -> str:
        """See Action.summary."""
        return f"cancel the {self.scope}{f': {self.reason}' if self.reason else ''}"


class RunCommandAction(Action):
    """Runs a program: split into words as a shell would, then filled, word by word; no shell runs it."""

    starts_program = True
    class_name: Literal["RunCommandAction"]
    command: Words = Field(min_length=1)
    cwd: str | None = None
    env: Environment = {}
    timeout_seconds: Seconds | None = 3600

    def perform(self, engine: Engine[R]) -> R:
        """See Action.perform."""
        return engine.run(Program(self.command, self.cwd, self.env, self.timeout_seconds))

    def summary(self) -> str:
        """See Action.summary."""
        return shell(redact_words(self.command))


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_SCRIPTS = ("run_autoexp.py", "oellm-autoexp")
_RECORDED = re.compile(r"\{(?:project\.)?output_dir\}/provenance/(?:un)?resolved_config\.yaml")


class RunAutoexpAction(Action):
    """Plans and submits a run of its own: a config's name (null: the parent's recorded config) and overrides.

    `config_path` is a config's file, or that of the parent's recorded config; `script` names this program.
    """

    filled_by: ClassVar[Mapping[str, Fill]] = {"overrides": filled_word}
    starts_program = True
    class_name: Literal["RunAutoexpAction"]
    config_ref: str | None = None
    config_path: str | None = None
    script: str | None = None
    config_dirs: Annotated[tuple[str, ...], BeforeValidator(_one_or_more), TEXTS_IN_YAML] = ()
    overrides: Annotated[tuple[Text, ...], BeforeValidator(_one_or_more), TEXTS_IN_YAML] = ()
    timeout_seconds: Seconds | None = 3600

    @property
    def reference(self) -> str | None:
        """The config that it runs; None: the recorded config of the event's job."""
        return self.config_ref or self.config_path

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

    def perform(self, engine: Engine[R]) -> R:
        """See Action.perform."""
        return engine.run_plan(self)

    def summary(self) -> str:
        """See Action.summary."""
        return f"autoexp {' '.join([self.reference or '(the same config)', *redact_words(self.overrides)])}"


class PublishEventAction(Action):
    """Makes another event of the job, with the metadata of this one and its own."""

    inline_only = True
    class_name: Literal["PublishEventAction"]
    event_name: str
    metadata: dict[str, Scalar] = {}

    def perform(self, engine: Engine[R]) -> R:
        """See Action.perform."""
        return engine.publish(self.event_name, self.metadata)

    def summary(self) -> str:
        """See Action.summary."""
        return f"publish {self.event_name}"


_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")


if TYPE_CHECKING:
    NotifierField = Notifier
else:
    NotifierField = NOTIFIERS.union()


class NotifyAction(Action):
    """Sends a message: by a notifier, by a webhook (JSON `{"text": message}`), or by a command that reads it.

    A webhook's address is a secret: it is written as `$NAME`, a variable of the monitor's environment. A message goes
    at once; those of the same rule that come within `digest_seconds` after it, of any job, go together in a next one.
    `subject` is for notifiers that have subjects.
    """

    untemplated: ClassVar[frozenset[str]] = frozenset({"class_name", "notifier"})
    quoted: ClassVar[Mapping[str, Callable[[str], str]]] = {"message": _said, "subject": _said}
    for_people = frozenset({"message", "subject"})
    starts_program = True
    class_name: Literal["NotifyAction"]
    message: str
    subject: str = ""
    webhook: str | None = None
    command: Words = ()
    notifier: NotifierField | None = None
    digest_seconds: Pause = 60
    timeout_seconds: Seconds = 60

    @model_validator(mode="after")
    def _one_way(self) -> NotifyAction:
        if (self.webhook is not None) + bool(self.command) + (self.notifier is not None) != 1:
            raise ValueError("give either 'webhook', 'command' or 'notifier'")
        if self.webhook is not None and not _VARIABLE.fullmatch(self.webhook):
            raise ValueError(
                "a webhook's address is a secret: put it into an environment variable, write webhook: $NAME"
            )
        return self

    @property
    def way(self) -> Notifier | None:
        """What sends the message; None: the command."""
        if self.webhook is not None:
            return WebhookNotifier(class_name="WebhookNotifier", url=self.webhook)
        return self.notifier

    def perform(self, engine: Engine[R]) -> R:
        """See Action.perform."""
        return engine.post(self)

    def summary(self) -> str:
        """See Action.summary."""
        if self.command:
            return shell(redact_words(self.command))
        return f"notify {self.notifier.kind if self.notifier else 'a webhook'}: {self.message}"


ACTIONS = Registry(Action, "oellm_autoexp.rules.actions", "oellm_autoexp.actions")
if TYPE_CHECKING:
    ActionField = Action
else:
    ActionField = ACTIONS.union()


class Executor(Section):
    """Where a queued action runs: in the worker's place, a job of its own through submitit.

    `cluster`: `slurm`, `local` (a process beside the worker) or `debug` (inside the worker). `sbatch`: the job's
    options, as in `slurm.sbatch`.
    """

    cluster: Literal["slurm", "local", "debug"]
    sbatch: Directives = {}


_CLUSTERS = {"enum": list(get_args(Executor.model_fields["cluster"].annotation))}


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
    action: ActionField
    executor: Annotated[Executor | None, BeforeValidator(_executor), AlsoWritten(_CLUSTERS)] = None

    @model_validator(mode="after")
    def _fits(self) -> EventAction:
        kind = self.action.kind
        if self.executor is not None and self.mode != "queue":
            raise ValueError("an executor needs mode: queue")
        if self.executor is not None and not self.action.starts_program:
            raise ValueError(f"an executor is for actions that start a program: {kind} is none, leave it out")
        if self.mode == "queue" and self.action.inline_only:
            raise ValueError(f"only the monitor can make an event: {kind} is for mode: inline")
        return self


if TYPE_CHECKING:
    BareAction = EventAction | Action
else:
    BareAction = ACTIONS.union(EventAction)
"""An action as it may stand in `actions`: wrapped in an EventAction, or bare."""


def as_event_action(action: Any) -> EventAction:
    """A bare action as an inline one without conditions."""
    return action if isinstance(action, EventAction) else EventAction(class_name="EventAction", action=action)
