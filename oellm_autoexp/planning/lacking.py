"""The notifiers and exporters of a plan: whether this machine has what they need, asked when planning."""

from __future__ import annotations

from oellm_autoexp.core.errors import Problem, unforeseen
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.exporters.base import Exporter
from oellm_autoexp.notifiers.base import Notifier
from oellm_autoexp.planning.followups import distinct_sections
from oellm_autoexp.rules.actions import NotifyAction
from oellm_autoexp.rules.rules import MonitoringSection


def problems(manifest: Manifest) -> list[Problem]:
    """What this machine, whose monitor sends messages and exports results, lacks for it; each at its place."""
    found: dict[Problem, None] = {}
    for section in distinct_sections(manifest):
        if "notifier" in str(section):
            for _, binding, place in MonitoringSection.model_validate(section).bindings():
                notifier = binding.action.notifier if isinstance(binding.action, NotifyAction) else None
                if notifier is not None and (why := _lacks(notifier)):
                    found[Problem(f"{notifier.kind} can't work here: {why}", place)] = None
    if "exporters" in manifest.monitoring:
        for number, exporter in enumerate(MonitoringSection.model_validate(manifest.monitoring).exporters):
            if why := _lacks(exporter):
                place = CONFIG / "monitoring" / "exporters" / number
                found[Problem(f"{exporter.kind} can't work here: {why}", place)] = None
    return [*found]


def _lacks(kind: Notifier | Exporter) -> str:
    try:
        return kind.lacks()
    except Exception as error:  # another package's code
        name, place, message = unforeseen(error)
        return f"{name} in {place}: {message}"
