"""Curves in the terminal: one line of blocks, and a picture with axes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.view.curves.plot import Curve, Frame, draw, plain, short_number
from oellm_autoexp.view.curves.sparkline import ASCII, BLOCKS, can_encode, sparkline

VALUES = st.lists(st.none() | st.floats(), max_size=60)
NAN = math.nan


@pytest.mark.parametrize(
    ("values", "width", "message"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, BLOCKS),
        ([7, 0], 8, "█▁"),
        ([0, 0, 7, 7], 2, "▁█"),
        ([0, NAN, 7], 3, "▁ █"),
        ([0, NAN, 7, 7], 2, "▁█"),
        ([2, 2, 2], 3, "▄▄▄"),
        ([], 5, ""),
        ([None, math.inf], 2, "  "),
        ([1, 2], 0, ""),
    ],
)
def test_a_line_of_blocks_rises_and_falls_as_its_values_and_has_a_blank_where_there_are_none(
    values: list[float | None], width: int, message: str
) -> None:
    assert sparkline(values, width) == message


@given(VALUES, st.integers(0, 30))
def test_a_line_of_any_values_has_its_width(values: list[float | None], width: int) -> None:
    for ascii_only, signs in ((False, BLOCKS), (True, ASCII)):
        line = sparkline(values, width, ascii_only=ascii_only)
        assert len(line) == min(width, len(values))
        assert set(line) <= {*signs, " "}


def test_an_encoding_without_blocks_is_known() -> None:
    assert [can_encode(name) for name in ("utf-8", "ascii", "latin-1", "nosuch", None)] == [
        True,
        False,
        False,
        False,
        True,
    ]


def test_a_picture_has_axes_with_numbers_the_curve_and_its_name_with_the_last_value() -> None:
    picture = plain(draw([Curve("lr_0.1", [0, 50, 100], [4.0, 2.0, 1.0])], Frame(40, 10, letters=True)))
    assert len(picture) == 10
    assert picture[0].split()[0] == "4"
    assert picture[6].split()[0] == "1"
    assert picture[-2].split() == ["0", "50", "100"]
    assert picture[-1] == "* lr_0.1  1"


def test_on_a_logarithmic_axis_powers_are_evenly_apart() -> None:
    ys = [1000.0, 100.0, 10.0, 1.0]
    rows = plain(draw([Curve("a", [0, 1, 2, 3], ys)], Frame(36, 14, log_y=True, letters=True)))[:11]
    columns = [row.rstrip().rfind("*") - row.find("*") for row in rows if "*" in row]
    assert max(columns) - min(columns) <= 2, "a straight line"
    numbers = [row.split()[0] for row in rows if row.split()[1:2] and row.split()[1].startswith("+")]
    assert (numbers[0], numbers[-1]) == ("1,000", "1")


def test_what_is_no_number_is_a_gap_also_zero_on_a_logarithmic_axis() -> None:
    def drawn(ys: list[float | None], **more: bool) -> int:
        picture = plain(draw([Curve("a", list(range(len(ys))), ys)], Frame(60, 10, letters=True, **more)))
        return sum(row.count("*") for row in picture[:-1])

    whole = drawn([1.0] * 9)
    assert drawn([1.0, 1.0, 1.0, NAN, None, math.inf, 1.0, 1.0, 1.0]) < whole - 20
    assert drawn([1.0, 1.0, 1.0, 0.0, -1.0, 0.0, 1.0, 1.0, 1.0], log_y=True) < whole - 20


def test_each_curve_has_its_letter_and_of_many_some_are_named() -> None:
    curves = [Curve(f"job{number}", [0, 1], [number, number]) for number in range(20)]
    picture = plain(draw(curves, Frame(60, 24, letters=True)))
    assert len(picture) == 24
    assert picture[-8:-6] == ["* job0  0", "+ job1  1"]
    assert picture[-1] == "… and 13 more"
    assert all(sign in "".join(picture[:-10]) for sign in "*+ox")


@given(VALUES, VALUES, st.integers(1, 120), st.integers(1, 50), st.booleans(), st.booleans(), st.booleans())
def test_a_picture_of_any_points_has_the_size_of_its_frame(
    xs: list[float | None], ys: list[float | None], width: int, height: int, log_x: bool, log_y: bool, letters: bool
) -> None:
    count = min(len(xs), len(ys))
    curves = [Curve("a" * 50, xs[:count], ys[:count]), Curve("b", [], [])]
    picture = plain(draw(curves, Frame(width, height, log_x, log_y, letters)))
    assert len(picture) <= max(height, 10)
    assert max(map(len, picture)) <= max(width, 60)


def test_the_last_value_of_a_curve_is_said_also_where_it_is_no_number() -> None:
    curves = [Curve("a", [0, 1, 2], [1, 0.25, NAN]), Curve("b", [0, 1], [1, math.inf]), Curve("c", [0, 1], [1, None])]
    assert plain(draw(curves, Frame(60, 20, letters=True)))[-3:] == ["* a  nan", "+ b  inf", "o c  1"]


def test_nothing_to_draw_is_said() -> None:
    assert plain(draw([Curve("a", [0], [NAN])], Frame(60, 20))) == [
        "nothing to draw: no point is a number that the axes have"
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12000.0, "12,000"), (3.14159, "3.142"), (2.5e-5, "2.5e-05"), (1e9, "1e+09")]
)
def test_numbers_at_axes_are_short(value: float, text: str) -> None:
    assert short_number(value) == text
