"""monitor --cmd tail: the last lines of each job's newest log."""

from __future__ import annotations

import argparse
import json
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    found: list[dict[str, Any]] = []
    for name in chosen(options, manifest, session):
        state, path = session.jobs[name].state, session.jobs[name].logs.resolved_log_path
        lines = last_lines(Path(path), options.lines or _LINES) if path else []
        cause = session.jobs[name].run.cause
        found.append(
            {"job": name, "state": state, "log_path": path, "lines": lines, "cause": asdict(cause) if cause else None}
        )
    if options.json:
        print(json.dumps({"plan_id": session.plan_id, "logs": found}))
        return app.OK
    for entry in found:
        job = session.jobs[entry["job"]]
        why = ", ".join([entry["state"], *causes(job)])
        app.note(f"==> {entry['job']} ({why}) {entry['log_path'] or 'no log yet'}")
        if found_cause := job.run.cause:
            app.note(f"cause: {found_cause.category}: {found_cause.text}")
            if found_cause.line:
                app.note(f"  {found_cause.path}, byte {found_cause.offset}: {found_cause.line}")
        for line in entry["lines"]:
            app.note(line)
    if not found:
        app.note("no job has failed")
    return app.OK


def last_lines(path: Path, count: int) -> list[str]:
    from oellm_autoexp.core.redacted_text import redact_text
    from oellm_autoexp.storage.world import Files

    lines = deque(Files("/").tail(str(path), _TAIL_BYTES).splitlines(), maxlen=max(0, count))
    return [printable(line) for line in redact_text("\n".join(lines)).splitlines()]
