"""The submitter against a scheduler that hesitates, refuses and forgets: when it asks again, and when never."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.errors import InvalidSubmissionError, Problem, SchedulerError, SubmitError
from oellm_autoexp.model import JobSpec, Manifest, Submission
from oellm_autoexp.monitor.session import Session
from oellm_autoexp.monitor.tracked import TrackedJob
from oellm_autoexp.scheduler.fake import FakeSlurmClient
from oellm_autoexp.workflow.submit import Submitter


class Slurm(FakeSlurmClient):
    """Takes what it is given, unless `trouble` raises; what it lists is in `known`."""

    settle_seconds = 30.0
    native_dependencies = True

    def __init__(self, **more: Any) -> None:
        super().__init__(states=["PENDING"], **more)
        self.trouble: Exception | None = None
        self.silent = False
        self.known: dict[str, str] = {}

    def submit(self, submission: Submission) -> str:
        if self.trouble is not None:
            self.submissions.append(submission)
            raise self.trouble
        return super().submit(submission)

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
            plain: dict[str, Any] = {
                "index": index,
                "name": f"job{index}",
                "stage": None,
                "parameters": {},
                "argv": ("true",),
                "env": {},
                "work_dir": str(folder),
                "output_dir": str(output),
                "script_path": str(output / "job.sbatch"),
                "log_path": str(output / "logs" / "%j.out"),
                "log_path_current": str(output / "current.log"),
            }
            specs.append(JobSpec(**{**plain, **each(index)}))
        self.manifest = Manifest(
            plan_id="p",
            created_at="",
            project="sweep",
            config_ref="",
            overrides=(),
            base_output_dir=str(folder),
            monitoring_state_dir=str(folder / "state"),
            container=None,
            slurm={"array_task_limit": None},
            scheduler={"max_jobs": None, "submit_rate_limit_seconds": 0, "native_dependencies": False},
            monitoring={},
            jobs=tuple(specs),
            provenance={},
        )
        self.session = Session.create(self.manifest, folder / "p.json")

    def submitter(self, **scheduler: Any) -> Submitter:
        """A new process with the session as it is on disk."""
        manifest = self.manifest.model_copy(update={"scheduler": {**self.manifest.scheduler, **scheduler}})
        self.session = Session.load(self.session.path)
        return Submitter(manifest, self.session, self.slurm, pause=self.sleep, now=lambda: self.clock)

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    @property
    def job(self) -> TrackedJob:
        return self.session.jobs["job0"]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def hang(desk: Desk) -> str:
    """An sbatch with an unclear answer; returns its token."""
    desk.slurm.trouble = SchedulerError(Problem("timed out"))
    with pytest.raises(SchedulerError):
        desk.submitter().submit_ready()
    desk.slurm.trouble = None
    return desk.slurm.submissions[0].token


def test_an_unclear_submission_is_made_again_only_after_it_was_denied_for_a_while(desk: Desk) -> None:
    hang(desk)
    for _ in range(3):
        assert desk.submitter().submit_ready() == 0
        assert (desk.job.state, len(desk.slurm.submissions)) == ("submitting", 1)
        assert "nobody knows yet whether it was submitted" in desk.job.reason
        desk.clock += 10
    assert desk.submitter().submit_ready() == 1
    assert (desk.job.state, desk.job.scheduler_id, len(desk.slurm.submissions)) == ("pending", "2", 2)


def test_a_submission_that_comes_into_being_late_is_found(desk: Desk) -> None:
    token = hang(desk)
    desk.submitter().settle()
    desk.clock += 29
    desk.slurm.known[token] = "77"
    submitter = desk.submitter()
    submitter.settle_all()
    assert (desk.job.state, desk.job.scheduler_id, desk.job.reason) == ("pending", "77", "")
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
def test_a_job_that_everybody_has_forgotten_is_told_from_its_own_mark(tmp_path: Path, group: str | None) -> None:
    desk = Desk(tmp_path, 3, each=lambda index: {"array_group": group})
    token = hang(desk)
    marks = tmp_path / "job0" / "marks"
    marks.mkdir()
    (marks / "50.start").write_text("1700000000\nsweep.0ther000\n")
    (marks / ("51_0.start" if group else "51.start")).write_text(f"1700000000\nsweep.{token}\n")
    desk.submitter().settle()
    ids = [job.scheduler_id for job in desk.session.jobs.values()]
    assert ids == (["51_0", "51_1", "51_2"] if group else ["51", "", ""])


def test_an_intent_for_half_an_array_keeps_the_numbers_of_its_tasks(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3, each=lambda index: {"array_group": "alike"})
    token = hang(desk)
    torn = desk.session.jobs["job0"].model_copy(update={"state": "pending", "scheduler_id": "9_0"})
    desk.session.put(torn)
    desk.session.save()
    desk.slurm.known[token] = "9"
    desk.submitter().settle()
    assert [job.scheduler_id for job in desk.session.jobs.values()] == ["9_0", "9_1", "9_2"]


def test_a_passing_refusal_is_retried_soon_and_then_less_often(desk: Desk) -> None:
    desk.slurm.trouble = SubmitError(Problem("QOSMaxSubmitJobPerUserLimit"))
    pauses = []
    for _ in range(8):
        desk.submitter().submit_ready()
        assert (desk.job.state, desk.job.reason) == ("waiting", "QOSMaxSubmitJobPerUserLimit")
        pauses.append(desk.job.retry_at - desk.clock)
        desk.clock = desk.job.retry_at - 1
        desk.submitter().submit_ready()
        desk.clock += 1
    assert len(desk.slurm.submissions) == 8
    for number, pause in enumerate(pauses):
        assert 0.8 * min(30 * 2**number, 900) <= pause <= 1.2 * min(30 * 2**number, 900)
    assert len({pause / 900 for pause in pauses[-3:]}) == 3  # never quite the same
    assert [entry.event for entry in desk.job.history] == ["refused"]


def test_a_job_that_is_refused_for_weeks_is_still_tried(desk: Desk) -> None:
    desk.session.put(desk.job.model_copy(update={"refusals": 5000}))
    desk.session.save()
    desk.slurm.trouble = SubmitError(Problem("QOSMaxSubmitJobPerUserLimit"))
    desk.submitter().submit_ready()
    assert (desk.job.refusals, desk.job.retry_at - desk.clock <= 1080) == (5001, True)
    desk.slurm.trouble = None
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
    assert submitter.submit_ready() == 1
    assert [job.state for job in desk.session.jobs.values()] == ["pending", "pending", "waiting"]


def test_what_no_waiting_mends_is_asked_for_only_now_and_then(desk: Desk) -> None:
    desk.slurm.trouble = InvalidSubmissionError(Problem("Invalid partition name specified"))
    desk.submitter().submit_ready()
    assert 720 <= desk.job.retry_at - desk.clock <= 1080


def test_arrays_are_cut_to_the_sites_largest(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 7, each=lambda index: {"array_group": "alike"})
    desk.slurm = Slurm(max_array_size=3)
    assert desk.submitter().submit_ready() == 7
    assert [one.array for one in desk.slurm.submissions] == [(0, 1, 2), (0, 1, 2), (0,)]
    assert desk.session.jobs["job5"].scheduler_id == "2_2"
    folder = tmp_path / "manifests" / "p.arrays" / desk.slurm.submissions[1].token
    assert (folder / "2" / "job.sbatch").resolve() == tmp_path / "job5" / "job.sbatch"
    assert (folder / "2" / "logs").resolve() == tmp_path / "job5" / "logs"


def test_a_chain_goes_to_the_queue_at_once_where_the_scheduler_awaits_siblings(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 3, each=lambda index: {"depends_on": (f"job{index - 1}",)} if index else {})
    assert desk.submitter(native_dependencies=True).submit_ready() == 3
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
    while not desk.job.reason.startswith("waits for start_condition_cmd test: it said no (exit code 1)"):
        assert submitter.submit_ready() == 0
    (tmp_path / "data").touch()
    assert submitter.submit_ready() == 0
    desk.clock += 60
    while not submitter.submit_ready():
        assert desk.job.state == "waiting"
    assert desk.job.state == "pending"
    assert desk.job.waiting_since is None


def test_a_job_that_waited_too_long_is_cancelled_also_across_resumes(tmp_path: Path) -> None:
    condition = {"class_name": "FileExistsCondition", "path": "/nowhere/x", "timeout_seconds": 100}
    desk = Desk(tmp_path, each=lambda index: {"start_conditions": (condition,)})
    for _ in range(4):
        desk.submitter().submit_ready()
        assert desk.job.state == "waiting"
        desk.clock += 30
    desk.submitter().submit_ready()
    assert (desk.job.state, desk.job.reason) == ("cancelled", "cancelled: waited 100 s for FileExists: /nowhere/x")
