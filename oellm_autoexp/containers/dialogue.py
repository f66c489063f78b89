"""The protocol between the program outside of an image and the one inside: lines of JSON on standard streams.

The outer program sends a first line with what only it knows. The inner one may send requests
(`{"asks": WHAT, "about": …}`), each of which is answered by one line, and at last its result (`{"result": …}`). Other
lines of the inner program are output of programs in the image.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO, cast

from oellm_autoexp.containers.contents import PYTHON, environment
from oellm_autoexp.containers.inside import PACKAGE

_ASKS, _ABOUT, _RESULT = "asks", "about", "result"
Answers = Mapping[str, Callable[[Any], Any]]
"""The requests that the outer program answers, each with its function; arguments and results are plain data."""


class Outside:
    """The outer program, for the inner one; `given` is the content of its first line."""

    def __init__(self, incoming: TextIO, outgoing: TextIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.given: dict[str, Any] = self._next()

    @classmethod
    def of_this_process(cls) -> Outside:
        """The outer program at the standard streams. They are replaced here: started programs inherit others."""
        incoming, outgoing = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        return cls(incoming, outgoing)

    def ask(self, what: str, about: Any) -> Any:
        """The answer to a request. Raises BrokenPipeError if the outer program has ended."""
        self._say({_ASKS: what, _ABOUT: about})
        return self._next()

    def send_result(self, result: Any) -> None:
        """Send the result."""
        self._say({_RESULT: result})

    def _next(self) -> Any:
        if not (line := self._incoming.readline()):
            raise BrokenPipeError
        return json.loads(line)

    def _say(self, what: Mapping[str, Any]) -> None:
        self._outgoing.write(f"{json.dumps(what)}\n")
        self._outgoing.flush()


def talk(words: Sequence[str], given: Mapping[str, Any], answers: Answers) -> tuple[int, Any]:
    """Run an inner program until it ends; returns its exit code and its result (None: it has sent none).

    Its other output goes to standard error of this program. Raises OSError if it can't be started.
    """
    child = subprocess.Popen(
        list(words),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    outgoing, incoming, result = cast("TextIO", child.stdin), cast("TextIO", child.stdout), None
    with child:
        try:
            _say(outgoing, given)
            for line in incoming:
                message = _understood(line)
                if _RESULT in message:
                    result = message[_RESULT]
                elif message.get(_ASKS) in answers:
                    _say(outgoing, answers[message[_ASKS]](message[_ABOUT]))
                else:
                    sys.stderr.write(line)
        except BaseException:
            child.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                outgoing.close()
    return child.returncode, result


def _say(outgoing: TextIO, what: Any) -> None:
    """Send a line, unless the inner program has ended."""
    with suppress(BrokenPipeError):
        outgoing.write(f"{json.dumps(what)}\n")
        outgoing.flush()


def _understood(line: str) -> dict[str, Any]:
    """The message in a line; empty if the line is other output."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and (found.keys() == {_RESULT} or found.keys() == {_ASKS, _ABOUT}) else {}


def program(module: str, words: Sequence[str]) -> tuple[str, ...]:
    """The words that run a module of an image's own package."""
    return (*PYTHON, "-m", f"{PACKAGE}.{module}", *words)
