"""What people do to single jobs: a new attempt, an end; with nobody watching, and while somebody does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.testing.jobs import changed
from tests.flow.conftest import User, until

pytestmark = pytest.mark.slow

STATE = Path("outputs", "monitoring_state")


class Plan:
    """A plan of jobs that run until a file lets them end, submitted and not watched."""

    def __init__(self, user: User, *names: str) -> None:
        self.user = user
        config = {
            "defaults": [{"override /backend": "command"}],
            "project": {"name": "p"},
            "backend": {
                "argv": [
                    "sh",
                    "-c",
                    'echo "rate $2"; until [ -e go ]; do sleep 0.1; done; exit 3',
                    "x",
                ],
                "options": {"lr": 1e-3},
            },
            "monitoring": {"poll_interval_seconds": 0.2},
            "sweep": {"grids": [{"project.name": list(names)}]},
        }
        (user.home / "p.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
        result = user.run("run", "--config-ref", "./p.yaml", "--plan-id", "p", "--no-monitor")
        assert result.returncode == 0, result.stderr
        self.watcher: subprocess.Popen[str] | None = None

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.user.run("monitor", "--session", "p", *words)

    @property
    def jobs(self) -> dict[str, JobState]:
        return Session.load(SessionFiles.named(self.user.home / STATE, "p").path).jobs

    def watch(self) -> None:
        self.watcher = self.user.start("monitor", "--session", "p")
        until(lambda: "running" in {job.state for job in self.jobs.values()}, "a running job")

    def end(self) -> None:
        self.run("--cmd", "cancel")
        if self.watcher is not None:
            self.watcher.wait()
        self.run("--once")


@pytest.fixture
def plan(user: User) -> Iterator[Plan]:
    made = Plan(user, "a", "b")
    yield made
    made.end()


@pytest.fixture(params=[False, True], ids=["nobody watches", "somebody watches"])
def either(request: pytest.FixtureRequest, plan: Plan) -> Plan:
    if request.param:
        plan.watch()
    else:
        until(lambda: plan.run("--once").returncode == 0 and plan.jobs["a"].state == "running", "a running job")
    return plan


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("backend.options.lrr=1", "did you mean 'backend.options.lr'"),
        ("project.name=other", "a new attempt must have the same project.name"),
        ("slurm.sbatch.output=x", "output"),
        ("slurm.sbatch.time=soon", "soon"),
        ("backend.options.lr=1,2", "has several values"),
        ("lr", "write key=value"),
    ],
)
def test_a_wrong_override_is_reported_before_anything_is_asked_for(either: Plan, override: str, why: str) -> None:
    result = either.run("--cmd", "restart", "--job", "a", "--override", override)
    assert (result.returncode, result.stdout) == (2, "")
    assert why in result.stderr
    assert not list((either.user.home / STATE / "p.requests").glob("*.json"))
    assert either.jobs["a"].restart is None


ODD = {
    "backend.options.lr=\udcff": "the override is not UTF-8 text",
    f"metadata={'{a: ' * 3000}1{'}' * 3000}": "nested too deeply",
    f"+metadata.{'a.' * 150}a=1": "nested too deeply",
    "backend.options.lr=1e400": "1e400 is too large for a number",
}


def test_what_no_session_can_keep_is_refused_in_one_message(plan: Plan) -> None:
    words = [*(("--override", override, why) for override, why in ODD.items())]
    words += [(option, "n\udcff", f"{option}: this is not UTF-8 text") for option in ("--reason", "--exclude")]
    for option, text, why in words:
        result = plan.run("--cmd", "restart", "--job", "a", option, text)
        assert (result.returncode, result.stdout) == (2, "")
        assert why in result.stderr
        assert "an error in oellm-autoexp" not in result.stderr
    assert not list((plan.user.home / STATE / "p.requests").glob("*.json"))


def test_a_variable_in_another_encoding_keeps_no_job_from_a_new_attempt(user: User) -> None:
    strange = User(user.home, {**user.environment, "STRANGE": "\udcff", "STRANGER\udcff": "x"})
    plan = Plan(strange, "a")
    try:
        result = plan.run("--cmd", "restart", "--job", "a", "--override", "backend.options.lr=5e-3")
        assert result.returncode == 0, result.stderr
    finally:
        plan.end()


def test_a_new_attempt_is_reported_as_it_comes(either: Plan) -> None:
    result = either.run("--cmd", "restart", "--job", "a", "--override", "backend.options.lr=5e-3", "--json")
    assert result.returncode == 0, result.stderr
    reported = json.loads(result.stdout)
    assert (list(reported["jobs"]), reported["messages"][-1]) == (["a"], "to begin anew: a")
    until(lambda: either.run("--once") and either.jobs["a"].attempt == 2, "the new attempt")
    assert either.jobs["b"].attempt == 1
    log = Path(either.jobs["a"].logs.resolved_log_path)
    until(lambda: log.exists() and log.read_text() == "rate 0.005\n", "the value in its words")


def test_a_mapping_among_the_overrides_is_one(plan: Plan) -> None:
    result = plan.run("--cmd", "restart", "--job", "a", "--override", "backend.env={COLOUR: b}")
    assert result.returncode == 0, result.stderr
    until(lambda: plan.run("--once") and plan.jobs["a"].attempt == 2, "the new attempt")
    assert "export COLOUR=b\n" in Path(plan.jobs["a"].changes.script_path).read_text()


def test_a_job_that_waits_is_not_said_to_begin_anew(user: User) -> None:
    plan = Plan(user, "a")
    path = SessionFiles.named(user.home / STATE, "p").path
    session = Session.load(path)
    session.put(changed(session.jobs["a"], state="waiting", retry_at=1e12, attempt=0))
    session.save()
    result = plan.run("--cmd", "restart", "--job", "a")
    assert result.returncode == 1
    assert "it waits to be submitted" in result.stdout
    assert "to begin anew: nothing" in result.stdout
    (user.home / "go").touch()  # the session does not know of its process any more


def test_a_damaged_request_is_named_and_keeps_no_other_from_being_handled(plan: Plan) -> None:
    folder = plan.user.home / STATE / "p.requests"
    folder.mkdir()
    (folder / "cut.json").write_text("{")
    plan.watch()
    result = plan.run("--cmd", "cancel")
    assert result.returncode == 0, result.stderr
    assert "at its next poll" not in result.stdout
    assert plan.watcher is not None
    assert plan.watcher.wait() == 1
    assert {job.state for job in plan.jobs.values()} == {"cancelled"}
    assert "cut.json" in (plan.user.home / "output.txt").read_text()


# ---- a scheduler that does not answer

COMMANDS = {"submit": "sbatch", "squeue": "squeue", "sacct": "sacct", "cancel": "scancel"}
AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


def test_a_session_whose_scheduler_is_away_is_ended_by_one_command(user: User) -> None:
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo"):
        (user.home / name).write_text(f"#!/bin/sh\necho '{name}: error: {AWAY}' >&2\nexit 1\n")
        (user.home / name).chmod(0o755)
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "base"}],
        "project": {"name": "a"},
        "backend": {"argv": ["true"]},
        "slurm": {"launcher_cmd": None, **{f"{name}_cmd": str(user.home / s) for name, s in COMMANDS.items()}},
    }
    (user.home / "p.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    state = user.home / "state"
    where = f"project.monitoring_state_dir={state}"
    assert user.run("run", "--config-ref", "./p.yaml", "--plan-id", "p", "--no-monitor", where).returncode != 0
    session = ("--session", "p", "--monitoring-state-dir", str(state))

    blocked = user.run("run", "--config-ref", "./p.yaml", "--plan-id", "next", "--no-monitor", where)
    assert f"monitor_autoexp.py --session p --monitoring-state-dir {state}" in blocked.stderr
    cancelled = user.run("monitor", *session, "--cmd", "cancel")
    assert cancelled.returncode == 1
    assert "kept: 1 job to end as soon as it answers: a" in cancelled.stdout
    refused = user.run("monitor", *session, "--cmd", "remove")
    assert refused.returncode == 2
    assert "--cmd remove --force" in refused.stderr
    removed = user.run("monitor", *session, "--cmd", "remove", "--force")
    assert removed.returncode == 0
    assert "a may be in the scheduler's queue, under a name that ends in ." in removed.stdout
    again = user.run("run", "--config-ref", "./p.yaml", "--plan-id", "other", "--no-monitor", where)
    assert "belong to the session" not in again.stderr
