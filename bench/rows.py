"""The table of a benchmark: one row for each thing measured, with its target and whether that is met."""

from __future__ import annotations


class Rows:
    """Prints rows as they come, and remembers which targets were missed."""

    def __init__(self) -> None:
        self._missed = 0

    def add(self, what: str, value: str, target: str, met: bool) -> None:
        """Print a row."""
        print(f"{what:<58} {value:>18}   {target:<24} {'met' if met else 'MISSED'}", flush=True)
        self._missed += not met

    @property
    def exit_code(self) -> int:
        """1 if a target was missed, else 0."""
        return 1 if self._missed else 0
