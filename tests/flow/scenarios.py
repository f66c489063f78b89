"""Plays the scenarios of scripts/tests for the tests that judge them."""

from __future__ import annotations

from types import ModuleType

import pytest

from scripts.tests.lab import Lab
from scripts.tests.scenarios import Outcome
from scripts.tests.test_monitor_resume import play


def outcomes_of(request: pytest.FixtureRequest, lab: Lab) -> dict[str, Outcome]:
    """The outcomes, by name, of the scenarios whose tests in the requesting module were chosen."""
    module: ModuleType = request.module
    chosen = [
        str(item.callspec.params["scenario"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is module
        and hasattr(item, "callspec")
        and "scenario" in item.callspec.params
    ]
    return {outcome.name: outcome for outcome in play(lab, chosen)}
