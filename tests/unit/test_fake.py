"""The scripted scheduler plays its script."""

from __future__ import annotations

import pytest

from oellm_autoexp.core.errors import SubmitError
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.schedulers.fake import FakeScheduler, Script


def submission(name: str, array: tuple[int, ...] = ()) -> Submission:
    return Submission(f"token of {name}", name, "/script", "/", "/log", array=array)


def states(client: FakeScheduler, job: str, polls: int) -> list[str]:
    return [client.poll(dict.fromkeys([job], ""))[job].scheduler_state for _ in range(polls)]


def test_a_job_goes_through_its_states_one_per_poll_and_stays_in_the_last() -> None:
    client = FakeScheduler()
    job = client.submit(submission("a"))
    assert states(client, job, 5) == ["PENDING", "RUNNING", "COMPLETED", "COMPLETED", "COMPLETED"]
    assert client.poll(dict.fromkeys([job], ""))[job].exit_code == 0


def test_jobs_and_tasks_behave_each_in_its_own_way() -> None:
    def behave(taken: Submission, task: int | None) -> Script | None:
        if taken.name == "odd":
            return (JobStatus("RUNNING", nodes="n1"), JobStatus("FAILED", exit_code=7))
        return ("FAILED",) if task == 2 else None

    client = FakeScheduler(("COMPLETED",), behave)
    odd, plain = client.submit(submission("odd")), client.submit(submission("plain", array=(1, 2)))
    assert client.poll(dict.fromkeys([odd], "")) == {odd: JobStatus("RUNNING", nodes="n1")}
    answers = client.poll(dict.fromkeys([odd, f"{plain}_1", f"{plain}_2", plain, "99"], ""))
    assert {job: (status.scheduler_state, status.exit_code) for job, status in answers.items()} == {
        odd: ("FAILED", 7),
        f"{plain}_1": ("COMPLETED", 0),
        f"{plain}_2": ("FAILED", 1),
    }


def test_a_refused_job_is_not_taken() -> None:
    client = FakeScheduler(refuse=["b"])
    client.submit(submission("a"))
    with pytest.raises(SubmitError, match="refused"):
        client.submit(submission("b"))
    assert client.submissions == [submission("a")]
    assert client.find([submission("a"), submission("b")]) == {"token of a": "1"}


def test_a_cancel_ends_what_was_last_seen_alive_whatever_the_script_has_next() -> None:
    client = FakeScheduler(("RUNNING", "COMPLETED"))
    unseen, running, ended, array = (client.submit(submission(name, (0, 1) * (name == "d"))) for name in "abcd")
    client.poll(dict.fromkeys([running], ""))
    states(client, ended, 2)
    client.cancel(dict.fromkeys([unseen, running, ended, array, "99"], ""))
    jobs = [unseen, running, ended, f"{array}_0", f"{array}_1"]
    assert [states(client, job, 2)[-1] for job in jobs] == [
        "CANCELLED",
        "CANCELLED",
        "COMPLETED",
        "CANCELLED",
        "CANCELLED",
    ]
