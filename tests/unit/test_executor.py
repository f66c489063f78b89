"""What follows from events, with a scheduler in memory and a clock that is set by hand."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import InvalidSubmissionError, Problem, SchedulerError
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.engine.executing.subprocesses import MOST_AT_ONCE
from oellm_autoexp.engine.loop import Monitor
from oellm_autoexp.engine.worker import Worker
from oellm_autoexp.rules.actions import RestartAction
from oellm_autoexp.rules.events import Event
from oellm_autoexp.schedulers.fake import FakeScheduler
from oellm_autoexp.search.escapes import without_escapes
from oellm_autoexp.session import requests
from oellm_autoexp.session.event_log import EventLog, Result
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.lock import Lock
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.submission.submit import Submitter
from oellm_autoexp.testing.plans import job_spec, manifest

Life = tuple[Sequence[str | JobStatus], str]
"""An attempt: its states, one per look, and what its log holds from the beginning."""
LONG = ("PENDING", *["RUNNING"] * 200)


class Stage:
    """A plan with its session in a folder. `lives` are the attempts of each job; the last one is lived again."""

    def __init__(
        self,
        folder: Path,
        monitoring: Mapping[str, Any],
        lives: Mapping[str, Sequence[Life]],
        each: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self.lives = lives
        self.clock = 1000.0
        self.slurm = FakeScheduler(behave=self._behave)
        self.slurm.poll_interval_seconds = self.slurm.longest_poll_interval_seconds = 10.0
        specs = []
        for index, name in enumerate(lives):
            output = folder / name
            (output / "logs").mkdir(parents=True)
            (output / "job.sbatch").write_text("#!/bin/bash\n#SBATCH --time=5\n#SBATCH --nodes=2\ntrue\n")
            specs.append(job_spec(folder, name, **{"index": index, **(each or {}).get(name, {})}))
        self.manifest = manifest(folder, specs, monitoring=dict(monitoring))
        self.path = Session.create(self.manifest, folder / "p.json").path
        self.messages: list[str] = []
        self.monitor = self.resumed()

    def _behave(self, submission: Submission, task: int | None) -> Sequence[str | JobStatus]:  # noqa: ARG002
        folder = Path(submission.log_path).parent
        name = folder.parent.name
        lived = sum(Path(one.log_path).parent == folder for one in self.slurm.submissions)
        states, log = self.lives[name][min(lived, len(self.lives[name])) - 1]
        if log:
            (folder / f"{len(self.slurm.submissions)}.out").write_bytes(log.encode(errors="surrogateescape"))
        return states

    def resumed(self) -> Monitor:
        """A new process with the session as it is on disk."""
        session = Session.load(self.path)
        submitter = Submitter(self.manifest, session, self.slurm, pause=self.sleep, now=lambda: self.clock)
        lock = Lock(self.path.with_suffix(".lease"))
        lock.path.unlink(missing_ok=True)
        assert lock.acquire() is None
        self.monitor = Monitor(
            self.manifest,
            session,
            self.slurm,
            submitter,
            lock,
            now=lambda: self.clock,
            sleep=self.sleep,
            monotonic=lambda: self.clock,
        )
        return self.monitor

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def cycle(self, number: int = 1, seconds: float = 10) -> None:
        for _ in range(number):
            self.monitor.cycle()
            self.messages += self.monitor.messages
            self.monitor.messages.clear()
            self.clock += seconds

    def until(self, holds: Callable[[], bool], cycles: int = 200) -> None:
        """Cycle until something holds; what runs beside us gets time."""
        for _ in range(cycles):
            if holds():
                return
            self.cycle()
            if self.monitor.executor.in_progress:
                time.sleep(0.02)
        raise AssertionError(list(self.jobs.values()))

    def finish(self, cycles: int = 60) -> None:
        self.until(lambda: self.monitor.session.finished, cycles)

    def write(self, name: str, text: str | bytes) -> None:
        """Add to the log of a job's present attempt."""
        with Path(self.jobs[name].logs.resolved_log_path).open("ab") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    @property
    def jobs(self) -> dict[str, JobState]:
        return self.monitor.session.jobs

    @property
    def a(self) -> JobState:
        return self.jobs["a"]

    @property
    def states(self) -> dict[str, str]:
        return {name: job.state for name, job in self.jobs.items()}

    @property
    def events(self) -> list[Event]:
        return [entry for entry in EventLog(self.path).entries() if isinstance(entry, Event)]

    @property
    def results(self) -> list[Result]:
        return [entry for entry in EventLog(self.path).entries() if isinstance(entry, Result)]

    def names(self) -> list[str]:
        return [event.name for event in self.events]


def log(message: str, **more: Any) -> dict[str, Any]:
    return {"class_name": "LogAction", "message": message, **more}


def restart(**more: Any) -> dict[str, Any]:
    return {"class_name": "RestartAction", **more}


def restart_request(id_: str = "x", attempt: int = 1, job: str = "a", at: float = 1.0, **more: Any) -> requests.Request:
    action = RestartAction.model_validate(restart(**more))
    return requests.Request(id=id_, kind="restart", job=job, attempt=attempt, restart=action, at=at)


def run(command: str | list[str], **more: Any) -> dict[str, Any]:
    return {"class_name": "RunCommandAction", "command": command, **more}


def wrapped(action: Mapping[str, Any], *conditions: Mapping[str, Any], mode: str = "inline") -> dict[str, Any]:
    return {"class_name": "EventAction", "mode": mode, "conditions": list(conditions), "action": dict(action)}


def on_state(*actions: Mapping[str, Any], state: str = "crash") -> dict[str, Any]:
    return {"state_events": {state: {"state": state, "actions": list(actions)}}}


def on_line(*actions: Mapping[str, Any], pattern: str = "LINE (?P<what>.*)", **more: Any) -> dict[str, Any]:
    return {"log_events": {"seen": {"pattern": pattern, "actions": list(actions), **more}}}


CRASH: Life = (("PENDING", "RUNNING", "FAILED"), "")
GOOD: Life = (("PENDING", "RUNNING", "COMPLETED"), "")
FOREVER: Life = (LONG, "")


CHILD = {"child": {"depends_on": ("a",)}}


def lived(log_text: str, states: Sequence[str | JobStatus] = LONG) -> Life:
    return states, log_text


def happened(job: JobState) -> list[str]:
    return [entry.event for entry in job.history]


# ---- new attempts


def test_a_job_that_crashes_is_restarted_within_its_budget_and_then_given_up_with_the_reason(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart(max_attempts=2)), {"a": [CRASH]})
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.past.restarts) == ("crash", 3, {"crash": 2})
    assert stage.a.reason == "no new attempt: the limit for 'crash' is reached (2 of 2)"
    assert stage.names() == ["crash"] * 3
    assert [result.status for result in stage.results] == ["done", "done", "skipped"]
    assert len({event.id for event in stage.events}) == 3


def test_a_job_without_a_budget_that_never_tells_an_iteration_is_given_up_all_the_same(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path, on_state(restart(max_attempts=None), state="timeout"), {"a": [(("RUNNING", "TIMEOUT"), "x\n")]}
    )
    stage.finish()
    assert (stage.a.attempt, stage.a.past.restarts) == (4, {"timeout": 3})
    assert stage.a.reason == "no new attempt: 3 attempts in a row reported no iteration"


def test_a_job_that_is_well_at_its_second_attempt_is_left_alone(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart()), {"a": [CRASH, GOOD]})
    stage.finish()
    assert (stage.a.state, stage.a.attempt, len(stage.slurm.submissions)) == ("success", 2, 2)


def test_each_cause_has_its_own_budget(tmp_path: Path) -> None:
    rules = {
        "state_events": {
            "crash": {"actions": [restart(max_attempts=1)]},
            "timeout": {"actions": [restart(max_attempts=1)]},
        }
    }
    ends: list[Life] = [(("RUNNING", end), "") for end in ("FAILED", "TIMEOUT", "TIMEOUT")]
    stage = Stage(tmp_path, rules, {"a": ends})
    stage.finish()
    assert (stage.a.attempt, stage.a.past.restarts) == (3, {"crash": 1, "timeout": 1})


def test_exit_code_93_asks_for_no_new_attempt(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart()), {"a": [(("RUNNING", JobStatus("FAILED", exit_code=93)), "")]})
    stage.finish()
    assert (stage.a.attempt, "exit code 93" in stage.a.reason) == (1, True)


def test_a_job_that_runs_is_ended_before_its_new_attempt_and_that_is_no_cancelled_event(tmp_path: Path) -> None:
    rules = {**on_line(restart(max_attempts=1)), **on_state(log("cancelled!"), state="cancelled")}
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x\n"), GOOD]})
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.past.restarts) == ("success", 2, {"seen": 1})
    assert stage.names() == ["seen"]
    assert not any("cancelled!" in line for line in stage.messages)


def test_a_new_attempt_waits_for_its_cooldown(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart(cooldown_seconds=100)), {"a": [CRASH, GOOD]})
    stage.until(lambda: stage.a.state == "waiting" and stage.a.attempt == 1)
    ended = stage.clock
    stage.until(lambda: stage.a.attempt == 2)
    assert 90 <= stage.clock - ended <= 130


def test_a_new_attempt_has_its_own_directives_and_leaves_out_the_nodes_at_fault(tmp_path: Path) -> None:
    dead: Life = (("RUNNING", JobStatus("NODE_FAIL", nodes="n[1-2]", failed_nodes="n2")), "")
    action = restart(exclude_nodes=True, overrides={"slurm.sbatch.time": 60})
    stage = Stage(tmp_path, on_state(action, state="node_fail"), {"a": [dead, GOOD]})
    stage.finish()
    script = Path(stage.slurm.submissions[1].script_path)
    assert "attempt_2" in str(script)
    assert "--time=60" in script.read_text()
    assert "--exclude=n2" in script.read_text()
    assert (stage.a.state, stage.a.changes.excluded) == ("success", ("n2",))


def test_two_actions_that_want_a_new_attempt_make_one_and_nobody_is_reported_that_it_is_given_up(
    tmp_path: Path,
) -> None:
    rules = {**on_line(restart(), state="oom"), **on_state(restart())}
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x\n", ("PENDING", "FAILED")), GOOD]})
    stage.finish()
    assert (stage.a.attempt, stage.a.state) == (2, "success")
    assert "no new attempt: the limit" not in happened(stage.a)


def test_what_an_event_of_a_past_attempt_asks_for_late_changes_nothing(tmp_path: Path) -> None:
    waits = {"class_name": "FileExistsCondition", "path": "go", "blocking": True}
    rules = {**on_line(wrapped(restart(), waits)), **on_state(restart(max_attempts=1))}
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x\n", ("RUNNING", "FAILED")), FOREVER]})
    stage.until(lambda: stage.a.attempt == 2 and stage.a.state == "running")
    (tmp_path / "go").touch()
    stage.cycle(5)
    assert (stage.a.attempt, stage.a.state, stage.a.actions.pending, stage.a.cancelled_by) == (2, "running", (), "")
    assert stage.results[-1].message == "attempt 1 is not the current one"


def test_a_person_may_have_a_job_restarted_that_is_given_up(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart(max_attempts=0)), {"a": [CRASH, GOOD]})
    stage.finish()
    assert stage.a.reason.startswith("no new attempt: the limit")
    requests.ask(stage.path, restart_request())
    stage.cycle()
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.past.restarts) == ("success", 2, {"by hand": 1})
    assert requests.waiting(stage.path) == []


@pytest.mark.parametrize(("code", "state", "attempts"), [(0, "success", 1), (1, "crash", 2)])
def test_a_queued_restart_waits_for_the_command_that_says_whether_there_is_need(
    tmp_path: Path, code: int, state: str, attempts: int
) -> None:
    command = ["sh", "-c", f"sleep 0.3; exit {code}"]
    stage = Stage(tmp_path, {**on_state(), "termination_command": command}, {"a": [CRASH]})
    stage.until(lambda: stage.a.state == "crash")
    requests.ask(stage.path, restart_request("x", cause="crash", max_attempts=1))
    stage.cycle()
    assert [request.id for _, request in requests.waiting(stage.path)] == ["x"]
    stage.monitor.close()
    stage.resumed()
    stage.until(lambda: requests.waiting(stage.path) == [])
    stage.finish()
    assert (stage.a.state, stage.a.attempt) == (state, attempts)


def test_a_queued_restart_heeds_how_many_attempts_may_get_no_further(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [CRASH]})
    for attempt in (1, 2):
        stage.until(lambda: stage.a.state == "crash")
        asked = restart_request(f"x{attempt}", attempt, cause="crash", max_attempts=None, max_fruitless=1)
        requests.ask(stage.path, asked)
        stage.cycle()
    assert (stage.a.attempt, stage.a.reason) == (2, "no new attempt: 1 attempts in a row reported no iteration")


def take_entry(stage: Stage) -> None:
    """What a worker does with a restart: it hands it to the monitor."""
    [entry] = Queue(stage.path).entries()
    work = Worker(Queue(stage.path), stage.manifest)
    work.run_once()
    assert work.tally.done == [entry.id]


QUEUED = on_state(wrapped(restart(max_attempts=1), mode="queue"))


def test_siblings_and_the_watch_wait_for_a_new_attempt_that_is_in_the_queue(tmp_path: Path) -> None:
    stage = Stage(tmp_path, QUEUED, {"a": [CRASH, GOOD], "child": [GOOD]}, CHILD)
    stage.cycle(12)
    assert (stage.states, stage.monitor.session.finished) == ({"a": "crash", "child": "waiting"}, False)
    assert "waits for a worker" in stage.a.actions.pending[0].reason
    stage.resumed()
    stage.cycle(2)
    take_entry(stage)
    assert not Session.load(stage.path).finished
    stage.finish()
    assert stage.states == {"a": "success", "child": "success"}
    assert [result.status for result in stage.results] == ["queued"]


def test_a_new_attempt_in_the_queue_that_no_worker_takes_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    stage = Stage(tmp_path, QUEUED, {"a": [CRASH, GOOD]})
    stage.until(lambda: bool(stage.a.actions.pending))
    stage.clock += 3600
    stage.finish()
    assert (stage.a.state, stage.a.attempt) == ("crash", 1)
    take_entry(stage)
    assert not Session.load(stage.path).finished  # somebody asks for something
    stage.cycle()
    stage.finish()
    assert (stage.a.state, stage.a.attempt) == ("success", 2)


def test_a_new_attempt_in_the_queue_is_not_waited_for_once_the_job_is_cancelled(tmp_path: Path) -> None:
    stage = Stage(tmp_path, QUEUED, {"a": [CRASH, GOOD]})
    stage.until(lambda: bool(stage.a.actions.pending))
    assert stage.monitor.cancel(["a"], "enough") == ["a"]
    stage.finish(3)
    take_entry(stage)
    stage.cycle()
    assert (stage.a.attempt, stage.monitor.session.finished) == (1, True)


def test_an_entry_that_somebody_has_taken_out_of_the_queue_does_not_come_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, QUEUED, {"a": [CRASH, GOOD]})
    stage.until(lambda: bool(stage.a.actions.pending))
    [entry] = Queue(stage.path).entries()
    Queue(stage.path).place(entry).unlink()
    stage.finish()
    assert (stage.a.attempt, Queue(stage.path).entries()) == (1, [])


def test_a_new_attempt_that_comes_to_nothing_leaves_the_end_of_the_job_to_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {**on_line(restart()), **on_state(log("ended with {exit_code}"))}
    states = ("RUNNING", "RUNNING", "RUNNING", JobStatus("FAILED", exit_code=93))
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x\n", states)]})
    monkeypatch.setattr(stage.slurm, "cancel", lambda ids: None)  # it ends by itself meanwhile
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.names()) == ("crash", 1, ["seen", "crash"])
    assert "a: ended with 93" in stage.messages
    assert "a: no new attempt: exit code 93 asks for none" in stage.messages


# ---- siblings


def test_dependents_wait_while_their_sibling_is_to_be_restarted_and_start_when_it_is_well(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart()), {"a": [CRASH, CRASH, GOOD], "child": [GOOD]}, CHILD)
    while not stage.monitor.session.finished:
        stage.cycle()
        assert stage.states["child"] == "waiting" or stage.a.state == "success"
    assert stage.states == {"a": "success", "child": "success"}


def test_dependents_are_cancelled_when_their_sibling_is_given_up(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart(max_attempts=1)), {"a": [CRASH], "child": [GOOD]}, CHILD)
    stage.finish()
    assert (stage.a.attempt, stage.states) == (2, {"a": "crash", "child": "cancelled"})
    assert stage.jobs["child"].reason == "cancelled: a ended as crash"


# ---- complete


def test_a_job_whose_log_says_that_it_is_complete_has_succeeded_however_it_ends(tmp_path: Path) -> None:
    rules = {**on_state(restart()), "termination_string": "all done"}
    stage = Stage(tmp_path, rules, {"a": [lived("x\nall done\n", ("RUNNING", "FAILED"))]})
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.actions.pending) == ("success", 1, ())


def test_a_job_whose_done_conditions_hold_is_not_restarted_but_has_succeeded(tmp_path: Path) -> None:
    done = ({"class_name": "FileExistsCondition", "path": "done"},)
    stage = Stage(tmp_path, on_state(restart()), {"a": [CRASH]}, {"a": {"done_conditions": done}})
    stage.until(lambda: stage.a.state == "running")
    (tmp_path / "done").touch()
    stage.finish()
    assert (stage.a.state, stage.a.attempt) == ("success", 1)


def test_a_command_among_the_done_conditions_is_waited_for_before_a_new_attempt(tmp_path: Path) -> None:
    done = ({"class_name": "CommandCondition", "command": "test -e done"},)
    stage = Stage(tmp_path, on_state(restart()), {"a": [CRASH]}, {"a": {"done_conditions": done}})
    stage.until(lambda: stage.a.state == "running")
    (tmp_path / "done").touch()
    stage.until(lambda: stage.a.state == "success" or "restart" in happened(stage.a))
    stage.monitor.close()
    assert (stage.a.state, stage.a.attempt, "restart" in happened(stage.a)) == ("success", 1, False)


def test_the_answer_for_one_attempt_is_not_taken_for_that_of_the_next(tmp_path: Path) -> None:
    done = ({"class_name": "CommandCondition", "command": "sh -c 'sleep 0.1; test -e done'", "interval_seconds": 1},)
    stage = Stage(tmp_path, on_state(restart()), {"a": [CRASH]}, {"a": {"done_conditions": done}})
    stage.until(lambda: (stage.a.state, stage.a.attempt) == ("running", 2), cycles=1000)
    (tmp_path / "done").touch()
    stage.until(lambda: stage.a.state == "success" or stage.a.attempt > 2, cycles=1000)
    stage.monitor.close()
    assert (stage.a.state, stage.a.attempt, stage.a.past.restarts) == ("success", 2, {"crash": 1})


@pytest.mark.parametrize(("command", "state", "attempts"), [("true", "success", 1), ("false", "crash", 2)])
def test_a_termination_command_decides_whether_there_is_need_of_a_new_attempt(
    tmp_path: Path, command: str, state: str, attempts: int
) -> None:
    rules = {**on_state(restart(max_attempts=1)), "termination_command": [command]}
    stage = Stage(tmp_path, rules, {"a": [CRASH]})
    stage.finish()
    assert (stage.a.state, stage.a.attempt) == (state, attempts)


# ---- ends


def test_a_plan_that_is_cancelled_ends_every_job_for_good(tmp_path: Path) -> None:
    rules = {
        **on_line({"class_name": "CancelAction", "scope": "plan", "reason": "nan"}),
        **on_state(restart()),
    }
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x\n")], "b": [FOREVER], "child": [GOOD]}, CHILD)
    stage.finish()
    assert stage.states == {"a": "cancelled", "b": "cancelled", "child": "cancelled"}
    assert stage.names() == ["seen"]
    assert len(stage.slurm.submissions) == 2


def test_a_job_that_is_cancelled_while_nobody_knows_whether_it_was_submitted_is_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = on_line({"class_name": "CancelAction", "scope": "plan", "reason": "enough"})
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x\n")], "b": [FOREVER]})
    stage.slurm.settle_seconds = 60
    submit = stage.slurm.submit

    def unclear(submission: Submission) -> str:
        if submission.name.startswith("b"):
            raise SchedulerError(Problem("no answer"))
        return submit(submission)

    with monkeypatch.context() as patched:
        patched.setattr(stage.slurm, "submit", unclear)
        stage.until(lambda: bool(stage.jobs["b"].cancelled_by))
        assert stage.states["b"] == "submitting"
    stage.finish()
    assert (stage.states["b"], stage.jobs["b"].reason, stage.jobs["b"].attempt) == ("cancelled", "enough", 0)
    assert len(stage.slurm.submissions) == 1


def test_a_job_that_is_cancelled_leaves_the_others_alone(tmp_path: Path) -> None:
    rules = {**on_line({"class_name": "CancelAction"}), **on_state(restart())}
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x\n")], "b": [GOOD]})
    stage.finish()
    assert stage.states == {"a": "cancelled", "b": "success"}
    assert (stage.a.attempt, stage.a.cancelled_by) == (1, "seen")


# ---- published events


def test_events_follow_from_each_other_with_their_metadata(tmp_path: Path) -> None:
    publish = {"class_name": "PublishEventAction"}
    rules = {
        "log_events": {
            "seen": {
                "pattern": "LINE (?P<what>.*)",
                "actions": [{**publish, "event_name": "b", "metadata": {"k": "{what}!"}}],
            },
            "b": {"actions": [{**publish, "event_name": "c"}]},
            "c": {"actions": [log("received {what} {k}")]},
        }
    }
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x\n", ("RUNNING", "COMPLETED"))]})
    stage.finish()
    assert stage.names() == ["seen", "b", "c"]
    assert "a: received x x!" in stage.messages
    assert {name: tally.count for name, tally in stage.a.actions.events.items()} == {"seen": 1, "b": 1, "c": 1}


def test_a_circle_of_events_ends(tmp_path: Path) -> None:
    publish = {"class_name": "PublishEventAction"}
    rules = {
        "log_events": {
            "seen": {"pattern": "LINE", "actions": [{**publish, "event_name": "b"}]},
            "b": {"actions": [{**publish, "event_name": "seen"}]},
        }
    }
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x\n", ("RUNNING", "COMPLETED"))]})
    stage.finish()
    assert len(stage.events) == 9
    assert "is this a circle?" in stage.results[-1].message


def test_the_level_of_a_message_decides_whether_and_how_it_is_shown(tmp_path: Path) -> None:
    levels = ("debug", "info", "warning", "error")
    stage = Stage(tmp_path, on_line(*[log(level, level=level) for level in levels]), {"a": [lived("LINE x\n")]})
    stage.cycle(4)
    assert stage.messages == ["a: info", "a: warning: warning", "a: error: error"]
    assert [entry.message for entry in stage.a.history if entry.event == "LogAction"] == list(levels)


def test_a_group_called_published_does_not_break_a_chain(tmp_path: Path) -> None:
    rules = {
        "log_events": {
            "seen": {
                "pattern": "LINE (?P<published>.*)",
                "actions": [{"class_name": "PublishEventAction", "event_name": "b"}],
            },
            "b": {"actions": [log("received")]},
        }
    }
    stage = Stage(tmp_path, rules, {"a": [lived("LINE 2026-01-01\n", ("RUNNING", "COMPLETED"))]})
    stage.finish()
    assert stage.names() == ["seen", "b"]


# ---- conditions before actions


def test_a_blocking_condition_waits_without_blocking_others_and_then_goes(tmp_path: Path) -> None:
    waits = {"class_name": "FileExistsCondition", "path": "{what}", "blocking": True}
    stage = Stage(
        tmp_path, on_line(wrapped(log("first"), waits), log("second")), {"a": [lived("LINE go\n")], "b": [GOOD]}
    )
    stage.until(lambda: stage.states["b"] == "success")
    assert "a: second" in stage.messages
    assert "a: first" not in stage.messages
    assert stage.a.actions.pending[0].reason == "waits for FileExists: go"
    (tmp_path / "go").touch()
    stage.cycle(2)
    assert "a: first" in stage.messages
    assert stage.a.actions.pending == ()


def test_a_blocking_condition_times_out_also_across_restarts_of_the_monitor(tmp_path: Path) -> None:
    waits = {"class_name": "FileExistsCondition", "path": "never", "blocking": True, "timeout_seconds": 50}
    stage = Stage(tmp_path, on_line(wrapped(log("first"), waits)), {"a": [lived("LINE go\n")]})
    stage.until(lambda: bool(stage.a.actions.pending))
    began = stage.clock
    while stage.a.actions.pending:
        stage.resumed()
        stage.cycle()
    assert 40 <= stage.clock - began <= 70
    assert (stage.results[0].status, "waited 50 s" in stage.results[0].message) == ("skipped", True)


def test_a_folder_with_brackets_in_its_name_is_found_by_a_pattern_that_it_is_filled_into(tmp_path: Path) -> None:
    waits = {"class_name": "GlobExistsCondition", "pattern": "{what}/iter_*"}
    folder = tmp_path / "out_br[1]"
    folder.mkdir()
    (folder / "iter_20").touch()
    stage = Stage(tmp_path, on_line(wrapped(log("found"), waits)), {"a": [lived(f"LINE {folder}\nLINE **\n")]})
    stage.until(lambda: len(stage.results) == 2)
    assert [result.status for result in stage.results] == ["done", "skipped"]


def test_a_condition_looks_at_a_value_of_the_jobs_config(tmp_path: Path) -> None:
    low = {"class_name": "MetadataCondition", "key": "backend.lr", "at_most": 1}
    spec = {"template_values": {"backend.lr": 0.1}}
    stage = Stage(tmp_path, on_line(wrapped(log("low"), low)), {"a": [lived("LINE x\n")]}, {"a": spec})
    stage.until(lambda: bool(stage.results))
    assert "a: low" in stage.messages


def test_a_cooldown_keeps_an_action_from_being_repeated(tmp_path: Path) -> None:
    cooldown = {"class_name": "CooldownCondition", "seconds": 100}
    stage = Stage(tmp_path, on_line(wrapped(log("hear"), cooldown)), {"a": [lived("LINE 1\nLINE 2\nLINE 3\n")]})
    stage.cycle(5)
    assert stage.messages.count("a: hear") == 1
    stage.clock += 100
    stage.write("a", "LINE 4\nLINE 5\n")
    stage.cycle(2)
    assert stage.messages.count("a: hear") == 2
    assert len(stage.events) == 5


def test_a_cooldown_keeps_a_command_from_being_run_for_each_line_of_one_look(tmp_path: Path) -> None:
    cooldown = {"class_name": "CooldownCondition", "seconds": 1000}
    action = run(["sh", "-c", "echo >> ran"])
    stage = Stage(tmp_path, on_line(wrapped(action, cooldown)), {"a": [lived("LINE 1\nLINE 2\nLINE 3\n")]})
    stage.until(lambda: len(stage.results) == 3)
    assert (tmp_path / "ran").read_text() == "\n"


def test_a_yes_of_a_command_counts_while_another_condition_is_waited_for(tmp_path: Path) -> None:
    command = {"class_name": "CommandCondition", "command": "true"}
    waits = {"class_name": "FileExistsCondition", "path": "go", "blocking": True}
    stage = Stage(tmp_path, on_line(wrapped(log("went"), command, waits)), {"a": [lived("LINE x\n")]})
    stage.until(
        lambda: bool(stage.a.actions.pending) and stage.a.actions.pending[0].reason == "waits for FileExists: go"
    )
    stage.cycle(2)
    (tmp_path / "go").touch()
    stage.until(lambda: bool(stage.results))
    assert stage.results[0].status == "done"


# ---- actions that fail, and programs


def test_an_action_that_raises_keeps_neither_others_nor_the_watch_from_going_on(tmp_path: Path) -> None:
    unknown = {"class_name": "SlurmStateCondition", "job_name": "nobody", "state": "RUNNING"}
    actions = [
        wrapped(log("x"), unknown),
        log("{nope}"),
        run(["no-such-program"]),
        run(["true"], cwd="nowhere"),
        run(["echo", "{what}"], env={"A=B": "x"}),
        log("after"),
    ]
    stage = Stage(tmp_path, on_line(*actions), {"a": [lived("LINE x\n", ("RUNNING", "COMPLETED"))], "b": [GOOD]})
    stage.finish()
    assert "a: after" in stage.messages
    assert stage.states == {"a": "success", "b": "success"}
    assert sorted(result.status for result in stage.results) == ["done", *["failed"] * 4, "skipped"]


def test_a_command_gets_its_words_and_its_result_is_recorded(tmp_path: Path) -> None:
    said = "printf 'error: $.a: no\\n    write b\\n'; exit 4"
    actions = [run("touch '{what}'"), run(["sh", "-c", "exit 3"]), run(["sh", "-c", said])]
    stage = Stage(tmp_path, on_line(*actions), {"a": [lived("LINE a b; $(touch x)\n", ("RUNNING", "COMPLETED"))]})
    stage.finish()
    assert (tmp_path / "a b; $(touch x)").exists()
    assert not (tmp_path / "x").exists()
    assert sorted((result.status, result.message) for result in stage.results) == [
        ("done", ""),
        ("failed", "exit code 3"),
        ("failed", "exit code 4: error: $.a: no"),
    ]


HOSTILE = [
    b"$(touch pwned)",
    b"`touch pwned`; touch pwned",
    b"{0.__class__} {line} {{}} {",
    b"%s %n %(x)s",
    b"\x1b[31mred\x1b]0;title\x07",
    b"a\x00b",
    b"\xff\xfe\xc3",
    b"../../../etc/passwd",
    b"[bold]x[/nope]",
    "\u2028\u2029\x85\ufeff".encode(),
    b"-rf /",
]


@pytest.mark.parametrize("line", HOSTILE)
def test_a_hostile_line_is_a_value_and_nothing_more(tmp_path: Path, line: bytes) -> None:
    action = run(["sh", "-c", 'printf %s "$1" > got', "sh", "{what}"])
    waits = {"class_name": "GlobExistsCondition", "pattern": "state/p.json"}
    stage = Stage(
        tmp_path,
        on_line(wrapped(action, waits), log("{what}"), wrapped(run("x {what}"), mode="queue")),
        {"a": [FOREVER]},
    )
    stage.until(lambda: stage.a.state == "running")
    stage.write("a", b"LINE " + line + b"\n" + line + b"\n")
    stage.until(lambda: len(stage.results) == 3)
    text = without_escapes(line.decode(errors="replace"))
    assert not (tmp_path / "pwned").exists()
    assert [event.metadata["what"] for event in stage.events] == [text]
    assert f"a: {text}" in stage.messages
    if b"\x00" not in line:
        assert (tmp_path / "got").read_text() == text
    assert Session.load(stage.path).jobs == stage.jobs
    assert Queue(stage.path).entries()[0].action.model_dump()["command"] == ("x", text)


def test_ten_megabytes_without_a_line_end_do_not_stall_the_watch(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_line(log("x"), pattern="LINE$"), {"a": [FOREVER]})
    stage.until(lambda: stage.a.state == "running")
    stage.write("a", b"LINE" * 2_500_000)
    stage.cycle(3)
    stage.write("a", b"\nLINE\n")
    stage.cycle(2)
    assert [event.metadata["line"] for event in stage.events][-1:] == ["LINE"]


@pytest.mark.parametrize("number", ["inf", "1e999", "nan", "-inf"])
def test_a_counter_that_is_no_finite_number_is_no_progress_and_the_session_can_be_read_again(
    tmp_path: Path, number: str
) -> None:
    rules = {"log_events": {"p": {"pattern": r"it (\S+)", "pattern_type": "progress", "stall_seconds": 60}}}
    stage = Stage(tmp_path, rules, {"a": [lived(f"it 5\nit {number}\n")]})
    stage.cycle(4)
    stage.write("a", f"it {number}\n")
    stage.cycle(1)
    stage.resumed()
    assert all(math.isfinite(reading.value) for reading in stage.a.run.readings.values())


@pytest.mark.slow
def test_each_of_a_flood_of_matching_lines_is_answered(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_line(log("x")), {"a": [lived("LINE x\n" * 1000)]})
    stage.cycle(3)
    assert len(stage.results) == 1000


def test_a_flood_of_programs_runs_a_few_at_once_and_each_has_its_turn(tmp_path: Path) -> None:
    log_text = "".join(f"LINE {number}\n" for number in range(60))
    stage = Stage(
        tmp_path,
        on_line(run(["sh", "-c", "echo $0 >> ran; until [ -e go ]; do sleep 0.02; done", "{what}"])),
        {"a": [lived(log_text)]},
    )
    stage.until(lambda: bool(stage.a.actions.pending))
    most = 0
    while stage.a.actions.pending:
        most = max(most, stage.monitor.executor._subprocesses.count)
        if most == MOST_AT_ONCE:
            (tmp_path / "go").touch()
        if len(stage.a.actions.pending) > MOST_AT_ONCE:
            assert stage.monitor.executor.at_capacity
            assert "waits for its turn" in stage.a.actions.pending[-1].reason
        stage.cycle()
        time.sleep(0.05)
    assert most == MOST_AT_ONCE
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(60))
    assert [result.status for result in stage.results] == ["done"] * 60
    assert not stage.monitor.executor.at_capacity


def test_programs_that_wait_for_their_turn_have_it_between_two_cycles(tmp_path: Path) -> None:
    log_text = "".join(f"LINE {number}\n" for number in range(2 * MOST_AT_ONCE))
    stage = Stage(tmp_path, on_line(run(["true"])), {"a": [lived(log_text)]})
    stage.until(lambda: stage.monitor.executor.at_capacity)
    cycles = stage.monitor.cycles
    stage.monitor.sleep = lambda seconds: time.sleep(min(seconds, 0.05))
    stage.monitor.wait(5)
    assert (stage.monitor.cycles, len(stage.results), stage.monitor.executor.at_capacity) == (
        cycles,
        MOST_AT_ONCE,
        False,
    )
    stage.until(lambda: not stage.a.actions.pending)


def test_a_program_that_the_machine_has_no_room_for_is_started_at_a_later_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, on_line(run(["true"])), {"a": [lived("LINE 1\nLINE 2\n")]})

    def full(*args: Any, **more: Any) -> Any:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", full)
        stage.cycle(6)
        assert [pending.reason.partition(":")[0] for pending in stage.a.actions.pending] == [
            "waits",
            "waits for its turn",
        ]
        assert stage.results == []
    stage.resumed()
    stage.until(lambda: not stage.a.actions.pending)
    assert [result.status for result in stage.results] == ["done", "done"]


@pytest.mark.slow
def test_a_thousand_actions_that_wait_change_their_job_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = {"class_name": "FileExistsCondition", "path": "never", "blocking": True}
    stage = Stage(tmp_path, on_line(wrapped(log("x"), waits)), {"a": [lived("LINE x\n" * 1000)]})
    changes: list[str] = []
    put = Session.put

    def counted(session: Session, job: JobState) -> None:
        changes.append(job.name)
        put(session, job)

    monkeypatch.setattr(Session, "put", counted)
    stage.cycle(5)
    assert len(stage.a.actions.pending) == 1000
    assert {pending.reason for pending in stage.a.actions.pending} == {"waits for FileExists: never"}
    assert len(changes) < 20


# ---- crashes of the monitor


class Crash(BaseException):
    """The monitor's death."""


def crashing(monkeypatch: pytest.MonkeyPatch, at: int, *, before: bool) -> list[int]:
    """Die at the `at`th time that something is written."""
    count = [0]

    def dies(whole: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            mine = count[0]
            if before and mine == at:
                raise Crash
            found = whole(*args, **kwargs)
            if not before and mine == at:
                raise Crash
            return found

        return wrapper

    for owner, name in ((Session, "save"), (Session, "journal"), (EventLog, "add"), (Queue, "put")):
        monkeypatch.setattr(owner, name, dies(getattr(owner, name)))
    return count


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_any_write_loses_nothing_and_repeats_nothing_that_must_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    publish = {"class_name": "PublishEventAction", "event_name": "b"}
    rules = {
        "log_events": {
            "seen": {
                "pattern": "LINE (?P<what>.*)",
                "actions": [wrapped(run("x {what}"), mode="queue"), publish, log("say {what}")],
            },
            "b": {"actions": [wrapped(log("queued"), mode="queue")]},
        },
        "state_events": {"crash": {"actions": [restart(max_attempts=1), wrapped(log("c"), mode="queue")]}},
    }
    lives = {"a": [lived("LINE 1\nx\nLINE 2\n", ("RUNNING", "FAILED")), lived("LINE 3\n", ("RUNNING", "COMPLETED"))]}
    for at in range(1, 500, 1 if before else 2):
        folder = tmp_path / str(at)
        stage = Stage(folder, rules, lives)
        died = False
        with monkeypatch.context() as patched:
            crashing(patched, at, before=before)
            for _ in range(60):
                try:
                    stage.cycle()
                    if stage.monitor.session.finished:
                        break
                except Crash:
                    died = True
                    stage.messages += stage.monitor.messages
                    stage.resumed()
        where = f"crash at write {at}"
        assert (stage.a.state, stage.a.attempt, stage.a.past.restarts) == ("success", 2, {"crash": 1}), where
        assert len(stage.slurm.submissions) == 2, where
        assert sorted(stage.names()) == ["b", "b", "b", "crash", "seen", "seen", "seen"], where
        assert len(Queue(stage.path).entries()) == 3 + 3 + 1, where
        assert stage.a.actions.events["seen"].count == 3, where
        assert {f"a: say {number}" for number in (1, 2, 3)} <= set(stage.messages), where
        statuses = [(result.status, result.action) for result in stage.results]
        assert statuses.count(("queued", "RunCommandAction")) == 3, where
        if not died:
            assert at > 20
            return


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_makes_no_second_event_of_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    rules = on_state(log("runs"), state="running")
    for at in range(1, 60):
        stage = Stage(tmp_path / str(at), rules, {"a": [(("PENDING", *["RUNNING"] * 4, "COMPLETED"), "")]})
        died = False
        with monkeypatch.context() as patched:
            crashing(patched, at, before=before)
            for _ in range(20):
                try:
                    stage.cycle()
                except Crash:
                    died = True
                    stage.resumed()
                    stage.clock += 7
        assert stage.names() == ["running"], at
        if not died:
            return


def test_the_session_is_plain_json_with_what_is_to_be_done(tmp_path: Path) -> None:
    waits = {"class_name": "FileExistsCondition", "path": "go", "blocking": True}
    stage = Stage(tmp_path, on_line(wrapped(log("first"), waits)), {"a": [lived("LINE x\n")]})
    stage.until(lambda: bool(stage.a.actions.pending))
    data = json.loads(stage.path.read_text())
    assert data["jobs"]["a"]["actions"]["pending"][0]["event"]["metadata"]["what"] == "x"


# ---- what can't come true, what is abandoned, what is refused


def test_an_action_whose_condition_can_not_come_true_any_more_is_reported_and_left_out_at_once(tmp_path: Path) -> None:
    waits = {"class_name": "SlurmStateCondition", "job_name": "b", "state": "FAILED", "blocking": True}
    stage = Stage(tmp_path, on_line(wrapped(log("first"), waits)), {"a": [lived("LINE go\n")], "b": [GOOD]})
    stage.until(lambda: bool(stage.results))
    assert stage.states == {"a": "running", "b": "success"}
    reported = "can no longer be fulfilled: SlurmState: b = FAILED"
    assert [(result.status, result.message) for result in stage.results] == [("skipped", reported)]
    assert stage.messages == [f"a: LogAction of seen: {reported}"]
    assert "LogAction skipped" in happened(stage.a)


def test_an_action_that_waits_for_the_end_of_its_own_job_is_carried_out_then(tmp_path: Path) -> None:
    waits = {"class_name": "SlurmStateCondition", "job_name": "a", "state": "success", "blocking": True}
    life: Life = (("PENDING", "RUNNING", "RUNNING", "COMPLETED"), "LINE go\n")
    stage = Stage(tmp_path, on_line(wrapped(log("first"), waits)), {"a": [life]})
    stage.finish()
    assert "a: first" in stage.messages
    assert stage.clock < 1200


def test_actions_that_wait_are_given_up_and_those_at_work_go_on(tmp_path: Path) -> None:
    waits = {"class_name": "FileExistsCondition", "path": "never", "blocking": True}
    program = run(["sh", "-c", "until [ -e go ]; do sleep 0.01; done"])
    stage = Stage(tmp_path, on_line(wrapped(log("first"), waits), program), {"a": [lived("LINE x\n")]})
    stage.until(lambda: [pending.reason for pending in stage.a.actions.pending][1:] == ["at work"])
    deadlines = [pending.deadline for pending in stage.a.actions.pending]
    assert [deadline.then for deadline in deadlines if deadline] == ["skipped", "ended"]
    asked = requests.Request(id="skip-1", kind="skip", job="a", attempt=1, reason="enough", at=1)
    requests.ask(stage.path, asked)
    stage.cycle()
    assert [pending.reason for pending in stage.a.actions.pending] == ["at work"]
    assert "a: LogAction of seen: abandoned: enough" in stage.messages
    (tmp_path / "go").touch()
    stage.until(lambda: not stage.a.actions.pending)
    assert {(result.action, result.status) for result in stage.results} == {
        ("LogAction", "skipped"),
        ("RunCommandAction", "done"),
    }


def test_a_rule_that_cancels_its_job_leaves_the_other_actions_waiting_and_a_person_does_not(tmp_path: Path) -> None:
    waits = {"class_name": "FileExistsCondition", "path": "never", "blocking": True}
    cancels = {"class_name": "CancelAction"}
    stage = Stage(tmp_path, on_line(wrapped(log("first"), waits), cancels), {"a": [lived("LINE x\n")]})
    stage.until(lambda: stage.states["a"] == "cancelled")
    assert [pending.reason for pending in stage.a.actions.pending] == ["waits for FileExists: never"]
    requests.ask(stage.path, requests.Request(id="c", kind="cancel", job="a", attempt=1, actions=True, at=1))
    stage.cycle()
    assert stage.monitor.session.finished


def test_a_restart_that_version_1_asked_for_is_read(tmp_path: Path) -> None:
    overrides, limits = {"backend.options.lr": 1}, {"max_attempts": 2, "max_fruitless": None, "cooldown_seconds": 5}
    action = {"reason": "why", "overrides": overrides, "exclude_nodes": "n1", "cause": "crash", **limits}
    asked = {"version": 1, "id": "x", "kind": "restart", "job": "a", "attempt": 1, "at": 1.0, **action}
    folder = SessionFiles(tmp_path / "p.json").requests
    folder.mkdir()
    (folder / "x.json").write_text(json.dumps(asked))
    [(_, read)] = requests.waiting(tmp_path / "p.json")
    assert read.restart is not None
    assert read.restart.model_dump() == {"class_name": "RestartAction", **action, "max_same_failures": 2}
    by_hand = {key: value for key, value in asked.items() if key not in ("max_attempts", "max_fruitless", "cause")}
    (folder / "x.json").write_text(json.dumps(by_hand))
    [(_, read)] = requests.waiting(tmp_path / "p.json")
    assert read.restart is not None
    assert (read.restart.cause, read.restart.max_attempts, read.restart.max_fruitless) == (None, None, None)


def test_a_request_of_an_older_version_is_read(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [FOREVER]})
    asked = requests.Request(id="c", kind="cancel", job="a", attempt=1, at=1).model_dump(exclude={"actions"})
    folder = SessionFiles(stage.path).requests
    folder.mkdir()
    (folder / "c.json").write_text(json.dumps(asked))
    stage.finish()
    assert stage.states == {"a": "cancelled"}


class Strict(FakeScheduler):
    """Knows no partition `nosuch` when asked, and takes no script for one `secret`."""

    asked = 0

    def check(self, scripts: Mapping[str, str], *, test: bool = False) -> list[Problem]:  # noqa: ARG002
        self.asked += 1
        wrong = (path for path, text in scripts.items() if "--partition=nosuch" in text)
        return [Problem("there is no partition 'nosuch'", path) for path in wrong]

    def submit(self, submission: Submission) -> str:
        if "--partition=secret" in Path(submission.script_path).read_text():
            raise InvalidSubmissionError(Problem("Invalid partition name specified"))
        return super().submit(submission)


def strict(folder: Path, monitoring: Mapping[str, Any], lives: Mapping[str, Sequence[Life]]) -> Stage:
    stage = Stage(folder, monitoring, lives)
    stage.slurm = Strict(behave=stage._behave)
    stage.resumed()
    return stage


def test_overrides_that_the_scheduler_would_refuse_end_no_job_that_runs(tmp_path: Path) -> None:
    stage = strict(
        tmp_path,
        on_line(restart(overrides={"slurm.sbatch.partition": "{what}"})),
        {name: [lived("LINE nosuch\n")] for name in "abcdef"},
    )
    stage.cycle(4)
    assert set(stage.states.values()) == {"running"}
    assert {job.attempt for job in stage.jobs.values()} == {1}
    assert any("failed: no new attempt: there is no partition 'nosuch'" in line for line in stage.messages)
    assert isinstance(stage.slurm, Strict)
    assert stage.slurm.asked == 2, "of the new directives, and of the plan's, once for all jobs"
    assert not list(tmp_path.rglob("attempt_2"))


def test_a_new_attempt_that_is_refused_for_good_is_an_end_whose_rules_begin_no_other(tmp_path: Path) -> None:
    rules = on_state(
        restart(overrides={"slurm.sbatch.partition": "secret"}, max_attempts=None), log("because {reason}")
    )
    stage = strict(tmp_path, rules, {"a": [CRASH]})
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.failed) == ("crash", 2, True)
    reason = "Invalid partition name specified (for an attempt with other values of slurm.sbatch.partition)"
    assert [line for line in stage.messages if "because" in line][1:] == [f"a: because {reason}"]
    assert stage.names() == ["crash", "crash"]
    assert len({event.id for event in stage.events}) == 2
    assert "finally refused: Invalid partition name specified" in stage.a.reason
    assert stage.a.changes.overrides == {}, "what was refused is no part of later attempts"
    assert any("dropped for later attempts: slurm.sbatch.partition" in entry.message for entry in stage.a.history)


def test_what_an_attempt_was_refused_for_takes_nothing_from_what_others_had(tmp_path: Path) -> None:
    asked = {"slurm.sbatch.partition": "{partition}", "slurm.sbatch.constraint": "{constraint}"}
    rules = on_line(restart(overrides=asked, max_attempts=3), pattern=r"LINE (?P<partition>\w+) (?P<constraint>\w+)")
    stage = strict(tmp_path, rules, {"a": [lived("LINE good x\n"), lived("LINE secret y\n")]})
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.failed) == ("crash", 3, True)
    assert stage.a.changes.overrides == {"slurm.sbatch.partition": "good", "slurm.sbatch.constraint": "x"}
