"""What an earlier version has planned, begun and queued is read and brought to its end by today's."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from oellm_autoexp.storage.lock import Machine
from tests.flow.conftest import User

pytestmark = pytest.mark.slow

RECORDED = Path(__file__).resolve().parents[1] / "golden" / "session_v1.json"
"""The output root and the working directory of a session whose monitor and jobs were killed, as path → what is there.

It has a job that has ended, one that ran, one that was in the queue, one that waits for its sibling, and an action that
waits for a worker.
"""


def laid_out(root: Path) -> None:
    """Write what was recorded below a folder; its texts have placeholders for what differs between machines."""
    recorded = json.loads(RECORDED.read_text())
    here = Machine.here()  # whose boot and pids the recorded processes had, so that they are known to have ended
    values = {"{ROOT}": str(root), "{PYTHON}": sys.executable}
    values |= {"{HOST}": here.host, "{BOOT}": here.boot, "{PIDS}": here.pids}
    for name in [name for name, what in recorded.items() if name.endswith("/job.sbatch") and "text" in what]:
        digest = hashlib.sha256(_filled(recorded[name]["text"], values).encode()).hexdigest()
        values[f"{{SHA256 of {name}}}"] = digest
    for name, what in recorded.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if "link" in what:
            path.symlink_to(_filled(what["link"], values))
            continue
        if "text" in what:
            path.write_text(_filled(what["text"], values))
        else:
            path.mkdir(exist_ok=True)
        path.chmod(int(what["mode"], 8))


def _filled(text: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        text = text.replace(key, value)
    return text


def test_a_session_of_an_earlier_version_goes_on(user: User) -> None:
    laid_out(user.home)
    (user.home / "run" / "go").touch()  # without it, the jobs that were killed would sleep for ten minutes
    there = User(user.home, {**user.environment, "OUTPUT_DIR": str(user.home / "out")})
    shown = there.run("monitor", "--cmd", "status", "--session", "golden")
    assert "golden_stable_0" in shown.stdout
    assert there.run("monitor", "--session", "golden").returncode == 0
    outcome = there.run("monitor", "--session", "golden", "--cmd", "status", "--json")
    found = {job["name"]: (job["state"], job["attempt"]) for job in json.loads(outcome.stdout)["jobs"]}
    assert found == {
        "golden_stable_0": ("success", 1),
        "golden_stable_1": ("success", 2),
        "golden_decay_2": ("success", 1),
        "golden_decay_3": ("success", 1),
    }
    worked = there.run("monitor", "--session", "golden", "--cmd", "actions")
    assert worked.returncode == 0, worked.stderr
    for name in found:
        assert (user.home / "out" / name / "seen_10").exists()
