"""May a job have a new attempt, and what is it before it: each case is a row."""

from __future__ import annotations

from typing import Any

import pytest

from oellm_autoexp.decisions.restarts import Kind, begun, planned, refusal
from oellm_autoexp.rules.actions import RestartAction
from oellm_autoexp.rules.progress import Progress
from oellm_autoexp.session import records
from oellm_autoexp.session.job_state import BY_HAND, HistoryEntry, JobState, Reading, Restarting, Tally, Unsettled
from oellm_autoexp.storage.log_tail import Cursor
from oellm_autoexp.testing.jobs import changed, job_state

COMING = Restarting(attempt=2, cause="c")


def asked(
    reason: str,
    cause: str | None,
    max_attempts: int | None,
    cooldown_seconds: float,
    overrides: dict[str, Any],
    exclude_nodes: str,
    max_fruitless: int | None = None,
) -> RestartAction:
    return RestartAction(
        class_name="RestartAction",
        reason=reason,
        cause=cause,
        max_attempts=max_attempts,
        cooldown_seconds=cooldown_seconds,
        overrides=overrides,
        exclude_nodes=exclude_nodes,
        max_fruitless=max_fruitless,
    )


THREE = asked("", None, 3, 0, {}, "")
NO_LIMIT = asked("", None, None, 0, {}, "")
NONE_AT_ALL = asked("", None, 0, 0, {}, "")
JOB = job_state(name="a", state="crash", attempt=2, exit_code=1)


def refused(request: RestartAction = THREE, attempt: int = 2, *, by_hand: bool = False, **update: Any) -> str:
    found = refusal(changed(JOB, **update), request, "c", attempt, by_hand=by_hand)
    return found.why if found else ""


@pytest.mark.parametrize("state", ["crash", "stall", "timeout", "preempted", "node_fail", "oom", "running", "pending"])
def test_a_job_that_ended_badly_or_still_runs_may_have_one(state: str) -> None:
    assert refused(state=state) == ""


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (refused(attempt=1), "attempt 1 is not the current one"),
        (refused(attempt=1, by_hand=True), "attempt 1 is not the current one"),
        (refused(restart=COMING), "already planned"),
        (refused(restart=COMING, by_hand=True), "already planned"),
        (refused(cancelled_by="enough"), "on purpose (enough)"),
        (refused(state="waiting"), "waits to be submitted"),
        (refused(state="submitting"), "waits to be submitted"),
        (refused(state="waiting", by_hand=True), "waits to be submitted"),
        (refused(state="success"), "has succeeded"),
        (refused(state="cancelled"), "was cancelled by hand"),
        (refused(exit_code=93), "exit code 93"),
        (refused(NO_LIMIT, exit_code=93, restarts={}), "exit code 93"),
        (refused(restarts={"c": 3}), "no new attempt: the limit for 'c' is reached (3 of 3)"),
        (refused(restarts={"c": 4}), "no new attempt"),
        (refused(NONE_AT_ALL), "no new attempt: the limit for 'c' is reached (0 of 0)"),
    ],
)
def test_a_refusal_says_why(found: str, words: str) -> None:
    assert words in found


@pytest.mark.parametrize(
    "found",
    [
        refused(restarts={"c": 2}),
        refused(restarts={"other": 99}),
        refused(NO_LIMIT, restarts={"c": 1000}),
        refused(state="running", exit_code=93),
        refused(by_hand=True, state="success"),
        refused(by_hand=True, state="cancelled"),
        refused(by_hand=True, exit_code=93),
        refused(by_hand=True, restarts={"c": 3}),
    ],
)
def test_budgets_are_by_cause_and_people_get_what_they_want(found: str) -> None:
    assert found == ""


def test_what_a_person_asks_for_later_is_added_to_the_attempt_that_is_planned() -> None:
    first = asked("", None, None, 0, {"a": 1, "b": 1}, "n1")
    second = asked("", None, None, 0, {"b": 2}, "n2")
    job = changed(JOB, state="running", restart=planned(JOB, first, BY_HAND, 0))
    assert refusal(job, second, BY_HAND, 2) is not None, "a rule adds nothing"
    assert refusal(job, second, BY_HAND, 2, by_hand=True) is None
    coming = planned(job, second, BY_HAND, 0)
    assert (coming.overrides, coming.exclude_nodes) == ({"a": 1, "b": 2}, ("n1", "n2"))


def test_a_planned_attempt_knows_its_number_its_nodes_and_when() -> None:
    request = asked("lost a node", None, 3, 60, {"a.b": 1}, "n1, n2 n3,,")
    coming = planned(changed(JOB, restarts={"c": 1}), request, "c", 1000)
    assert coming.reason == "new attempt 2 of 3 for 'c': lost a node"
    assert (coming.not_before, coming.exclude_nodes, coming.overrides) == (1060, ("n1", "n2", "n3"), {"a.b": 1})
    assert planned(JOB, NO_LIMIT, "c", 0).reason == "new attempt 1 for 'c'"


def test_an_attempt_that_a_person_asks_for_is_of_no_budget() -> None:
    ran = changed(JOB, attempt=4, restarts={BY_HAND: 3})
    assert planned(ran, asked("", None, 3, 0, {}, ""), BY_HAND, 0).reason == "attempt 5, asked for by hand"
    assert planned(ran, asked("n7 is mended", None, 3, 0, {}, ""), BY_HAND, 0).reason == (
        "attempt 5, asked for by hand: n7 is mended"
    )


def test_a_list_of_nodes_within_brackets_stays_whole() -> None:
    request = asked("", None, 3, 0, {}, "node[1,3-4],m7 n[5,6]")
    assert planned(JOB, request, "c", 0).exclude_nodes == ("node[1,3-4]", "m7", "n[5,6]")


def test_the_next_attempt_begins_from_nothing_but_history_ledger_and_nodes() -> None:
    kept: dict[str, Any] = {
        "history": (HistoryEntry(at=1, event="running"),),
        "gpu_hours": 3.5,
        "unsettled": (Unsettled(scheduler_id="7", ended_at=9, seconds=5),),
        "events": {"x": Tally(count=2, last_at=3)},
        "carried_out": {"x/0": 3.0},
        "progress": Progress(iteration=12),
        "attempt": 2,
        "script_path": "/s",
        "cursors": {"/f": Cursor("9", 5)},
        "cursor": Cursor("1", 5, "x"),
    }
    gone: dict[str, Any] = {
        "token": "t",
        "task": 3,
        "scheduler_state": "FAILED",
        "exit_code": 1,
        "nodes": "n1",
        "failed_nodes": "n1",
        "last_activity": 5.0,
        "started_at": 1.0,
        "ended_at": 9.0,
        "missing_since": 4.0,
        "refusals": 3,
        "readings": {"r": Reading(value=1, since=2)},
        "overdue": {"stall": -1},
        "verdict": "oom",
        "error_type": "x",
        "complete": True,
        "end_asked_at": 8.0,
    }
    coming = Restarting(
        attempt=2, cause="c", reason="why", not_before=77, overrides={"b": 2}, exclude_nodes=("n1", "n2")
    )
    job = job_state(
        name="a",
        state="crash",
        restart=coming,
        restarts={"c": 1, "d": 4},
        overrides={"a": 1, "b": 1},
        excluded=("n0", "n1"),
        **kept,
        **gone,
    )
    now = begun(job, 50.0)
    assert (now.state, now.reason, now.waiting.retry_at, now.waiting.waiting_since, now.restart) == (
        "waiting",
        "why",
        77,
        50,
        None,
    )
    assert now == changed(now, **kept)
    fresh = records.flat(JobState(name="a"))
    assert {key: records.flat(now)[key] for key in gone} == {key: fresh[key] for key in gone}
    assert now.past.restarts == {"c": 2, "d": 4}
    assert now.changes.overrides == {"a": 1, "b": 2}
    assert now.changes.excluded == ("n0", "n1", "n2")
    assert begun(JOB, 5.0) is JOB


FRUITLESS = asked("", None, None, 0, {}, "", 2)


def at(iteration: int | None, furthest: int = -1, before: int = 0, attempt: int = 2) -> JobState:
    progress = Progress(iteration=iteration)
    return changed(JOB, progress=progress, furthest=furthest, fruitless=before, attempt=attempt)


@pytest.mark.parametrize(
    ("job", "given_up"),
    [
        (at(5, 10, 1), True),
        (at(10, 10, 1), True),
        (at(11, 10, 1), False),
        (at(5, 10, 0), False),
        (at(None, -1, 0), False),
        (at(None, -1, 1), True),
        (at(5, 10, 5, attempt=1), False),
    ],
)
def test_a_job_whose_attempts_get_no_further_is_given_up(job: JobState, given_up: bool) -> None:
    found = refusal(job, FRUITLESS, "c", job.attempt)
    assert (found is not None and found.kind is Kind.GIVEN_UP) == given_up


def test_a_program_that_tells_no_iterations_has_all_the_attempts_of_its_budget() -> None:
    assert refusal(at(None, -1, 9), asked("", None, 5, 0, {}, "", 2), "c", 2) is None
    assert refusal(at(5, 10, 9), asked("", None, 5, 0, {}, "", 2), "c", 2) is not None


def test_a_job_that_is_given_up_says_how_far_it_was() -> None:
    far, never = (refusal(job, FRUITLESS, "c", 2) for job in (at(5, 10, 1), at(None, -1, 1)))
    assert far is not None
    assert never is not None
    assert far.why == "no new attempt: 2 attempts in a row got no further than iteration 10"
    assert never.why == "no new attempt: 2 attempts in a row reported no iteration"


@pytest.mark.parametrize("iteration", [0, None])
def test_a_job_that_never_gets_beyond_its_start_is_given_up_too(iteration: int | None) -> None:
    job, attempts = at(iteration, attempt=1), 0
    while attempts < 10 and not refusal(job, FRUITLESS, "c", job.attempt):
        coming = planned(job, FRUITLESS, "c", 0)
        again = begun(changed(job, restart=coming), 1.0)
        job = changed(again, attempt=job.attempt + 1, state="crash")
        attempts += 1
    assert attempts == 2
