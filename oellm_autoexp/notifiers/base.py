"""Notifiers: ways to send messages to people, each a section of the YAML that `class_name` chooses.

A message is sent by a process of its own (`send`), which is ended when its time is over: whatever a notifier does, and
however long its service takes, the monitor goes on.

To add one: a subclass of Notifier in a module of this folder, or in a package of its own with an entry point
(core/registry.py).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from oellm_autoexp.core.errors import NotifyError
from oellm_autoexp.core.fields import Section
from oellm_autoexp.core.registry import Registry, tags

_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise ValueError("an address is a secret: put it into an environment variable, and write $NAME here")
    return text


Address = Annotated[str, AfterValidator(_variable)]
"""An address that is a secret: `$NAME`, a variable of the environment of the process that uses it."""


def address_of(variable: str) -> str:
    """The address in a variable that is written as `$NAME`. Raises NotifyError."""
    name = variable.removeprefix("$")
    if not (found := os.environ.get(name)):
        raise NotifyError(f"the variable {name} with the address is not set")
    return found


@dataclass(frozen=True)
class Message:
    """A message to people. `subject` is one line; services that have no subjects leave it out."""

    subject: str
    text: str


class Notifier(Section):
    """One way to send messages. Its fields hold no templates: no log line decides who gets one."""

    @property
    def kind(self) -> str:
        """The `class_name` by which the YAML knows it."""
        return tags(type(self))[0]

    def send(self, message: Message, timeout_seconds: float) -> None:
        """Send a message. The process that runs this is ended some seconds after `timeout_seconds`.

        Raises NotifyError, whose words are shown to people and hold no secret. Of any other exception only the kind and
        the place are shown.
        """
        raise NotImplementedError

    def lacks(self) -> str:
        """What this machine lacks for it, and what to do, as asked when a plan is made; empty if nothing."""
        return ""


NOTIFIERS = Registry(Notifier, "oellm_autoexp.notifiers", "oellm_autoexp.notifiers")
