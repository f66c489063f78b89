"""`megatron_parser`: Megatron-LM's own parser, started when the first test asks for it and stopped with the session.

Every test that uses it is marked `megatron`. Where it is not installed the test is skipped, or fails if
AUTOEXP_REQUIRE_MEGATRON=1.
"""

import os
from collections.abc import Iterator

import pytest

from tests.megatron import parser
from tests.megatron.parser import Parser


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "megatron: needs Megatron-LM's own parser; set by the fixture of tests/megatron")


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "megatron_parser" in getattr(item, "fixturenames", ()):
            item.add_marker("megatron")
            item.add_marker(pytest.mark.xdist_group("megatron"))  # with --dist loadgroup: one process answers them all


@pytest.fixture(scope="session")
def megatron_parser() -> Iterator[Parser]:
    if reason := parser.missing():
        if os.environ.get("AUTOEXP_REQUIRE_MEGATRON") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with Parser() as started:
        yield started
