"""Whatever dies, hangs or lies while jobs are submitted to a real SLURM: each is submitted exactly once, none is lost.

`AUTOEXP_FAULT_ROUNDS` sets how many submissions are killed (20 by default).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.cli.steps import session_steps, submit_steps
from oellm_autoexp.core.errors import LockedError, SchedulerError
from oellm_autoexp.core.states import IN_QUEUE
from tests.flow.conftest import User, until

ROUNDS = int(os.environ.get("AUTOEXP_FAULT_ROUNDS", "20"))
MANY = 200
JOBS = 4
SHAPES = {"single jobs": [], "arrays": ["slurm.array=true"]}
# A hung controller costs half a minute: with few rounds, each shape and each fate once.
HUNG = list(product(SHAPES, [False, True])) if ROUNDS >= MANY else list(zip(SHAPES, [False, True], strict=True))
VICTIM = """
import os, signal, sys
folder, step, *words = sys.argv[1:]
left = int(step)
writing = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove"}


def audit(event, args):  # before each command, and each write below the folder
    global left
    opens = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if event == "subprocess.Popen" or ((opens or event in writing) and folder in str(args[0]) + str(args[1])):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(audit)
from oellm_autoexp.cli.main import main

code = main(words)
print("left", left)
sys.exit(code)
"""


@dataclass
class Lab:
    """A plan of held jobs, on a cluster, that is submitted again and again from nothing."""

    user: User
    cluster: Any
    newest: int = 0

    @property
    def manifest(self) -> Path:
        return self.user.outputs / "manifests" / f"{self.user.plan_id}.json"

    def words(self) -> list[str]:
        return ["submit", "--manifest", str(self.manifest), "--no-monitor"]

    def victim(self, step: int = -1) -> subprocess.Popen[str]:
        """A submission that dies before its write or command of that number (never: -1)."""
        return subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(self.user.home), str(step), *self.words()],
            cwd=self.user.home,
            env={**self.user.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_afresh(self) -> None:
        shutil.rmtree(self.user.outputs / "monitoring_state", ignore_errors=True)
        self.cluster.run("scancel", "--me")
        self.newest = max(map(int, self.ids("%A")), default=0)

    def ids(self, form: str) -> list[str]:
        return str(self.cluster.run("squeue", "-h", "-r", "-t", "all", "--me", "-o", form).stdout).split()

    def go_on(self) -> dict[str, str]:
        """Submit what is left, as the command does; the ids of the jobs."""
        manifest = session_steps.load_manifest(self.manifest)
        with session_steps.session(manifest, self.manifest) as monitor:
            submit_steps.submit(monitor)
            assert {job.state for job in monitor.session.jobs.values()} <= IN_QUEUE
            return {job.name: job.newest.scheduler_id for job in monitor.session.jobs.values()}

    def check_once(self) -> None:
        """Go on, and then every job is in the queue exactly once, under the id that the session knows."""
        known = self.go_on()
        lines = [line.split("|") for line in self.ids("%A|%i")]
        created = sorted(shown for raw, shown in lines if int(raw) > self.newest)
        assert created == sorted(known.values())
        assert len(created) == JOBS


@pytest.fixture(params=SHAPES)
def lab(request: pytest.FixtureRequest, slurm: Any, user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab(User(user.home, {**user.environment, **slurm.environment()}), slurm)
    monkeypatch.chdir(user.home)
    words = [
        "project=default",
        "slurm=base",
        "slurm.sbatch.hold=true",
        "slurm.client.settle_seconds=1.5",
        *SHAPES[request.param],
    ]
    result = made.user.run("plan", *words)
    assert result.returncode == 0, result.stderr
    made.start_afresh()
    yield made
    slurm.run("scancel", "--me")


@pytest.mark.slurm
def test_a_submission_that_is_killed_before_any_write_or_command_goes_on_where_it_was(lab: Lab) -> None:
    whole = lab.victim()
    output, errors = whole.communicate()
    assert whole.returncode == 0, errors
    count = -1 - int(output.split()[-1])
    assert count > 10
    steps_to_die_at = range(1, count + 1)
    for step in steps_to_die_at if count * 2 <= ROUNDS else random.sample(steps_to_die_at, ROUNDS // 4):
        lab.start_afresh()
        victim = lab.victim(step)
        victim.communicate()
        assert victim.returncode == -signal.SIGKILL
        lab.check_once()


@pytest.mark.slurm
def test_a_submission_that_is_killed_at_any_instant_goes_on_where_it_was(lab: Lab) -> None:
    begin = time.monotonic()
    lab.victim().communicate()
    longest = time.monotonic() - begin
    for _ in range(max(1, ROUNDS // 4)):
        lab.start_afresh()
        victim = lab.victim()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # its first half is the start of Python
            victim.communicate(timeout=random.uniform(longest / 3, longest))
        victim.kill()
        victim.communicate()
        lab.check_once()


def persist(lab: Lab) -> None:
    """Go on as somebody would who sees an error: until there is none."""

    def through() -> bool:
        try:
            lab.go_on()
        except SchedulerError:
            return False
        return True

    until(through, "a submission without an error")


@pytest.mark.slurm
@pytest.mark.parametrize(("lab", "killed"), HUNG, indirect=["lab"])
def test_a_controller_that_hung_and_goes_on_has_each_job_once(lab: Lab, killed: bool) -> None:
    lab.cluster.freeze_controller()
    victim = lab.victim()
    manifest = session_steps.load_manifest(lab.manifest)
    journal = Path(manifest.monitoring_state_dir, f"{manifest.plan_id}.journal")
    try:
        # sbatch has connected, and waits for an answer
        until(lambda: journal.exists() and "submitting" in journal.read_text(), "the first intent")
        time.sleep(1)
        if killed:
            victim.kill()
        _, errors = victim.communicate()
    finally:
        lab.cluster.thaw_controller()
    assert killed or (victim.returncode == 3 and "sbatch" in errors)
    persist(lab)
    lab.check_once()


LIAR = """#!/bin/sh
case "$*" in *--parsable*) ;; *) exec sbatch "$@" ;; esac
sbatch "$@" > {folder}/answer || exit 1
[ $(( $(od -An -N1 -tu1 /dev/urandom) % 3 )) = 0 ] && cat {folder}/answer && exit 0
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
exit 1
"""


@pytest.mark.slurm
@pytest.mark.parametrize("shape", SHAPES)
def test_an_sbatch_that_says_error_after_it_made_the_job_is_not_asked_again_for_it(
    slurm: Any, user: User, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    lab = Lab(User(user.home, {**user.environment, **slurm.environment()}), slurm)
    monkeypatch.chdir(user.home)
    liar = user.home / "sbatch"
    liar.write_text(LIAR.format(folder=user.home))
    liar.chmod(0o755)
    words = ["slurm=base", "slurm.sbatch.hold=true", f"slurm.submit_cmd={liar}", *SHAPES[shape]]
    assert lab.user.run("plan", "project=default", *words).returncode == 0
    for _ in range(3):
        lab.start_afresh()
        persist(lab)
        lab.check_once()


@pytest.mark.slurm
def test_of_two_submitters_at_once_one_is_reported_of_the_other(lab: Lab) -> None:
    for first_dies in (False, True):
        lab.start_afresh()
        submitters = [lab.victim(), lab.victim()]
        if first_dies:
            time.sleep(random.uniform(0.3, 1.0))
            submitters[0].kill()
        errors = [submitter.communicate()[1] for submitter in submitters]
        for submitter, said in zip(submitters, errors, strict=True):
            assert (
                submitter.returncode == 0 or "is in use by process" in said or submitter.returncode == -signal.SIGKILL
            ), said
        lab.check_once()


@pytest.mark.slurm
def test_nobody_submits_beside_one_who_is_at_it(lab: Lab) -> None:
    manifest = session_steps.load_manifest(lab.manifest)
    with session_steps.session(manifest, lab.manifest):
        with pytest.raises(LockedError):
            lab.go_on()
        beside = lab.victim()
        _, errors = beside.communicate()
        assert (beside.returncode, str(os.getpid()) in errors) == (2, True), errors
    lab.check_once()
