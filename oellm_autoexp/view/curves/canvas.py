"""A field of dots on which lines are drawn: eight dots a character (braille), or one letter each. Pure."""

from __future__ import annotations

from collections.abc import Iterator

_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a braille character, by row and column (Unicode, Braille Patterns)."""
_LETTERS = "*+ox#@%&abcdefghijklmnopqrstuvwyz"


def letter(curve: int) -> str:
    """What stands for a curve where there are no colours."""
    return _LETTERS[curve % len(_LETTERS)]


class Canvas:
    """Characters of which each belongs to the curve that was drawn there last."""

    def __init__(self, columns: int, rows: int, *, letters: bool = False) -> None:
        self._columns, self._rows, self._letters = columns, rows, letters
        self._per_column, self._per_row = (1, 1) if letters else (2, 4)
        self._bits: dict[tuple[int, int], int] = {}
        self._curve: dict[tuple[int, int], int] = {}

    @property
    def size(self) -> tuple[int, int]:
        """How many dots there are, across and down."""
        return self._columns * self._per_column, self._rows * self._per_row

    def dot(self, x: int, y: int, curve: int) -> None:
        """Draw one dot of a curve; the first row is the highest one."""
        place = x // self._per_column, y // self._per_row
        bit = 0 if self._letters else _DOTS[y % 4][x % 2]
        self._bits[place] = self._bits.get(place, 0) | bit
        self._curve[place] = curve

    def line(self, start: tuple[int, int], end: tuple[int, int], curve: int) -> None:
        """Draw the dots from one to another."""
        (x, y), (x_end, y_end) = start, end
        steps = max(abs(x_end - x), abs(y_end - y))
        for step in range(steps + 1):
            part = step / steps if steps else 0.0
            self.dot(round(x + (x_end - x) * part), round(y + (y_end - y) * part), curve)

    def rows(self) -> Iterator[list[tuple[str, int | None]]]:
        """Each row in pieces, each with the curve that it belongs to."""
        for row in range(self._rows):
            pieces: list[tuple[str, int | None]] = []
            for column in range(self._columns):
                curve = self._curve.get((column, row))
                sign = " " if curve is None else letter(curve) if self._letters else self._sign(column, row)
                if pieces and pieces[-1][1] == curve:
                    pieces[-1] = (pieces[-1][0] + sign, curve)
                else:
                    pieces.append((sign, curve))
            yield pieces

    def _sign(self, column: int, row: int) -> str:
        return chr(_BRAILLE + self._bits[column, row])
