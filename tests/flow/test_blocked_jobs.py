"""Jobs whose start conditions can't come true: they are reported as blocked, end so, and go on after a repair."""

from __future__ import annotations

import json
from typing import Any

import pytest

import oellm_autoexp
from oellm_autoexp.session.event_log import EventLog
from tests.flow.blocked import ends, jobs, ran, session_file, write
from tests.flow.conftest import User, until

pytestmark = pytest.mark.slow

BLOCKED = {"stable": "crash", "decay": "blocked", "anneal": "blocked"}
ALL_WELL = dict.fromkeys(BLOCKED, "success")
LONG = {"stage": "long", "backend.argv": ["sh", "-c", "until [ -e end ]; do sleep 0.1; done"]}


def run(user: User, *words: str) -> Any:
    return user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p", *words)


def monitor(user: User, *words: str) -> Any:
    return user.run("monitor", "--session", "p", *words)


def restart(user: User, job: str) -> Any:
    return monitor(user, "--cmd", "restart", "--job", f"{job}_lr1")


@pytest.mark.parametrize("kind", ["file", "glob", "state"])
def test_a_plan_of_failed_and_blocked_jobs_ends_at_once_and_says_who_blocks_whom(user: User, kind: str) -> None:
    write(user, kind)
    done = run(user)
    assert done.returncode == 1, done.stderr
    assert "decay_lr1: blocked (stable_lr1 has failed)" in done.stdout
    assert "anneal_lr1: blocked (decay_lr1 is blocked)" in done.stdout
    assert "3 jobs: 1 crash, 2 blocked" in done.stdout
    assert "--cmd restart" in done.stdout
    assert ends(user) == BLOCKED
    assert ran(user) == ["stable"]


def test_every_view_shows_a_blocked_job(user: User) -> None:
    write(user)
    assert run(user).returncode == 1
    reported = json.loads(monitor(user, "--cmd", "status", "--json").stdout)
    states = {job["name"]: (job["state"], job["reason"]) for job in reported["jobs"]}
    assert states["decay_lr1"] == ("blocked", "blocked: stable_lr1 has failed")
    assert states["anneal_lr1"] == ("blocked", "blocked: decay_lr1 is blocked")
    assert [wait["job"] for wait in reported["waiting"]] == ["decay_lr1", "anneal_lr1"]
    filtered = monitor(user, "--cmd", "status", "--filter", "state=blocked").stdout
    assert "stable_lr1 has failed" in filtered
    assert "crash" not in filtered.partition("3 jobs")[0]
    assert "blocked" in monitor(user, "--cmd", "watch").stdout
    rows = oellm_autoexp.results(session_file(user))
    assert [(row.state, row.cause) for row in rows][1:] == [
        ("blocked", "stable_lr1 has failed"),
        ("blocked", "decay_lr1 is blocked"),
    ]
    assert user.run("report", "--session", "p", "--output", "page.html").returncode == 0
    assert "stable_lr1 has failed" in (user.home / "page.html").read_text()


def test_a_new_attempt_of_the_sibling_unblocks_all_that_wait_for_it(user: User) -> None:
    write(user)
    assert run(user).returncode == 1
    (user.home / "well").touch()
    begun = restart(user, "stable")
    assert begun.returncode == 0, begun.stderr
    assert monitor(user).returncode == 0
    assert ends(user) == ALL_WELL
    assert ran(user) == ["stable", "stable", "decay", "anneal"]
    assert [entry.event for entry in jobs(user)["decay"].history][:3] == ["blocked", "waiting", "submitted"]


def test_a_restart_action_of_the_sibling_comes_before_a_job_is_blocked(user: User) -> None:
    action = {"class_name": "RestartAction", "max_attempts": 1, "cooldown_seconds": 1}
    write(user, monitoring={"poll_interval_seconds": 0.2, "state_events": {"crash": {"actions": [action]}}})
    assert run(user).returncode == 1
    decay = jobs(user)["decay"]
    assert (ran(user), decay.state) == (["stable", "stable"], "blocked")
    assert [entry.event for entry in decay.history] == ["blocked"]


def test_a_file_that_a_person_puts_there_starts_the_job_while_the_monitor_watches(user: User) -> None:
    write(user)
    _with_a_long_job(user)
    watcher = user.start("run", "--config-ref", "./e.yaml", "--plan-id", "p")
    until(lambda: ends(user) == {**BLOCKED, "long": "running"}, "the blocked jobs")
    (user.outputs / "stable_lr1" / "checkpoint").touch()
    until(lambda: ends(user) == {**ALL_WELL, "stable": "crash", "long": "running"}, "the decay and the annealing")
    (user.home / "end").touch()
    assert watcher.wait() == 1
    assert ran(user) == ["stable", "decay", "anneal"]


@pytest.mark.parametrize("resumed", [False, True], ids=["by a restart", "by a monitor"])
def test_a_job_is_begun_after_a_repair_by_hand_when_the_watch_has_ended(user: User, resumed: bool) -> None:
    write(user)
    assert run(user).returncode == 1
    still = restart(user, "decay")
    assert (still.returncode, "decay_lr1: still blocked: stable_lr1 has failed" in still.stdout) == (1, True)
    assert ends(user) == BLOCKED
    (user.outputs / "stable_lr1" / "checkpoint").touch()
    if not resumed:
        begun = restart(user, "decay")
        assert (begun.returncode, "to begin anew: decay_lr1" in begun.stdout) == (0, True)
    assert monitor(user).returncode == 1
    assert ends(user) == {**ALL_WELL, "stable": "crash"}
    assert ran(user) == ["stable", "decay", "anneal"]


def test_a_blocked_job_can_be_cancelled_and_what_waits_for_it_says_so(user: User) -> None:
    write(user)
    assert run(user).returncode == 1
    ended = monitor(user, "--cmd", "cancel", "--job", "decay_lr1")
    assert (ended.returncode, "ended: decay_lr1" in ended.stdout) == (0, True)
    assert ends(user) == {**BLOCKED, "decay": "cancelled"}
    assert jobs(user)["anneal"].reason == "blocked: decay_lr1 was cancelled"


def test_a_monitor_that_is_killed_keeps_what_is_blocked_and_its_event(user: User) -> None:
    log = {"class_name": "LogAction", "message": "{reason}!"}
    rules = {"poll_interval_seconds": 0.2, "state_events": {"blocked": {"actions": [log]}}}
    write(user, monitoring=rules)
    _with_a_long_job(user)
    watcher = user.start("run", "--config-ref", "./e.yaml", "--plan-id", "p")
    until(lambda: ends(user) == {**BLOCKED, "long": "running"}, "the blocked jobs")
    watcher.kill()
    watcher.wait()
    assert ends(user) == {**BLOCKED, "long": "running"}
    resumed = user.start("monitor", "--session", "p")
    until(lambda: "blocked" in (user.home / "output.txt").read_text(), "a look")
    (user.home / "end").touch()
    assert resumed.wait() == 1
    assert [entry.event for entry in jobs(user)["decay"].history].count("blocked") == 1
    events = [event for event in EventLog(session_file(user)).entries() if getattr(event, "name", "") == "blocked"]
    assert sorted(event.job for event in events) == ["anneal_lr1", "decay_lr1"]
    reported = monitor(user, "--cmd", "events").stdout
    assert reported.count("blocked") >= 2
    assert "blocked: stable_lr1 has failed!" in reported


def test_a_finished_session_with_a_blocked_job_leaves_directories_of_a_newer_plan_alone(user: User) -> None:
    write(user)
    assert run(user).returncode == 1
    _with_a_long_job(user)
    newer = user.start("run", "--config-ref", "./e.yaml", "--plan-id", "newer")
    until(lambda: (user.outputs / "monitoring_state" / "newer.json").exists(), "the newer plan's session")
    (user.outputs / "stable_lr1" / "checkpoint").touch()
    refused = monitor(user)
    assert refused.returncode == 2
    assert "belongs to the session 'newer'" in refused.stderr or "as that of" in refused.stderr
    assert ends(user) == BLOCKED
    (user.home / "end").touch()
    newer.wait()


def _with_a_long_job(user: User) -> None:
    """Add a job that runs until there is a file `end`."""
    import yaml

    path = user.home / "e.yaml"
    content = yaml.safe_load(path.read_text())
    content["sweep"]["groups"][1]["configs"].append(LONG)
    path.write_text(f"# @package _global_\n{yaml.safe_dump(content)}")
