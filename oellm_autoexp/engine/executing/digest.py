"""Messages to people: those of one rule that come close together go as one, so that 200 failures are a few messages.

The first message goes at once, with all of the same poll. What comes within `digest_seconds` after it, of any job, is
collected and goes in the next one; while that goes on, the pause doubles, up to ten times `digest_seconds`. When every
job has ended, nothing is waited for.

A message is in the session before it is sent (`Pending.filled`), and leaves it afterwards: a monitor that is
killed in between leaves it to the next one. It may be sent twice, never not at all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.text import plural
from oellm_autoexp.engine.executing import steps
from oellm_autoexp.engine.executing.programs import sending
from oellm_autoexp.engine.executing.steps import Outcome
from oellm_autoexp.notifiers.base import Message
from oellm_autoexp.rules.actions import NotifyAction
from oellm_autoexp.rules.events import Deadline, Pending
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.session import Session
from oellm_autoexp.session.waits import AT_WORK, only_actions_wait
from oellm_autoexp.storage.log_tail import last_line
from oellm_autoexp.storage.world import Subprocess

MOST_AT_ONCE = 8
"""How many programs that send messages run at once; other messages wait for their turn."""
LONGEST_PAUSES = 10
"""The longest pause between two messages of one rule, in `digest_seconds`."""
_MOST_TOLD, _MOST_NAMED, _LONGEST = 20, 100, 500
"""In one message: how many messages in full (each cut to so many characters), and the names of how many more jobs."""
_COLLECTED = "collected, to be sent together with others"


@dataclass(frozen=True)
class _Notice:
    """A message that is to be sent."""

    pending: Pending
    action: NotifyAction


@dataclass
class _Channel:
    """The messages of one rule that go one way."""

    due_at: float = 0.0
    """When the next one may go, in seconds since 1970."""
    pause: float = 0.0
    flooded: bool = False
    """Whether some message had to wait since the last one was sent."""
    taken: tuple[str, ...] = ()
    """The ids of the messages that were sent last."""
    unnoted: set[str] = field(default_factory=set)
    """Those of them whose actions do not know yet what became of them."""
    program: Subprocess | None = None
    log_path: Path = Path()
    failure: str | None = None
    """Why sending them has failed, as of this round; empty if it has not, None while it goes on."""

    @property
    def busy(self) -> bool:
        """Whether a message is being sent."""
        return bool(self.taken) and self.failure is None

    def is_free(self, now: float, digest_seconds: float) -> bool:
        """Whether a message may go now. A clock that was set back makes none wait."""
        return not self.busy and not 0 < self.due_at - now <= LONGEST_PAUSES * digest_seconds

    def poll(self) -> None:
        """See whether the program that sends has ended."""
        if self.program is not None and self.busy and (ended := self.program.poll()) is not None:
            parts = (ended.message, last_line(self.log_path)) if ended.code != 0 else ()
            self.failure = ": ".join(part for part in parts if part)

    def result(self, id: str) -> Outcome:  # noqa: A002
        """What became of one of the messages that were sent last. A failure is reported once."""
        self.unnoted.discard(id)
        if self.failure:
            return Outcome("failed", self.failure, quiet=id != self.taken[0])
        others = len(self.taken) - 1
        return Outcome("done", f"in one message with {plural(others, 'other')}" if others else "")


@dataclass
class Digest:
    """The messages of one session's actions."""

    manifest: Manifest
    session: Session
    queue: Queue
    _channels: dict[str, _Channel] = field(default_factory=dict)
    _waiting: dict[str, list[_Notice]] = field(default_factory=dict)
    """What is to be sent, as of this round."""

    @property
    def busy(self) -> bool:
        """Whether some message is being sent."""
        return any(channel.busy for channel in self._channels.values())

    def is_sending(self, pending: Pending) -> bool:
        """Whether the message of an action is being sent."""
        return any(channel.busy and pending.id in channel.taken for channel in self._channels.values())

    def begin_round(self, now: float) -> None:
        """See which programs have ended, and forget what is over."""
        self._waiting = {}
        for key, channel in list(self._channels.items()):
            if channel.busy:
                channel.poll()
            elif channel.due_at <= now and not channel.flooded and not channel.unnoted:
                del self._channels[key]

    def notify(self, name: str, pending: Pending, action: NotifyAction, now: float) -> Outcome | Pending:
        """Have a message of a job sent, as it is now; its action as it waits."""
        self.session.put(steps.with_execution(self.session.jobs[name], pending, now))
        filled = action.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return self.go_on(pending.model_copy(update={"started": True, "filled": filled}), now)

    def go_on(self, pending: Pending, now: float) -> Outcome | Pending:
        """What has become of a message that is to be sent, or its action as it waits.

        Raises ValidationError if what the session holds is no message.
        """
        action = NotifyAction.model_validate(pending.filled)
        key = _key(pending, action)
        channel = self._channels.setdefault(key, _Channel())
        if pending.id in channel.unnoted:
            return steps.waiting(pending, AT_WORK, action.kind) if channel.busy else channel.result(pending.id)
        self._waiting.setdefault(key, []).append(_Notice(pending, action))
        if channel.is_free(now, action.digest_seconds):
            return steps.waiting(pending, AT_WORK, action.kind)
        channel.flooded = True
        deadline = Deadline(at=channel.due_at, then="sent") if channel.due_at > now else None
        return steps.waiting(pending, _COLLECTED, action.kind, deadline)

    def due(self, now: float) -> list[str]:
        """The channels whose messages may go now."""
        at_rest = bool(self._waiting) and only_actions_wait(self.session.jobs.values())
        return [
            key
            for key, notices in self._waiting.items()
            if self._channels[key].is_free(now, notices[0].action.digest_seconds)
            or (at_rest and not self._channels[key].busy)
        ]

    def send(self, keys: Sequence[str], now: float) -> bool:
        """Start the programs that send what is due, which the session holds by now; False if there is no room for all.

        What could not be started is sent by a later round.
        """
        for key in keys:
            if sum(channel.busy for channel in self._channels.values()) >= MOST_AT_ONCE:
                return False
            if not self._start(self._channels[key], self._waiting[key], now):
                return False
        return True

    def close(self) -> None:
        """End the programs; a later monitor begins them again."""
        for channel in self._channels.values():
            if channel.program is not None:
                channel.program.give_up()
        self._channels.clear()

    def _start(self, channel: _Channel, notices: Sequence[_Notice], now: float) -> bool:
        first = notices[0]
        log_path = self.queue.folder / first.pending.event.id / f"{first.pending.id}.log"
        program: Subprocess | None = None
        failure: str | None = None
        try:
            made = sending(
                first.action,
                _together(notices, self.manifest.plan_id),
                manifest=self.manifest,
                event=first.pending.event,
            )
        except AutoexpError as error:
            failure = error.problems[0].what
        else:
            program = Subprocess(
                made.words,
                cwd=made.cwd or self.manifest.base_output_dir,
                env=made.env,
                log_path=log_path,
                timeout_seconds=made.timeout_seconds,
                text=made.text,
            )
            if program.later:
                return False
        usual = first.action.digest_seconds
        channel.pause = min(2 * channel.pause, LONGEST_PAUSES * usual) if channel.flooded and channel.pause else usual
        channel.due_at, channel.flooded = now + channel.pause, False
        channel.taken = tuple(notice.pending.id for notice in notices)
        channel.unnoted = set(channel.taken)
        channel.program, channel.log_path, channel.failure = program, log_path, failure
        return True


def _key(pending: Pending, action: NotifyAction) -> str:
    """The same for messages that may go together: of one rule, in one way."""
    way = action.way.model_dump(mode="json", by_alias=True) if action.way else action.command
    alone = "" if action.digest_seconds else pending.id
    return json.dumps([pending.rule, way, action.digest_seconds, alone])


def _together(notices: Sequence[_Notice], plan_id: str) -> Message:
    """One message of several."""
    first, *others = notices
    event = first.pending.event
    subject = first.action.subject or f"{event.name} of {event.job}"
    if not others:
        return Message(subject, first.action.message)
    lines = [f"{len(notices)} messages of '{event.name}' (plan {plan_id}):", *map(_line, notices[:_MOST_TOLD])]
    if left := [notice.pending.event.job for notice in notices[_MOST_TOLD:]]:
        names = [*dict.fromkeys(left)]
        more = f", and {plural(len(names) - _MOST_NAMED, 'other job')}" if len(names) > _MOST_NAMED else ""
        lines.append(f"- and {len(left)} more, of {', '.join(names[:_MOST_NAMED])}{more}")
    return Message(f"{subject}, and {len(others)} more", "\n".join(lines))


def _line(notice: _Notice) -> str:
    """A message among others: on one line, and with the name of its job."""
    text, job = " ".join(notice.action.message.split()), notice.pending.event.job
    line = text if job in text else f"{job}: {text}"
    return f"- {line}" if len(line) <= _LONGEST else f"- {line[: _LONGEST - 1]}…"
