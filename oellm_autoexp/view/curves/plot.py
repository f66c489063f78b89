"""Curves as text: axes, lines of braille dots or letters, and which curve is which. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from oellm_autoexp.view.curves.canvas import Canvas, letter

Piece = tuple[str, int | None]
"""A text, and the number of the curve in whose colour it is; None: in none."""
_LEAST_WIDTH, _LEAST_HEIGHT = 20, 5
_MOST_NAMED = 12
_TICKS_EVERY = 4
"""Rows from one number at the axis to the next."""


@dataclass(frozen=True)
class Curve:
    """A curve by its points. What is no finite number (or, on a logarithmic axis, not positive) is a gap."""

    name: str
    xs: Sequence[float | None]
    ys: Sequence[float | None]


@dataclass(frozen=True)
class Frame:
    """How curves are drawn: in so many characters, the names of curves included; `letters`: without braille."""

    width: int
    height: int
    log_x: bool = False
    log_y: bool = False
    letters: bool = False


@dataclass(frozen=True)
class _Axis:
    """A range of numbers, and the numbers that stand beside it."""

    low: float
    high: float
    log: bool

    @staticmethod
    def of(values: Iterable[float], *, log: bool) -> _Axis:
        found = list(values)
        low, high = min(found, default=0.0), max(found, default=1.0)
        if low == high:
            margin = abs(low) * 0.1 or 1.0
            low, high = (low - margin, high + margin) if not log else (low - 0.5, high + 0.5)
        return _Axis(low, high, log)

    def part(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        span = self.high / 2 - self.low / 2  # halves: the whole may be more than a float can be
        return max(0.0, min(1.0, (value / 2 - self.low / 2) / span)) if span else 0.5

    def label(self, part: float) -> str:
        """The number at a place from 0 to 1."""
        value = self.low * (1 - part) + self.high * part
        return short_number(_power(value) if self.log else value)


def draw(curves: Sequence[Curve], frame: Frame) -> list[list[Piece]]:
    """The lines of a picture of curves. Where nothing can be drawn, one line says so."""
    points = [_pieces(curve, frame) for curve in curves]
    xs = [x for pieces in points for piece in pieces for x, _ in piece]
    ys = [y for pieces in points for piece in pieces for _, y in piece]
    if not xs:
        return [[("nothing to draw: no point is a number that the axes have", None)]]
    x_axis, y_axis = _Axis.of(xs, log=frame.log_x), _Axis.of(ys, log=frame.log_y)
    names = _names(curves, frame)
    rows = max(_LEAST_HEIGHT, frame.height - len(names) - 2)
    numbers = {row: y_axis.label(1 - row / (rows - 1)) for row in _tick_rows(rows)}
    margin = max(map(len, numbers.values()))
    columns = max(_LEAST_WIDTH, frame.width - margin - 2)
    canvas = Canvas(columns, rows, letters=frame.letters)
    for number, pieces in enumerate(points):
        _draw_curve(canvas, pieces, x_axis, y_axis, number)
    tick, edge, corner, line = ("+", "|", "+", "-") if frame.letters else ("┤", "│", "└", "─")
    picture: list[list[Piece]] = [
        [(f"{numbers.get(row, ''):>{margin}} {tick if row in numbers else edge}", None), *pieces]
        for row, pieces in enumerate(canvas.rows())
    ]
    picture.append([(f"{'':{margin}} {corner}{line * columns}", None)])
    picture.append([(f"{'':{margin}}  {_x_numbers(x_axis, columns)}", None)])
    return [*picture, *names]


def plain(picture: Sequence[Sequence[Piece]]) -> list[str]:
    """A picture without colours."""
    return ["".join(text for text, _ in line).rstrip() for line in picture]


def _pieces(curve: Curve, frame: Frame) -> list[list[tuple[float, float]]]:
    """A curve's points between its gaps, on the axes as they are drawn."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(curve.xs, curve.ys, strict=True):
        there, value = _on_axis(x, log=frame.log_x), _on_axis(y, log=frame.log_y)
        if there is None or value is None:
            found.append([])
        else:
            found[-1].append((there, value))
    return [piece for piece in found if piece]


def _on_axis(value: float | None, *, log: bool) -> float | None:
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return None
    return math.log10(value) if log else float(value)


def _power(exponent: float) -> float:
    try:
        return float(10.0**exponent)
    except OverflowError:
        return math.inf


def _draw_curve(
    canvas: Canvas, pieces: Sequence[Sequence[tuple[float, float]]], x_axis: _Axis, y_axis: _Axis, number: int
) -> None:
    across, down = canvas.size
    for piece in pieces:
        dots = [(round(x_axis.part(x) * (across - 1)), round((1 - y_axis.part(y)) * (down - 1))) for x, y in piece]
        canvas.dot(*dots[0], number)
        for start, end in pairwise(dots):
            canvas.line(start, end, number)


def _tick_rows(rows: int) -> list[int]:
    """The rows that have a number: the first, the last, and some between."""
    count = max(1, (rows - 1) // _TICKS_EVERY)
    return sorted({round(number * (rows - 1) / count) for number in range(count + 1)})


def _x_numbers(axis: _Axis, columns: int) -> str:
    """The lowest number at the left, the highest at the right, and the middle one if there is room."""
    left, middle, right = (axis.label(part) for part in (0, 0.5, 1))
    if len(left) + len(middle) + len(right) + 6 > columns:
        return f"{left}{right:>{max(1, columns - len(left))}}"
    centre = f"{middle:^{columns}}"
    return f"{left}{centre[len(left) : columns - len(right)]}{right}"


def _names(curves: Sequence[Curve], frame: Frame) -> list[list[Piece]]:
    """Which curve is which, with its last value; of many the first ones."""
    most = max(1, min(_MOST_NAMED, frame.height // 3))
    shown = curves if len(curves) <= most else curves[: most - 1]
    lines: list[list[Piece]] = []
    for number, curve in enumerate(shown):
        known = [y for y in curve.ys if y is not None]
        last = f"  {short_number(known[-1])}" if known else "  nothing"
        room = max(8, frame.width - len(last) - 2)
        name = curve.name if len(curve.name) <= room else f"{curve.name[: room - 1]}…"
        lines.append([(letter(number) if frame.letters else "━", number), (f" {name}{last}", None)])
    if len(shown) < len(curves):
        lines.append([(f"… and {len(curves) - len(shown)} more", None)])
    return lines


def short_number(value: float) -> str:
    """A number in few characters: `3.14`, `12,000`, `2.5e-05`."""
    if value == 0:
        return "0"
    if abs(value) < 1e6 and value == round(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"
