"""monitor --all: every unfinished session by one process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.cli.steps import app, watch_steps
from oellm_autoexp.core.errors import Problem, StateError
from oellm_autoexp.engine import watch
from oellm_autoexp.engine.loop import Monitor
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import QUICK, User, until

pytestmark = pytest.mark.slow

ONE = (*QUICK, "sweep.grids=[{backend.options.seed:[1]}]")
WHEN_TOLD = "job.start_conditions=[{class_name:FileExistsCondition,path:go}]"
"""A job that is not over, however slow the machine is, until `(user.home / "go").touch()`."""


def named(name: str) -> str:
    return f"++sweep.base_values={{project.name:{name}}}"


def submit(user: User, name: str, *words: str) -> str:
    """Submit a plan of one job, and watch it not; its id."""
    result = user.run("run", *ONE, "--no-monitor", "--plan-id", name, named(name), *words)
    assert result.returncode == 0, result.stderr
    return name


def test_all_sessions_are_watched_to_their_ends_and_one_that_fails_is_reported_by_the_exit_code(user: User) -> None:
    submit(user, "good")
    submit(user, "bad", "backend.options.misbehave=exit:3@3")
    result = user.run("monitor", "--all")
    assert result.returncode == 1, result.stderr
    assert "good: success" in result.stdout
    assert "bad: crash" in result.stdout
    assert next(line.split()[0] for line in result.stdout.splitlines() if "success" in line) == "good"
    again = user.run("monitor", "--all")
    reported = f"no unfinished sessions in {user.outputs}/monitoring_state\n"
    assert (again.returncode, again.stdout, again.stderr) == (0, reported, "")


def test_a_session_that_somebody_holds_or_that_is_broken_keeps_no_other_from_being_watched(user: User) -> None:
    submit(user, "mine")
    held = user.start("run", *ONE, "--plan-id", "held", named("held"), WHEN_TOLD)
    state = user.outputs / "monitoring_state"
    until(lambda: (state / "held.lease").exists(), "the other monitor")
    (state / "broken.json").write_text("{")
    result = user.run("monitor", "--all")
    assert result.returncode == 2, "the exit code says that not all could be watched"
    assert "mine: success" in result.stdout
    assert f"in use by process {held.pid}" in result.stderr
    assert "broken.json" in result.stderr
    (user.home / "go").touch()
    assert held.wait() == 0


@pytest.mark.parametrize("text", ["", "{", '{"version": 99}', "[]"], ids=["empty", "cut", "newer", "not ours"])
def test_one_round_tells_by_its_exit_code_of_a_session_that_can_not_be_read(user: User, text: str) -> None:
    state = user.outputs / "monitoring_state"
    state.mkdir(parents=True)
    (state / "broken.json").write_text(text)
    for words in ((), ("--json",)):
        result = user.run("monitor", "--all", "--once", *words)
        assert result.returncode == 2
        assert "broken.json" in result.stderr
        assert result.stdout == ('{"sessions": []}\n' if words else "")


def test_a_link_to_nowhere_among_the_sessions_ends_nothing(user: User) -> None:
    submit(user, "mine")
    (user.outputs / "monitoring_state" / "gone.json").symlink_to("nowhere")
    result = user.run("monitor", "--all")
    assert (result.returncode, result.stderr) == (0, "")
    assert "mine: success" in result.stdout


FAILING = ("backend.options.misbehave=exit:3@3",)


def recorded(user: User, name: str) -> JobState:
    (job,) = Session.load(SessionFiles.named(user.outputs / "monitoring_state", name).path).jobs.values()
    return job


def test_a_session_that_had_finished_and_is_begun_anew_is_watched_again(user: User) -> None:
    submit(user, "long", "backend.options.step_seconds=0.5", "backend.options.train_iters=1000")
    submit(user, "x", *FAILING)
    watcher = user.start("monitor", "--all")
    free = user.outputs / "monitoring_state" / "x.lease"
    until(lambda: recorded(user, "x").over and not free.exists(), "the first attempt's end")
    again = user.run("monitor", "--session", "x", "--cmd", "restart")
    assert again.returncode == 0, again.stderr
    until(lambda: recorded(user, "x").attempt == 2 and recorded(user, "x").over, "the second attempt's end")
    assert user.run("monitor", "--session", "long", "--cmd", "cancel").returncode == 0
    assert watcher.wait() == 1


@pytest.mark.parametrize("beside", [True, False], ids=["beside another", "alone"])
def test_a_session_that_could_not_be_watched_for_a_while_is_watched_again(
    user: User, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []
    failures = [StateError(Problem("the file system is in repair"))]
    whole = Monitor.cycle

    def cycle(monitor: Monitor) -> None:
        if monitor.manifest.plan_id == "x" and failures:
            raise failures.pop()
        whole(monitor)

    monkeypatch.setattr(watch, "FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(app, "report", lambda error: reported.append(str(error)))
    monkeypatch.setattr(Monitor, "cycle", cycle)
    if beside:
        submit(user, "long", "backend.options.step_seconds=0.2")
    submit(user, "x", *FAILING, "++monitoring.state_events.crash.actions=[{class_name: LogAction, message: reported}]")
    code, _ = watch_steps.watch_all(user.outputs / "monitoring_state")
    assert reported == ["the file system is in repair"]
    assert code == 1, "that of its job, as the trouble is over"
    assert [entry.event for entry in recorded(user, "x").history if entry.event == "LogAction"] == ["LogAction"]


def test_a_bug_that_one_session_meets_keeps_no_other_from_being_watched_and_is_reported_once(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str] = []
    failures = {"cycle": 2, "between_polls": 1}

    def failing(name: str) -> Any:
        whole = getattr(Monitor, name)

        def act(monitor: Monitor) -> None:
            if monitor.manifest.plan_id == "x" and failures[name]:
                failures[name] -= 1
                raise KeyError(f"nobody has thought of this {name}")
            whole(monitor)

        return act

    for name in failures:
        monkeypatch.setattr(Monitor, name, failing(name))
    monkeypatch.setattr(Monitor, "wait_seconds", 0.05)
    monkeypatch.setattr(watch, "FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(app, "report", lambda error: reported.append(str(error)))
    submit(user, "mine")
    submit(user, "x", "backend.options.step_seconds=0.2")
    code, sessions = watch_steps.watch_all(user.outputs / "monitoring_state")
    assert (code, {session.plan_id for session in sessions}) == (0, {"mine", "x"}), "it is tried again, and goes well"
    assert len(reported) == 2, "each once, though one came twice"
    assert all("session x can't be watched now: KeyError in test_every_session.py:" in text for text in reported)
    assert all(recorded(user, name).state == "success" for name in ("mine", "x"))


def test_sessions_and_manifests_that_are_odd_in_any_way_keep_no_other_from_being_watched(user: User) -> None:
    submit(user, "mine")
    state = user.outputs / "monitoring_state"
    session = json.loads((state / "mine.json").read_text())
    manifest = json.loads((user.outputs / "manifests" / "mine.json").read_text())
    odd_manifests: dict[str, dict[str, Any]] = {
        "rules": {"monitoring": {"log_events": 5}},
        "client": {"slurm": {"client": 7}},
        "jobs": {"jobs": []},
    }
    for name, change in odd_manifests.items():
        (user.outputs / f"{name}.json").write_text(json.dumps({**manifest, "plan_id": name, **change}))
    paths: dict[str, Any] = {"mapping": {"a": 1}, "number": 5, "list": ["x"], "nothing": None}
    paths |= {name: str(user.outputs / f"{name}.json") for name in odd_manifests}
    for name, path in paths.items():
        (state / f"{name}.json").write_text(json.dumps({**session, "plan_id": name, "manifest_path": path}))
    (state / "watched.json").write_text(json.dumps({**session, "plan_id": "watched", "watched": "long"}))
    os.mkfifo(state / "pipe.json")
    (state / "zero.json").symlink_to("/dev/zero")
    result = user.run("monitor", "--all")
    assert result.returncode == 2
    assert "mine: success" in result.stdout
    assert "Traceback" not in result.stderr
    for name in (*paths, "watched", "pipe", "zero"):
        assert f"/{name}.json" in result.stderr, name


def documents(result: subprocess.CompletedProcess[str]) -> Any:
    """The one document that stdout is."""
    return json.loads(result.stdout)


def test_with_json_every_way_to_watch_prints_one_document_and_has_the_same_exit_code(user: User) -> None:
    submit(user, "x", *FAILING)
    watched = user.run("monitor", "--session", "x", "--json")
    assert (watched.returncode, documents(watched)["jobs"][0]["state"]) == (1, "crash")
    for ended, once in enumerate(((), ("--once",)), 1):
        submit(user, f"y{len(once)}", *FAILING)
        local = user.outputs / "monitoring_state" / "local"
        until(lambda: len([*local.glob("*.end")]) > ended, "its end")  # noqa: B023
        result = user.run("monitor", "--all", *once, "--json")
        (session,) = documents(result)["sessions"]
        assert (result.returncode, session["jobs"][0]["state"]) == (1, "crash")
    assert documents(user.run("monitor", "--all", "--json")) == {"sessions": []}


@pytest.mark.parametrize("words", [("--all",), ("--session", "x")])
def test_with_json_also_an_interrupted_watch_prints_one_document(user: User, words: tuple[str, ...]) -> None:
    submit(user, "x", "backend.options.step_seconds=0.5", "backend.options.train_iters=1000")
    with subprocess.Popen(
        user.words("monitor", *words, "--json"),
        cwd=user.home,
        env=user.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watcher:
        until(lambda: recorded(user, "x").state == "running", "a running job")
        watcher.send_signal(signal.SIGINT)
        reported, errors = watcher.communicate()
    assert watcher.returncode == 130
    assert "Resume with:" in errors
    shown = json.loads(reported)
    assert (shown["sessions"][0] if "--all" in words else shown)["plan_id"] == "x"
    assert user.run("monitor", "--session", "x", "--cmd", "cancel").returncode == 0


def test_one_round_for_cron_and_what_is_recorded_for_programs(user: User) -> None:
    submit(user, "a", WHEN_TOLD)
    submit(user, "b", WHEN_TOLD)
    result = user.run("monitor", "--all", "--once", "--json")
    assert result.returncode == 0, result.stderr
    assert {session["plan_id"] for session in json.loads(result.stdout)["sessions"]} == {"a", "b"}
    shown = user.run("monitor", "--all", "--cmd", "status")
    assert re.findall(r"^(\w+)\njob +state$", shown.stdout, re.MULTILINE) == ["a", "b"]
    assert shown.stdout.count("\n1 job: 1 ") == 2
    assert user.run("monitor", "--all", "--cmd", "cancel").returncode == 2
    (user.home / "go").touch()
    assert user.run("monitor", "--all").returncode == 0
    assert "no unfinished sessions" in user.run("monitor", "--all", "--cmd", "status").stdout


@pytest.mark.slurm
def test_a_table_of_no_sessions_has_its_header_alone(user: User) -> None:
    done = user.run("monitor", "--all", "--cmd", "status", "--csv", "--columns", "job,loss")
    assert (done.returncode, done.stdout) == (0, "session,job,loss\n"), done.stderr


def test_squeue_is_asked_once_for_all_sessions(slurm_user: User) -> None:
    count = slurm_user.home / "asked"
    squeue = slurm_user.home / "squeue"
    squeue.write_text(f'#!/bin/sh\necho x >> "{count}"\nexec squeue "$@"\n')
    squeue.chmod(0o755)
    words = ("slurm=base", f"slurm.squeue_cmd={squeue}", "slurm.sbatch.hold=true")
    for name in ("a", "b", "c"):
        submit(slurm_user, name, *words)
    Path(count).unlink(missing_ok=True)
    assert slurm_user.run("monitor", "--all", "--once").returncode == 0
    assert count.read_text() == "x\n"
    shown = slurm_user.run("monitor", "--all", "--cmd", "status", "--json")
    assert [s["jobs"][0]["reason"] for s in json.loads(shown.stdout)["sessions"]] == ["JobHeldUser"] * 3
