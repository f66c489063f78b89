"""Times and lengths of time in options: a clock, a date, so long ago."""

from __future__ import annotations

import time

import pytest

from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.view.jobs.times import length, moment


@pytest.mark.parametrize(
    ("text", "at"),
    [("90s", 910.0), ("2 h", -6200.0), ("1.5min", 910.0), ("1970-01-01T00:00:10+00:00", 10.0)],
)
def test_a_moment_is_so_long_ago_or_a_date(text: str, at: float) -> None:
    assert moment(text, 1000.0, "--since") == at


def test_a_time_of_day_is_the_last_one() -> None:
    now = time.mktime((2026, 1, 31, 12, 0, 0, 0, 0, -1))
    assert now - moment("11:30", now, "--since") == 1800
    assert now - moment("12:30", now, "--since") == 86400 - 1800


@pytest.mark.parametrize("text", ["", "25:00", "12:60", "yesterday", "2h ago", "-1h", "1e9d"])
def test_what_is_no_time_is_refused_with_what_can_be_written(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time") as error:
        moment(text, 1000.0, "--filter")
    assert (str(error.value.problems[0].where), "14:30" in error.value.problems[0].hint) == ("--filter", True)


def test_a_length_of_time_has_a_unit() -> None:
    assert [length(text) for text in ("30s", "5 min", "1.5h", "2d", "30", "h")] == [30, 300, 5400, 172800, None, None]
