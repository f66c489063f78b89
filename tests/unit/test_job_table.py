"""The table of jobs: what fits, what gives way, what stands below, and all of it for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.rules.events import Event
from oellm_autoexp.rules.progress import Progress
from oellm_autoexp.session.event_log import EventLog
from oellm_autoexp.session.job_state import Failure, JobState, Still
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.testing.plans import job_spec
from oellm_autoexp.view.jobs.cause import cause
from oellm_autoexp.view.jobs.columns import Subject, columns_of, rounded, swept
from oellm_autoexp.view.jobs.evidence import quotes
from oellm_autoexp.view.jobs.selection import chosen, selection
from oellm_autoexp.view.jobs.table import JobTable, as_csv, rows_in_full, subjects_of

NOW = 1_800_000_000.0
LINE = "[rank3]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=123) ran for 600000 milliseconds"


def sweep(count: int, **same: Any) -> list[Subject]:
    """Jobs of a sweep of learning rates: those with an odd number have crashed."""
    jobs, specs = [], []
    for number in range(count):
        name = f"dense_300M_fineweb_edu_lr{number}e-4_seed{number % 3}"
        fields = {"state": "crash", "exit_code": 1, "error_type": "nccl", "ended_at": NOW} if number % 2 else {}
        job = job_state(name, **{"state": "running", "started_at": NOW - 4000, **fields, **same})
        jobs.append(changed(job, progress=Progress(iteration=10 * number, total=10_000, loss=3.25, seconds=2.0)))
        parameters = {"backend.options.lr": number * 1e-4, "backend.options.seed": number % 3, "project.name": name}
        specs.append(job_spec(name=name, index=number, parameters=parameters, coords={"backend.options.lr": number}))
    return subjects_of(jobs, specs, NOW, {job.name: LINE for job in jobs if job.state == "crash"})


def lines(table: JobTable, width: int = 80) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    return [line.plain for line in table.lines(screen, width)]


@pytest.mark.parametrize("width", [50, 80, 120, 200])
@pytest.mark.parametrize("count", [1, 5, 40])
def test_no_line_is_wider_than_the_screen_and_each_job_is_there_with_its_cause(count: int, width: int) -> None:
    found = lines(JobTable(subjects=sweep(count), logs=False), width)
    assert max(map(len, found)) <= width
    rows = [line for line in found if line.split()[1:2] in (["running"], ["crash"])]
    assert len({row.split()[0] for row in rows}) == count, "shortened names stay distinct"
    assert sum("nccl, exit 1: [rank3]: Watchdog" in line for line in found) == count // 2


def test_what_the_sweep_varies_is_a_column_and_gives_way_before_the_names_are_unreadable() -> None:
    assert lines(JobTable(subjects=sweep(5)), 120)[0].split()[:5] == ["job", "state", "lr", "seed", "iterations"]
    header, *rows = lines(JobTable(subjects=sweep(4), logs=False), 60)
    assert "loss" in header
    assert "seed" not in header
    assert all(len(row.split()[0]) >= 12 for row in rows if " running " in row)


def test_a_short_reason_stands_in_the_row_and_the_name_makes_room_for_it() -> None:
    pending = {"state": "pending", "reason": "Priority", "error_type": "", "exit_code": None}
    found = lines(JobTable(subjects=sweep(3, **pending)), 80)
    assert all(line.endswith("Priority") for line in found[1:])


def test_a_thousand_jobs_take_one_screen_those_that_failed_and_those_that_run_share_it() -> None:
    found = lines(JobTable(subjects=sweep(1000), height=20, more="--wide"))
    assert len(found) <= 20
    states = [line.split()[1] for line in found[1:-1] if not line.startswith("  ")]
    assert states == sorted(states), "what failed stands first"
    assert states.count("running") > 2
    assert states.count("crash") > 2
    failed = 500 - states.count("crash")
    assert found[-1] == f"… and {1000 - len(states)} more ({failed} failed): --wide"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(3, 40), st.integers(20, 130), st.integers(0, 200))
def test_a_table_never_exceeds_its_height(count: int, height: int, width: int, length: int) -> None:
    subjects = sweep(count, state="waiting", reason="r" * length)
    found = lines(JobTable(subjects=subjects, height=height, logs=False), width)
    assert len(found) <= height
    assert any(" waiting" in line for line in found), "one job is seen, however small the screen"


def test_columns_that_are_asked_for_are_shown_and_become_narrower() -> None:
    known = columns_of(sweep(3))
    found = lines(JobTable(subjects=sweep(3), columns=[known[name] for name in ("lr", "job", "cause")]), 60)
    assert found[0].split() == ["lr", "job", "cause"]
    assert len(found) == 4
    assert max(map(len, found)) <= 60


def test_in_full_each_job_is_one_line_with_all_of_its_cause() -> None:
    header, *rows = rows_in_full(sweep(4, resolved_log_path="/logs/a.out"))
    assert header.split()[-2:] == ["log", "cause"]
    assert len(rows) == 4
    assert rows[1].endswith(f"/logs/a.out  nccl, exit 1: {LINE}")


def test_csv_has_a_row_for_each_job_with_numbers_as_they_are_and_keys_of_every_sweep() -> None:
    other = subjects_of([job_state("x")], [job_spec(name="x", parameters={"data.seed": 7})], NOW)
    rows = list(csv.DictReader(io.StringIO(as_csv([("p", sweep(3)), ("q", other)]))))
    assert [(row["session"], row["job"][-5:]) for row in rows] == [
        ("p", "seed0"),
        ("p", "seed1"),
        ("p", "seed2"),
        ("q", "x"),
    ]
    assert [row["lr"] for row in rows] == ["0.0", "0.0001", "0.0002", ""]
    assert (rows[0]["time"], rows[0]["left"], rows[0]["loss"], rows[1]["exit_code"]) == (
        "4000.0",
        "20000.0",
        "3.25",
        "1",
    )
    assert rows[3]["data.seed"] == "7"
    assert rows[1]["ended"] == "2027-01-15T08:00:00+00:00"


def test_a_key_is_called_by_as_much_as_tells_it_from_others_and_secrets_stay_out() -> None:
    parameters = {"a.lr": 1, "b.lr": 2, "c.loss": 3, "d.api_key": "hunter2hunter2", "stage": "s"}
    (subject,) = subjects_of([job_state("x")], [job_spec(name="x", parameters=parameters)], NOW)
    known = columns_of([subject])
    assert {column.key: name for name, column in known.items() if column.key} == {
        "a.lr": "a.lr",
        "b.lr": "b.lr",
        "c.loss": "c.loss",
        "d.api_key": "api_key",
    }
    assert "hunter2" not in str(known["api_key"].value(subject))
    assert swept([subject]) == []


# ---- causes


def bad(**fields: Any) -> JobState:
    return job_state("a", **{"state": "crash", "exit_code": 1, "reason": "NonZeroExitCode", **fields})


@pytest.mark.parametrize(
    ("job", "quoted", "message"),
    [
        (bad(error_type="nccl"), LINE, f"nccl, exit 1: {LINE}"),
        (bad(error_type="nccl", not_restarted="given up"), "x" * 300, f"nccl, exit 1: {'x' * 159}…; given up"),
        (bad(), "its log ends with: KeyError: 'a'", "exit 1: its log ends with: KeyError: 'a'"),
        (bad(), "", "exit 1"),
        (bad(state="oom", error_type="oom"), "CUDA out of memory", "exit 1: CUDA out of memory"),
        (bad(state="timeout", exit_code=None, reason="TimeLimit"), "", "TimeLimit"),
        (bad(state="cancelled", cancelled_by="x", reason="cancelled: b ended as crash"), "", "b ended as crash"),
        (job_state("a", state="pending", reason="Priority"), "", "Priority"),
        (job_state("a", state="success", reason="whatever"), "", ""),
        (job_state("a", state="running", reason="None", problem="no disk"), "", "can't be watched in full: no disk"),
    ],
)
def test_the_cause_of_a_bad_end_is_its_rule_its_exit_code_and_the_line_of_its_log(
    job: JobState, quoted: str, message: str
) -> None:
    assert cause(job, quoted, NOW) == message


def session(tmp_path: Path, jobs: Sequence[JobState]) -> Session:
    return Session(tmp_path / "p.json", "p", tmp_path, {job.name: job for job in jobs}, 0)


def test_the_line_of_the_event_that_gave_the_verdict_is_quoted_of_the_newest_attempt(tmp_path: Path) -> None:
    def seen(name: str, attempt: int, line: str) -> Event:
        reported = {"line": line}
        return Event(
            id=f"{name}-{attempt}{line}", kind="log", name=name, job="a", attempt=attempt, at=0, metadata=reported
        )

    opened = session(tmp_path, [bad(attempt=2, error_type="nccl"), job_state("b")])
    entries = [seen("nccl", 1, "old"), seen("other", 2, "no"), seen("nccl", 2, "first"), seen("nccl", 2, "second")]
    EventLog(opened.path).add(entries)
    assert quotes(opened) == {"a": "first"}


def test_without_a_rule_the_end_of_the_log_is_quoted_without_secrets_and_what_a_terminal_obeys(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("start\n\x1b[31mValue\x08Error: token=hf_abcdefghijklmnopqrstuvwxyz0123456789\n\n")
    found = quotes(session(tmp_path, [bad(resolved_log_path=str(log))]))["a"]
    assert found.startswith("its log ends with: Value�Error: token=")
    assert "hf_abcdefgh" not in found
    log.write_text("KeyError: 'a'\nsrun: error: n1: task 0: Exited with exit code 1\n")
    said = quotes(session(tmp_path, [bad(resolved_log_path=str(log))]))["a"]
    assert said == "its log ends with: KeyError: 'a'"
    log.write_text("oellm-autoexp: no restart in the job: step 3 was the last of 3\n")
    assert quotes(session(tmp_path, [bad(resolved_log_path=str(log))])) == {}
    gone = bad(resolved_log_path=str(tmp_path / "gone.log"))
    assert quotes(session(tmp_path, [gone, changed(job_state("b"), still={"": Still(mark="", since=0)})])) == {}


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (2.25, 4, "2.2500"),
        (0.0012, 4, "0.0012"),
        (5e-9, 4, "5.00e-09"),
        (5e-4, 3, "5.00e-04"),
        (1.5e37, 4, "1.50e+37"),
        (0.0, 4, "0.0000"),
        (float("nan"), 4, "nan"),
        (float("inf"), 3, "inf"),
    ],
)
def test_small_and_large_numbers_have_an_exponent(value: float, digits: int, shown: str) -> None:
    assert rounded(value, digits) == shown


def started_at(*seconds: float) -> list[Subject]:
    jobs = [job_state(f"j{number}", state="running", started_at=at) for number, at in enumerate(seconds)]
    return subjects_of(jobs, [job_spec(name=job.name) for job in jobs], NOW, {})


def filtered(subjects: Sequence[Subject], *filters: str) -> list[str]:
    return [subject.job.name for subject in chosen(selection(None, (), filters), subjects)]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["started>1h"], ["j2"]),
        (["started<=1h"], ["j0", "j1"]),
        (["started>=1970-01-02"], ["j1", "j2"]),
        (["started>1970-01-02", "started<30min"], ["j1"]),
    ],
)
def test_times_are_compared_with_times(filters: list[str], names: list[str]) -> None:
    assert filtered(started_at(10, NOW - 7200, NOW - 1800), *filters) == names


def test_a_time_is_compared_with_nothing_else() -> None:
    with pytest.raises(ConfigError, match="'soon' is no time"):
        filtered(started_at(10), "started>soon")


def test_a_loss_that_is_no_number_and_a_truth_are_found() -> None:
    values: list[Any] = [True, False, float("nan"), ".nan", "nan", 3]
    specs = [job_spec(name=f"j{number}", parameters={"backend.x": value}) for number, value in enumerate(values)]
    jobs = [
        changed(job_state(spec.name), progress=Progress(loss=math.nan if n < 2 else 2.5))
        for n, spec in enumerate(specs)
    ]
    subjects = subjects_of(jobs, specs, NOW, {})
    assert filtered(subjects, "loss=nan") == ["j0", "j1"]
    assert filtered(subjects, "x=nan") == ["j2", "j3", "j4"]
    assert filtered(subjects, "x=True") == filtered(subjects, "x=true") == ["j0"]
    assert filtered(subjects, "x!=nan", "loss!=nan") == ["j5"]


def test_jobs_that_failed_are_not_left_out_for_ended_ones() -> None:
    ended = [each for each in sweep(40, state="success") if each.job.state == "success"][:20]
    failed = [each for each in sweep(12) if each.job.state == "crash"]
    found = lines(JobTable(subjects=[*ended, *failed], height=16, more="--wide", note_lines=1))
    assert sum(" crash " in line for line in found) == len(failed), found


def test_the_cause_is_shown_while_a_job_waits_for_its_next_attempt() -> None:
    failure = Failure(attempt=1, cause=Cause(category="oom-gpu", text="CUDA out of memory (rank 3)", fingerprint="f"))
    waits = changed(job_state("a", state="waiting", reason="new attempt 1 of 2"), attempt=1, failures=(failure,))
    assert cause(waits) == "new attempt 1 of 2; CUDA out of memory (rank 3)"
    assert "memory" not in cause(changed(waits, state="running"))
