"""The three schedulers behind one face, so that one suite of tests holds all of them to the same contract."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.sbatch.directives import directives
from oellm_autoexp.sbatch.log_paths import slurm_path
from oellm_autoexp.schedulers.base import ENDED, Scheduler
from oellm_autoexp.schedulers.fake import FakeScheduler, Script
from oellm_autoexp.schedulers.local.scheduler import LocalScheduler
from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler

PATIENCE_SECONDS = 180


@dataclass(frozen=True)
class Part:
    """What a job does: the body of its script, and what the fake plays for it, by array task (None: all others)."""

    body: str
    plays: Mapping[int | None, Script]


SUCCEEDS = Part("true", {None: ("PENDING", "RUNNING", "COMPLETED")})
FAILS = Part("exit 7", {None: ("PENDING", "RUNNING", JobStatus("FAILED", exit_code=7))})
STAYS = Part("sleep 1000", {None: ("PENDING", "RUNNING")})
TASK_2_FAILS = Part('[ "$SLURM_ARRAY_TASK_ID" != 2 ] || exit 7', {2: FAILS.plays[None], None: SUCCEEDS.plays[None]})
TAKES_TOO_LONG = Part("sleep 1000", {None: ("RUNNING", "TIMEOUT")})


@dataclass
class Harness:
    """A scheduler and a folder for scripts and logs."""

    folder: Path
    client: Scheduler
    shortest_limit_seconds: int = 1
    """The shortest time limit that is kept to."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Of each submission, by its id."""

    def submission(
        self,
        part: Part | str,
        *,
        name: str = "job",
        folder: Path | None = None,
        log_name: str = "%j.log",
        array: Sequence[int] = (),
        array_limit: int | None = None,
        time_limit_seconds: int | None = None,
        sbatch: Mapping[str, object] | None = None,
    ) -> Submission:
        """One to submit; its script, log and working directory are in `folder`."""
        part = Part(part, SUCCEEDS.plays) if isinstance(part, str) else part
        folder = folder or self.folder
        folder.mkdir(exist_ok=True)
        token = secrets.token_hex(4)
        log_path = f"{slurm_path(str(folder))}/{log_name}"
        options = dict(sbatch or {})
        if time_limit_seconds is not None:
            options["time"] = time_limit_seconds // 60
        lines = directives(options, (), name=name, log_path=log_path, work_dir=str(folder))
        script = folder / f"{token}.sbatch"
        script.write_text("\n".join(("#!/bin/bash", *lines, part.body, "")))
        self.play(token, part)
        return Submission(
            token, name, str(script), str(folder), log_path, time_limit_seconds, tuple(array), array_limit
        )

    def play(self, token: str, part: Part) -> None:
        """Tell the fake what to play."""

    def submit(self, part: Part | str, **more: object) -> str:
        submission = self.submission(part, **more)  # type: ignore[arg-type]
        job = self.client.submit(submission)
        self.tokens[job] = submission.token
        return job

    def known(self, *jobs: str) -> dict[str, str]:
        """Jobs and tasks with their tokens."""
        return {job: self.tokens.get(job.partition("_")[0], "") for job in jobs}

    def pending(self, count: int = 1) -> list[str]:
        """Jobs that stay pending."""
        raise NotImplementedError

    def refused(self) -> Submission:
        """One that will be refused."""
        raise NotImplementedError

    def some_nodes(self) -> list[str]:
        """Nodes that the scheduler knows, if it knows any."""
        return ["n1"]

    def poll(self, jobs: Sequence[str], enough: Callable[[Mapping[str, JobStatus]], bool]) -> Mapping[str, JobStatus]:
        """The answer for these jobs once it is `enough`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not enough(answers := self.client.poll(self.known(*jobs))):
            assert time.monotonic() < deadline, answers
            time.sleep(self.client.poll_interval_seconds if self.client.poll_interval_seconds < 0.1 else 0.1)
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


class FakeHarness(Harness):
    def __init__(self, folder: Path) -> None:
        self._parts: dict[str, Part] = {}

        def behave(submission: Submission, task: int | None) -> Script:
            plays = self._parts[submission.token].plays
            return plays.get(task, plays[None])

        super().__init__(folder, FakeScheduler(behave=behave, refuse=["refused"]))

    def play(self, token: str, part: Part) -> None:
        self._parts[token] = part

    def pending(self, count: int = 1) -> list[str]:
        return [self.submit(Part("true", {None: ("PENDING",)})) for _ in range(count)]

    def refused(self) -> Submission:
        return self.submission(SUCCEEDS, name="refused")


class LocalHarness(Harness):
    slots = 2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, LocalScheduler(folder / "spool", self.slots, kill_grace_seconds=1))
        self.jobs: list[str] = []

    def submit(self, part: Part | str, **more: object) -> str:
        self.jobs.append(super().submit(part, **more))
        return self.jobs[-1]

    def pending(self, count: int = 1) -> list[str]:
        for _ in range(self.slots):  # first come first served: these fill the slots before the others can
            self.submit(STAYS)
        return [self.submit(SUCCEEDS) for _ in range(count)]

    def refused(self) -> Submission:
        submission = self.submission(SUCCEEDS)
        Path(submission.script_path).unlink()
        return submission

    def close(self) -> None:
        """Leave nothing running."""
        self.client.cancel(self.known(*self.jobs))


class SlurmHarness(Harness):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SlurmScheduler(), shortest_limit_seconds=60)

    def some_nodes(self) -> list[str]:
        names = subprocess.run(["sinfo", "-h", "-N", "-o", "%N"], capture_output=True, text=True, check=True)
        return sorted(set(names.stdout.split()))[:1]

    def pending(self, count: int = 1) -> list[str]:
        return [self.submit(SUCCEEDS, sbatch={"hold": True}) for _ in range(count)]

    def refused(self) -> Submission:
        return self.submission(SUCCEEDS, sbatch={"partition": "none"})
