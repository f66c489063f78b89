"""Events: what was seen of a job, each with an id that is the same whenever the same thing is seen again. Pure."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from oellm_autoexp.core.nouns import Record

_NAMESPACE = uuid.UUID("5b8a1f0e-2c57-4c36-9a52-7f3c8f1f6f0d")


class Event(Record):
    """One thing that was seen of a job. `id` names a folder of the queue, `metadata` is for templates."""

    id: str
    kind: Literal["log", "state", "published"]
    name: str
    job: str
    attempt: int
    job_id: str = ""
    log_path: str = ""
    at: float
    depth: int = 0
    """How many events have followed from each other to make it."""
    metadata: dict[str, Any] = {}


class Deadline(Record):
    """When a wait ends at the latest (seconds since 1970), and what is done then: `skipped`, `tried again`."""

    at: float
    then: str


class Pending(Record):
    """An action of an event that is to be carried out: the `binding`th of the rule of that name."""

    event: Event
    rule: str
    binding: int
    since: float
    started: bool = False
    """Whether its carrying out has begun; it is then begun again by a monitor that finds it so."""
    filled: dict[str, Any] = {}
    """The action of a message that is to be sent, with its templates filled: it says what was true then."""
    reason: str = ""
    """What it waits for."""
    action: str = ""
    """The class of the action, once it waits."""
    deadline: Deadline | None = None

    @property
    def id(self) -> str:
        """The same for the same action of the same event: the name of its entry in the queue."""
        return queue_id(self.event.id, self.rule, self.binding)

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `filled` where it is empty: versions that do not know it read all other sessions."""
        data: dict[str, Any] = dump(self)
        if not self.filled:
            data.pop("filled", None)
        return data


def event_id(name: str, *parts: object) -> str:
    """`<name>-<12 hex digits>` of what makes it the one it is."""
    text = "\0".join(map(str, (name, *parts)))
    return f"{name}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:12]}"


def queue_id(event: str, rule: str, binding: int) -> str:
    """A UUID made of an event and the place of the action among those of its rule."""
    return str(uuid.uuid5(_NAMESPACE, f"{event}/{rule}/{binding}"))
