"""Ctrl-C and SIGTERM at moments at which they would tear apart what belongs together."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

_HELD = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done, such as a start of a program and the note of its process.

    Only signals that this process handles wait: one that is ignored stays ignored, and one that ends the process ends
    it. Programs that are started in the block have the usual handlers (POSIX: exec resets them). Python runs handlers
    in the main thread alone, so in other threads there is nothing to hold. Raises what the handlers raise, at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: handler for number in _HELD if callable(handler := signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, lambda signum, _frame: came.append(signum))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for signum in dict.fromkeys(came):
            signal.raise_signal(signum)
