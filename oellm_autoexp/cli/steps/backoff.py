"""Retries of what fails for a moment: a full disk or quota, a network file system that does not answer."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.errors import AutoexpError, UnwritableError
from oellm_autoexp.storage.files import room_hint

PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
_TRANSIENT = {
    *(errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EAGAIN, errno.EBUSY),
    *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN, errno.EINTR, errno.EREMOTEIO),
}
Result = TypeVar("Result")


def is_transient(error: BaseException) -> bool:
    """True for an error of a file system, also one that was raised as one of ours, that may pass by itself."""
    cause = error if isinstance(error, OSError) else error.__context__
    return isinstance(error, UnwritableError) or (isinstance(cause, OSError) and cause.errno in _TRANSIENT)


def with_backoff(action: Callable[[], Result]) -> Result:
    """The result of `action`, which is tried again with growing pauses while an error is transient.

    Each pause is reported on stderr. Raises what `action` raises, the last time.
    """
    for pause in PAUSES_SECONDS:
        try:
            return action()
        except (OSError, AutoexpError) as error:
            if not is_transient(error):
                raise
            app.note(f"{_message(error)}; trying again in {pause:g} s", on_stderr=True)
            time.sleep(pause)
    try:
        return action()
    except AutoexpError as error:
        if not (isinstance(error.__context__, OSError) and (hint := room_hint(error.__context__, _where(error)))):
            raise
        raise type(error)(*(replace(each, hint=each.hint or hint) for each in error.problems)) from error.__context__


def _where(error: AutoexpError) -> str:
    return str(error.problems[0].where)


def _message(error: OSError | AutoexpError) -> str:
    if isinstance(error, AutoexpError):
        return f"{_where(error)}: {error.problems[0].what}"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
