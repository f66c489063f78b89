"""What every scheduler promises, as a suite that a package of any scheduler runs on its own with pytest:

    from oellm_autoexp.testing.scheduler_contract import Harness, RunningSchedulerContract

    class MyHarness(Harness):
        slots = 2

        def make(self) -> Scheduler:
            return MyScheduler(self.folder / "state")

    class TestMyScheduler(RunningSchedulerContract):
        harness_class = MyHarness

A test is given a harness: the scheduler, with a folder of its own for scripts and logs. What a scheduler does otherwise
than most is said by its harness (`slots`, `pending`, `refused`, `some_nodes`, `shortest_limit_seconds`).
"""

from __future__ import annotations

import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from oellm_autoexp.core.errors import SubmitError
from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus, Submission
from oellm_autoexp.core.states import ENDED
from oellm_autoexp.sbatch.directives import directives
from oellm_autoexp.sbatch.log_paths import resolve_log_path, slurm_path
from oellm_autoexp.schedulers.base import Scheduler

PATIENCE_SECONDS = 180
SUCCEEDS, FAILS, STAYS = "true", "exit 7", "sleep 1000"
"""What jobs do: the bodies of their scripts."""
TASK_2_FAILS = '[ "$SLURM_ARRAY_TASK_ID" != 2 ] || exit 7'
TAKES_TOO_LONG = "sleep 1001"
_HOSTILE = [
    "with space",
    "it's",
    'a "quote"',
    "semi;colon & more",
    "$(touch injected) `touch injected`",
    "100%j %% %x",
    "ünïcödé",
    "-dash",
    "#hash",
    "{brace} [bracket] * ? ~",
    "a, b=c",
]


class Harness(ABC):
    """A scheduler, and a folder for scripts and logs."""

    slots: ClassVar[int] = 1
    """How many jobs run at once: so many are submitted by `pending` before those that are to wait."""
    shortest_limit_seconds: ClassVar[int] = 1
    """The shortest time limit that is kept to. One of a minute or more is tried with AUTOEXP_SLOW=1 alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = self.make()
        self.tokens: dict[str, str] = {}
        """Of each submission, by its id."""

    @abstractmethod
    def make(self) -> Scheduler:
        """The scheduler, as one more process would make it: what it knows is what its files or its service know."""

    def let_time_pass(self) -> None:
        """Wait until asking once more makes sense."""
        time.sleep(min(0.1, self.client.poll_interval_seconds))

    def close(self) -> None:
        """Leave nothing running."""
        self.client.cancel(self.tokens)

    def pending(self, count: int = 1) -> list[str]:
        """Jobs that stay in the queue."""
        for _ in range(self.slots):  # first come first served: these fill the slots before the others can
            self.submit(STAYS)
        return [self.submit(SUCCEEDS) for _ in range(count)]

    def refused(self) -> Submission:
        """A submission that will be refused: by default, one whose script is not there any more."""
        submission = self.submission(SUCCEEDS)
        Path(submission.script_path).unlink()
        return submission

    def some_nodes(self) -> list[str]:
        """Nodes that the scheduler knows, if it knows any."""
        return ["n1"]

    def submission(
        self,
        body: str,
        *,
        name: str = "job",
        folder: Path | None = None,
        log_name: str = "%j.log",
        array: Sequence[int] = (),
        array_limit: int | None = None,
        time_limit_seconds: int | None = None,
        sbatch: Mapping[str, object] | None = None,
    ) -> Submission:
        """One to submit, of a script that is written for it; script, log and working directory are in `folder`."""
        folder = folder or self.folder
        folder.mkdir(exist_ok=True)
        token = secrets.token_hex(4)
        log_path = f"{slurm_path(str(folder))}/{log_name}"
        options = dict(sbatch or {})
        if time_limit_seconds is not None:
            options["time"] = time_limit_seconds // 60
        lines = directives(options, (), name=name, log_path=log_path, work_dir=str(folder))
        script = folder / f"{token}.sbatch"
        script.write_text("\n".join(("#!/bin/bash", *lines, body, "")))
        return Submission(
            token, name, str(script), str(folder), log_path, time_limit_seconds, tuple(array), array_limit
        )

    def hand_over(self, submission: Submission) -> str:
        """Submit it; returns its id."""
        job = self.client.submit(submission)
        self.tokens[job] = submission.token
        return job

    def submit(self, body: str, **more: object) -> str:
        """Submit a script of this body, with what `submission` takes besides; returns its id."""
        return self.hand_over(self.submission(body, **more))  # type: ignore[arg-type]

    def known(self, *jobs: str) -> dict[str, str]:
        """Jobs and tasks with their tokens."""
        return {job: self.tokens.get(job.partition("_")[0], "") for job in jobs}

    def poll(self, jobs: Sequence[str], enough: Callable[[Mapping[str, JobStatus]], bool]) -> Mapping[str, JobStatus]:
        """The answer for these jobs once it is `enough`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not enough(answers := self.client.poll(self.known(*jobs))):
            assert time.monotonic() < deadline, answers
            self.let_time_pass()
        return answers

    def until(self, state: str, *jobs: str) -> None:
        """Return when all these jobs are in this state."""
        self.poll(jobs, lambda answers: [status.scheduler_state for status in answers.values()] == [state] * len(jobs))

    def ends(self, *jobs: str) -> list[tuple[str, int | None]]:
        """State and exit code of each job once all have ended."""
        ended = self.poll(
            jobs,
            lambda answers: (
                len(answers) == len(jobs) and all(status.scheduler_state in ENDED for status in answers.values())
            ),
        )
        return [(ended[job].scheduler_state, ended[job].exit_code) for job in jobs]


class SchedulerContract:
    """What holds for any scheduler, one that only plays jobs included."""

    harness_class: ClassVar[type[Harness]]

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[Harness]:
        """The scheduler with a folder of this test's own."""
        harness = self.harness_class(tmp_path)
        yield harness
        harness.close()

    def test_jobs_succeed_and_fail_with_their_exit_code(self, harness: Harness) -> None:
        good, bad = harness.submit(SUCCEEDS), harness.submit(FAILS)
        assert harness.ends(good, bad) == [("COMPLETED", 0), ("FAILED", 7)]
        assert harness.ends(good, bad) == [("COMPLETED", 0), ("FAILED", 7)], "an end stays as it is"

    def test_each_task_of_an_array_has_its_own_end(self, harness: Harness) -> None:
        array = harness.submit(TASK_2_FAILS, array=(1, 2, 5))
        ends = harness.ends(*(f"{array}_{task}" for task in (1, 2, 5)))
        assert ends == [("COMPLETED", 0), ("FAILED", 7), ("COMPLETED", 0)]
        there_is_none = harness.client.poll(harness.known(f"{array}_3")).get(f"{array}_3")
        assert there_is_none in (None, JobStatus("CANCELLED", NEVER_BEGAN)), "or not any more"

    def test_a_cancelled_job_ends_whether_it_runs_waits_or_has_ended(self, harness: Harness) -> None:
        ended = harness.submit(SUCCEEDS)
        harness.until("COMPLETED", ended)
        running = harness.submit(STAYS)
        harness.until("RUNNING", running)
        (pending,) = harness.pending()
        harness.until("PENDING", pending)
        harness.client.cancel(harness.known(ended, running, pending))
        assert [state for state, _ in harness.ends(ended, running, pending)] == ["COMPLETED", "CANCELLED", "CANCELLED"]
        harness.client.cancel(harness.known(ended, running, pending, "999999"))
        harness.client.cancel({})
        assert harness.ends(ended) == [("COMPLETED", 0)]

    def test_jobs_are_kept_from_nodes_whether_they_wait_run_have_ended_or_never_were(self, harness: Harness) -> None:
        ended, running = harness.submit(SUCCEEDS), harness.submit(STAYS)
        harness.until("COMPLETED", ended)
        harness.until("RUNNING", running)
        (pending,) = harness.pending()
        harness.until("PENDING", pending)
        jobs = [ended, running, pending]
        harness.client.exclude(harness.known(*jobs, "999999"), harness.some_nodes())
        harness.client.exclude(harness.known(*jobs), [])
        harness.client.exclude({}, harness.some_nodes())
        states = [harness.client.poll(harness.known(job))[job].scheduler_state for job in jobs]
        assert states == ["COMPLETED", "RUNNING", "PENDING"]
        harness.client.cancel(harness.known(*jobs))

    def test_one_task_or_a_whole_array_can_be_cancelled(self, harness: Harness) -> None:
        array = harness.submit(STAYS, array=(0, 1, 2), array_limit=2)
        tasks = [f"{array}_{task}" for task in (0, 1, 2)]
        harness.until("RUNNING", tasks[0])
        harness.client.cancel(harness.known(tasks[0]))
        assert harness.ends(tasks[0])[0][0] == "CANCELLED"
        harness.until("RUNNING", tasks[1])
        harness.client.cancel(harness.known(array))
        assert [state for state, _ in harness.ends(*tasks)] == ["CANCELLED"] * 3

    def test_a_job_is_ended_at_its_time_limit(self, harness: Harness) -> None:
        if harness.shortest_limit_seconds >= 60 and os.environ.get("AUTOEXP_SLOW") != "1":
            pytest.skip("its shortest time limit is a minute or more: set AUTOEXP_SLOW=1 to run this")
        job = harness.submit(TAKES_TOO_LONG, time_limit_seconds=harness.shortest_limit_seconds)
        (state, code), *_ = harness.ends(job)
        assert state == "TIMEOUT"
        assert code != 0

    def test_a_submission_is_found_by_its_token_while_it_lives_and_afterwards(self, harness: Harness) -> None:
        ended, running, never = harness.submission(SUCCEEDS), harness.submission(STAYS), harness.submission(SUCCEEDS)
        array = harness.submission(SUCCEEDS, array=(0, 1))
        ids = {submission.token: harness.hand_over(submission) for submission in (ended, running, array)}
        assert harness.client.find([ended, running, never, array]) == ids, "at once"
        harness.until("COMPLETED", ids[ended.token], *(f"{ids[array.token]}_{task}" for task in (0, 1)))
        harness.until("RUNNING", ids[running.token])
        assert harness.client.find([ended, running, never, array]) == ids
        assert harness.client.find([never]) == {}
        assert harness.client.find([]) == {}
        harness.client.cancel(harness.known(ids[running.token]))

    def test_an_id_that_nobody_knows_is_left_out(self, harness: Harness) -> None:
        job = harness.submit(SUCCEEDS)
        assert harness.client.poll(harness.known("999999", "999999_1", job)).keys() <= {job}
        assert harness.client.poll({}) == {}

    def test_a_job_of_the_same_id_that_has_another_token_is_another_job(self, harness: Harness) -> None:
        running, (pending,) = harness.submit(STAYS), harness.pending()
        array = harness.submit(STAYS, array=(0, 1))
        harness.until("RUNNING", running)
        harness.until("PENDING", pending)
        others = dict.fromkeys([running, pending, array, f"{array}_0"], "another0")
        assert harness.client.poll(others) == {}
        harness.client.exclude(others, harness.some_nodes())
        harness.client.cancel(others)
        assert harness.client.usage(others) == {}
        harness.until("RUNNING", running)
        harness.until("PENDING", pending)
        known = harness.known(running, pending)
        assert harness.client.poll(dict.fromkeys(known, "")).keys() == known.keys(), "no token can't be compared"
        assert harness.client.poll({**known, f"{array}_0": "another0"}).keys() == known.keys()
        harness.client.cancel(harness.known(running, pending, array))
        assert [state for state, _ in harness.ends(running, pending, f"{array}_1")] == ["CANCELLED"] * 3

    def test_what_is_asked_besides_is_answered(self, harness: Harness) -> None:
        submission = harness.submission(SUCCEEDS)
        script = Path(submission.script_path)
        assert harness.client.check({str(script): script.read_text()}) == []
        assert harness.client.max_array_size() >= 1
        assert 0 < harness.client.poll_interval_seconds <= harness.client.longest_poll_interval_seconds
        assert min(harness.client.settle_seconds, harness.client.log_lag_seconds) >= 0
        job = harness.hand_over(submission)
        harness.ends(job)
        assert harness.client.listed(harness.known(job, "999999")).keys() <= {job}
        used = harness.client.usage(harness.known(job, "999999"))
        assert used.keys() <= {job}
        assert all(usage.seconds >= 0 for runs in used.values() for usage in runs)

    def test_a_refused_submission_leaves_nothing_behind(self, harness: Harness) -> None:
        refused = harness.refused()
        with pytest.raises(SubmitError):
            harness.client.submit(refused)
        assert harness.client.find([refused]) == {}
        assert harness.ends(harness.submit(SUCCEEDS)) == [("COMPLETED", 0)]

    def test_hundreds_of_jobs_wait_and_are_cancelled(self, harness: Harness) -> None:
        jobs = harness.pending(200)
        harness.until("PENDING", *jobs)
        harness.client.cancel(harness.known(*jobs))
        harness.until("CANCELLED", *jobs)


class RunningSchedulerContract(SchedulerContract):
    """What holds besides for a scheduler that runs scripts, as most do."""

    def test_what_one_process_has_submitted_another_knows_and_cancels(self, harness: Harness) -> None:
        submission = harness.submission(STAYS)
        job = harness.hand_over(submission)
        harness.until("RUNNING", job)
        another = harness.make()
        assert another.find([submission]) == {submission.token: job}
        assert another.poll(harness.known(job))[job].scheduler_state == "RUNNING"
        another.cancel(harness.known(job))
        assert harness.ends(job)[0][0] == "CANCELLED"
        assert harness.make().poll(harness.known(job))[job].scheduler_state == "CANCELLED"

    def test_no_more_tasks_of_an_array_run_at_once_than_its_limit(self, harness: Harness) -> None:
        body = "echo + >> log; sleep 0.1; echo - >> log"
        array = harness.submit(body, array=range(4), array_limit=1)
        assert harness.ends(*(f"{array}_{task}" for task in range(4))) == [("COMPLETED", 0)] * 4
        assert (harness.folder / "log").read_text().split() == ["+", "-"] * 4

    def test_any_name_is_only_a_name(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a job's name, and in the paths of its folder, script and log; the log is where we say that it is."""
        monkeypatch.chdir(harness.folder)
        body, log_name = "pwd; echo done", "%% log of %j"
        submissions = [
            harness.submission(body, name=name, folder=harness.folder / name, log_name=log_name) for name in _HOSTILE
        ]
        jobs = {harness.hand_over(submission): submission for submission in submissions}
        assert harness.ends(*jobs) == [("COMPLETED", 0)] * len(_HOSTILE)
        for job, submission in jobs.items():
            log = Path(resolve_log_path(submission.log_path, job))
            assert log.read_text() == f"{submission.work_dir}\ndone\n"
            assert log == Path(submission.work_dir, f"% log of {job}")
        assert set(harness.client.find(submissions).values()) == set(jobs)
        assert not list(harness.folder.rglob("injected"))

    def test_the_log_of_an_array_task_is_where_we_say(self, harness: Harness) -> None:
        submission = harness.submission('echo "$SLURM_ARRAY_TASK_ID"', log_name="%A of %a.log", array=(3, 4))
        array = harness.hand_over(submission)
        jobs = [f"{array}_{task}" for task in (3, 4)]
        harness.ends(*jobs)
        assert [Path(resolve_log_path(submission.log_path, job)).read_text() for job in jobs] == ["3\n", "4\n"]

    def test_a_job_gets_the_environment_of_its_submission(
        self, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        odd = "a 'b' \"c\" $(touch no) é\n"
        monkeypatch.setenv("AUTOEXP_ODD", odd)
        monkeypatch.setenv("LC_ALL", "C.UTF-8")
        job = harness.submit('printf %s "$AUTOEXP_ODD" > odd; echo "$LC_ALL $SLURM_JOB_ID" > plain')
        monkeypatch.setenv("AUTOEXP_ODD", "later")
        harness.ends(job)
        assert (harness.folder / "odd").read_text() == odd
        assert (harness.folder / "plain").read_text() == f"C.UTF-8 {job}\n"

    def test_a_second_run_goes_on_in_the_same_log(self, harness: Harness) -> None:
        """As after a requeue: what the first run said is not lost."""
        for _ in range(2):
            harness.ends(harness.submit("echo once more", log_name="log"))
        assert (harness.folder / "log").read_text() == "once more\n" * 2
