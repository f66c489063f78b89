"""The loop that watches: what it sees of logs and states from cycle to cycle, with a scheduler in memory."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import CorruptError, Problem, SchedulerError, UnwritableError
from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus, Submission
from oellm_autoexp.engine.loop import wait
from oellm_autoexp.schedulers.fake import FakeScheduler
from oellm_autoexp.session import requests
from oellm_autoexp.session.event_log import EventLog
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.session import Session
from oellm_autoexp.session.status_files import Kind
from oellm_autoexp.testing.jobs import changed
from tests.unit.test_executor import (
    CRASH,
    FOREVER,
    GOOD,
    LONG,
    Life,
    Stage,
    lived,
    log,
    on_line,
    on_state,
    restart,
    run,
    wrapped,
)


def test_every_matching_line_makes_one_event_across_looks_restarts_and_lines_cut_in_two(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_line(log("{what}")), {"a": [lived("LINE 1\nLI")]})
    stage.cycle(3)
    stage.write("a", "NE 2\r\nLINE ")
    stage.resumed()
    stage.cycle(2)
    stage.write("a", "3\nx\nLINE 4")
    stage.cycle(2)
    numbers = [line for line in stage.messages if line.startswith("a: ") and line[3:].isdigit()]
    assert numbers == ["a: 1", "a: 2", "a: 3"]
    stage.slurm._scripts["1"] = [JobStatus("COMPLETED", exit_code=0)]
    stage.finish()
    assert [event.metadata["what"] for event in stage.events] == ["1", "2", "3", "4"]


def test_a_log_that_is_truncated_or_rotated_is_read_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_line(), {"a": [lived("LINE 1\n")]})
    stage.cycle(3)
    path = Path(stage.a.logs.resolved_log_path)
    path.write_text("LINE 0\nLINE 2 longer than before\n")
    stage.cycle(1)
    stage.write("a", "LINE 3\n")
    path.rename(path.with_name(path.name + ".1"))
    path.write_text("LINE 4\n")
    stage.cycle(3)
    assert [event.metadata["what"][0] for event in stage.events] == ["1", "0", "2", "3", "4"]
    assert len({event.id for event in stage.events}) == 5


def test_what_a_job_wrote_last_is_seen_before_how_it_ended(tmp_path: Path) -> None:
    rules = {**on_line(log("line"), state="oom"), "state_events": {"oom": {"actions": [log("oom {error_type}")]}}}
    stage = Stage(tmp_path, rules, {"a": [lived("LINE x", ("PENDING", "FAILED"))]})
    stage.finish()
    assert (stage.a.state, stage.names()) == ("oom", ["seen", "oom"])
    assert stage.messages == ["a: line", "a: oom seen"]


def test_further_files_are_seen_by_the_rules_and_count_as_activity(tmp_path: Path) -> None:
    rules = {**on_line(log("{what}")), "inactivity_threshold_seconds": 60}
    stage = Stage(tmp_path, rules, {"a": [FOREVER]}, {"a": {"output_paths": (str(tmp_path / "more.log"),)}})
    for number in range(30):
        with (tmp_path / "more.log").open("a") as file:
            file.write(f"LINE {number}\n")
        stage.cycle()
    assert set(stage.names()) == {"seen"}
    assert stage.messages.count("a: 7") == 1


def test_a_silent_job_is_ended_and_begun_anew_and_given_up_at_last(tmp_path: Path) -> None:
    rules = {**on_state(restart(max_attempts=1), state="stall"), "inactivity_threshold_seconds": 60}
    stage = Stage(tmp_path, rules, {"a": [lived("hello\n")]})
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.past.restarts) == ("stall", 2, {"stall": 1})
    assert stage.names() == ["stall", "stall"]
    assert "no new attempt" in stage.a.cancelled_by


def test_a_counter_that_stands_still_restarts_the_job_and_one_that_rises_does_not(tmp_path: Path) -> None:
    rule = {"pattern": r"it (\d+)", "pattern_type": "progress", "stall_seconds": 60, "actions": [restart()]}
    stage = Stage(tmp_path, {"log_events": {"p": rule}}, {"a": [FOREVER], "b": [FOREVER]})
    stage.until(lambda: all(state == "running" for state in stage.states.values()))
    for number in range(20):
        if stage.a.state == "running" and stage.a.attempt == 1:
            stage.write("a", "it 3\n")
        stage.write("b", f"it {number}\n")
        stage.cycle()
    assert (stage.a.attempt, stage.jobs["b"].attempt) == (2, 1)
    assert stage.names()[0] == "p"


def test_a_scheduler_that_does_not_answer_changes_nothing_but_logs_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, on_line(log("{what}")), {"a": [FOREVER]})
    stage.until(lambda: stage.a.state == "running")

    def silent(ids: Collection[str]) -> Mapping[str, JobStatus]:
        raise SchedulerError(Problem("no answer"))

    stage.write("a", "LINE x\n")
    with monkeypatch.context() as patched:
        patched.setattr(stage.slurm, "poll", silent)
        stage.cycle(20)
    assert (stage.monitor.scheduler_error, stage.a.state, stage.messages) == ("no answer", "running", ["a: x"])
    stage.cycle()
    assert stage.monitor.scheduler_error == ""


@pytest.mark.parametrize("kind", ["no answer", "UNKNOWN", "no such job"])
def test_silence_is_not_judged_while_the_scheduler_does_not_say_that_the_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    rules = {**on_state(restart(), state="stall"), "inactivity_threshold_seconds": 60}
    stage = Stage(tmp_path, rules, {"a": [lived("hello\n")]})
    stage.cycle(8)  # one look is within the three

    def poll(jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        if kind == "no answer":
            raise SchedulerError(Problem("no answer"))
        return {} if kind == "no such job" else {job: JobStatus("UNKNOWN") for job in jobs}

    with monkeypatch.context() as patched:
        patched.setattr(stage.slurm, "poll", poll)
        stage.cycle(20, seconds=2)
    assert (stage.a.state, stage.names(), stage.a.restart) == ("running", [], None)
    stage.cycle(2)
    assert stage.names() == []
    stage.cycle(1)
    assert stage.names() == ["stall"]


def test_a_scheduler_that_can_not_end_a_job_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, on_line(restart()), {"a": [lived("LINE x\n"), GOOD]})

    def fails(ids: Collection[str]) -> None:
        raise SchedulerError(Problem("no answer"))

    with monkeypatch.context() as patched:
        patched.setattr(stage.slurm, "cancel", fails)
        stage.cycle(5)
        assert stage.a.state == "running"
        assert stage.monitor.scheduler_error == "no answer"
    stage.finish()
    assert (stage.a.state, stage.a.attempt) == ("success", 2)


@pytest.mark.parametrize(
    "state",
    [
        "pending",
        "running",
        "success",
    ],
)
def test_each_state_that_a_job_comes_into_makes_its_event(tmp_path: Path, state: str) -> None:
    stage = Stage(tmp_path, on_state(log(f"is {state}"), state=state), {"a": [GOOD]})
    stage.finish()
    assert stage.names() == [state]
    assert stage.messages == [f"a: is {state}"]


def test_a_job_that_began_and_ended_between_two_looks_makes_the_event_of_running_too(tmp_path: Path) -> None:
    rules = {"state_events": {"running": {"actions": [log("runs {exit_code}")]}, "success": {"actions": [log("done")]}}}
    life = [(("PENDING", "COMPLETED"), "")]
    stage = Stage(tmp_path, rules, {"a": life, "b": life})
    stage.cycle(2)
    marks = tmp_path / "a" / "marks"  # b has left no word of its start: it may have been ended in the queue
    marks.mkdir()
    (marks / f"{stage.a.newest.scheduler_id}.start").write_text("1005\n")
    stage.finish()
    assert [(event.job, event.name) for event in stage.events] == [
        ("a", "running"),
        ("a", "success"),
        ("b", "success"),
    ]
    assert (stage.a.newest.runs, stage.a.newest.started_at, stage.a.state) == (1, 1005.0, "success")


def test_a_requeued_job_that_is_ended_in_the_queue_has_not_run_again(tmp_path: Path) -> None:
    states = ("PENDING", "RUNNING", "PENDING", "PENDING", "CANCELLED")
    stage = Stage(tmp_path, on_state(state="running"), {"a": [(states, "")]})
    (tmp_path / "a" / "marks").mkdir()
    (tmp_path / "a" / "marks" / "1.start").write_text("1005\n")
    stage.finish()
    assert (stage.names(), stage.a.newest.runs) == (["running"], 1)


def test_a_success_that_a_command_tells_of_makes_the_event_of_success(tmp_path: Path) -> None:
    events: dict[str, Any] = {"crash": {"actions": [restart()]}, "success": {"actions": [log("well done")]}}
    rules = {"state_events": events, "termination_command": ["true"]}
    stage = Stage(tmp_path, rules, {"a": [(("RUNNING", "FAILED"), "")]})
    stage.finish()
    assert (stage.a.state, stage.messages) == ("success", ["a: well done"])


def test_a_requeued_job_is_watched_on_in_the_same_attempt(tmp_path: Path) -> None:
    states = ("RUNNING", "RUNNING", "PENDING", "PENDING", *LONG[1:])
    stage = Stage(tmp_path, on_state(log("r"), state="running"), {"a": [(states, "x\n")]})
    stage.cycle(12)
    assert (stage.a.attempt, stage.names()) == (1, ["running", "running"])


def test_a_requeued_job_that_finishes_then_has_succeeded_whatever_its_first_run_said(tmp_path: Path) -> None:
    rules = {
        **on_line(state="timeout", overrules_success=True),
        **on_state(restart(), state="timeout"),
    }
    states = ("RUNNING", "RUNNING", "PENDING", "RUNNING", "RUNNING", "COMPLETED")
    stage = Stage(tmp_path, rules, {"a": [(states, "x\n")]})
    stage.cycle(3)
    stage.write("a", "LINE asked to end\n")  # since the last look at the first run
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.newest.runs, stage.names()) == ("success", 1, 2, ["seen"])


def test_what_a_requeued_job_says_before_the_first_look_at_its_new_run_counts(tmp_path: Path) -> None:
    states = ("RUNNING", "RUNNING", "PENDING", "RUNNING", "RUNNING", "FAILED")
    stage = Stage(tmp_path, on_line(state="oom"), {"a": [(states, "x\n")]})
    stage.until(lambda: stage.a.state == "pending" and stage.a.newest.runs == 1)
    stage.write("a", "LINE too large\n")
    stage.finish()
    assert (stage.a.state, stage.a.run.error_type) == ("oom", "seen")


def test_a_job_that_can_not_be_watched_does_not_keep_the_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(
        tmp_path, on_line(log("{what}")), {"a": [FOREVER], "b": [lived("LINE x\n", ("RUNNING", "COMPLETED"))]}
    )
    stage.until(lambda: stage.a.state == "running")
    Path(stage.a.logs.resolved_log_path).mkdir()
    stage.cycle(5)
    assert (stage.states["a"], stage.states["b"], stage.messages) == ("running", "success", ["b: x"])


def test_a_job_whose_marks_can_not_be_asked_does_not_keep_the_others_from_being_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, {}, {"a": [(("RUNNING", "FAILED"), "")], "b": [GOOD]})
    reports = stage.monitor.observer._reports
    ask = reports.number

    def odd(job: JobState, kind: Kind) -> int | None:
        if job.name == "a":
            raise RuntimeError("odd")
        return ask(job, kind)

    monkeypatch.setattr(reports, "number", odd)
    stage.cycle(6)
    assert stage.states == {"a": "crash", "b": "success"}, "the scheduler's word alone says so"
    assert sum("RuntimeError: odd" in entry.message for entry in stage.a.history) == 1


def test_a_session_whose_jobs_are_not_those_of_its_manifest_is_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [FOREVER]})
    session = Session.load(stage.path)
    session.put(JobState(name="other"))
    session.save()
    with pytest.raises(CorruptError, match=r"p\.json: its jobs are not those of .*p\.json: other"):
        stage.resumed()


def test_each_job_has_its_own_rules_where_it_says_so(tmp_path: Path) -> None:
    own = {"monitoring": on_line(log("own"))}
    stage = Stage(
        tmp_path, on_line(log("plan")), {"a": [lived("LINE\nLINE 1\n")], "b": [lived("LINE 1\n")]}, {"b": own}
    )
    stage.cycle(4)
    assert sorted(stage.messages) == ["a: plan", "b: own"]


def test_the_record_of_events_has_them_in_their_order_with_what_became_of_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_line(log("x")), {"a": [lived("LINE 1\nLINE 2\n", ("RUNNING", "COMPLETED"))]})
    stage.finish()
    kinds = [type(entry).__name__ for entry in EventLog(stage.path).entries()]
    assert kinds == ["Event", "Event", "Result", "Result"]
    assert [result.event_id for result in stage.results] == [event.id for event in stage.events]


def test_a_log_that_all_attempts_append_to_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a" / "logs" / "all.out"
    rules = {**on_line(log("{what}")), **on_state(restart(max_attempts=1))}
    stage = Stage(tmp_path, rules, {"a": [FOREVER]}, {"a": {"log_path": str(path)}})
    for number in (1, 2):
        stage.until(lambda: (stage.a.state, stage.a.attempt) == ("running", number))  # noqa: B023
        with path.open("a") as file:
            file.write(f"LINE {number}\n")
        stage.cycle(2)
        stage.slurm._scripts[str(number)] = [JobStatus("FAILED", exit_code=1)]
        stage.cycle(2)
    assert [event.metadata["what"] for event in stage.events if event.name == "seen"] == ["1", "2"]


# ---- what a look has started beside the monitor


def see_through(stage: Stage) -> int:
    """Go on until nothing is awaited; how often."""
    for number in range(200):
        if not stage.monitor.has_pending_subprocesses:
            return number
        time.sleep(0.02)
        stage.monitor.go_on()
    raise AssertionError(list(stage.jobs.values()))


def test_programs_are_seen_to_their_ends_and_the_scheduler_is_asked_for_an_earlier_attempt_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = wrapped(restart(), {"class_name": "CommandCondition", "command": "sleep 0.1"})
    stage = Stage(tmp_path, on_state(run("sleep 0.3"), allowed), {"a": [CRASH, FOREVER], "b": [FOREVER]})
    stage.until(lambda: stage.monitor.executor.in_progress)
    asked: list[Mapping[str, str]] = []
    monkeypatch.setattr(stage.slurm, "find", lambda _: pytest.fail("the scheduler was asked"))

    def poll(jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        asked.append(jobs)
        return {}

    monkeypatch.setattr(stage.slurm, "poll", poll)
    assert see_through(stage) > 1
    assert [[*jobs] for jobs in asked] == [["1"]], "whether it was begun again, just before the newer one goes"
    assert "RunCommandAction" in [entry.event for entry in stage.a.history]
    assert stage.a.attempt == 2


ASKS = {"start_condition_cmd": ["sleep", "1000"], "start_condition_interval_seconds": 60}


def test_the_command_of_a_job_that_is_cancelled_meanwhile_is_awaited_no_more(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [FOREVER], "b": [FOREVER]}, {"a": ASKS})
    stage.cycle()
    assert stage.monitor.has_pending_subprocesses
    requests.ask(stage.path, requests.Request(id="x", kind="cancel", job="a", attempt=0, at=0))
    see_through(stage)
    assert stage.a.state == "cancelled"
    stage.monitor.close()


def test_a_jobs_command_is_not_awaited_where_the_scheduler_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(_: Collection[str]) -> Mapping[str, JobStatus]:
        raise SchedulerError(Problem("slurmctld does not answer"))

    stage = Stage(tmp_path, {}, {"a": [FOREVER], "b": [FOREVER]}, {"a": ASKS})
    stage.cycle()
    monkeypatch.setattr(stage.slurm, "poll", deaf)
    stage.cycle()
    assert not stage.monitor.has_pending_subprocesses
    stage.monitor.close()


def test_a_condition_whose_action_is_gone_is_awaited_no_more(tmp_path: Path) -> None:
    slow = {"class_name": "CommandCondition", "command": ["sleep", "1000"], "blocking": True}
    stage = Stage(tmp_path, on_line(wrapped(log("x"), slow)), {"a": [lived("LINE 1\n")]})
    stage.until(lambda: stage.monitor.has_pending_subprocesses)
    stage.monitor.session.put(changed(stage.a, pending=()))
    assert not stage.monitor.has_pending_subprocesses
    stage.monitor.close()


# --- a disk that is full ----------------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")


def full_at(monkeypatch: pytest.MonkeyPatch, begin: int, writes: int) -> list[int]:
    """Let the writes from `begin` on fail, so many of them."""
    count = [0]

    def failing(whole: Callable[..., Any], error: Exception) -> Callable[..., Any]:
        def write(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if begin <= count[0] < begin + writes:
                raise error
            return whole(*args, **kwargs)

        return write

    unwritable = UnwritableError(Problem("can't record events: No space left on device"))
    errors = {(Session, "snapshot"): FULL, (Session, "journal"): FULL, (EventLog, "add"): unwritable}
    for (owner, name), error in {**errors, (Queue, "put"): FULL}.items():
        monkeypatch.setattr(owner, name, failing(getattr(owner, name), error))
    return count


@pytest.mark.parametrize("writes", [1, 7])
def test_a_disk_that_is_full_for_a_while_delays_everything_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    rules = {**on_line(wrapped(log("queued"), mode="queue")), **on_state(restart(max_attempts=1))}
    lives = {"a": [lived("LINE 1\n", ("RUNNING", "FAILED")), lived("LINE 2\n", ("RUNNING", "COMPLETED"))], "b": [GOOD]}
    begin, reported = 0, set()
    while True:
        begin += 1
        stage = Stage(tmp_path / str(begin), rules, lives)
        with monkeypatch.context() as patched:
            count = full_at(patched, begin, writes)
            for _ in range(60):
                stage.cycle()
                reported.add(stage.monitor.storage_error)
                if stage.monitor.session.finished and not stage.monitor.storage_error:
                    break
            if count[0] < begin:
                break
        kept = Session.load(stage.path).jobs
        assert {name: (job.state, job.attempt) for name, job in kept.items()} == {
            "a": ("success", 2),
            "b": ("success", 1),
        }
        assert stage.names() == ["seen", "crash", "seen"]
        assert len(Queue(stage.path).entries()) == 2
        assert len(stage.slurm.submissions) == 3
    assert reported == {"", "No space left on device", "can't record events: No space left on device"}


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_jobs_are_submitted_at_their_pace_without_a_look_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, {}, {name: [FOREVER] for name in "abcde"})
    stage.manifest = stage.manifest.model_copy(
        update={"scheduler": {**stage.manifest.scheduler, "submit_rate_limit_seconds": 4}}
    )
    monitor = stage.resumed()
    at: list[float] = []
    take = stage.slurm.submit

    def submit(one: Submission) -> str:
        at.append(stage.clock)
        return take(one)

    monkeypatch.setattr(stage.slurm, "submit", submit)
    monitor.cycle()
    wait([monitor], 10, stage.sleep)
    assert (at, stage.clock, monitor.cycles) == ([1000, 1004, 1008], 1010, 1)
    monitor.cycle()
    monitor.wait(30)
    assert (at[3:], stage.clock, monitor.wait_seconds) == ([1012, 1016], 1040, float("inf"))


# --- who is meant -----------------------------------------------------------------------------------------------------

LEFT = ("PENDING", JobStatus("CANCELLED", NEVER_BEGAN))


def leave(stage: Stage, kind: str, text: str) -> None:
    """Something that the job's script leaves as it runs."""
    folder = stage.folder / "a" / "marks"
    folder.mkdir(exist_ok=True)
    (folder / f"1.{kind}").write_text(text)


def test_a_job_that_left_the_queue_before_it_began_is_cancelled(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [(LEFT, "")]})
    stage.finish()
    assert (stage.a.state, stage.a.reason, stage.a.failed, stage.a.attempt) == ("cancelled", NEVER_BEGAN, False, 1)


def test_what_a_job_has_left_tells_that_it_began_after_all(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [(LEFT, "")]})
    stage.cycle()
    token = stage.a.newest.token
    leave(stage, "start", f"1000\nname.{token}\n")
    stage.cycle(3)
    assert (stage.a.state, stage.a.newest.missing_since is None) == ("pending", False)
    leave(stage, "exit", "0\n")
    stage.cycle()
    assert (stage.a.state, stage.a.reason) == ("success", "reported by the job itself")


def test_a_log_that_has_grown_tells_that_the_job_began_after_all(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [(LEFT, "at work\n")]})
    stage.cycle(3)
    assert (stage.a.state, stage.a.newest.missing_since is None) == ("pending", False)


def test_marks_of_another_submission_under_the_same_id_are_not_the_jobs(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [(("PENDING", JobStatus("FAILED", exit_code=3)), "")]})
    stage.cycle()
    leave(stage, "start", "900\nname.0123abcd\n")
    leave(stage, "exit", "0\n")
    stage.finish()
    assert (stage.a.answer.exit_code, (stage.a.newest.started_at or 1000) >= 1000) == (3, True)


def test_a_job_whose_id_a_newer_job_of_the_session_has_is_not_told_what_becomes_of_that(tmp_path: Path) -> None:
    """The scheduler has begun its ids anew."""
    stage = Stage(tmp_path, {}, {"a": [FOREVER], "b": [(("PENDING", "RUNNING", "COMPLETED"), "")]})
    stage.cycle(2)
    old, new = stage.a, stage.jobs["b"]
    update = {"scheduler_id": new.newest.scheduler_id, "submitted_at": (new.newest.submitted_at or 0) - 100}
    stage.monitor.session.put(changed(old, **update))
    stage.until(lambda: stage.jobs["b"].state == "success")
    assert stage.a.state != "success"
    assert stage.a.newest.missing_since is not None


# --- dependencies of the scheduler ------------------------------------------------------------------------------------


class Chained(FakeScheduler):
    """Ends what depends on a job that has failed, as SLURM does with --kill-on-invalid-dep."""

    native_dependencies = True

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        statuses = super().poll(jobs)
        for number, one in enumerate(self.submissions, 1):
            parent = self._shown.get(one.dependency.partition(":")[2])
            if parent and parent.scheduler_state == "FAILED":
                self._shown[str(number)] = JobStatus("CANCELLED", "DependencyNeverSatisfied")
                self._scripts[str(number)] = [self._shown[str(number)]]
        return {**statuses, **{job: self._shown[job] for job in jobs if job in self._shown}}


@pytest.mark.parametrize(
    ("budget", "ends"), [(1, {"a": ("success", 2), "b": ("success", 1)}), (0, {"a": ("crash", 1)})]
)
def test_a_job_waits_again_in_the_queue_behind_the_new_attempt_of_its_sibling(
    tmp_path: Path, budget: int, ends: dict[str, tuple[str, int]]
) -> None:
    rules = {
        "state_events": {
            "crash": {"actions": [restart(max_attempts=budget)]},
            "cancelled": {"actions": [restart(max_attempts=5)]},
        }
    }
    follows: Life = (("PENDING", "PENDING", "PENDING", "PENDING", "RUNNING", "COMPLETED"), "")
    stage = Stage(tmp_path, rules, {"a": [CRASH, GOOD], "b": [follows]}, {"b": {"depends_on": ("a",)}})
    stage.manifest = stage.manifest.model_copy(
        update={"scheduler": {**stage.manifest.scheduler, "native_dependencies": True}}
    )
    stage.slurm = Chained(behave=stage._behave)
    stage.resumed()
    stage.finish()
    expected = {"b": ("cancelled", 0), **ends}
    assert {name: (job.state, job.attempt) for name, job in stage.jobs.items()} == expected
    assert stage.names() == ["crash"]
    assert [one.dependency for one in stage.slurm.submissions] == (
        ["", "afterok:1", "", "afterok:3"] if budget else ["", "afterok:1"]
    )


def test_a_look_costs_one_question_for_a_job_whose_log_has_nothing_new_or_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, {}, {"a": [lived("some lines\n")], "b": [(LONG, "")]})
    stage.cycle(3)
    assert (tmp_path / "a" / "current.log").is_symlink()
    asked: list[str] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *words: Any, **named: Any) -> Any:
            if isinstance(path, str | Path) and Path(path).is_relative_to(tmp_path):
                asked.append(str(path))
            return function(path, *words, **named)

        return call

    for name in ("stat", "lstat", "open", "access", "scandir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    stage.cycle(1)
    monkeypatch.undo()
    of_jobs = [path for path in asked if "/logs" in path or "/a/" in path or "/b/" in path]
    assert sorted(of_jobs) == [str(tmp_path / "a" / "logs" / "1.out"), str(tmp_path / "b" / "logs" / "2.out")]
