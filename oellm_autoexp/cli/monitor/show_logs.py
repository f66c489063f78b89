"""monitor --cmd tail: the last lines of each job's newest log."""

from __future__ import annotations

import argparse
import json
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.monitor.ask_holder import chosen
from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.text import printable

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session


_LINES = 20
_TAIL_BYTES = 256 << 10


def tail(options: argparse.Namespace, manifest: Manifest, session: Session) -> int:
    """The last lines of each job's newest log."""
    from oellm_autoexp.view.jobs.cause import causes

    found = []
    for name in chosen(options, manifest, session):
        job = session.jobs[name]
        path = job.logs.resolved_log_path
        found.append((job, last_lines(Path(path), options.lines or _LINES) if path else []))
    if options.json:
        logs = [
            {
                "job": job.name,
                "state": job.state,
                "log_path": job.logs.resolved_log_path,
                "lines": lines,
                "cause": asdict(job.run.cause) if job.run.cause else None,
            }
            for job, lines in found
        ]
        print(json.dumps({"plan_id": session.plan_id, "logs": logs}))
        return app.OK
    for job, lines in found:
        why = ", ".join([job.state, *causes(job)])
        app.note(f"==> {job.name} ({why}) {job.logs.resolved_log_path or 'no log yet'}")
        if cause := job.run.cause:
            app.note(f"cause: {cause.category}: {cause.text}")
            if cause.line:
                app.note(f"  {cause.path}, byte {cause.offset}: {cause.line}")
        for line in lines:
            app.note(line)
    if not found:
        app.note("no job has failed")
    return app.OK


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log, as a terminal shows them without colours, and without secrets."""
    from oellm_autoexp.core.redacted_text import redact_text
    from oellm_autoexp.search.escapes import without_escapes
    from oellm_autoexp.storage.world import Files

    lines = deque(without_escapes(Files("/").tail(str(path), _TAIL_BYTES)).splitlines(), maxlen=max(0, count))
    return [printable(line) for line in redact_text("\n".join(lines)).splitlines()]
