"""Blocked jobs from poll to poll, with a scheduler in memory: how they are found, their events, what frees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import Problem, SubmitError
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.report.timeline import spans
from oellm_autoexp.schedulers.fake import FakeScheduler
from oellm_autoexp.session import requests
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.jobs import changed
from tests.unit.test_executor import CRASH, GOOD, Life, Stage, happened, log, on_state, restart, restart_request

NEVER = {"class_name": "CommandCondition", "command": ["sh", "-c", "sleep 60"]}


def needs(folder: Path, name: str) -> dict[str, Any]:
    """A job that waits for a file of another one."""
    path = str(folder / name / "checkpoint")
    return {"depends_on": (name,), "start_conditions": ({"class_name": "FileExistsCondition", "path": path},)}


def chain(folder: Path, **rules: Any) -> Stage:
    """`c` waits for `b`, that for `a`, which fails once; in the plan the last one stands first."""
    each = {"c": needs(folder, "b"), "b": needs(folder, "a")}
    return Stage(folder, rules, {"c": [GOOD], "b": [GOOD], "a": [CRASH, GOOD]}, each)


def ask_for_restart(stage: Stage, job: str, attempt: int) -> None:
    requests.ask(stage.path, restart_request(f"{job}{attempt}", attempt, job))


def test_a_whole_chain_is_blocked_within_the_poll_that_sees_the_failure(tmp_path: Path) -> None:
    stage = chain(tmp_path)
    stage.until(lambda: stage.a.state == "crash" and stage.a.logs.late_until is None)
    assert stage.states == {"a": "crash", "b": "blocked", "c": "blocked"}
    assert [stage.jobs[name].reason for name in "bc"] == ["blocked: a has failed", "blocked: b is blocked"]
    assert stage.monitor.session.finished
    assert Session.load(stage.path).finished
    assert stage.jobs["c"].reason == Session.load(stage.path).jobs["c"].reason


def test_a_new_attempt_frees_the_whole_chain_at_once_and_its_failure_blocks_it_again(tmp_path: Path) -> None:
    stage = chain(tmp_path)
    stage.lives = {**stage.lives, "a": [CRASH, CRASH, GOOD]}
    stage.finish()
    for attempt in (1, 2):
        assert stage.states == {"a": "crash", "b": "blocked", "c": "blocked"}
        ask_for_restart(stage, "a", attempt)
        stage.cycle()
        assert stage.a.state == "pending"
        assert [stage.jobs[name].state for name in "bc"] == ["waiting", "waiting"]
        stage.until(lambda: stage.a.state in ("crash", "success"))
        if attempt == 1:
            stage.finish()
    (tmp_path / "a" / "checkpoint").touch()
    (tmp_path / "b" / "checkpoint").touch()
    stage.finish()
    assert set(stage.states.values()) == {"success"}
    assert happened(stage.jobs["c"]).count("blocked") == 2


def test_each_time_that_a_job_is_blocked_makes_one_event_also_when_the_monitor_dies(tmp_path: Path) -> None:
    stage = chain(tmp_path, **on_state(log("{job_name}: {reason}"), state="blocked"))
    stage.lives = {**stage.lives, "a": [CRASH, CRASH]}
    for attempt in (1, 2):
        stage.until(lambda: stage.states["c"] == "blocked")
        assert not stage.monitor.session.finished, "the event's action is to come"
        stage.resumed()
        stage.finish()
        if attempt == 1:
            ask_for_restart(stage, "a", attempt)
            stage.cycle()
    assert sorted(event.job for event in stage.events) == ["b", "b", "c", "c"]
    assert len({event.id for event in stage.events}) == 4
    reported = [line for line in stage.messages if "blocked:" in line]
    assert sorted(reported) == sorted(2 * ["b: b: blocked: a has failed", "c: c: blocked: b is blocked"])


def test_a_resumed_monitor_keeps_a_job_blocked_while_a_command_has_no_result_yet(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [CRASH], "b": [GOOD]}, {"b": needs(tmp_path, "a")})
    stage.finish()
    stage.manifest = stage.manifest.model_copy(
        update={
            "jobs": tuple(
                job.model_copy(update={"cancel_conditions": (NEVER,)}) if job.name == "b" else job
                for job in stage.manifest.jobs
            )
        }
    )
    before = stage.jobs["b"]
    stage.resumed()
    stage.cycle(2)
    stage.monitor.close()
    assert stage.jobs["b"] == before
    assert stage.monitor.session.finished


class Refusing(FakeScheduler):
    """Refuses all jobs but one, as a limit is reached."""

    def submit(self, submission: Submission) -> str:
        if "/a/" in submission.script_path:
            return super().submit(submission)
        raise SubmitError(Problem("no"))


def test_a_job_is_found_blocked_also_while_the_scheduler_is_left_alone_after_refusals(tmp_path: Path) -> None:
    lives: dict[str, list[Life]] = {
        "a": [(("PENDING", "FAILED"), "")],
        "b": [GOOD],
        "x": [GOOD],
        "y": [GOOD],
        "z": [GOOD],
    }
    stage = Stage(tmp_path, {}, lives, {"b": needs(tmp_path, "a")})
    stage.slurm = Refusing(behave=stage._behave)
    stage.resumed()
    while not stage.a.over:
        stage.cycle(seconds=1)
    assert (stage.states["b"], stage.states["x"]) == ("blocked", "waiting")
    assert not stage.monitor.session.finished


@pytest.mark.parametrize("attempt", [0, 1], ids=["never begun", "for a new attempt"])
def test_a_blocked_job_is_ended_or_begun_anew_by_a_person(tmp_path: Path, attempt: int) -> None:
    stage = Stage(tmp_path, {}, {"a": [CRASH], "b": [CRASH, GOOD]}, {"b": needs(tmp_path, "a")})
    path = tmp_path / "a" / "checkpoint"
    if attempt:
        path.touch()
        stage.finish()
        path.unlink()
        ask_for_restart(stage, "b", 1)
        stage.cycle(2)
    stage.finish()
    assert (stage.states["b"], stage.jobs["b"].attempt) == ("blocked", attempt)
    saved = stage.jobs["b"]
    assert stage.monitor.cancel(["b"], "by hand") == ["b"]
    assert (stage.states["b"], stage.monitor.session.finished) == ("cancelled", True)
    stage.monitor.session.put(saved)
    path.touch()
    ask_for_restart(stage, "b", attempt)
    stage.finish()
    assert (stage.jobs["b"].attempt, stage.jobs["b"].past.restarts) == (attempt + 1, {"by hand": attempt + 1})


def test_a_sibling_that_the_scheduler_begins_again_frees_the_jobs_behind_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [CRASH], "b": [GOOD]}, {"b": needs(tmp_path, "a")})
    stage.finish()
    stage.slurm._scripts["1"] = [JobStatus(state, restarts=1) for state in ("PENDING", "RUNNING", "COMPLETED")]
    stage.monitor.session.put(changed(stage.a, requeues=0))
    stage.cycle()
    assert (stage.a.state in ("pending", "running"), stage.states["b"]) == (True, "waiting")


def test_a_rule_may_end_a_blocked_job_and_its_restart_has_nothing_to_restart(tmp_path: Path) -> None:
    rules = on_state(restart(), {"class_name": "CancelAction", "reason": "{reason}"}, state="blocked")
    stage = chain(tmp_path, **rules)
    stage.finish()
    assert stage.states == {"a": "crash", "b": "cancelled", "c": "cancelled"}
    assert [stage.jobs[name].reason for name in "bc"] == ["blocked: a has failed", "blocked: b is blocked"]
    skipped = {(result.status, result.message) for result in stage.results if result.action == "RestartAction"}
    assert skipped == {("skipped", "it waits to be submitted")}


def test_the_time_line_shows_for_how_long_a_job_was_blocked_and_why(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [CRASH], "b": [GOOD]}, {"b": needs(tmp_path, "a")})
    stage.finish()
    stage.cycle(2)
    (tmp_path / "a" / "checkpoint").touch()
    stage.cycle()
    stage.finish()
    seen = spans(stage.jobs["b"], 1000.0, stage.clock)
    assert [span.state for span in seen] == ["waiting", "blocked", "pending", "running", "success"]
    assert (seen[1].cause, seen[1].end - seen[1].start) == ("blocked: a has failed", 30)
