"""SLURM's times and seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.sbatch.directives import directives, with_options
from oellm_autoexp.sbatch.times import automatic, format_time, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 5400),
        ("90", 5400),
        ("1:30", 90),
        ("01:30:00", 5400),
        ("25:00:00", 90_000),
        ("1-2", 93_600),
        ("1-2:3", 93_780),
        ("1-2:3:4", 93_784),
        ("0-00:00:01", 1),
        (" 5 ", 300),
        ("UNLIMITED", None),
        ("infinite", None),
        ("-1", None),
        (-1, None),
        (0, None),
        ("0", None),
        ("00:00", None),
        ("0-00:00:00", None),
    ],
)
def test_every_form_of_sbatchs_time_option(text: str | int, seconds: int | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "x", "1h", "1:2:3:4", "1-", "-5", "1-2-3", ":5", "5:", "1.5", "1-2:3:4:5", "١", "1 2", "None", "1:-2"]
)
def test_what_is_no_time_is_refused_and_says_what_is(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a time that sbatch knows\n    write minutes, "):
        parse_time(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0-00:00:00"), (0.1, "0-00:00:01"), (59, "0-00:00:59"), (3600, "0-01:00:00"), (90_061.0, "1-01:01:01")],
)
def test_seconds_are_written_as_days_and_a_clock_time_and_rounded_up(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


@pytest.mark.parametrize("seconds", [-1, -0.5, float("nan"), float("inf")])
def test_what_is_no_number_of_seconds_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="a time is a number of seconds from 0 on"):
        format_time(seconds)


@given(st.integers(1, 10**9))
def test_a_time_that_was_written_is_read_as_the_same(seconds: int) -> None:
    assert parse_time(format_time(seconds)) == seconds


@given(st.floats(0, 10**9, exclude_min=True))
def test_a_written_time_is_never_shorter_than_what_was_asked_for(seconds: float) -> None:
    written = parse_time(format_time(seconds))
    assert written is not None
    assert seconds <= written <= seconds + 1


@given(st.text(alphabet="0123456789:- xX", max_size=12))
def test_any_text_is_a_time_or_a_clear_mistake(text: str) -> None:
    try:
        seconds = parse_time(text)
    except ConfigError:
        return
    assert seconds is None or seconds > 0


def test_a_time_of_thousands_of_digits_is_refused_in_a_short_message() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_time("9" * 5000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("value", "factor"),
    [
        ("auto", 1.25),
        (" auto ", 1.25),
        ("auto*1.5", 1.5),
        ("auto * 2", 2.0),
        ("2:00", None),
        (60, None),
    ],
)
def test_an_automatic_limit_is_auto_with_a_factor(value: object, factor: float | None) -> None:
    assert automatic(value) == factor


@pytest.mark.parametrize("value", ["AUTO", "auto2", "auto*", "automatic"])
def test_a_misspelt_automatic_limit_is_refused_with_its_forms(value: str) -> None:
    with pytest.raises(ConfigError, match=r"write auto, or auto\*1.5 for another margin"):
        automatic(value)


def test_an_automatic_limit_with_a_factor_below_1_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        automatic("auto*0.9")


def test_an_automatic_limit_reaches_no_script() -> None:
    with pytest.raises(ConfigError, match="'auto' is found only when a plan is made"):
        directives({"time": "auto"}, (), name="a", log_path="/l", work_dir="/")
    with pytest.raises(ConfigError, match="write a time, such as 02:00:00"):
        with_options("#!/bin/bash\n#SBATCH --time=10\n", {"time": "auto*2"})
