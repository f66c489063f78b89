"""The notifiers of a plan's actions: whether this machine has what they need, asked when planning."""

from __future__ import annotations

from oellm_autoexp.core.errors import Problem, unforeseen
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.notifiers.base import Notifier
from oellm_autoexp.planning.followups import distinct_sections
from oellm_autoexp.rules.actions import NotifyAction
from oellm_autoexp.rules.rules import MonitoringSection


def problems(manifest: Manifest) -> list[Problem]:
    """What this machine, whose monitor sends the messages, lacks for a notifier; each at its action."""
    found: dict[Problem, None] = {}
    for section in distinct_sections(manifest):
        if "notifier" in str(section):
            for _, binding, place in MonitoringSection.model_validate(section).bindings():
                notifier = binding.action.notifier if isinstance(binding.action, NotifyAction) else None
                if notifier is not None and (why := _lacks(notifier)):
                    found[Problem(f"{notifier.kind} can't work here: {why}", place)] = None
    return [*found]


def _lacks(notifier: Notifier) -> str:
    try:
        return notifier.lacks()
    except Exception as error:  # another package's code
        kind, place, message = unforeseen(error)
        return f"{kind} in {place}: {message}"
