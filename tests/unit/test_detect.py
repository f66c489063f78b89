"""What a scheduler's answer means for a job: each case is a row, and no answer changes anything."""

from __future__ import annotations

import math
from datetime import datetime

import pytest

from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.core.states import ENDED, FINAL, MEANING, UNKNOWN, conclude
from oellm_autoexp.decisions.detect import Detector, see_log
from oellm_autoexp.decisions.lifecycle import VANISHED_AFTER_SECONDS, revised, see_status
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.session.series import Point
from oellm_autoexp.session.session import by_id
from oellm_autoexp.storage.log_tail import Cursor
from oellm_autoexp.testing.jobs import changed, job_state

WATCH = Detector(Rules())
JOB = job_state(name="a", state="running", scheduler_id="7", scheduler_state="RUNNING", started_at=1.0)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", "pending"),
        ("CONFIGURING", "pending"),
        ("REQUEUED", "pending"),
        ("REQUEUE_HOLD", "pending"),
        ("SPECIAL_EXIT", "pending"),
        ("RUNNING", "running"),
        ("COMPLETING", "running"),
        ("SUSPENDED", "running"),
        ("STOPPED", "running"),
        ("COMPLETED", "success"),
        ("FAILED", "crash"),
        ("LAUNCH_FAILED", "crash"),
        ("BOOT_FAIL", "node_fail"),
        ("NODE_FAIL", "node_fail"),
        ("TIMEOUT", "timeout"),
        ("DEADLINE", "timeout"),
        ("CANCELLED", "cancelled"),
        ("REVOKED", "cancelled"),
        ("PREEMPTED", "preempted"),
        ("OUT_OF_MEMORY", "oom"),
        ("A_WORD_OF_A_LATER_SLURM", "pending"),
    ],
)
def test_every_word_of_the_scheduler_has_one_of_ours(word: str, state: str) -> None:
    assert conclude(word) == state


def test_a_job_is_final_exactly_when_the_scheduler_has_ended_it() -> None:
    assert all(conclude(word) in FINAL for word in ENDED)
    assert not any(conclude(word) in FINAL for word in MEANING.keys() - ENDED)


def test_an_end_is_recorded_with_time_code_and_words() -> None:
    seen = see_status(JOB, JobStatus("FAILED", "NonZeroExitCode", 7, "n1"), 100.0)
    assert (seen.state, seen.answer.exit_code, seen.answer.nodes, seen.newest.ended_at) == ("crash", 7, "n1", 100.0)
    assert seen.history[-1].message == "FAILED, NonZeroExitCode, exit code 7"


def test_a_job_that_is_ending_has_no_exit_code_yet() -> None:
    assert see_status(JOB, JobStatus("COMPLETING", exit_code=143), 100.0).answer.exit_code is None
    assert see_status(JOB, JobStatus("CANCELLED", exit_code=143), 100.0).answer.exit_code == 143


def test_the_same_answer_again_changes_nothing_at_all() -> None:
    once = see_status(JOB, JobStatus("RUNNING", nodes="n1"), 100.0)
    assert see_status(once, JobStatus("RUNNING", nodes="n1"), 200.0) is once


def test_an_unknown_state_is_no_news() -> None:
    assert see_status(JOB, JobStatus(UNKNOWN), 100.0) is JOB


def test_a_final_state_stays() -> None:
    ended = see_status(JOB, JobStatus("COMPLETED", exit_code=0), 100.0)
    assert see_status(ended, JobStatus("RUNNING"), 200.0) is ended
    assert see_status(ended, None, 10_000.0) is ended


def test_a_job_that_the_scheduler_no_longer_knows_is_given_up_only_after_a_while() -> None:
    first = see_status(JOB, None, 100.0)
    assert first.state == "running"
    soon = see_status(first, None, 100.0 + VANISHED_AFTER_SECONDS - 1)
    assert soon.state == "running"
    late = see_status(soon, None, 100.0 + VANISHED_AFTER_SECONDS)
    assert (late.state, late.newest.ended_at) == ("crash", 100.0 + VANISHED_AFTER_SECONDS)
    assert "left the queue" in late.reason


def test_a_job_that_is_seen_again_was_not_missing() -> None:
    missing = see_status(JOB, None, 100.0)
    back = see_status(missing, JobStatus("RUNNING"), 150.0)
    assert see_status(back, None, 100.0 + VANISHED_AFTER_SECONDS).state == "running"


def test_a_requeued_job_is_pending_again_and_runs_again() -> None:
    pending = see_status(JOB, JobStatus("PENDING", "BeginTime"), 100.0)
    again = see_status(pending, JobStatus("RUNNING"), 200.0)
    assert [entry.event for entry in again.history] == ["pending", "running"]


LINE = (
    b" [2026-01-31 10:00:00.000000] iteration       12/     100 | consumed samples:          768 | elapsed time per"
    b" iteration (ms): 27.0 | learning rate: 1.000000E-02 | global batch size:    64 | lm loss: 2.345600E+00 |"
    b" loss scale: 1.0 | grad norm: 0.500 | number of skipped iterations:   0 | number of nan iterations:   0 |"
)


def test_how_far_a_log_was_read_and_when_something_was_written_is_kept() -> None:
    seen = see_log(JOB, b"noise\n" + LINE + b"\n", Cursor("1", 500), 9.0)
    assert (seen.logs.cursor.offset, seen.run.last_activity) == (500, 9.0)
    assert see_log(seen, b"", Cursor("1", 500), 99.0) is seen


def test_iterations_and_losses_are_read_from_a_jobs_own_log() -> None:
    seen = WATCH.measured(JOB, b"noise\n" + LINE + b"\n", 9.0, own=True)
    assert (seen.progress.iteration, seen.progress.total, seen.progress.loss) == (12, 100, 2.3456)
    at = datetime.fromisoformat("2026-01-31 10:00:00").timestamp()
    assert Point("loss", 12, at, 2.3456) in seen.logs.unwritten
    assert WATCH.measured(JOB, LINE + b"\n", 9.0, own=False) is JOB


def test_a_loss_that_vanishes_from_the_line_is_no_number() -> None:
    lines = LINE + b"\n" + LINE.replace(b" lm loss: 2.345600E+00 |", b"") + b"\n"
    seen = WATCH.measured(JOB, lines, 9.0, own=True)
    assert seen.progress.loss is math.nan
    losses = [each.value for each in seen.logs.unwritten if isinstance(each, Point) and each.metric == "loss"]
    assert [math.isnan(value) for value in losses] == [False, True]


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (JobStatus("FAILED", "NonZeroExitCode", 1, out_of_memory=True), "oom", "a step of it ran out of memory"),
        (JobStatus("COMPLETED", "", 0, out_of_memory=True), "success", "COMPLETED, a step of it ran out of memory"),
        (JobStatus("TIMEOUT", "TimeLimit", out_of_memory=True), "timeout", "a step of it ran out of memory"),
        (JobStatus("CANCELLED", out_of_memory=True), "cancelled", "a step of it ran out of memory"),
        (JobStatus("OUT_OF_MEMORY", "OutOfMemory", out_of_memory=True), "oom", "OUT_OF_MEMORY, OutOfMemory"),
    ],
)
def test_a_step_out_of_memory_explains_a_failure_and_no_other_end(status: JobStatus, state: str, words: str) -> None:
    seen = see_status(JOB, status, 100.0)
    assert seen.state == state
    assert seen.history[-1].message.endswith(words)
    assert revised(seen, 101.0) == seen  # nothing came late


def test_a_job_that_we_have_cancelled_and_that_is_gone_is_cancelled() -> None:
    job = changed(JOB, cancelled_by="enough", end_asked_at=90.0)
    gone = see_status(see_status(job, None, 100.0), None, 100.0 + VANISHED_AFTER_SECONDS)
    assert (gone.state, gone.reason, gone.failed) == ("cancelled", "enough", False)


def test_of_two_jobs_with_one_id_it_is_the_newer_ones() -> None:
    old, new = (changed(JOB, token=token, submitted_at=at) for token, at in (("o", 1.0), ("n", 2.0)))
    assert by_id([new, old]) == {"7": new}
