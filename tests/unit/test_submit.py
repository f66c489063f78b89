"""The submitter against a scheduler that hesitates, refuses and forgets: when it asks again, and when never."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import InvalidSubmissionError, Problem, SchedulerError, SubmitError, TooManyJobsError
from oellm_autoexp.core.nouns import Chain, JobStatus, Submission
from oellm_autoexp.planning.batches import Batch
from oellm_autoexp.rules.events import Deadline
from oellm_autoexp.schedulers.fake import FakeScheduler
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.submission.submit import Submitter
from oellm_autoexp.testing.jobs import changed
from oellm_autoexp.testing.plans import job_spec, manifest


class Slurm(FakeScheduler):
    """Takes what it is given, unless `error` is set; what it lists is in `known`."""

    settle_seconds = 30.0
    native_dependencies = True

    def __init__(self, **more: Any) -> None:
        super().__init__(states=["PENDING"], **more)
        self.error: Exception | None = None
        self.error_of: dict[str, Exception] = {}
        self.takes_all = False
        self.polls = 0
        self.silent = False
        self.known: dict[str, str] = {}

    def submit(self, submission: Submission) -> str:
        error = self.error_of.get(submission.name, self.error)
        if error is not None:
            self.submissions.append(submission)
            if self.takes_all:
                self.known[submission.token] = "77"
            raise error
        return super().submit(submission)

    def poll(self, jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        self.polls += 1
        return super().poll(jobs)

    def find(self, submissions: Collection[Submission]) -> Mapping[str, str]:
        if self.silent:
            raise SchedulerError(Problem("no answer"))
        return {one.token: self.known[one.token] for one in submissions if one.token in self.known}


class Desk:
    """A submitter with its session in a folder, and a clock that is set by hand."""

    def __init__(self, folder: Path, jobs: int = 1, *, each: Callable[[int], Mapping[str, Any]] = lambda i: {}) -> None:
        self.folder = folder
        self.slurm = Slurm()
        self.clock = 1000.0
        specs = []
        for index in range(jobs):
            output = folder / f"job{index}"
            (output / "logs").mkdir(parents=True)
            (output / "job.sbatch").write_text("#!/bin/bash\n#SBATCH --time=5\ntrue\n")
            specs.append(job_spec(folder, output.name, **{"index": index, **each(index)}))
        self.manifest = manifest(folder, specs)
        self.session = Session.create(self.manifest, folder / "p.json")

    def submitter(self, **scheduler: Any) -> Submitter:
        """A new process with the session as it is on disk."""
        manifest = self.manifest.model_copy(update={"scheduler": {**self.manifest.scheduler, **scheduler}})
        self.session = Session.load(self.session.path)
        return Submitter(manifest, self.session, self.slurm, pause=self.sleep, now=lambda: self.clock)

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    @property
    def job(self) -> JobState:
        return self.session.jobs["job0"]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def hang(desk: Desk) -> str:
    """An sbatch with an unclear answer; returns its token."""
    desk.slurm.error = SchedulerError(Problem("timed out"))
    assert desk.submitter().submit_ready() == 0
    desk.slurm.error = None
    return desk.slurm.submissions[0].token


def test_an_unclear_submission_is_made_again_only_after_it_was_denied_for_a_while(desk: Desk) -> None:
    hang(desk)
    for _ in range(3):
        assert desk.submitter().submit_ready() == 0
        assert (desk.job.state, len(desk.slurm.submissions)) == ("submitting", 1)
        assert "not known yet whether it was submitted" in desk.job.reason
        desk.clock += 10
    assert desk.submitter().submit_ready() == 0
    assert (desk.job.state, desk.job.reason) == (
        "waiting",
        "its submission got no clear answer, and the scheduler does not know the job (timed out)",
    )
    desk.clock = desk.job.waiting.retry_at
    assert desk.submitter().submit_ready() == 1
    assert (desk.job.state, desk.job.newest.scheduler_id, len(desk.slurm.submissions)) == ("pending", "2", 2)


def test_a_submission_that_is_lost_again_and_again_is_made_less_and_less_often(desk: Desk) -> None:
    desk.slurm.error = SchedulerError(Problem("timed out"))
    pauses = []
    for _ in range(3):
        submitter = desk.submitter()
        submitter.submit_ready()
        submitter.settle_all()
        pauses.append(desk.job.waiting.retry_at - desk.clock)
        desk.clock = desk.job.waiting.retry_at
    assert len(desk.slurm.submissions) == 3
    assert pauses == sorted(pauses)
    assert pauses[-1] > 2 * pauses[0]


def test_one_unclear_answer_keeps_no_other_job_from_going_where_the_scheduler_tells_of_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3)
    desk.slurm.error_of = {"job0": SchedulerError(Problem("Zero Bytes were transmitted or received"))}
    assert desk.submitter().submit_ready() == 2
    assert [job.state for job in desk.session.jobs.values()] == ["submitting", "pending", "pending"]
    assert desk.job.history[-1].message == "Zero Bytes were transmitted or received"


def test_an_unclear_answer_of_a_scheduler_that_can_not_be_asked_for_it_ends_the_round(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3)
    desk.slurm.error, desk.slurm.silent = SchedulerError(Problem("timed out")), True
    with pytest.raises(SchedulerError, match="timed out"):
        desk.submitter().submit_ready()
    assert [job.state for job in desk.session.jobs.values()] == ["submitting", "waiting", "waiting"]


def test_a_job_whose_answer_is_lost_is_found_at_once_if_it_is_there(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.slurm.takes_all = True
    desk.slurm.error = SchedulerError(Problem("timed out"))
    assert desk.submitter().submit_ready() == 1
    assert (desk.job.state, desk.job.newest.scheduler_id) == ("pending", "77")


def test_a_submission_that_comes_into_being_late_is_found(desk: Desk) -> None:
    token = hang(desk)
    desk.submitter().settle()
    desk.clock += 29
    desk.slurm.known[token] = "77"
    submitter = desk.submitter()
    submitter.settle_all()
    assert (desk.job.state, desk.job.newest.scheduler_id, desk.job.reason) == ("pending", "77", "")
    assert submitter.submit_ready() == 0


def test_a_scheduler_that_falls_silent_again_must_deny_it_from_anew(desk: Desk) -> None:
    hang(desk)
    desk.submitter().settle()
    desk.clock += 29
    desk.slurm.silent = True
    with pytest.raises(SchedulerError):
        desk.submitter().submit_ready()
    desk.clock += 29
    desk.slurm.silent = False
    assert desk.submitter().submit_ready() == 0
    assert desk.job.state == "submitting"


def test_settling_waits_until_everything_is_clear(desk: Desk) -> None:
    hang(desk)
    submitter = desk.submitter()
    submitter.settle_all()
    assert (desk.job.state, desk.clock >= 1030, submitter.unsettled) == ("waiting", True, 0)


@pytest.mark.parametrize("group", [None, "alike"])
def test_a_job_that_everybody_has_forgotten_is_reported_from_its_own_mark(tmp_path: Path, group: str | None) -> None:
    desk = Desk(tmp_path, 3, each=lambda index: {"array_group": group})
    token = hang(desk)
    marks = tmp_path / "job0" / "marks"
    marks.mkdir()
    (marks / "50.start").write_text("1700000000\nsweep.0ther000\n")
    (marks / ("51_0.start" if group else "51.start")).write_text(f"1700000000\nsweep.{token}\n")
    desk.submitter().settle()
    ids = [job.newest.scheduler_id for job in desk.session.jobs.values()]
    assert ids == (["51_0", "51_1", "51_2"] if group else ["51", "", ""])


def test_an_intent_for_half_an_array_keeps_the_numbers_of_its_tasks(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3, each=lambda index: {"array_group": "alike"})
    token = hang(desk)
    torn = changed(desk.session.jobs["job0"], state="pending", scheduler_id="9_0")
    desk.session.put(torn)
    desk.session.save()
    desk.slurm.known[token] = "9"
    desk.submitter().settle()
    assert [job.newest.scheduler_id for job in desk.session.jobs.values()] == ["9_0", "9_1", "9_2"]


def test_a_passing_refusal_is_retried_soon_and_then_less_often(desk: Desk) -> None:
    desk.slurm.error = SubmitError(Problem("QOSMaxSubmitJobPerUserLimit"))
    pauses = []
    for _ in range(8):
        desk.submitter().submit_ready()
        assert (desk.job.state, desk.job.reason) == ("waiting", "QOSMaxSubmitJobPerUserLimit")
        pauses.append(desk.job.waiting.retry_at - desk.clock)
        desk.clock = desk.job.waiting.retry_at - 1
        desk.submitter().submit_ready()
        desk.clock += 1
    assert len(desk.slurm.submissions) == 8
    for number, pause in enumerate(pauses):
        assert 0.8 * min(30 * 2**number, 900) <= pause <= 1.2 * min(30 * 2**number, 900)
    assert len({pause / 900 for pause in pauses[-3:]}) == 3  # never quite the same
    assert [entry.event for entry in desk.job.history] == ["refused"]


def test_a_job_that_is_refused_for_weeks_is_still_tried(desk: Desk) -> None:
    desk.session.put(changed(desk.job, refusals=5000))
    desk.session.save()
    desk.slurm.error = SubmitError(Problem("QOSMaxSubmitJobPerUserLimit"))
    desk.submitter().submit_ready()
    assert (desk.job.waiting.refusals, desk.job.waiting.retry_at - desk.clock <= 1080) == (5001, True)
    desk.slurm.error = None
    submitter = desk.submitter()
    assert submitter.submit_ready() == 0
    submitter.retry_now()
    assert submitter.submit_ready() == 1


def test_siblings_are_looked_up_again_when_submitting_takes_long(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3, each=lambda index: {"depends_on": ("job0",)} if index else {})
    desk.submitter().submit_ready()
    submitter = desk.submitter(native_dependencies=True, submit_rate_limit_seconds=60)
    forget = desk.slurm._scripts

    def pause(seconds: float) -> None:
        desk.sleep(seconds)
        forget.clear()
        desk.slurm._shown.clear()

    submitter.pause = pause
    assert submitter.submit_ready(patient=True) == 1
    assert [job.state for job in desk.session.jobs.values()] == ["pending", "pending", "waiting"]


def test_what_no_waiting_mends_is_asked_for_only_now_and_then(desk: Desk) -> None:
    desk.slurm.error = InvalidSubmissionError(Problem("Invalid partition name specified"))
    desk.submitter().submit_ready()
    assert 720 <= desk.job.waiting.retry_at - desk.clock <= 1080


def test_arrays_are_cut_to_the_sites_largest(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 7, each=lambda index: {"array_group": "alike"})
    desk.slurm = Slurm(max_array_size=3)
    assert desk.submitter().submit_ready() == 7
    assert [one.array for one in desk.slurm.submissions] == [(0, 1, 2), (0, 1, 2), (0,)]
    assert desk.session.jobs["job5"].newest.scheduler_id == "2_2"
    folder = tmp_path / "manifests" / "p.arrays" / desk.slurm.submissions[1].token
    assert (folder / "2" / "job.sbatch").resolve() == tmp_path / "job5" / "job.sbatch"
    assert (folder / "2" / "logs").resolve() == tmp_path / "job5" / "logs"


def test_a_chain_goes_to_the_queue_at_once_where_the_scheduler_awaits_siblings(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3, each=lambda index: {"depends_on": (f"job{index - 1}",)} if index else {})
    assert desk.submitter(native_dependencies=True).submit_ready() == 3
    assert desk.slurm.polls == 0, "what the scheduler has just taken is there"
    assert [one.dependency for one in desk.slurm.submissions] == ["", "afterok:1", "afterok:2"]


def test_nothing_goes_behind_a_job_that_the_scheduler_no_longer_lists(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 2, each=lambda index: {"depends_on": ("job0",)} if index else {})
    desk.submitter().submit_ready()
    desk.slurm._scripts.clear()
    desk.slurm._shown.clear()
    assert desk.submitter(native_dependencies=True).submit_ready() == 0
    assert desk.session.jobs["job1"].state == "waiting"


def test_a_command_that_says_no_keeps_a_job_waiting_until_it_says_yes(tmp_path: Path) -> None:
    words = ("test", "-e", str(tmp_path / "data"))
    desk = Desk(tmp_path, each=lambda index: {"start_condition_cmd": words})
    submitter = desk.submitter()
    while not desk.job.reason.startswith("waits for start_condition_cmd test: not fulfilled (exit code 1)"):
        assert submitter.submit_ready() == 0
    (tmp_path / "data").touch()
    assert submitter.submit_ready() == 0
    desk.clock += 60
    while not submitter.submit_ready():
        assert desk.job.state == "waiting"
    assert desk.job.state == "pending"
    assert desk.job.waiting.waiting_since is None


def test_a_job_that_waited_too_long_is_cancelled_also_across_resumes(tmp_path: Path) -> None:
    condition = {"class_name": "FileExistsCondition", "path": "/nowhere/x", "timeout_seconds": 100}
    desk = Desk(tmp_path, each=lambda index: {"start_conditions": (condition,)})
    for _ in range(4):
        desk.submitter().submit_ready()
        assert desk.job.state == "waiting"
        desk.clock += 30
    desk.submitter().submit_ready()
    assert (desk.job.state, desk.job.reason) == ("cancelled", "cancelled: waited 100 s for FileExists: /nowhere/x")


# --- many jobs --------------------------------------------------------------------------------------------------------

INVALID = InvalidSubmissionError(Problem("Requested node configuration is not available"))
LIMIT = SubmitError(Problem("QOSMaxSubmitJobPerUserLimit"))


def states(desk: Desk) -> list[str]:
    return [job.state for job in desk.session.jobs.values()]


@pytest.mark.parametrize("room", [None, 2, 3])
def test_jobs_that_can_never_go_keep_no_other_from_going(tmp_path: Path, room: int | None) -> None:
    desk = Desk(tmp_path, 7)
    desk.slurm.error_of = {f"job{index}": INVALID for index in range(4)}
    went = 3 if room is None else room
    assert desk.submitter(max_jobs=room).submit_ready() == went
    assert states(desk) == [*["waiting"] * 4, *["pending"] * went, *["waiting"] * (3 - went)]


def test_a_limit_is_not_asked_for_by_every_job_and_those_that_were_not_tried_come_first_next_time(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, 6)
    desk.slurm.error = LIMIT
    submitter = desk.submitter()
    assert submitter.submit_ready() == 0
    assert [one.name for one in desk.slurm.submissions] == ["job0", "job1", "job2"]
    desk.clock += 1000
    submitter.submit_ready()
    assert [one.name for one in desk.slurm.submissions[3:]] == ["job3", "job4", "job5"]


def test_an_array_that_can_not_be_prepared_is_refused_and_the_other_jobs_go(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3, each=lambda index: {"array_group": "alike" if index < 2 else None})
    (tmp_path / "manifests").write_text("no folder")
    assert desk.submitter().submit_ready() == 1
    assert states(desk) == ["waiting", "waiting", "pending"]
    assert desk.job.reason.startswith("can't prepare the array: ")
    assert desk.job.waiting.retry_at > desk.clock


def test_a_member_of_an_array_whose_script_is_gone_waits_alone_and_is_given_up_after_a_day(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3, each=lambda index: {"array_group": "alike"})
    (tmp_path / "job0" / "job.sbatch").unlink()
    assert desk.submitter().submit_ready() == 2
    assert states(desk) == ["waiting", "pending", "pending"]
    assert desk.job.reason == f"the script {tmp_path}/job0/job.sbatch no longer exists"
    assert desk.job.waiting.deadline == Deadline(at=desk.clock + 86400, then="given up")
    tries = 0
    while desk.job.state == "waiting":
        desk.clock = desk.job.waiting.retry_at
        desk.submitter().submit_ready()
        tries += 1
    assert (desk.job.state, desk.job.attempt, desk.job.failed) == ("crash", 1, True)
    assert desk.job.reason == f"given up: for a day, the script {tmp_path}/job0/job.sbatch no longer exists"
    assert desk.clock - 1000 >= 86400
    assert tries < 150


def test_a_working_directory_that_comes_back_is_no_reason_to_give_up(desk: Desk) -> None:
    desk.folder.chmod(0o700)
    gone = desk.manifest.jobs[0].model_copy(update={"work_dir": str(desk.folder / "away")})
    desk.manifest = desk.manifest.model_copy(update={"jobs": (gone,)})
    desk.submitter().submit_ready()
    assert (desk.job.state, desk.job.reason) == (
        "waiting",
        f"the working directory {desk.folder}/away no longer exists",
    )
    (desk.folder / "away").mkdir()
    desk.clock = desk.job.waiting.retry_at
    assert desk.submitter().submit_ready() == 1
    assert (desk.job.waiting.deadline, desk.job.waiting.files_missing_since, desk.job.waiting.refusals) == (
        None,
        None,
        0,
    )


def own_script(desk: Desk, overrides: Mapping[str, Any]) -> None:
    """A second attempt that waits, with overrides of its own."""
    update = {"attempt": 1, "scheduler_id": "5", "overrides": dict(overrides)}
    desk.session.put(changed(desk.job, **update))
    desk.session.save()


def test_a_script_of_its_own_that_is_refused_for_good_ends_the_job_with_the_reason(desk: Desk) -> None:
    own_script(desk, {"slurm.sbatch.gres": "gpu:99"})
    desk.session.put(changed(desk.job, excluded=("n1", "n2")))
    desk.session.save()
    desk.slurm.error = INVALID
    submitter = desk.submitter()
    submitter.submit_ready()
    assert (desk.job.state, desk.job.failed, desk.job.over) == ("crash", True, True)
    assert desk.job.reason == (
        "Requested node configuration is not available"
        " (for an attempt with other values of slurm.sbatch.gres and without n1, n2)"
    )
    assert (desk.job.attempt, desk.job.newest.scheduler_id) == (2, "")
    desk.clock += 10_000
    submitter.retry_now()
    submitter.submit_ready()
    assert len(desk.slurm.submissions) == 1


def test_a_script_of_its_own_that_can_not_be_made_ends_the_job_with_the_reason(desk: Desk) -> None:
    own_script(desk, {"slurm.sbatch.output": "x"})
    desk.submitter().submit_ready()
    assert (desk.job.state, desk.job.over, desk.slurm.submissions) == ("crash", True, [])
    assert desk.job.reason == "its script can't be written: 'output' is set by the program"


def test_every_wait_tells_since_when_and_until_when(tmp_path: Path) -> None:
    condition = {"class_name": "FileExistsCondition", "path": "x", "timeout_seconds": 500}
    desk = Desk(tmp_path, 7, each=lambda index: {"start_conditions": (condition,)} if index == 6 else {})
    desk.slurm.error = LIMIT
    submitter = desk.submitter(submit_rate_limit_seconds=0)
    submitter.submit_ready()
    waits = {job.name: (job.waiting.waiting_since, job.waiting.deadline) for job in desk.session.jobs.values()}
    assert {since for since, _ in waits.values()} == {1000.0}
    assert waits["job0"][1] == Deadline(at=desk.job.waiting.retry_at, then="tried again")
    assert waits["job5"][1] == Deadline(at=1030, then="tried")
    assert waits["job6"][1] == Deadline(at=1500, then="cancelled")
    desk.slurm.error = None
    desk.clock = 2000
    desk.submitter(submit_rate_limit_seconds=60).submit_ready()
    turns = [job.waiting.deadline for job in desk.session.jobs.values() if "its turn" in job.reason]
    assert {turn.then for turn in turns if turn} == {"submitted"}
    assert sorted(turn.at for turn in turns if turn) == [2000 + 60 * place for place in range(1, 6)]


def test_an_intent_that_can_not_be_saved_is_none(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    submitter = desk.submitter()

    def full(session: Session) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Session, "journal", full)
        with pytest.raises(OSError, match="No space"):
            submitter.submit_ready()
    assert (desk.job.state, desk.job.newest.token, desk.slurm.submissions) == ("waiting", "", [])
    assert submitter.submit_ready() == 1
    assert Session.load(desk.session.path).jobs["job0"].state == "pending"


def test_submissions_keep_their_distance_across_looks_and_no_look_waits_for_them(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3)
    submitter = desk.submitter(submit_rate_limit_seconds=15)
    went = {}
    while "waiting" in states(desk):
        before = desk.clock
        if submitter.submit_ready():
            went[desk.clock] = submitter.due_in
        assert desk.clock == before
        reasons = {job.reason for job in desk.session.jobs.values() if job.state == "waiting"}
        assert reasons <= {"waits for its turn (scheduler.submit_rate_limit_seconds)"}
        desk.clock += 5
    assert went == {1000: 15, 1015: 15, 1030: math.inf}


def test_who_waits_for_the_submission_waits_for_the_turns_of_all(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3)
    assert desk.submitter(submit_rate_limit_seconds=15).submit_ready(patient=True) == 3
    assert desk.clock == 1030


def test_a_clock_that_is_set_back_holds_nothing_up(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 2)
    submitter = desk.submitter(submit_rate_limit_seconds=15)
    submitter.submit_ready()
    desk.clock -= 600
    assert submitter.submit_ready() == 1


def test_what_a_job_has_waited_for_is_not_told_when_it_waits_for_room(tmp_path: Path) -> None:
    there = {"class_name": "FileExistsCondition", "path": str(tmp_path / "there")}
    desk = Desk(tmp_path, 2, each=lambda index: {"start_conditions": (there,) if index else ()})
    submitter = desk.submitter(max_jobs=1)
    submitter.submit_ready()
    assert desk.session.jobs["job1"].reason.startswith("waits for FileExists")
    (tmp_path / "there").touch()
    submitter.submit_ready()
    assert desk.session.jobs["job1"].reason == "waits for room in the queue (scheduler.max_jobs)"


def test_a_command_that_said_yes_is_not_asked_again_before_its_time_while_the_job_waits_for_room(
    tmp_path: Path,
) -> None:
    words = ("sh", "-c", f"echo asked >> '{tmp_path}/asked'")
    desk = Desk(tmp_path, 2, each=lambda index: {"start_condition_cmd": words if index else ()})
    submitter = desk.submitter(max_jobs=1)
    submitter.submit_ready()
    while desk.session.jobs["job1"].reason != "waits for room in the queue (scheduler.max_jobs)":
        submitter.submit_ready()
    for _ in range(5):
        desk.clock += 10
        submitter.submit_ready()
    assert (tmp_path / "asked").read_text() == "asked\n"
    assert not submitter.checking


def test_what_was_asked_for_a_job_is_forgotten_when_it_is_submitted(tmp_path: Path) -> None:
    no = {"class_name": "CommandCondition", "command": ["sh", "-c", "sleep 0.3; false"], "interval_seconds": 1}
    desk = Desk(tmp_path, each=lambda index: {"cancel_conditions": (no,)})
    submitter = desk.submitter()
    assert submitter.submit_ready() == 0
    assert desk.job.reason == "waits for the result of: Command: sh -c 'sleep 0.3; false'"
    while not submitter.submit_ready():
        assert desk.job.state == "waiting"
    desk.clock += 100
    submitter.submit_ready()
    assert not submitter.checking


def test_a_job_may_wait_for_some_time_before_it_is_submitted(tmp_path: Path) -> None:
    later = {"class_name": "ElapsedTimeCondition", "seconds": 60}
    desk = Desk(tmp_path, each=lambda index: {"start_conditions": (later,)})
    for _ in range(3):
        assert desk.submitter().submit_ready() == 0
        desk.clock += 20
    assert desk.submitter().submit_ready() == 1


# --- more than the scheduler takes ------------------------------------------------------------------------------------


class Full(Slurm):
    """Takes `most` jobs at once; `gone` of those that it took have ended."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.asked: list[int] = []
        self.gone = 0

    def submit(self, submission: Submission) -> str:
        size = len(submission.array) or 1
        self.asked.append(size)
        if sum(len(one.array) or 1 for one in self.submissions) - self.gone + size > self.most:
            raise TooManyJobsError(Problem("sbatch: AssocMaxSubmitJobLimit"))
        return super().submit(submission)


def crowd(folder: Path, most: int, jobs: int, **each: Any) -> tuple[Desk, Full, Submitter]:
    desk = Desk(folder, jobs, each=lambda i: each)
    desk.slurm = full = Full(most)
    return desk, full, desk.submitter()


def test_an_array_that_is_too_large_for_the_site_goes_in_parts_and_the_rest_waits_for_ends(tmp_path: Path) -> None:
    desk, slurm, submitter = crowd(tmp_path, most=6, jobs=20, array_group="g")
    assert submitter.submit_ready() == 6
    assert states(desk) == ["pending"] * 6 + ["waiting"] * 14
    words = (
        "waits until the scheduler accepts more jobs; scheduler.max_jobs says how many jobs may be in the queue at once"
    )
    assert {job.reason for job in desk.session.jobs.values() if job.state == "waiting"} == {
        f"{words} (sbatch: AssocMaxSubmitJobLimit)"
    }
    assert len(list((tmp_path / "manifests" / "p.arrays").iterdir())) == len(slurm.submissions), "no refused array"
    asked = len(slurm.asked)
    assert submitter.submit_ready() == 0
    assert len(slurm.asked) == asked, "it is not asked again while it is full"
    for name in ("job0", "job3"):
        desk.session.put(changed(desk.session.jobs[name], state="success"))
    slurm.gone = 2
    assert submitter.submit_ready() == 2
    assert slurm.asked[asked:] == [2], "as many as have ended"
    assert sum(job.waiting.refusals for job in desk.session.jobs.values()) == 0


def test_now_and_then_one_more_is_tried_and_if_it_is_taken_all_of_them(tmp_path: Path) -> None:
    desk, slurm, submitter = crowd(tmp_path, most=2, jobs=9)
    assert submitter.submit_ready() == 2
    desk.clock += 40
    asked = len(slurm.asked)
    assert submitter.submit_ready() == 0
    assert len(slurm.asked) == asked + 1
    slurm.most = 100
    desk.clock += 40
    assert submitter.submit_ready() == 0, "the pause grows"
    desk.clock += 80
    assert submitter.submit_ready() == 7
    assert states(desk) == ["pending"] * 9


def test_where_the_site_takes_none_at_first_all_wait_with_the_reason(tmp_path: Path) -> None:
    desk, slurm, submitter = crowd(tmp_path, most=0, jobs=5, array_group="g")
    assert submitter.submit_ready() == 0
    assert slurm.asked == [5, 2, 1]
    assert all("scheduler.max_jobs" in job.reason for job in desk.session.jobs.values())
    assert states(desk) == ["waiting"] * 5


def test_tasks_that_correspond_to_another_arrays_keep_their_numbers_in_parts(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3)
    one, two, three = desk.manifest.jobs
    first, second = Batch({4: one, 5: two, 9: three}, "aftercorr:7").halves()
    assert (set(first.jobs), set(second.jobs), first.dependency) == ({4}, {5, 9}, "aftercorr:7")
    first, second = Batch({4: one, 5: two, 9: three}).halves()
    assert (list(first.jobs), list(second.jobs)) == ([0], [0, 1])


@pytest.mark.parametrize(
    ("links", "words"), [(2, "waits until the scheduler accepts more jobs"), (5, "more than the 2")]
)
def test_a_chain_that_is_longer_than_an_array_may_be_is_refused_as_such(tmp_path: Path, links: int, words: str) -> None:
    desk = Desk(tmp_path, each=lambda _: {"chain": Chain(links=links, stop_file="/STOP")})
    desk.slurm = Slurm(max_array_size=3)
    desk.slurm.error = TooManyJobsError(Problem("sbatch: Invalid job array specification"))
    assert desk.submitter().submit_ready() == 0
    assert words in desk.session.jobs["job0"].reason
