"""Times that people read."""

from __future__ import annotations

import pytest

from oellm_autoexp.session.waits import Wait
from oellm_autoexp.view.jobs.waiting import clock, waiting_lines


@pytest.mark.parametrize("at", [1e308, float("inf"), -1e308, 2.0**63])
def test_a_time_that_no_calendar_has_is_shown_as_the_nearest_one(at: float) -> None:
    assert clock(at)[:4] in ("5138", "1970", "1969")


def test_many_jobs_that_wait_for_the_same_are_one_line_with_the_time_of_the_first() -> None:
    def waits(count: int, reason: str = "no room") -> list[Wait]:
        return [Wait(f"j{number}", "job", reason, 1000.0 + number) for number in range(count)]

    since = clock(1000.0)
    assert waiting_lines(waits(500)) == [f"500 jobs: no room (since {since})"]
    assert len(waiting_lines(waits(3))) == 3
    mixed = [*waits(5), Wait("b", "job", "a file", None), *waits(3, "another")]
    assert [line.partition(" (")[0] for line in waiting_lines(mixed, most=3)] == [
        "5 jobs: no room",
        "b: a file",
        "j0: another",
        "… and 2 more",
    ]
