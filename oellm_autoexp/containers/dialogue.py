"""How the program outside of an image and the one inside talk: over the latter's standard streams, in lines of JSON.

The first line tells what only the outside knows. Then the inside may ask (`{"asks": WHAT, "about": …}`), and is
answered by a line each time, until it tells its result (`{"result": …}`). Other lines are what an image's programs
print.
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
"""What the outside can be asked, and the function that answers; both hand on plain data, as in JSON."""


class Outside:
    """The program outside, as the one inside sees it; `given` is what it has told first."""

    def __init__(self, heard: TextIO, said: TextIO) -> None:
        self._heard = heard
        self._said = said
        self.given: dict[str, Any] = self._next()

    @classmethod
    def of_this_process(cls) -> Outside:
        """The one at the other end of the standard streams, which from now on are others: programs inherit them."""
        heard, said = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        return cls(heard, said)

    def ask(self, what: str, about: Any) -> Any:
        """The answer to a question. Raises BrokenPipeError if nobody is outside any more."""
        self._say({_ASKS: what, _ABOUT: about})
        return self._next()

    def tell(self, result: Any) -> None:
        """Say what it all came to."""
        self._say({_RESULT: result})

    def _next(self) -> Any:
        if not (line := self._heard.readline()):
            raise BrokenPipeError
        return json.loads(line)

    def _say(self, what: Mapping[str, Any]) -> None:
        self._said.write(f"{json.dumps(what)}\n")
        self._said.flush()


def talk(words: Sequence[str], given: Mapping[str, Any], answers: Answers) -> tuple[int, Any]:
    """Run a program that talks so, to its end; returns its exit code and its result (None: it has told none).

    What else it prints goes to this program's standard error. Raises OSError if it can't be started.
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
    told, heard, result = cast("TextIO", child.stdin), cast("TextIO", child.stdout), None
    with child:
        try:
            _say(told, given)
            for line in heard:
                said = _understood(line)
                if _RESULT in said:
                    result = said[_RESULT]
                elif said.get(_ASKS) in answers:
                    _say(told, answers[said[_ASKS]](said[_ABOUT]))
                else:
                    sys.stderr.write(line)
        except BaseException:
            child.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                told.close()
    return child.returncode, result


def _say(told: TextIO, what: Any) -> None:
    """Hand on a line; one who has gone needs none."""
    with suppress(BrokenPipeError):
        told.write(f"{json.dumps(what)}\n")
        told.flush()


def _understood(line: str) -> dict[str, Any]:
    """What a line says, if it is part of the talk."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and (found.keys() == {_RESULT} or found.keys() == {_ASKS, _ABOUT}) else {}


def program(module: str, words: Sequence[str]) -> tuple[str, ...]:
    """The words that run a module of an image's own package."""
    return (*PYTHON, "-m", f"{PACKAGE}.{module}", *words)
