"""A time limit for code that looks for signals while it runs, such as a match of `re`."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from types import FrameType, TracebackType

_TICK_SECONDS = 0.05
_AGAIN_SECONDS = 1.0


class TimeLimit:
    """Within a `with` block, TimeoutError is raised soon after its `deadline`, which may be set anew again and again.

    It is raised in code of the module that holds the block, never in the middle of something that this code calls.

    CPython's engine for regular expressions looks for signals every few thousand steps, and the handler of one may
    raise. That needs SIGALRM and the main thread. In another thread nothing is interrupted, and only `check` raises.
    After the block a timer and a handler of somebody else are as before. Where there was no handler, one that does
    nothing stays: a last tick may be delivered late, and would end the process.
    """

    def __init__(self) -> None:
        self.deadline = math.inf
        """Seconds of time.monotonic."""
        self._ticks = False

    def __enter__(self) -> TimeLimit:
        if threading.current_thread() is threading.main_thread():
            self._ticks = True
            self._module = sys._getframe(1).f_globals
            self._began = time.monotonic()
            self._handler = signal.getsignal(signal.SIGALRM)
            signal.signal(signal.SIGALRM, self._tick)
            self._timer = signal.setitimer(signal.ITIMER_REAL, _TICK_SECONDS, _TICK_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deadline = math.inf
        if self._ticks:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._handler if callable(self._handler) else _late)
            left, interval = self._timer
            if left:  # somebody else's timer, which went on meanwhile
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - self._began), 1e-6), interval)

    def check(self, now: float) -> None:
        """Raise TimeoutError if the deadline is over at this time."""
        if now >= self.deadline:
            self.deadline = now + _AGAIN_SECONDS  # not where it is handled; but once more if a destructor has lost it
            raise TimeoutError

    def _tick(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  a handler of signals
        # Elsewhere an error would be lost (in a destructor, in a callback of the collector), or would leave the timer
        # running (in __exit__): the next tick tries again.
        if frame is not None and frame.f_globals is self._module:
            self.check(time.monotonic())


def _late(number: int, frame: FrameType | None) -> None:
    """A tick that is delivered after its block."""
