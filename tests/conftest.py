"""Fixtures for every test: a real SLURM, Apptainer and browser and Megatron's own parser, where they are installed."""

import gc
import os
import re
import signal
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.containers.fixtures",
    "tests.slurm.fixtures",
    "tests.megatron.fixtures",
    "tests.browser.fixtures",
]

# The same inputs in every run, so that a test fails for a change and not by chance; `make fuzz` looks for new ones. No
# test measures time: on a busy machine any input may take longer than hypothesis' 200 ms.
settings.register_profile("untimed", deadline=None)
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("untimed")
if "AUTOEXP_FUZZ_SEED" not in os.environ:
    settings.load_profile("repeatable")

# What a shell starts in the background ignores SIGINT, what nohup starts SIGHUP, and programs that tests start would
# inherit that: with a handler here they have the defaults.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

_QUICK = ("unit", "docs")
"""Folders whose tests come first, as they take milliseconds each and are about one thing each."""


_WORKERS_PER_CORE = 3
"""Tests that run programs wait most of the time."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """How many workers `-n auto` is (pyproject.toml has a limit); None: what pytest-xdist says."""
    asked = "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ
    return None if asked else _WORKERS_PER_CORE * len(os.sched_getaffinity(0))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is slow, unless that is asked for."""
    if item.get_closest_marker("slow") is not None and os.environ.get("AUTOEXP_SLOW") != "1":
        pytest.skip("it takes long: set AUTOEXP_SLOW=1")


@pytest.hookimpl(trylast=True)  # once each component's fixtures have put their tests into groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick tests first; with workers the groups before them, as the longest group says when all is over."""
    in_workers = hasattr(config, "workerinput")

    def rank(item: pytest.Item) -> tuple[bool, bool]:
        grouped = item.get_closest_marker("xdist_group") is not None
        return grouped is not in_workers, item.path.parent.name not in _QUICK

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Leave what lives as long as the tests, such as these themselves, out of each collection of garbage.

    Tests that compose configs, which makes much garbage, take an eighth less CPU.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say once for each reason, such as a missing component, how many tests were skipped, and how to install it."""
    reasons = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", ()))
    if reasons:
        terminalreporter.section("skipped", sep="-")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5}  {reason}")


def _reason(report: Any) -> str:
    where = report.longrepr
    text = where[2] if isinstance(where, tuple) else str(where)
    return re.sub(r"^Skipped: ", "", str(text)).strip()
