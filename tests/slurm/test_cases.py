"""What SLURM shows in each situation, and what is concluded from it: the state, the reason shown and the exit code.

Every job is real. What is concluded is folded poll by poll as the monitor does it, so a job that was concluded to have
ended once stays so: a wrong conclusion on the way can not heal unseen.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from oellm_autoexp.core.errors import SchedulerError, SubmitError
from oellm_autoexp.core.nouns import NEVER_BEGAN, Submission
from oellm_autoexp.core.states import FINAL
from oellm_autoexp.decisions.lifecycle import see_status
from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.storage.lock import process_started
from oellm_autoexp.testing.jobs import job_state
from tests.slurm.cluster import Cluster
from tests.slurm.fixtures import CLIENT_VARIABLES
from tests.slurm.machine import cgroups_usable, wait

PATIENCE_SECONDS = 180
UNTIL_GO = "until [ -e go ]; do sleep 0.1; done"
ONLY_AT_FIRST = '[ "$SLURM_RESTART_COUNT" ] || sleep 1000'
USES_MUCH_MEMORY = "head -c 300M /dev/zero | tail > /dev/null"
SQUEUE_KNOWS_NOTHING = ("true",)
cgroups_only = pytest.mark.skipif(not cgroups_usable(), reason="without cgroups SLURM does not say OUT_OF_MEMORY")


@dataclass(frozen=True)
class End:
    """What is concluded of a job that has ended. `shown` holds the reason and exit code while squeue knows the job,
    `accounts_code` the code once only sacct does. Of reasons sacct knows none, but that nobody has cancelled it."""

    state: str
    shown: tuple[str, int | None] = ("", None)
    accounts_code: int | None = None
    accounts_reason: str = ""


SUCCESS = End("success", ("", 0), 0)
NOT_LAUNCHED = End("crash", ("JobLaunchFailure", None))
TOLD_TO_END = End("cancelled", ("", 143))


class Lab:
    """Submits jobs to a cluster and watches them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        here = ("env", *(f"{name}={value}" for name, value in cluster.environment().items()))
        sbatch, squeue, sacct, scancel = ((*here, command) for command in ("sbatch", "squeue", "sacct", "scancel"))
        self.client = SlurmScheduler(sbatch, squeue, sacct, scancel)
        self.accounts = SlurmScheduler(sbatch, SQUEUE_KNOWS_NOTHING, sacct, scancel)
        self.ids: dict[str, str] = {}

    def submission(self, text: str, array: Sequence[int] = (), limit: int | None = None) -> Submission:
        """One whose script is this text."""
        token = secrets.token_hex(4)
        script = self.folder / f"{token}.sbatch"
        script.write_text(text, newline="")
        return Submission(token, "case", str(script), str(self.folder), "/dev/null", None, tuple(array), limit)

    def submit_array(self, body: str, tasks: Sequence[int], limit: int | None = None) -> list[JobState]:
        text = f"#!/bin/bash\n#SBATCH --output=/dev/null\n{body}\n"
        submission = self.submission(text, tasks, limit)
        job = self.client.submit(submission)
        self.ids[job] = submission.token
        return [fresh(f"{job}_{task}" if tasks else job, submission.token) for task in tasks or (0,)]

    def submit(self, body: str) -> JobState:
        (job,) = self.submit_array(body, ())
        return job

    def running(self, body: str) -> JobState:
        return self.until(self.submit(body), "running")

    def see(self, job: JobState, client: SlurmScheduler | None = None) -> JobState:
        """The job after one more poll; no answer is no news."""
        try:
            answers = (client or self.client).poll({job.newest.scheduler_id: job.newest.token})
        except SchedulerError:
            return job
        return see_status(job, answers.get(job.newest.scheduler_id), time.time())

    def until(
        self, job: JobState, state: str, reason: str | None = None, client: SlurmScheduler | None = None
    ) -> JobState:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (job := self.see(job, client)).state != state or reason not in (None, job.reason):
            assert job.state not in FINAL, job
            assert time.monotonic() < deadline, job
            time.sleep(0.05)
        return job

    def check(self, job: JobState, end: End) -> JobState:
        """The job ends so, whichever command reports it."""
        reported = self.until(job, end.state)
        assert (reported.reason, reported.answer.exit_code) == end.shown
        wanted = (end.state, end.accounts_reason, end.accounts_code)
        deadline = time.monotonic() + PATIENCE_SECONDS
        # Accounts are late, more so on a busy machine, and show a job in several steps: each look is a new one.
        while (told_later := self.told_by_accounts(job)) != wanted:
            assert time.monotonic() < deadline, told_later
            time.sleep(0.05)
        return reported

    def told_by_accounts(self, job: JobState) -> tuple[str, str, int | None]:
        """State, reason and exit code of a job by its accounts alone, to one who has not seen it before."""
        later = self.see(fresh(job.newest.scheduler_id, job.newest.token), self.accounts)
        return later.state, later.reason, later.answer.exit_code


def fresh(job: str, token: str = "") -> JobState:
    """A job as it is known right after its submission."""
    return job_state(name="case", state="pending", scheduler_id=job, token=token)


def events(job: JobState) -> list[str]:
    return [entry.event for entry in job.history]


AT_THE_LIMIT = {
    "runs too long": ("sleep 1000", End("timeout", ("TimeLimit", 143))),
    "runs too long and exits 0 on its signal": (
        "trap 'exit 0' TERM; sleep 1000 & wait",
        End("timeout", ("TimeLimit", None)),
    ),
    "is signalled 30 s before": (
        "#SBATCH --signal=B:USR1@30\ntrap 'exit 5' USR1; sleep 1000 & wait",
        End("crash", ("NonZeroExitCode", 5), 5),
    ),
    "is signalled 10 s before": (
        "#SBATCH --signal=B:USR1@10\ntrap 'exit 6' USR1; sleep 1000 & wait",
        End("crash", ("NonZeroExitCode", 6), 6),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def plain_environment() -> Iterator[None]:
    """What a surrounding job or a user's profile set for SLURM's commands is gone."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [name for name in os.environ if name.startswith(CLIENT_VARIABLES)]:
            monkeypatch.delenv(name)
        yield


@dataclass(frozen=True)
class Early:
    """Jobs whose case takes long: it comes about while the other tests run."""

    lab: Lab
    jobs: dict[str, JobState]


@pytest.fixture(scope="module")
def limited(slurm_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Early]:
    """Jobs on the last node of the shared cluster that come to their time limit."""
    lab = Lab(slurm_cluster, tmp_path_factory.mktemp("limited"))
    options = f"#SBATCH --time=1 --nodelist={slurm_cluster.node_names[-1]}"
    cases = AT_THE_LIMIT if os.environ.get("AUTOEXP_SLOW") == "1" else {}
    yield Early(lab, {name: lab.submit(f"{options}\n{body}") for name, (body, _) in cases.items()})
    slurm_cluster.reset()


@pytest.fixture(scope="module")
def lost(slurm_cluster: Cluster, slurm_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Early]:
    """Jobs on a cluster of their own that has lost its nodes: the first has no power, the second is only silent."""
    cluster = Cluster(slurm_directory / "lost", nodes=2, accounting=False, slurmd_timeout_seconds=5)
    cluster.start()
    try:
        lab = Lab(cluster, tmp_path_factory.mktemp("lost"))
        dark, silent = cluster.node_names
        jobs = {
            "dark": lab.running(f"#SBATCH --no-requeue --nodelist={dark}\nsleep 1000"),
            "dark, requeued": lab.running(f"#SBATCH --requeue --nodelist={dark}\n{ONLY_AT_FIRST}"),
            "silent": lab.running(f"#SBATCH --no-requeue --nodelist={silent}\ntouch up; {UNTIL_GO}; touch done"),
        }
        wait("the job on the silent node", (lab.folder / "up").exists)
        cluster.kill_node(dark)
        cluster.kill_node(silent, jobs=False)
        yield Early(lab, jobs)
    finally:
        cluster.clean()


@pytest.fixture
def lab(limited: Early, lost: Early, slurm_cluster: Cluster, tmp_path: Path) -> Iterator[Lab]:
    """The shared cluster; only the jobs of this test are cancelled after it."""
    lab = Lab(slurm_cluster, tmp_path)
    yield lab
    lab.client.cancel(lab.ids)


@pytest.fixture
def make_lab(make_slurm_cluster: Callable[..., Cluster], tmp_path: Path) -> Callable[..., Lab]:
    """Start a cluster of the test's own."""
    return lambda **knobs: Lab(make_slurm_cluster(**knobs), tmp_path)


# --- by itself --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "end"),
    [
        pytest.param("true", SUCCESS, id="ok"),
        pytest.param("exit 7", End("crash", ("NonZeroExitCode", 7), 7), id="exit 7"),
        pytest.param("exit 130", End("crash", ("NonZeroExitCode", 130), 2), id="exit 130"),
        pytest.param("exit 255", End("crash", ("NonZeroExitCode", 255), 127), id="exit 255"),
        pytest.param("no-such-command", End("crash", ("NonZeroExitCode", 127), 127), id="command missing"),
        pytest.param("kill -9 $$", End("crash", ("JobLaunchFailure", 137), 137), id="shell killed"),
        pytest.param("sh -c 'kill -9 $$'", End("crash", ("NonZeroExitCode", 137), 9), id="child killed"),
        pytest.param("srun sh -c 'kill -SEGV $$'", End("crash", ("NonZeroExitCode", 139), 11), id="task crashes"),
        pytest.param("#SBATCH --output=/no/such/log", NOT_LAUNCHED, id="log folder missing"),
        pytest.param("#SBATCH --chdir=/no/such --output=log", NOT_LAUNCHED, id="working directory missing"),
        pytest.param('#SBATCH --chdir=/no/such\n[ "$PWD" = /tmp ]', SUCCESS, id="working directory missing, log not"),
        pytest.param(
            f"#SBATCH --mem=50\n{USES_MUCH_MEMORY}",
            End("oom", ("OutOfMemory", None)),
            id="out of memory",
            marks=cgroups_only,
        ),
        pytest.param(
            f"#SBATCH --mem=50\nsrun sh -c '{USES_MUCH_MEMORY}' || exit 5",
            End("oom", ("NonZeroExitCode", 5), 5),
            id="a task out of memory that ends its script",
            marks=cgroups_only,
        ),
        pytest.param(
            f"#SBATCH --mem=50\nsrun sh -c '{USES_MUCH_MEMORY}' || true",
            SUCCESS,
            id="a task out of memory that its script does not mind",
            marks=cgroups_only,
        ),
        pytest.param("#SBATCH --account=none --qos=none", SUCCESS, id="account and qos that nobody enforces"),
    ],
)
def test_a_job_ends_as_its_script_does(lab: Lab, body: str, end: End) -> None:
    lab.check(lab.submit(body), end)


@cgroups_only
def test_a_script_that_overcame_a_task_out_of_memory_has_succeeded_and_its_history_tells(lab: Lab) -> None:
    job = lab.until(lab.submit(f"#SBATCH --mem=50\nsrun sh -c '{USES_MUCH_MEMORY}' || true"), "success")
    assert job.history[-1].message == "COMPLETED, a step of it ran out of memory"


def test_without_cgroups_a_job_that_uses_too_much_memory_is_only_known_to_be_killed(
    make_lab: Callable[..., Lab],
) -> None:
    lab = make_lab(nodes=1, cgroups=False)
    job = lab.until(lab.submit("#SBATCH --mem=50\nx=$(head -c 300M /dev/zero | tr '\\0' x); sleep 1000"), "crash")
    assert (job.reason, job.answer.exit_code) == ("JobLaunchFailure", 137)


# --- at the hands of people -------------------------------------------------------------------------------------------


def test_a_cancelled_job_is_cancelled_whether_it_ran_waited_or_was_held(lab: Lab) -> None:
    ran = lab.running("sleep 1000")
    waited, held = lab.submit("#SBATCH --begin=now+1hour"), lab.submit("#SBATCH --hold")
    lab.cluster.run("scancel", *(job.newest.scheduler_id for job in (ran, waited, held)))
    lab.check(ran, TOLD_TO_END)
    lab.check(waited, End("cancelled"))
    lab.check(held, End("cancelled"))


def test_a_cancelled_job_runs_until_its_last_process_has_ended(lab: Lab) -> None:
    """Accounting says CANCELLED at once."""
    job = lab.running("trap '' TERM; echo $$ > new; mv new pid; sleep 1000")
    wait("the job to be deaf", (lab.folder / "pid").exists)
    lab.client.cancel(dict.fromkeys([job.newest.scheduler_id], ""))
    lab.until(job, "cancelled")
    assert process_started(int((lab.folder / "pid").read_text())) is None


def test_cancelling_what_has_ended_or_never_was_changes_nothing(lab: Lab) -> None:
    job = lab.until(lab.submit("true"), "success")
    lab.client.cancel(dict.fromkeys([job.newest.scheduler_id, "999999"], ""))
    assert lab.see(job) == job
    assert lab.client.poll(dict.fromkeys(["999999"], "")) == {}


def test_a_signalled_job_ends_as_its_script_chooses(lab: Lab) -> None:
    job = lab.running("trap 'exit 12' USR1; touch ready; sleep 1000 & wait")
    wait("the trap", (lab.folder / "ready").exists)
    lab.cluster.run("scancel", "--batch", "--signal=USR1", job.newest.scheduler_id)
    lab.check(job, End("crash", ("NonZeroExitCode", 12), 12))


def test_a_suspended_job_still_runs(lab: Lab) -> None:
    job = lab.running(UNTIL_GO)
    lab.cluster.run("scontrol", "suspend", job.newest.scheduler_id)
    job = lab.see(job)
    assert (job.state, job.answer.scheduler_state, job.reason) == ("running", "SUSPENDED", "")
    (lab.folder / "go").touch()
    lab.cluster.run("scontrol", "resume", job.newest.scheduler_id)
    assert events(lab.until(job, "success")) == ["running", "success"]


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--hold", "JobHeldUser"),
        ("--begin=now+1hour", "BeginTime"),
        ("--partition=short --time=10", "PartitionTimeLimit"),
    ],
)
def test_a_job_that_may_not_start_is_pending_with_the_reason(lab: Lab, options: str, reason: str) -> None:
    job = lab.until(lab.submit(f"#SBATCH {options}"), "pending", reason)
    assert (job.answer.exit_code, job.answer.nodes) == (None, "")


def test_a_job_held_by_an_administrator_waits_until_it_is_released(lab: Lab) -> None:
    job = lab.submit("#SBATCH --begin=now+1hour")
    lab.cluster.run("scontrol", "hold", job.newest.scheduler_id)
    job = lab.until(job, "pending", "JobHeldAdmin")
    lab.cluster.run("scontrol", "release", job.newest.scheduler_id)
    lab.cluster.run("scontrol", "update", f"jobid={job.newest.scheduler_id}", "starttime=now")
    lab.until(job, "success")


def test_a_job_whose_dependency_failed_waits_for_ever_unless_it_is_to_be_killed(lab: Lab) -> None:
    parent = lab.submit(f"{UNTIL_GO}; exit 7").newest.scheduler_id
    lines = f"#SBATCH --dependency=afterok:{parent}\n"
    waits, killed = lab.submit(lines), lab.submit(f"#SBATCH --kill-on-invalid-dep=yes\n{lines}")
    waits, killed = (lab.until(job, "pending", "Dependency") for job in (waits, killed))
    (lab.folder / "go").touch()
    waits = lab.until(waits, "pending", "DependencyNeverSatisfied")
    lab.check(killed, End("cancelled", ("DependencyNeverSatisfied", None), accounts_reason=NEVER_BEGAN))
    assert lab.see(waits) == waits


def test_a_task_is_cancelled_for_the_failure_of_its_own_predecessor_only(lab: Lab) -> None:
    parents = lab.submit_array('[ "$SLURM_ARRAY_TASK_ID" != 1 ]', (1, 2))
    array = parents[0].newest.scheduler_id.partition("_")[0]
    bad, good = lab.submit_array(f"#SBATCH --kill-on-invalid-dep=yes --dependency=aftercorr:{array}", (1, 2))
    lab.check(bad, End("cancelled", ("DependencyNeverSatisfied", None), accounts_reason=NEVER_BEGAN))
    lab.check(good, SUCCESS)


def test_a_dependency_on_a_job_that_nobody_knows_does_not_hold_a_job_back(lab: Lab) -> None:
    """Until 22.05; later ones refuse it."""
    submission = lab.submission("#!/bin/bash\n#SBATCH --output=/dev/null --dependency=afterok:999999\n")
    if lab.cluster.run("sbatch", "--version").stdout.split()[1].startswith("22."):
        lab.check(fresh(lab.client.submit(submission)), SUCCESS)
    else:
        with pytest.raises(SubmitError, match="Job dependency problem"):
            lab.client.submit(submission)


def test_the_tasks_beyond_an_arrays_limit_wait_for_the_others(lab: Lab) -> None:
    tasks = lab.submit_array(UNTIL_GO, range(6), limit=2)
    tasks[:2] = (lab.until(task, "running") for task in tasks[:2])
    tasks[2:] = (lab.until(task, "pending", "JobArrayTaskLimit") for task in tasks[2:])
    (lab.folder / "go").touch()
    for task in tasks:
        assert events(lab.check(task, SUCCESS))[-1] == "success"


def test_each_task_of_a_cancelled_array_is_cancelled_also_those_that_never_began(lab: Lab) -> None:
    tasks = lab.submit_array("sleep 1000", range(4), limit=1)
    tasks[0] = lab.until(tasks[0], "running")
    lab.client.cancel(dict.fromkeys([tasks[0].newest.scheduler_id.partition("_")[0]], ""))
    lab.check(tasks[0], TOLD_TO_END)
    for task in tasks[1:]:
        reported = lab.until(task, "cancelled")
        assert reported.answer.exit_code is None
        lab.until(fresh(task.newest.scheduler_id), "cancelled", client=lab.accounts)


@pytest.mark.parametrize("accounting", [True, False], ids=["accounts", "no accounts"])
def test_a_task_that_somebody_cancels_before_it_begins_is_cancelled_whatever_is_left_of_it(
    make_lab: Callable[..., Lab], accounting: bool
) -> None:
    """squeue does not list it any more, and the accounts have no line of it: only the rest of its array goes on."""
    lab = make_lab(nodes=1, accounting=accounting, min_job_age_seconds=2)
    runs, by_hand, by_us, stays, last = lab.submit_array("sleep 1000", range(5), limit=1)
    runs = lab.until(runs, "running")
    lab.cluster.run("scancel", by_hand.newest.scheduler_id)
    lab.client.cancel({by_us.newest.scheduler_id: by_us.newest.token})
    for task in (by_hand, by_us):
        reported = lab.until(task, "cancelled")
        assert (reported.answer.exit_code, events(reported), reported.failed) == (None, ["cancelled"], False)
    assert [lab.see(task).state for task in (runs, stays, last)] == ["running", "pending", "pending"]
    assert lab.client.poll({f"{runs.newest.scheduler_id.partition('_')[0]}_1": "another0"}) == {}
    lab.cluster.run("scancel", stays.newest.scheduler_id, last.newest.scheduler_id)
    for task in (stays, last):
        assert events(lab.until(task, "cancelled")) == ["cancelled"]
    lab.client.cancel({runs.newest.scheduler_id: runs.newest.token})
    lab.until(runs, "cancelled")
    for task in (by_hand, by_us, stays, last) if accounting else ():
        lab.until(fresh(task.newest.scheduler_id, task.newest.token), "cancelled", client=lab.accounts)


def test_an_array_whose_tasks_were_all_cancelled_one_by_one_leaves_no_task_behind(
    make_lab: Callable[..., Lab],
) -> None:
    lab = make_lab(nodes=1)
    tasks = lab.submit_array("#SBATCH --hold", range(3))
    for task in tasks:
        lab.cluster.run("scancel", task.newest.scheduler_id)
    for task in tasks:
        assert events(lab.until(task, "cancelled")) == ["cancelled"]


@pytest.mark.parametrize("accounting", [True, False], ids=["accounts", "no accounts"])
def test_a_job_whose_id_is_a_strangers_now_is_not_known_and_the_stranger_is_left_alone(
    make_lab: Callable[..., Lab], accounting: bool
) -> None:
    lab = make_lab(nodes=1, accounting=accounting)
    ours, waits = lab.running("sleep 1000"), lab.submit("#SBATCH --hold")
    task, _ = lab.submit_array("#SBATCH --hold", (0, 1))
    lab.cluster.kill_node(*lab.cluster.node_names)
    lab.cluster.lose_state()
    line = ("sbatch", "--parsable", "--output=/dev/null")
    ended = lab.cluster.run(*line, "--job-name=wrap", "--wrap=true").stdout.strip()
    held = lab.cluster.run(*line, "--hold", "--wrap=true").stdout.strip()
    tasks = lab.cluster.run(*line, "--hold", "--array=0-1", "--wrap=true").stdout.strip()
    assert [ended, held, f"{tasks}_0"] == [job.newest.scheduler_id for job in (ours, waits, task)]
    lab.until(fresh(ended), "success")  # without a token nothing can be compared
    jobs = {job.newest.scheduler_id: job.newest.token for job in (ours, waits, task)}
    wait("the accounts of the strangers", lambda: lab.client.poll(jobs) == {})  # until then, sacct lists our own
    wait("the accounts of the strangers", lambda: lab.accounts.poll(jobs) == {})
    # Of our own runs, which the controller has lost, slurmdbd may report an end or not.
    assert all(len(runs) == 1 for runs in lab.client.usage(jobs).values())
    lab.client.exclude(jobs, lab.cluster.node_names)
    lab.client.cancel({**jobs, tasks: task.newest.token})
    assert "ExcNodeList=(null)" in lab.cluster.run("scontrol", "show", "job", held).stdout
    for stranger in (held, f"{tasks}_0", f"{tasks}_1"):
        assert lab.see(fresh(stranger)).answer.scheduler_state == "PENDING"
    seen = lab.see(ours)
    assert (seen.state, seen.newest.missing_since is None) == ("running", False)


# --- requeued ---------------------------------------------------------------------------------------------------------


def requeue(lab: Lab, job: JobState, node: str) -> None:
    lab.cluster.run("scontrol", "requeue", job.newest.scheduler_id)


def set_down(lab: Lab, job: JobState, node: str) -> None:
    lab.cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


def preempt(lab: Lab, job: JobState, node: str) -> None:
    lab.submit(f"#SBATCH --partition=high --nodelist={node} --exclusive")


def test_jobs_that_are_requeued_have_not_ended(lab: Lab) -> None:
    """Accounting shows an end (REQUEUED, NODE_FAIL, PREEMPTED) for seconds while they wait already."""
    first, second, third, _ = lab.cluster.node_names
    by_hand, by_node, by_others = jobs = [
        lab.running(f"#SBATCH --requeue {options}\n{ONLY_AT_FIRST}")
        for options in (
            f"--nodelist={first}",
            f"--nodelist={second}",
            f"--nodelist={third} --exclusive --partition=lowrq",
        )
    ]
    requeue(lab, by_hand, first)
    set_down(lab, by_node, second)
    preempt(lab, by_others, third)
    waited_for = set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(job.state != "success" for job in jobs):
        assert time.monotonic() < deadline, jobs
        jobs = [lab.see(job) for job in jobs]
        assert all(job.state in ("running", "pending", "success") for job in jobs), jobs
        assert all(job.answer.exit_code is None for job in jobs if job.state == "pending"), jobs
        waited_for |= {(job.newest.scheduler_id, job.reason) for job in jobs}
    assert waited_for >= {(job.newest.scheduler_id, "BeginTime") for job in jobs}
    assert [events(job)[:2] for job in jobs] == [["running", "pending"]] * 3


def test_a_job_that_is_requeued_and_held_waits(lab: Lab) -> None:
    job = lab.running("#SBATCH --requeue\nsleep 1000")
    lab.cluster.run("scontrol", "requeuehold", job.newest.scheduler_id)
    lab.until(job, "pending", "job requeued in held state")


def test_a_job_tells_how_often_it_was_requeued_also_when_it_had_ended(lab: Lab) -> None:
    job = lab.running(f"#SBATCH --requeue\n{ONLY_AT_FIRST}")
    known = {job.newest.scheduler_id: job.newest.token}
    assert lab.client.poll(known)[job.newest.scheduler_id].restarts == 0
    lab.cluster.run("scontrol", "requeue", job.newest.scheduler_id)
    lab.until(job, "success")
    assert lab.client.poll(known)[job.newest.scheduler_id].restarts == 1
    lab.cluster.run("scontrol", "requeue", job.newest.scheduler_id)
    assert lab.client.poll(known)[job.newest.scheduler_id].restarts == 2


def test_a_requeue_that_is_refused_leaves_the_job_running(lab: Lab) -> None:
    job = lab.running("#SBATCH --no-requeue\nsleep 1000")
    refused = lab.cluster.run("scontrol", "requeue", job.newest.scheduler_id, check=False)
    assert "disabled" in refused.stderr
    assert lab.see(job).state == "running"


def test_a_finished_job_that_somebody_requeues_has_ended_for_us_but_waits_for_who_asks_anew(lab: Lab) -> None:
    job = lab.until(lab.submit("true"), "success")
    lab.cluster.run("scontrol", "requeue", job.newest.scheduler_id)
    lab.until(fresh(job.newest.scheduler_id), "pending", "BeginTime")
    assert lab.see(job) == job


# --- at the hands of the machine --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "provoke", "end"),
    [
        ("--no-requeue", set_down, End("node_fail", ("NodeDown", None))),
        ("--partition=low", preempt, End("preempted", ("", 143))),
    ],
    ids=["node set down", "preempted"],
)
def test_a_job_that_is_not_requeued_ends_with_its_node_or_its_place(
    lab: Lab, options: str, provoke: Callable[[Lab, JobState, str], None], end: End
) -> None:
    node = lab.cluster.node_names[1]
    job = lab.running(f"#SBATCH --nodelist={node} --exclusive {options}\nsleep 1000")
    provoke(lab, job, node)
    lab.check(job, end)


def test_a_job_ends_with_a_node_that_lost_power_or_waits_to_run_again(lost: Early) -> None:
    lab, node = lost.lab, lost.lab.cluster.node_names[0]
    failed = lab.until(lost.jobs["dark"], "node_fail")
    assert (failed.reason, failed.answer.exit_code, failed.answer.nodes) == ("NodeDown", None, node)
    waits = lab.until(lost.jobs["dark, requeued"], "pending")
    lab.cluster.start_node(node)
    assert events(lab.until(waits, "success"))[:2] == ["running", "pending"]


def test_a_job_whose_node_only_fell_silent_works_on_although_it_has_failed(lost: Early) -> None:
    failed = lost.lab.until(lost.jobs["silent"], "node_fail")
    assert (failed.reason, failed.answer.exit_code) == ("NodeDown", None)
    (lost.lab.folder / "go").touch()
    wait("the work of the failed job", (lost.lab.folder / "done").exists)


def test_of_a_job_on_several_nodes_only_the_one_that_lost_power_has_failed(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(nodes=3, slurmd_timeout_seconds=5)
    job = lab.running("#SBATCH --no-requeue --nodes=3\nsleep 1000")
    bad = lab.cluster.node_names[1]
    lab.cluster.kill_node(bad)
    lab.until(job, "node_fail")
    status = lab.client.poll(dict.fromkeys([job.newest.scheduler_id], ""))[job.newest.scheduler_id]
    assert status.failed_nodes == bad
    assert status.nodes != bad
    lab.cluster.start_node(bad)
    assert lab.client.poll(dict.fromkeys([job.newest.scheduler_id], ""))[job.newest.scheduler_id].failed_nodes == bad


def test_a_node_that_came_back_at_once_is_known_from_the_accounts(lab: Lab) -> None:
    job = lab.running("#SBATCH --no-requeue --nodes=2\nsleep 1000")
    bad = lab.cluster.run("scontrol", "show", "hostnames", job.answer.nodes).stdout.split()[1]
    set_down(lab, job, bad)
    lab.until(job, "node_fail")
    wait(
        "the accounts",
        lambda: (
            lab.client.poll(dict.fromkeys([job.newest.scheduler_id], ""))[job.newest.scheduler_id].failed_nodes == bad
        ),
    )


def test_a_waiting_job_is_kept_from_nodes_beside_those_that_it_excludes(lab: Lab) -> None:
    first, second, third, last = lab.cluster.node_names
    job = lab.submit(f"#SBATCH --hold --exclude={first} --nodes=1\nsleep 1000")
    array = lab.submit_array("#SBATCH --hold\nsleep 1000", [0, 1])
    lab.client.exclude(dict.fromkeys([job.newest.scheduler_id, array[1].newest.scheduler_id], ""), [second, third])
    shown = lab.cluster.run("scontrol", "show", "job", job.newest.scheduler_id).stdout
    excluded = re.findall(r"ExcNodeList=(\S+)", shown)
    assert lab.cluster.run("scontrol", "show", "hostnames", *excluded).stdout.split() == [first, second, third]
    tasks = lab.cluster.run("scontrol", "show", "job", array[0].newest.scheduler_id).stdout
    assert "ExcNodeList=(null)" in tasks
    lab.cluster.run("scontrol", "release", job.newest.scheduler_id)
    running = lab.until(job, "running")
    assert running.answer.nodes == last
    lab.client.exclude(dict.fromkeys([job.newest.scheduler_id], ""), [last])
    assert lab.until(job, "running").answer.nodes == last


# --- nobody answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("silence", "end_of_silence", "words"),
    [
        (Cluster.stop_controller, Cluster.start_controller, "Unable to contact slurm controller"),
        (Cluster.freeze_controller, Cluster.thaw_controller, "timed out"),
    ],
    ids=["stopped", "frozen"],
)
def test_from_a_silent_controller_nothing_follows_and_afterwards_all_is_reported(
    make_lab: Callable[..., Lab],
    silence: Callable[[Cluster], None],
    end_of_silence: Callable[[Cluster], None],
    words: str,
) -> None:
    lab = make_lab(nodes=1, extra=("MessageTimeout=2",))
    job, stays = lab.running(f"{UNTIL_GO}; touch done; exit 7"), lab.running("sleep 1000")
    submission = lab.submission("#!/bin/bash\n#SBATCH --output=/dev/null\n")
    silence(lab.cluster)
    questions = (
        lambda: lab.client.poll(dict.fromkeys([job.newest.scheduler_id], "")),
        lambda: lab.client.submit(submission),
        lambda: lab.client.cancel(dict.fromkeys(["999999"], "")),
        lambda: lab.client.find([replace(submission, token="another0")]),  # noqa: S106  no secret
    )
    with ThreadPoolExecutor() as threads:
        for future in [threads.submit(ask) for ask in questions]:
            error = future.exception()
            assert type(error) is SchedulerError, "no refusal, and no certainty that nothing was submitted"
            assert words in str(error)
    (lab.folder / "go").touch()
    wait("the end of the job", (lab.folder / "done").exists)
    end_of_silence(lab.cluster)
    job = lab.until(job, "crash")
    assert (job.reason, job.answer.exit_code, events(job)) == ("NonZeroExitCode", 7, ["running", "crash"])
    assert lab.see(stays) == stays


def test_a_controller_that_is_killed_forgets_no_job_that_it_took(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(nodes=1)
    job = lab.submit("true")
    controller = lab.cluster.daemons()["slurmctld"]
    assert controller is not None
    os.kill(controller, signal.SIGKILL)
    wait("its end", lambda: lab.cluster.daemons()["slurmctld"] is None)
    lab.cluster.start_controller()
    lab.until(job, "success")


def test_what_the_controller_has_forgotten_is_concluded_from_the_accounts_alike(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(nodes=1, accounting=True, min_job_age_seconds=2)
    ends = {
        "true": End("success", accounts_code=0),
        "exit 7": End("crash", accounts_code=7),
        "kill -9 $$": End("crash", accounts_code=137),
        "#SBATCH --output=/no/such/log": End("crash"),
        "sleep 1000": End("cancelled"),
        "#SBATCH --hold": End("cancelled"),
    }
    jobs = {body: lab.submit(body) for body in ends}
    lab.until(jobs["sleep 1000"], "running")
    lab.client.cancel(dict.fromkeys([jobs[body].newest.scheduler_id for body in ("sleep 1000", "#SBATCH --hold")], ""))
    wait("squeue to forget", lambda: not lab.cluster.run("squeue", "-h", "-t", "all").stdout, seconds=PATIENCE_SECONDS)
    for body, end in ends.items():
        reported = lab.until(jobs[body], end.state)
        assert (reported.reason, reported.answer.exit_code) == ("", end.accounts_code), body


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/bash\n#SBATCH --partition=none\n", "Invalid partition name specified"),
        ("#!/bin/bash\n#SBATCH --mem=1T\n", "Requested node configuration is not available"),
        ("#!/bin/bash\n#SBATCH --gres=gpu:9\n", "Requested node configuration is not available"),
        ("#!/bin/bash\n#SBATCH --array=0-10001\n", "Invalid job array specification"),
        ("#!/bin/bash\n#SBATCH --array=x\n", "Invalid job array specification"),
        ("#!/bin/bash\n#SBATCH --no-such-option\n", "unrecognized option"),
        ("#!/bin/bash\n#SBATCH --time=soon\n", "Invalid --time specification"),
        ("true\n", "This does not look like a batch script"),
        ("#!/bin/bash\r\ntrue\r\n", "DOS line breaks"),
        ("", "Batch script is empty"),
    ],
)
def test_what_slurm_refuses_is_refused_with_its_words_and_leaves_nothing_that_could_run(
    lab: Lab, text: str, words: str
) -> None:
    submission = lab.submission(text)
    with pytest.raises(SubmitError, match=words):
        lab.client.submit(submission)
    found = lab.client.find([submission])
    assert all(lab.see(fresh(job)).state == "crash" for job in found.values()), "a record at most, of a failed job"


def test_a_script_that_is_gone_is_refused(lab: Lab) -> None:
    submission = lab.submission("")
    Path(submission.script_path).unlink()
    with pytest.raises(SubmitError, match="Unable to open file"):
        lab.client.submit(submission)


# --- at the time limit (last: its jobs have been running all the while) -----------------------------------------------


@pytest.mark.slow  # SLURM counts in minutes, and looks every 30 s
@pytest.mark.parametrize("name", AT_THE_LIMIT)
def test_a_job_at_its_time_limit_times_out_unless_it_ends_before(limited: Early, name: str) -> None:
    limited.lab.check(limited.jobs[name], AT_THE_LIMIT[name][1])
