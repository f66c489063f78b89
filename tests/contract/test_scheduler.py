"""What every scheduler promises: one suite, held against the fake, the local scheduler and a real SLURM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oellm_autoexp.core.errors import SubmitError
from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus
from oellm_autoexp.sbatch.log_paths import resolve_log_path
from tests.contract.harness import (
    FAILS,
    STAYS,
    SUCCEEDS,
    TAKES_TOO_LONG,
    TASK_2_FAILS,
    FakeHarness,
    Harness,
    LocalHarness,
    SlurmHarness,
)

REAL = ["local", pytest.param("slurm", marks=pytest.mark.slurm)]


@pytest.fixture(params=["fake", *REAL])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """Any scheduler."""
    yield from start(request, tmp_path)


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    """A scheduler that runs scripts; the fake only says so."""
    yield from start(request, tmp_path)


def start(request: pytest.FixtureRequest, folder: Path) -> Iterator[Harness]:
    if request.param == "fake":
        yield FakeHarness(folder)
    elif request.param == "local":
        local = LocalHarness(folder)
        yield local
        local.close()
    else:
        request.getfixturevalue("slurm")
        yield SlurmHarness(folder)


def test_jobs_succeed_and_fail_with_their_exit_code(harness: Harness) -> None:
    good, bad = harness.submit(SUCCEEDS), harness.submit(FAILS)
    assert harness.ends(good, bad) == [("COMPLETED", 0), ("FAILED", 7)]
    assert harness.ends(good, bad) == [("COMPLETED", 0), ("FAILED", 7)], "an end stays as it is"


def test_each_task_of_an_array_has_its_own_end(harness: Harness) -> None:
    array = harness.submit(TASK_2_FAILS, array=(1, 2, 5))
    ends = harness.ends(*(f"{array}_{task}" for task in (1, 2, 5)))
    assert ends == [("COMPLETED", 0), ("FAILED", 7), ("COMPLETED", 0)]
    there_is_none = harness.client.poll(harness.known(f"{array}_3")).get(f"{array}_3")
    assert there_is_none in (None, JobStatus("CANCELLED", NEVER_BEGAN)), "or not any more"


def test_a_cancelled_job_ends_whether_it_runs_waits_or_has_ended(harness: Harness) -> None:
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


def test_jobs_are_kept_from_nodes_whether_they_wait_run_have_ended_or_never_were(harness: Harness) -> None:
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


def test_one_task_or_a_whole_array_can_be_cancelled(harness: Harness) -> None:
    array = harness.submit(STAYS, array=(0, 1, 2), array_limit=2)
    tasks = [f"{array}_{task}" for task in (0, 1, 2)]
    harness.until("RUNNING", tasks[0])
    harness.client.cancel(harness.known(tasks[0]))
    assert harness.ends(tasks[0])[0][0] == "CANCELLED"
    harness.until("RUNNING", tasks[1])
    harness.client.cancel(harness.known(array))
    assert [state for state, _ in harness.ends(*tasks)] == ["CANCELLED"] * 3


def test_a_job_is_ended_at_its_time_limit(harness: Harness) -> None:
    if harness.shortest_limit_seconds >= 60 and os.environ.get("AUTOEXP_SLOW") != "1":
        pytest.skip("SLURM counts in minutes and looks every 30 s: this takes 90 s, set AUTOEXP_SLOW=1 to run it")
    job = harness.submit(TAKES_TOO_LONG, time_limit_seconds=harness.shortest_limit_seconds)
    (state, code), *_ = harness.ends(job)
    assert state == "TIMEOUT"
    assert code != 0


def test_a_submission_is_found_by_its_token_while_it_lives_and_afterwards(harness: Harness) -> None:
    ended, running, never = harness.submission(SUCCEEDS), harness.submission(STAYS), harness.submission(SUCCEEDS)
    array = harness.submission(SUCCEEDS, array=(0, 1))
    ids = {submission.token: harness.client.submit(submission) for submission in (ended, running, array)}
    assert harness.client.find([ended, running, never, array]) == ids, "at once"
    harness.until("COMPLETED", ids[ended.token], *(f"{ids[array.token]}_{task}" for task in (0, 1)))
    harness.until("RUNNING", ids[running.token])
    assert harness.client.find([ended, running, never, array]) == ids
    assert harness.client.find([never]) == {}
    assert harness.client.find([]) == {}
    harness.client.cancel(harness.known(ids[running.token]))


def test_an_id_that_nobody_knows_is_left_out(harness: Harness) -> None:
    job = harness.submit(SUCCEEDS)
    assert harness.client.poll(harness.known("999999", "999999_1", job)).keys() <= {job}
    assert harness.client.poll({}) == {}


def test_a_job_of_the_same_id_that_has_another_token_is_another_job(harness: Harness) -> None:
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


def test_a_refused_submission_leaves_nothing_behind(harness: Harness) -> None:
    refused = harness.refused()
    with pytest.raises(SubmitError):
        harness.client.submit(refused)
    assert harness.client.find([refused]) == {}
    assert harness.ends(harness.submit(SUCCEEDS)) == [("COMPLETED", 0)]


def test_hundreds_of_jobs_wait_and_are_cancelled(harness: Harness) -> None:
    jobs = harness.pending(200)
    harness.until("PENDING", *jobs)
    harness.client.cancel(harness.known(*jobs))
    harness.until("CANCELLED", *jobs)


def test_no_more_tasks_of_an_array_run_at_once_than_its_limit(real: Harness) -> None:
    body = "echo + >> log; sleep 0.1; echo - >> log"
    array = real.submit(body, array=range(4), array_limit=1)
    assert real.ends(*(f"{array}_{task}" for task in range(4))) == [("COMPLETED", 0)] * 4
    assert (real.folder / "log").read_text().split() == ["+", "-"] * 4


HOSTILE = [
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


def test_any_name_is_only_a_name(real: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a job's name, and in the paths of its folder, script and log; the log is where we say that it is."""
    monkeypatch.chdir(real.folder)
    body, log_name = "pwd; echo done", "%% log of %j"
    submissions = [real.submission(body, name=name, folder=real.folder / name, log_name=log_name) for name in HOSTILE]
    jobs = {real.client.submit(submission): submission for submission in submissions}
    assert real.ends(*jobs) == [("COMPLETED", 0)] * len(HOSTILE)
    for job, submission in jobs.items():
        log = Path(resolve_log_path(submission.log_path, job))
        assert log.read_text() == f"{submission.work_dir}\ndone\n"
        assert log == Path(submission.work_dir, f"% log of {job}")
    assert set(real.client.find(submissions).values()) == set(jobs)
    assert not list(real.folder.rglob("injected"))


def test_the_log_of_an_array_task_is_where_we_say(real: Harness) -> None:
    submission = real.submission('echo "$SLURM_ARRAY_TASK_ID"', log_name="%A of %a.log", array=(3, 4))
    array = real.client.submit(submission)
    jobs = [f"{array}_{task}" for task in (3, 4)]
    real.ends(*jobs)
    assert [Path(resolve_log_path(submission.log_path, job)).read_text() for job in jobs] == ["3\n", "4\n"]


def test_a_job_gets_the_environment_of_its_submission(real: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = "a 'b' \"c\" $(touch no) é\n"
    monkeypatch.setenv("AUTOEXP_ODD", odd)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    job = real.submit('printf %s "$AUTOEXP_ODD" > odd; echo "$LC_ALL $SLURM_JOB_ID" > plain')
    monkeypatch.setenv("AUTOEXP_ODD", "later")
    real.ends(job)
    assert (real.folder / "odd").read_text() == odd
    assert (real.folder / "plain").read_text() == f"C.UTF-8 {job}\n"


def test_a_second_run_goes_on_in_the_same_log(real: Harness) -> None:
    """As after a requeue: what the first run said is not lost."""
    for _ in range(2):
        real.ends(real.submit("echo once more", log_name="log"))
    assert (real.folder / "log").read_text() == "once more\n" * 2
