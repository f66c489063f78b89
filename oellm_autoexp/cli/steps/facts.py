"""What commands print for programs: one JSON document."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.steps import app
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core.errors import AutoexpError

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.session.waits import Wait


def in_json(options: argparse.Namespace, go: Callable[[], tuple[int, dict[str, Any]]]) -> int:
    """Do something and return its exit code; with `--json`, stdout gets nothing but its facts, as one document."""
    if not options.json:
        return go()[0]
    with redirect_stdout(sys.stderr):
        code, facts = go()
    print(json.dumps(facts))
    return code


def plan_facts(manifest: Manifest, path: Path) -> dict[str, Any]:
    """A plan, for programs."""
    from oellm_autoexp.learning.words import facts
    from oellm_autoexp.planning.budget import Budget

    budget = Budget.of(manifest)
    expected = budget.expected
    return {
        "plan_id": manifest.plan_id,
        "manifest": str(path),
        "jobs": [job.name for job in manifest.jobs],
        "gpu_hours": {
            "at_most": None if budget.unlimited else budget.gpu_hours,
            "expected": None if expected is None else asdict(expected),
        },
        "estimates": {
            job.name: facts(job.workload, job.resources.time_limit_seconds)
            for job in manifest.jobs
            if job.workload is not None and job.workload.estimate is not None
        },
    }


def session_facts(session: Session) -> dict[str, Any]:
    """What a session knows, for programs; without secrets."""
    from oellm_autoexp.core.redaction import redact
    from oellm_autoexp.session import records
    from oellm_autoexp.session.confidential import concealed
    from oellm_autoexp.view.jobs.waiting import wait_facts

    return {
        "plan_id": session.plan_id,
        "manifest": str(session.manifest_path),
        "jobs": [
            records.flat(concealed(job)[0]) | {"switched_off": list(job.run.switched_off)}
            for job in session.jobs.values()
        ],
        "held": session.hold.reason if session.hold.fingerprint else "",
        "waiting": redact(wait_facts(waiting(session))),
    }


def waiting(session: Session) -> list[Wait]:
    """What of a session waits: its actions, entries of its queue that no worker has taken, and its jobs."""
    from oellm_autoexp.session.waits import waits

    found = waits(session.jobs.values())
    actions = [wait for wait in found if wait.kind == "action"]
    return [*actions, *_queued(session), *(wait for wait in found if wait.kind == "job")]


def _queued(session: Session) -> list[Wait]:
    from oellm_autoexp.session.queue import Queue
    from oellm_autoexp.session.queue_entry import PENDING
    from oellm_autoexp.session.waits import Wait

    awaited = {pending.id for job in session.jobs.values() for pending in job.actions.pending}
    try:
        entries = Queue(session.path).entries(report=app.report)
    except AutoexpError as error:
        app.report(error)
        return []
    return [
        Wait(
            entry.event.job,
            "action",
            "in the queue, waits for a worker (--cmd actions)",
            entry.created_at,
            action=entry.action.kind,
            event=entry.event.name,
        )
        for entry in entries
        if entry.status == PENDING and entry.id not in awaited
    ]


def recorded_facts(manifest: Manifest) -> dict[str, Any]:
    """The same, of a session that was let go."""
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.storage.session_files import SessionFiles

    path = SessionFiles.of(manifest).path
    return session_facts(with_backoff(lambda: Session.load(path)))
