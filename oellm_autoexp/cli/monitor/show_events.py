"""monitor --cmd events: what was seen and done, newest first, as it is read."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.monitor.ask_holder import chosen
from oellm_autoexp.cli.steps import app, facts
from oellm_autoexp.core.errors import ConfigError, Problem

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.rules.events import Event, Pending
    from oellm_autoexp.session.event_log import Result
    from oellm_autoexp.session.session import Session

_SAID_BELOW = 3
"""Lines of the screen that are not the table's rows: its header, how many more there are, and the prompt."""


def _check_event(name: str, manifest: Manifest) -> None:
    """Raises ConfigError for a name that no rule of a plan has."""
    from oellm_autoexp.core.text import did_you_mean
    from oellm_autoexp.decisions.detect import detectors

    rules = [detector.rules for detector in detectors(manifest).values()]
    known = {known for each in rules for known in (*each.log_events, *each.state_events)}
    if name not in known:
        raise ConfigError(Problem(f"no rule has the event '{name}'", "--queue-event", did_you_mean(name, known)))


def events(options: argparse.Namespace, manifest: Manifest, session: Session) -> int:
    """Events, and what became of their actions: the newest first for people, the oldest first in `--json`."""
    from oellm_autoexp.session.event_log import EventLog
    from oellm_autoexp.view.events import lines_each, print_events
    from oellm_autoexp.view.jobs.times import moment
    from oellm_autoexp.view.jobs.waiting import wait_facts
    from oellm_autoexp.view.session_table import waiting_text
    from oellm_autoexp.view.tables import console

    jobs, name = set(chosen(options, manifest, session)), options.queue_event
    since = 0.0 if options.since is None else moment(options.since, time.time(), "--since")
    waits = [wait for wait in facts.waiting(session) if wait.job in jobs and (not name or name == wait.event)]

    def wanted(event: Mapping[str, Any]) -> bool:
        named = not name or name == event["name"] or event["id"].startswith(name)
        return named and event["job"] in jobs and event["at"] >= since

    screen = console()
    most = options.lines
    if most is None and screen.is_terminal and not options.json:
        most = max(1, (screen.size.height - _SAID_BELOW - (len(waits) + 1 if waits else 0)) // lines_each(screen))
    found = EventLog(session.path).histories(wanted, newest_first=not options.json, most=most)
    found_rows = rows(session, found.shown)
    if options.json:
        print(json.dumps({"plan_id": session.plan_id})[:-1] + ', "events": [', end="")
        for number, row in enumerate(found_rows):
            print(", " * (number > 0) + json.dumps(row), end="")
        print(f'], "waiting": {json.dumps(wait_facts(waits))}}}')
        return app.OK
    shown = print_events(screen, found_rows)
    if not found.total and name is not None and not any(name == wait.event for wait in waits):
        _check_event(name, manifest)
    if not found.total:
        screen.print("no events")
    elif shown < found.total:
        screen.print(f"… and {found.total - shown} earlier (--lines N, --since TIME, --job NAME)")
    if (text := waiting_text(waits)) is not None:
        screen.print(text, soft_wrap=True)
    return app.OK


def rows(session: Session, found: Iterator[tuple[Event, list[Result]]]) -> Iterator[dict[str, Any]]:
    """Each event as plain data, with its actions as they are now; without secrets."""
    from oellm_autoexp.core.redaction import redact
    from oellm_autoexp.session.queue import Queue

    queue = Queue(session.path)
    waiting: dict[str, list[Pending]] = {}
    for pending in (pending for job in session.jobs.values() for pending in job.actions.pending):
        waiting.setdefault(pending.event.id, []).append(pending)
    for event, results in found:
        queued = any(result.status == "queued" for result in results)
        finished = {entry.id: entry for entry in queue.finished(event.id, report=app.report)} if queued else {}
        actions = []
        for result in results:
            done = finished.get(result.id) if result.status == "queued" else None
            status, message = (done.status, done.message) if done else (result.status, result.message)
            actions.append({"action": result.action, "status": status, "message": message, "id": result.id})
        actions += [_waiting_action(pending) for pending in waiting.get(event.id, ())]
        yield redact({**event.model_dump(mode="json"), "actions": actions})


def _waiting_action(pending: Pending) -> dict[str, Any]:
    """An action that is not carried out yet, as those that are."""
    from oellm_autoexp.view.jobs.waiting import until

    limit = f", {until(pending.deadline)}" if pending.deadline else ""
    return {
        "action": pending.action or f"action {pending.binding + 1}",
        "status": "waiting",
        "message": f"{pending.reason}{limit}",
        "id": pending.id,
        "since": pending.since,
        "until": None if pending.deadline is None else pending.deadline.at,
    }
