"""What monitors keep of attempts, read back by later plans: the newest first, and only what is this user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oellm_autoexp.core.errors import CorruptError
from oellm_autoexp.core.nouns import Estimate, Workload
from oellm_autoexp.engine.observing.measurement_writer import MeasurementWriter
from oellm_autoexp.learning import past_runs
from oellm_autoexp.learning.estimating import ENOUGH, Run
from oellm_autoexp.learning.measuring import Measured, Spread
from oellm_autoexp.learning.past_runs import MOST_FILES, PastRuns, runs_in, text_of
from oellm_autoexp.session import series
from oellm_autoexp.session.job_state import Attempt, JobState
from oellm_autoexp.session.series import Point, Written
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.jobs import changed
from oellm_autoexp.testing.plans import job_spec, manifest

WORK = Workload(shape="s", sizes={"gpus": 8}, flops=1e15, iterations=100, save_interval=10)
OTHER = WORK.model_copy(update={"shape": "other"})


def taken(at: float, pace: float = 2.0) -> Measured:
    return Measured(job="a", attempt=1, at=at, iterations=50, pace=Spread(low=pace, middle=pace, high=pace))


def nothing_there(folder: str) -> int:
    return 0


def keep(folder: Path, name: str, runs: list[Run], at: int = 0) -> Path:
    path = folder / f"{name}.measured.jsonl"
    path.write_text(text_of(runs))
    os.utime(path, (at, at))
    return path


def test_runs_come_back_as_they_were_without_what_their_plans_expected(tmp_path: Path) -> None:
    expected = Estimate(seconds=1, low=1, high=1, runs=1)
    planned = WORK.model_copy(update={"estimate": expected, "limit": "auto"})
    full = Measured(job="b", attempt=2, at=9, startup=3, end=4, save=5, memory_gib=6, whole=7)
    path = keep(tmp_path, "p", [Run(planned, taken(1)), Run(OTHER, full), Run(WORK, taken(5))])
    assert runs_in(path) == [Run(OTHER, full), Run(WORK, taken(5)), Run(WORK, taken(1))]


def test_a_file_has_the_newest_attempts_of_each_kind_of_work(tmp_path: Path) -> None:
    path = keep(tmp_path, "p", [Run(WORK, taken(at)) for at in range(ENOUGH + 10)])
    assert [run.taken.at for run in runs_in(path)] == [*range(ENOUGH + 9, 9, -1)]


def test_the_newest_files_are_read_first_and_no_more_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        keep(tmp_path, f"p{number}", [Run(WORK, taken(number)), Run(OTHER, taken(number))], at=number)
    read: list[str] = []
    original = past_runs.runs_in

    def counted(path: Path) -> list[Run]:
        read.append(path.name.partition(".")[0])
        return original(path)

    monkeypatch.setattr(past_runs, "runs_in", counted)
    past = PastRuns(nothing_there)
    assert len(past.like(WORK, [str(tmp_path)])) == ENOUGH
    assert read == [f"p{number}" for number in range(29, 29 - ENOUGH, -1)]
    past.like(OTHER, [str(tmp_path)])
    assert len(read) == ENOUGH
    past.like(WORK.model_copy(update={"shape": "unknown"}), [str(tmp_path)])
    assert len(read) == 30
    many = tmp_path / "many"
    many.mkdir()
    for number in range(MOST_FILES + 5):
        keep(many, f"p{number}", [Run(OTHER, taken(number))], at=number)
    read.clear()
    past.like(WORK, [str(many)])
    assert len(read) == MOST_FILES


def test_what_cannot_be_read_is_noted_and_hides_nothing_else(tmp_path: Path) -> None:
    keep(tmp_path, "good", [Run(WORK, taken(1))])
    (tmp_path / "bad.measured.jsonl").write_text('{"version": 1, "workload": {}, "attempts": []}\n')
    (tmp_path / "later.measured.jsonl").write_text('{"version": 2, "anything": 1}\n')
    (tmp_path / "link.measured.jsonl").symlink_to(tmp_path / "good.measured.jsonl")
    (tmp_path / "gone.measured.jsonl").mkdir()
    (tmp_path / "dangling.measured.jsonl").symlink_to(tmp_path / "nothing")
    past = PastRuns(nothing_there)
    folders = [str(tmp_path), str(tmp_path / "nowhere")]
    assert [run.taken.at for run in past.like(WORK, folders)] == [1]
    assert len(past.notes) == 3
    assert past.like(WORK, [str(tmp_path / "misspelt")], [str(tmp_path / "misspelt")]) == []
    assert past.notes[3] == f"earlier runs are not used: {tmp_path / 'misspelt'}: No such file or directory"
    assert all(note.startswith("earlier runs are not used: ") for note in past.notes)
    with pytest.raises(CorruptError, match=r"bad\.measured\.jsonl:1"):
        runs_in(tmp_path / "bad.measured.jsonl")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_files_of_strangers_are_never_read(tmp_path: Path) -> None:
    path = keep(tmp_path, "p", [Run(WORK, taken(1))])
    os.chown(path, 12345, 12345)
    past = PastRuns(nothing_there)
    assert past.like(WORK, [str(tmp_path)]) == []
    assert "belongs to user 12345" in past.notes[0]


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def session_of(folder: Path, jobs: int = 1, **of_job: object) -> tuple[Session, MeasurementWriter, list[str]]:
    """A session whose jobs have each trained three iterations of two seconds, and what keeps their times."""
    specs = [job_spec(folder, f"j{number}", index=number, workload=WORK) for number in range(jobs)]
    session = Session.create(manifest(folder, specs), folder / "m.json")
    for number, spec in enumerate(specs):
        points = [Point("seconds", step, 100.0 + 2 * step, 2.0) for step in (1, 2, 3)]
        written = series.append(series.file_of(session.path, spec.name), Written(), 1, points)
        job = JobState(name=spec.name, state="running", attempt=1, newest=Attempt(started_at=90.0, submitted_at=number))
        session.put(changed(job, series=written, **of_job))
    said: list[str] = []
    return session, MeasurementWriter({spec.name: spec for spec in specs}, session.path, said.append), said


def test_a_session_keeps_its_attempts_while_it_runs_and_when_it_has_ended(tmp_path: Path) -> None:
    session, writer, said = session_of(tmp_path)
    path = tmp_path / "state" / "p.measured.jsonl"
    writer.write(session, 1e9)
    (run,) = runs_in(path)
    assert (run.workload, run.taken.iterations, run.taken.startup) == (WORK, 3, 10.0)
    path.unlink()
    writer.write(session, 1e9 + 60)
    assert not path.exists()
    session.put(changed(session.jobs["j0"], state="success", ended_at=120.0))
    writer.write(session, 1e9 + 61)
    assert runs_in(path)[0].taken.end == 14.0
    assert said == []


def test_the_monitor_of_a_cron_job_leaves_a_fresh_file_as_it_is(tmp_path: Path) -> None:
    session, writer, _ = session_of(tmp_path)
    path = keep(tmp_path / "state", "p", [Run(OTHER, taken(1))], at=1000)
    writer.write(session, 1100)
    assert runs_in(path)[0].workload == OTHER
    writer.write(session, 2000)
    assert runs_in(path)[0].workload == WORK


def test_attempts_with_values_of_their_own_are_left_out_and_a_limit_is_no_such_value(tmp_path: Path) -> None:
    session, writer, _ = session_of(tmp_path, overrides={"slurm.sbatch.time": "02:00:00"})
    writer.write(session, 1e9)
    assert len(runs_in(tmp_path / "state" / "p.measured.jsonl")) == 1
    other = tmp_path / "other"
    other.mkdir()
    session, writer, _ = session_of(other, overrides={"backend.megatron.hidden_size": 64})
    writer.write(session, 1e9)
    assert not (other / "state" / "p.measured.jsonl").exists()


def test_of_many_equal_jobs_only_the_newest_are_read(tmp_path: Path) -> None:
    session, writer, _ = session_of(tmp_path, jobs=ENOUGH + 5)
    for number in range(5):
        series.file_of(session.path, f"j{number}").unlink()
    writer.write(session, 1e9)
    jobs = {run.taken.job for run in runs_in(tmp_path / "state" / "p.measured.jsonl")}
    assert jobs == {f"j{number}" for number in range(5, ENOUGH + 5)}


def test_a_problem_is_reported_once_and_hinders_nothing(tmp_path: Path) -> None:
    session, writer, said = session_of(tmp_path)
    path = series.file_of(session.path, "j0")
    path.rename(tmp_path / "points")
    path.symlink_to(tmp_path / "points")
    writer.write(session, 1e9)
    writer.write(session, 2e9)
    assert len(said) == 1
    assert said[0].startswith("what the jobs took is not kept for later plans: ")
