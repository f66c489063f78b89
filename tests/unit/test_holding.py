"""Which jobs are held, and when: several others failed in the same way, or the first ones are not proven yet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.core.nouns import Hold, JobStatus
from oellm_autoexp.core.states import HELD_BY_PLAN
from oellm_autoexp.decisions.holding import (
    FIRST_JOBS,
    answered,
    for_first,
    in_queue,
    may_be_held,
    to_hold,
    waits_for_release,
)
from oellm_autoexp.rules.progress import Progress
from oellm_autoexp.session.job_state import Failure, JobState, PastAttempts
from oellm_autoexp.testing.jobs import changed
from oellm_autoexp.view.jobs.cause import cause

WAITS = JobState(name="waits")


def failed(name: str, fingerprint: str = "f", category: str = "config", line: str = "x", **more: object) -> JobState:
    cause = Cause(category=category, text="the image is broken", fingerprint=fingerprint, line=line)
    return changed(JobState(name=name), state="crash", attempt=1, runs=1, cause=cause, **more)


def jobs(*found: JobState) -> dict[str, JobState]:
    return {job.name: job for job in found}


def test_enough_jobs_that_failed_in_the_same_way_hold_the_rest() -> None:
    two = jobs(failed("a"), failed("b"), WAITS)
    assert to_hold(two, Hold(), 3) is None
    found = to_hold({**two, "c": failed("c")}, Hold(), 3)
    assert found == Hold(fingerprint="f", reason="3 jobs failed in the same way: the image is broken")


def test_a_job_that_the_plan_holds_in_the_queue_says_how_it_is_released() -> None:
    pending, held = replace(WAITS, state="pending"), JobStatus("PENDING", "JobHeldUser")
    by_plan = answered(pending, held, Hold(fingerprint="f"))
    assert by_plan is not None
    assert cause(replace(pending, reason=by_plan.reason)) == HELD_BY_PLAN
    by_a_person = answered(pending, held, Hold(released={"f": 3}))
    assert by_a_person == held
    requeued = replace(pending, newest=replace(pending.newest, runs=1))
    assert answered(requeued, held, Hold(fingerprint="f")) == held
    by_the_site = JobStatus("PENDING", "JobHeldAdmin")
    assert answered(pending, by_the_site, Hold(fingerprint="f")) == by_the_site


@pytest.mark.parametrize(
    "other",
    [
        failed("c", fingerprint="g"),
        failed("c", category="nan"),
        failed("c", category="unknown", line=""),
        failed("c", progress=Progress(iteration=10)),
        changed(failed("c"), state="running"),
    ],
    ids=["another failure", "nan", "nothing is known", "did iterations", "runs again"],
)
def test_others_do_not_count(other: JobState) -> None:
    assert to_hold(jobs(failed("a"), failed("b"), other, WAITS), Hold(), 3) is None


def test_attempts_of_one_job_count_once_and_earlier_ones_count() -> None:
    cause = failed("a").run.cause
    assert cause is not None
    before = PastAttempts(failures=(Failure(attempt=1, cause=cause), Failure(attempt=2, cause=cause)))
    again = replace(failed("c"), state="running", run=replace(failed("c").run, cause=None), past=before)
    assert to_hold(jobs(again, failed("b"), WAITS), Hold(), 3) is None
    assert to_hold(jobs(again, failed("b"), WAITS), Hold(), 2) is not None


def test_nothing_is_held_twice_or_after_a_release_or_where_nothing_is_left_or_without_a_limit() -> None:
    three = jobs(failed("a"), failed("b"), failed("c"))
    assert to_hold({**three, "waits": WAITS}, Hold(fingerprint="g"), 3) is None
    assert to_hold({**three, "waits": WAITS}, Hold(released={"f": 3}), 3) is None
    assert to_hold(three, Hold(), 3) is None
    assert to_hold({**three, "waits": WAITS}, Hold(), None) is None


def test_what_was_released_is_held_again_for_as_many_more() -> None:
    six = {**jobs(*map(failed, "abcdef")), "waits": WAITS}
    assert to_hold(six, Hold(released={"f": 3}), 3) is not None
    assert to_hold(six, Hold(released={"f": 4}), 3) is None
    assert to_hold(six, Hold.model_validate({"released": ["f"]}), 3) is None  # of an earlier version


def test_a_plan_in_which_others_get_on_is_held_for_more_failures() -> None:
    on = changed(JobState(name="on"), state="running", attempt=1, runs=1, progress=Progress(iteration=7))
    three = jobs(failed("a"), failed("b"), failed("c"))
    assert to_hold({**three, "waits": WAITS, "on": on}, Hold(), 3) is None
    assert to_hold({**three, "waits": WAITS, "on": on, "d": failed("d")}, Hold(), 3) is not None


def test_another_attempt_after_the_failure_that_is_shared_waits_for_release() -> None:
    cause = failed("a").run.cause
    assert cause is not None
    past = PastAttempts(failures=(Failure(attempt=1, cause=cause),))
    again = changed(JobState(name="a", past=past), state="waiting", attempt=1)
    assert waits_for_release(again, Hold(fingerprint="f"))
    assert not waits_for_release(again, Hold(fingerprint="g"))
    assert not waits_for_release(again, Hold())
    assert not waits_for_release(replace(again, waiting=replace(again.waiting, by_hand=True)), Hold(fingerprint="f"))


def test_jobs_that_have_not_begun_may_be_held() -> None:
    pending = changed(JobState(name="p"), state="pending", attempt=1, scheduler_id="7", token="t")  # noqa: S106  no password
    begun = changed(JobState(name="r"), state="pending", attempt=1, runs=1, scheduler_id="8")
    again = changed(JobState(name="w"), state="waiting", attempt=1)
    assert [may_be_held(job) for job in (WAITS, pending, begun, again, failed("a"))] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert in_queue([WAITS, pending, begun, again]) == {"7": "t"}


def test_others_wait_for_the_first_jobs_until_one_is_proven() -> None:
    running = changed(JobState(name="r"), state="running", attempt=1, runs=1)
    assert for_first(jobs(WAITS), Hold(), 2, 1) == ""
    assert "scheduler.first_jobs" in for_first(jobs(WAITS), Hold(), 2, 2)
    assert "scheduler.first_jobs" in for_first(jobs(running, WAITS), Hold(), 2, 1)
    assert "--cmd release" in for_first(jobs(failed("a"), failed("b"), WAITS), Hold(), 2, 0)
    assert "--cmd release" not in for_first(jobs(running, failed("b"), WAITS), Hold(), 2, 0)
    assert for_first(jobs(running, WAITS), Hold(), None, 5) == ""
    assert for_first(jobs(running, failed("a"), WAITS), Hold(released={FIRST_JOBS: 0}), 2, 0) == ""
    assert for_first(jobs(changed(running, progress=Progress(iteration=1)), failed("a"), WAITS), Hold(), 2, 0) == ""
    assert for_first(jobs(changed(running, state="success"), failed("a"), WAITS), Hold(), 2, 0) == ""
