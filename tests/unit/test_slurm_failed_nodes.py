"""Which nodes failed, from what SLURM's commands print."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from oellm_autoexp.schedulers.slurm import failed_nodes


@pytest.mark.parametrize(
    ("text", "node"), [("7|n2\n", "n2"), ("7|\n", ""), ("", ""), ("7|None assigned\n", ""), ("7|n1\n7|n3\n", "n3")]
)
def test_newer_accounts_name_the_node_that_failed(text: str, node: str) -> None:
    assert failed_nodes.failed_node(text) == node


def test_nodes_out_of_service_are_reported_by_their_state() -> None:
    states = {
        "n1": "idle",
        "n2": "down*",
        "n3": "drained",
        "n4": "draining",
        "n5": "fail",
        "n6": "allocated",
        "n7": "mixed*",
        "n8": "idle~",
        "n9": "powering_down",
        "m1": "completing",
        "m2": "down",
    }
    text = "".join(f"{node} {state}\n" * 2 for node, state in states.items())  # a line for each partition
    assert failed_nodes.nodes_out_of_service(text) == ["n2", "n3", "n4", "n5", "n7", "m2"]
    assert failed_nodes.nodes_out_of_service("Welcome to the login node\n") == []


def test_nodes_that_went_as_a_job_ended_are_reported_by_the_events() -> None:
    found = failed_nodes.job_end("9|n[1,3]|2026-11-24T03:04:19\n9|n[1-3]|2026-11-24T03:14:38\n")
    assert found is not None
    nodes, ended = found
    assert (nodes, ended.isoformat()) == ("n[1-3]", "2026-11-24T03:14:38")
    events = (
        "n2|2026-11-24T03:04:19\nn3|2026-11-24T03:14:37\nn3|2026-11-24T03:14:38\nn1|2026-11-24T03:15:38\n"
        "|2026-11-24T03:14:38\nn4|Unknown\n"
    )
    around = timedelta(seconds=5)
    assert failed_nodes.nodes_failed_between(events, ended - around, ended + around) == ["n3"]
    assert failed_nodes.job_end("9|n[1-3]|Unknown\n") is None
    assert failed_nodes.job_end("") is None


def test_a_time_with_a_zone_is_none_of_slurms() -> None:
    reported = "n1|2026-01-31T10:00:00+01:00\nn2|2026-01-31T10:00:00"
    assert failed_nodes.nodes_failed_between(reported, datetime(2026, 1, 1), datetime(2026, 2, 1)) == ["n2"]
