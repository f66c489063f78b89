"""One scheduler for several sessions: one question, and everybody's answer out of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from oellm_autoexp.core.errors import Problem, SchedulerError
from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.schedulers.fake import FakeScheduler
from oellm_autoexp.schedulers.shared import SharedScheduler


class Counting(FakeScheduler):
    """Knows jobs 1 to 4, counts questions, and may be down."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[Collection[str]] = []
        self.down = False

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        self.questions.append(sorted(jobs))
        if self.down:
            raise SchedulerError(Problem("down"))
        return {job: JobStatus("RUNNING") for job in jobs if job in "1234"}


def test_one_question_answers_all_who_ask_for_some_of_it() -> None:
    scheduler = Counting()
    shared = SharedScheduler(scheduler)
    shared.ask(dict.fromkeys(["1", "2", "3", "9"], ""))
    assert shared.poll(dict.fromkeys(["1", "9"], "")) == {"1": JobStatus("RUNNING")}
    assert shared.poll(dict.fromkeys(["2", "3"], "")) == {"2": JobStatus("RUNNING"), "3": JobStatus("RUNNING")}
    assert scheduler.questions == [["1", "2", "3", "9"]]


def test_a_job_that_is_new_is_asked_for_at_once() -> None:
    scheduler = Counting()
    shared = SharedScheduler(scheduler)
    shared.ask(dict.fromkeys(["1"], ""))
    assert shared.poll(dict.fromkeys(["1", "4"], "")) == {"1": JobStatus("RUNNING"), "4": JobStatus("RUNNING")}
    assert scheduler.questions == [["1"], ["1", "4"]]


def test_a_failure_is_everybodys_until_the_next_question_and_nobodys_who_has_no_jobs() -> None:
    scheduler = Counting()
    shared = SharedScheduler(scheduler)
    scheduler.down = True
    shared.ask(dict.fromkeys(["1", "2"], ""))
    for job in ("1", "2"):
        with pytest.raises(SchedulerError, match="down"):
            shared.poll(dict.fromkeys([job], ""))
    assert shared.poll({}) == {}
    scheduler.down = False
    shared.ask(dict.fromkeys(["1", "2"], ""))
    assert set(shared.poll(dict.fromkeys(["1"], ""))) == {"1"}
    assert len(scheduler.questions) == 2


def test_an_exclusion_is_passed_on() -> None:
    reported: list[object] = []

    class Reporting(Counting):
        def exclude(self, jobs: Mapping[str, str], nodes: Collection[str]) -> Mapping[str, str]:
            reported.append((dict(jobs), nodes))
            return {}

    SharedScheduler(Reporting()).exclude(dict.fromkeys(["1"], ""), ["n1"])
    assert reported == [({"1": ""}, ["n1"])]


def test_a_job_whose_id_another_session_has_asked_for_with_another_token_is_asked_for_itself() -> None:
    scheduler = Counting()
    shared = SharedScheduler(scheduler)
    shared.ask({"1": "new", "2": "two"})
    assert shared.poll({"2": "two"}).keys() == {"2"}
    shared.poll({"1": "old"})
    assert scheduler.questions == [["1", "2"], ["1"]]
