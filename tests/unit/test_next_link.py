"""The links of a chain: what follows a link that has ended, what is in the queue for it, and what is shown of it."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.nouns import Chain, JobSpec, JobStatus
from oellm_autoexp.decisions import holding, restarts, submissions
from oellm_autoexp.decisions.lifecycle import VANISHED_AFTER_SECONDS, see_status
from oellm_autoexp.engine.executing.endings import cancel, due_endings
from oellm_autoexp.engine.observing.job_reports import JobReports
from oellm_autoexp.planning.batches import Ready, batches, submission
from oellm_autoexp.planning.jobs.chain import by_task, notes
from oellm_autoexp.rules.actions import RestartAction
from oellm_autoexp.sbatch.chains.links import waiting, with_chain
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.session import status_files
from oellm_autoexp.session.job_state import JobState, Restarting
from oellm_autoexp.session.session import Session
from oellm_autoexp.submission.room import Room
from oellm_autoexp.testing.jobs import job_state
from oellm_autoexp.testing.plans import job_spec, manifest
from oellm_autoexp.view.jobs.links import links

CHAIN = Chain(links=5, until=100, progress_file="/a/step", stop_file="/a/STOP")


def link(task: int = 2, **fields: Any) -> JobState:
    """A job that is at a link of array 12 with 5 of them."""
    plain = {"attempt": task, "scheduler_id": f"12_{task}", "token": "t", "task": task, "last_link": 5}
    return job_state(**{**plain, "state": "timeout", "scheduler_state": "TIMEOUT", **fields})


def test_the_links_that_follow_are_those_with_higher_numbers() -> None:
    assert link().later_links == {"12_3": "t", "12_4": "t", "12_5": "t"}
    assert link(5).later_links == {}
    assert link(last_link=None).later_links == {}
    assert not link().over
    assert link(5).over


@pytest.mark.parametrize(
    ("begun", "state", "why"),
    [(True, "crash", "killed, or its node was lost"), (False, "timeout", "this link was cancelled")],
)
def test_a_link_that_no_list_has_has_ended_once_a_later_one_has_begun(
    tmp_path: Path, begun: bool, state: str, why: str
) -> None:
    reports = JobReports({"a": job_spec(tmp_path, chain=CHAIN)}, lambda: 2000.0)
    marks = tmp_path / "a" / MARKS
    marks.mkdir(parents=True)
    job = link(state="running" if begun else "pending", scheduler_state="PENDING")
    if begun:
        (marks / "12_2.start").write_text("1005\n")
    assert reports.overtaken(job) is None
    (marks / "12_4.start").write_text("1006\n")
    lost = reports.overtaken(job)
    assert lost is not None
    assert lost.reason.startswith(why)
    assert reports.overtaken(replace(job, cancelled_by="given up")) is None  # what asked for its end says why it ended
    missed = see_status(job, None, 100.0, lost=lost)
    assert missed.state == job.state  # the list may only be late
    ended = see_status(missed, None, 100.0 + VANISHED_AFTER_SECONDS, lost=lost)
    assert (ended.state, ended.reason, ended.newest.vanished) == (
        state,
        lost.reason,
        False,
    )  # the next link need not wait


def test_a_person_who_cancels_one_link_uses_up_no_budget_of_a_rule(tmp_path: Path) -> None:
    reports = JobReports({"a": job_spec(tmp_path, chain=CHAIN)}, lambda: 2000.0)
    job = link(state="running", scheduler_state="RUNNING")
    status = reports.of_link(job, JobStatus("CANCELLED"), {"12_3": JobStatus("PENDING")})
    ended = see_status(job, status, 100.0)
    assert (ended.state, ended.reason) == ("timeout", "this link was cancelled, and the chain goes on")
    assert restarts.goes_on_by_itself(ended, RestartAction(class_name="RestartAction"))
    assert reports.of_link(job, JobStatus("CANCELLED"), {}).scheduler_state == "CANCELLED"


@pytest.mark.parametrize(("task", "state"), [(2, "cancelled"), (5, "timeout")])
@pytest.mark.parametrize("ended", ["COMPLETED", "TIMEOUT"])
def test_a_chain_that_is_cancelled_between_two_links_is_cancelled(
    tmp_path: Path, task: int, state: str, ended: str
) -> None:
    reports = JobReports({"a": job_spec(tmp_path, chain=CHAIN)}, lambda: 2000.0)
    job = link(task, state="running", scheduler_state="RUNNING", cancelled_by="by hand")
    job = replace(job, newest=replace(job.newest, last_link=None))  # they were removed from the queue
    seen = see_status(job, reports.completed(job, JobStatus(ended)), 100.0)
    assert (seen.state, seen.reason) == (state, "by hand")


def test_a_chain_whose_next_link_is_planned_is_cancelled(tmp_path: Path) -> None:
    between = restarts.next_link(link(), CHAIN, 7)
    session = Session(tmp_path / "session.json", "p", tmp_path / "manifest.json", {"a": between}, 1)
    assert session.jobs["a"].restart is not None
    assert cancel(session, "a", "by hand", 8.0, lambda line: None)
    job = session.jobs["a"]
    assert (job.state, job.reason, job.restart, job.cancelled_by) == ("cancelled", "by hand", None, "by hand")
    assert [each.name for each in due_endings([job], 9).jobs] == ["a"]


@pytest.mark.parametrize("state", ["timeout", "crash", "stall", "oom", "node_fail", "preempted"])
def test_after_a_link_that_ended_badly_the_next_one_is_planned(state: str) -> None:
    planned = restarts.next_link(link(state=state), CHAIN, 7)
    assert planned.restart is not None
    assert planned.restart.reason == "goes on with link 3 of 5"
    begun = restarts.begun(planned, 8)
    assert (begun.state, begun.later_links) == ("waiting", {"12_3": "t", "12_4": "t", "12_5": "t"})
    assert begun.past.restarts == {"next link": 1}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"state": "success"}, "no new attempt: it has succeeded"),
        ({"state": "cancelled"}, "no new attempt: it was cancelled by hand"),
        ({"exit_code": 93}, "no new attempt: exit code 93 asks for none"),
        ({"cancelled_by": "given up"}, "no new attempt: it was ended on purpose (given up)"),
    ],
)
def test_no_link_follows_a_job_that_has_ended_for_good_and_the_rest_leaves_the_queue(
    fields: dict[str, Any], why: str
) -> None:
    ended = restarts.next_link(link(**fields), CHAIN, 7)
    assert (ended.restart, ended.run.chain_end) == (None, why)
    assert [job.name for job in due_endings([ended], 9).jobs] == ["a"]


@pytest.mark.parametrize("job", [link(5), link(state="running"), link(restart=Restarting(attempt=2, cause="x"))])
def test_a_job_without_later_links_or_with_a_planned_attempt_is_not_changed(job: JobState) -> None:
    assert restarts.next_link(job, CHAIN, 7) is job


@pytest.mark.parametrize(
    ("fields", "follows"), [({"exit_code": 93}, True), ({"state": "cancelled"}, False), ({"cancelled_by": "x"}, False)]
)
def test_no_failure_ends_a_chain_that_a_later_link_has_completed(fields: dict[str, Any], follows: bool) -> None:
    ended = link(**fields)
    assert restarts.next_link(ended, CHAIN, 7).run.chain_end
    assert (restarts.next_link(ended, CHAIN, 7, complete=True).restart is not None) == follows


@pytest.mark.parametrize(
    ("job", "changes", "by_itself"),
    [
        (link(), {}, True),
        (link(5), {}, False),
        (link(state="crash"), {}, False),
        (link(), {"overrides": {"slurm.sbatch.mem": 1}}, False),
        (link(), {"exclude_nodes": "n1"}, False),
    ],
)
def test_a_link_that_ends_at_its_time_limit_needs_no_rule(
    job: JobState, changes: dict[str, Any], by_itself: bool
) -> None:
    request = RestartAction(class_name="RestartAction", **changes)
    assert restarts.goes_on_by_itself(job, request) == by_itself


@pytest.mark.parametrize(("job", "left"), [(link(), 0), (link(state="running"), 0), (link(5), 1)])
def test_a_job_between_two_links_keeps_its_place_in_the_queue(tmp_path: Path, job: JobState, left: int) -> None:
    session = Session(tmp_path / "p.json", "p", tmp_path, {"a": job}, 0)
    assert Room(session, 1, lambda: 0.0).left == left


def test_a_new_attempt_with_other_values_has_the_links_in_the_queue_ended_first() -> None:
    other = Restarting(attempt=2, cause="x", overrides={"slurm.sbatch.mem": 1})
    begun = restarts.begun(link(restart=other), 8)
    assert begun.later_links == {}
    assert [each.scheduler_id for each in begun.past.begun_again] == ["12_3", "12_4", "12_5"]
    assert [attempt.scheduler_id for _, attempt in due_endings([begun], 9).earlier] == ["12_3", "12_4", "12_5"]


def test_a_long_chain_that_is_replaced_is_ended_whole() -> None:
    other = Restarting(attempt=2, cause="x", overrides={"slurm.sbatch.mem": 1})
    begun = restarts.begun(link(last_link=60, restart=other), 8)
    assert len(begun.past.begun_again) == 58


def test_a_chain_is_one_submission_of_the_links_that_are_left() -> None:
    spec = job_spec(chain=CHAIN)
    (first,) = batches([Ready(spec)], 1001)
    (later,) = batches([Ready(spec, ("7",), attempt=4)], 1001)
    (beyond,) = batches([Ready(spec, attempt=9)], 1001)
    plan = manifest(jobs=[spec])
    made = [submission(plan, "t", batch) for batch in (first, later, beyond)]
    assert [(each.array, each.array_limit, each.dependency) for each in made] == [
        ((1, 2, 3, 4, 5), 1, ""),
        ((4, 5), 1, "afterok:7"),
        ((9,), 1, ""),
    ]
    assert {(each.name, each.script_path) for each in made} == {(spec.name, spec.script_path)}
    assert not first.is_array


def test_an_accepted_chain_is_at_its_first_link() -> None:
    job = submissions.accepted(job_state(state="submitting"), "t", 1, "12_1", "/a/12_1.out", 5, 5)
    assert job.history[-1].message == "as 12_1, link 1 of 5"
    assert (job.state, list(job.later_links)) == ("pending", ["12_2", "12_3", "12_4", "12_5"])
    assert holding.in_queue([job]) == dict.fromkeys(["12_1", "12_2", "12_3", "12_4", "12_5"], "t")


def test_nodes_that_a_chain_is_kept_from_are_in_its_history_once() -> None:
    first = job_state(state="submitting", left_out={"n3": "blamed 2 times"})
    job = submissions.accepted(first, "t", 1, "12_1", "/a/12_1.out", 5, 5)
    ended = replace(job, state="timeout", answer=replace(job.answer, scheduler_state="TIMEOUT"))
    begun = restarts.begun(restarts.next_link(ended, CHAIN, 7), 8)
    going_on = submissions.on_its_way(begun, "t", 2, (), begun.newest.left_out)
    job = submissions.accepted(going_on, "t", 2, "12_2", "/a/12_2.out", 9, 5)
    assert job.newest.left_out == {"n3": "blamed 2 times"}
    assert [entry.message for entry in job.history if entry.event == "nodes"] == ["left out n3 (blamed 2 times)"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a/%j.out", "/a/%A_%a.out"), ("/a/%%j.out", "/a/%%j.out"), ("/a/%A_%a.out", "/a/%A_%a.out"), ("/a/l", "/a/l")],
)
def test_the_log_of_a_link_is_named_by_the_id_that_is_known(path: str, expected: str) -> None:
    assert by_task(path) == expected


@pytest.mark.parametrize(
    ("lines", "scheduler_id", "expected"),
    [
        ("t\n12_3\ncomplete\n100 of 100\n", "12_3", status_files.ChainEnd("complete", "100 of 100")),
        ("t\n12_3\nfailed\nwhy\n", "12_4", status_files.ChainEnd("failed", "why")),
        ("t\n12_3\ncomplete\nx\n", "12_2", None),  # a later link than the one that is looked at
        ("other\n12_3\ncomplete\nx\n", "12_3", None),
        ("t\n12_3\nodd\nx\n", "12_3", None),
        ("t\nabc\ncomplete\nx\n", "12_3", None),
        ("t\n", "12_3", None),
        ("", "12_3", None),
    ],
)
def test_how_a_chain_has_ended_is_read_from_its_file(
    tmp_path: Path, lines: str, scheduler_id: str, expected: status_files.ChainEnd | None
) -> None:
    (tmp_path / "chain.end").write_text(lines)
    assert status_files.chain_end(tmp_path, "t", scheduler_id) == expected


def test_a_row_says_at_which_link_a_job_is_and_which_ones_ended_badly() -> None:
    spec: JobSpec = job_spec(chain=CHAIN)
    job = link(1, state="running")
    assert links(job, spec) == ["link 1 of 5"]
    for number, end in ((2, "timeout"), (3, "crash"), (4, "oom")):
        job = job.happened(number, "submitted", f"as 12_{number}, link {number} of 5").happened(number, end)
    job = replace(job.happened(9, "submitted", "as 12_5, link 5 of 5"), attempt=5)
    assert links(job, spec) == ["link 5 of 5", "link 3: crash", "link 4: oom"]
    assert links(job, job_spec()) == []


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7\n", "7"),
        ("  007 of 9\n8", "7"),
        ("12, then", "12"),
        ("12.", "12"),
        ("12e", ""),
        ("1.5e6", ""),
        ("1e6", ""),
        ("3.9", "3"),
        ("1234567890123456789012", ""),
        ("step 7", ""),
        ("", ""),
    ],
)
def test_the_whole_number_that_a_file_begins_with_is_how_far_a_run_is(tmp_path: Path, text: str, number: str) -> None:
    (tmp_path / "at").write_text(text)
    chain = CHAIN.model_copy(update={"progress_file": str(tmp_path / "at")})
    script = with_chain("true", chain, "IN_TERMINAL", by_slurm=False)
    done = subprocess.run(
        ["bash", "-c", f"IN_TERMINAL=1\n{script}\nautoexp_reached"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (number, "")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([["2 RUNNING"]], ""),
        ([["2 RUNNING", "3 RUNNING"]], ""),
        (
            [["1 RUNNING", "2 RUNNING"], ["1 COMPLETING", "2 RUNNING"], ["2 RUNNING"]],
            "waits for the end of link 1",
        ),
        ([["1 RESIZING"], ["1 SUSPENDED"], ["2 RUNNING"]], "waits for the end of link 1"),
        ([["3 COMPLETING"], ["2 RUNNING"]], ""),
        ([None, ["2 RUNNING"]], ""),
    ],
)
def test_a_link_waits_while_an_earlier_one_runs_and_says_so_once(
    tmp_path: Path, answers: list[list[str] | None], said: str
) -> None:
    for number, answer in enumerate(answers, 1):
        if answer is not None:
            (tmp_path / str(number)).write_text("".join(f"{line}\n" for line in answer))
    (tmp_path / "squeue").write_text('#!/bin/bash\ncd "${0%/*}" && echo x >> asked && cat "$(wc -l < asked)"\n')
    (tmp_path / "squeue").chmod(0o755)
    job = f"PATH={tmp_path}:$PATH SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=2; sleep() {{ :; }}"
    words = ["bash", "-c", f"{job}\n{waiting('IN_TERMINAL')}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == (f"oellm-autoexp: link 2 {said}\n" if said else "")
    assert len((tmp_path / "asked").read_text().splitlines()) == len(answers)


@pytest.mark.parametrize(
    ("asked", "until", "noted"),
    [("USR1@120", None, True), ("B:USR1@120", None, False), ("R:USR1@9", None, True), ("USR1@120", 9, False)],
)
def test_a_signal_that_the_script_does_not_see_is_noted_where_exit_code_0_completes_a_chain(
    asked: str, until: int | None, noted: bool
) -> None:
    chain = CHAIN.model_copy(update={"until": until})
    assert ("chain signal" in [note.about for note in notes(chain, {"signal": asked})]) is noted
