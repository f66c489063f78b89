"""`python -m oellm_autoexp.notifiers.send`: sends one message.

It reads JSON `{"notifier", "subject", "text", "timeout_seconds"}` from standard input, so that nothing of it stands in
a list of processes, and says in one line what went wrong.
"""

from __future__ import annotations

import json
import sys
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from oellm_autoexp.core.errors import NotifyError, unforeseen
from oellm_autoexp.notifiers.base import NOTIFIERS, Message, Notifier


def main(stdin: IO[str] | None = None) -> int:
    """Send what standard input says. Returns 0, 1 if that failed, 2 if it can't be read."""
    try:
        asked = json.load(stdin or sys.stdin)
        message, timeout = Message(str(asked["subject"]), str(asked["text"])), float(asked["timeout_seconds"])
        notifier = _notifier(asked["notifier"])
    except (ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"the message can't be read: {type(error).__name__}\n")
        return 2
    except NotifyError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        notifier.send(message, timeout)
    except NotifyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Exception as error:  # another package's code; its text may hold an address
        kind, place, _ = unforeseen(error)
        sys.stderr.write(f"{notifier.kind}: {kind} in {place}\n")
        return 1
    return 0


def _notifier(section: Any) -> Notifier:
    """The notifier of a section. Raises NotifyError."""
    try:
        found: Notifier = TypeAdapter(NOTIFIERS.union()).validate_python(section)
    except ValidationError as error:
        why = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise NotifyError(f"the notifier can't be used: {why}") from None
    return found


if __name__ == "__main__":
    sys.exit(main())
