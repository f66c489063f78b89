"""What commands print for programs: one JSON document."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oellm_autoexp.model import Manifest
    from oellm_autoexp.monitor.session import Session


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
    return {"plan_id": manifest.plan_id, "manifest": str(path), "jobs": [job.name for job in manifest.jobs]}


def session_facts(session: Session) -> dict[str, Any]:
    """What a session knows, for programs; without secrets."""
    from oellm_autoexp.monitor.confidential import concealed

    jobs = [concealed(job)[0].model_dump(mode="json") for job in session.jobs.values()]
    return {"plan_id": session.plan_id, "manifest": str(session.manifest_path), "jobs": jobs}


def recorded_facts(manifest: Manifest) -> dict[str, Any]:
    """The same, of a session that was let go."""
    from oellm_autoexp.monitor.session import Session, session_path

    return session_facts(Session.load(session_path(Path(manifest.monitoring_state_dir), manifest.plan_id)))
