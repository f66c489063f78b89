"""What a scheduler's answer means for a job: each case is a row, and no answer changes anything."""

from __future__ import annotations

import pytest

from oellm_autoexp.logs import Cursor
from oellm_autoexp.model import JobStatus
from oellm_autoexp.monitor.detect import VANISHED_AFTER_SECONDS, conclude, see_log, see_status
from oellm_autoexp.monitor.tracked import FINAL, TrackedJob
from oellm_autoexp.scheduler.base import ENDED, RUNNING, UNKNOWN

JOB = TrackedJob(name="a", state="running", scheduler_id="7", scheduler_state="RUNNING", started_at=1.0)


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
    assert not any(conclude(word) in FINAL for word in RUNNING)


def test_an_end_is_recorded_with_time_code_and_words() -> None:
    seen = see_status(JOB, JobStatus("FAILED", "NonZeroExitCode", 7, "n1"), 100.0)
    assert (seen.state, seen.exit_code, seen.nodes, seen.ended_at) == ("crash", 7, "n1", 100.0)
    assert seen.history[-1].message == "FAILED, NonZeroExitCode, exit code 7"


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
    assert (late.state, late.ended_at) == ("crash", 100.0 + VANISHED_AFTER_SECONDS)
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


def test_iterations_and_losses_are_read_from_new_lines_only() -> None:
    seen = see_log(JOB, b"noise\n" + LINE + b"\n", Cursor("1", 500), 9.0)
    assert (seen.progress.iteration, seen.progress.total, seen.progress.loss) == (12, 100, 2.3456)
    assert (seen.cursor.offset, seen.last_activity) == (500, 9.0)
    assert see_log(seen, b"", Cursor("1", 500), 99.0) is seen


def test_a_loss_that_vanishes_from_the_line_is_no_number() -> None:
    seen = see_log(JOB, LINE + b"\n" + LINE.replace(b" lm loss: 2.345600E+00 |", b"") + b"\n", Cursor("1", 900), 9.0)
    assert seen.progress.loss is None
