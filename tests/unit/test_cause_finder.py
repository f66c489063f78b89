"""Reading the ends of logs of an attempt that failed: of which lines, of how much, and of what files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.engine.observing import cause_finder
from oellm_autoexp.engine.observing.cause_finder import CauseFinder, ends_of_logs, rank_of
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.testing.plans import job_spec

ERROR = "ValueError: {}\n"
ITERATION = " [2026-01-31 10:00:00] iteration {:8}/     100 | lm loss: 2.0E+00 |\n"


def finder(**spec: Any) -> CauseFinder:
    return CauseFinder({"a": job_spec("/").model_copy(update=spec)}, {"a": {}})


def failed(log: Path, **fields: Any) -> JobState:
    plain: dict[str, Any] = {"state": "crash", "attempt": 1, "exit_code": 1, "runs": 1, "resolved_log_path": str(log)}
    return job_state("a", **{**plain, **fields})


def line(job: JobState, **spec: Any) -> str:
    cause = finder(**spec).with_cause(job).run.cause
    assert cause is not None
    return cause.line


def test_only_the_lines_of_the_present_run_count_in_a_log_that_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(ERROR.format("old"))
    start = f"{log.stat().st_ino}:{log.stat().st_size}"
    with log.open("a") as file:
        file.write(ERROR.format("new"))
    assert line(failed(log)) == "ValueError: old"
    assert line(failed(log, log_starts={str(log): start})) == "ValueError: new"
    other = f"{log.stat().st_ino + 1}:{log.stat().st_size}"
    assert line(failed(log, log_starts={str(log): other})) == "ValueError: old", "that was another file"


@pytest.mark.slow
def test_a_huge_log_is_read_from_its_end_until_more_iterations_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cause_finder, "_FIRST_BYTES", 1000)
    monkeypatch.setattr(cause_finder, "_MOST_BYTES", 64000)
    log = tmp_path / "log"
    noise = "nothing is said here\n" * 100
    log.write_text(ERROR.format("first") + noise + ERROR.format("last"))
    assert line(failed(log)) == "ValueError: first", "a thousand bytes did not reach back to it"
    iterations = "".join(ITERATION.format(number) for number in range(1, 200))
    log.write_text(ERROR.format("survived") + iterations + ERROR.format("last"))
    (text,) = ends_of_logs({str(log): ""}, {})
    assert line(failed(log)) == "ValueError: last"
    assert 0 < len(text.data) < 1001
    assert text.start + len(text.data) == log.stat().st_size
    log.write_text(ERROR.format("too far back") + noise * 40)
    assert line(failed(log)) == ""
    found = finder().cause(failed(tmp_path / "log", exit_code=3))
    assert found.category == "unknown"


def test_the_place_of_a_line_is_that_in_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cause_finder, "_FIRST_BYTES", 1000)
    log = tmp_path / "log"
    log.write_text("".join(ITERATION.format(number) for number in range(1, 200)) + ERROR.format("x"))
    cause = finder().cause(failed(log))
    assert log.read_bytes()[cause.offset :].startswith(b"ValueError: x")


def test_without_the_library_a_part_of_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cause_finder, "library_is_there", lambda: False)
    monkeypatch.setattr(cause_finder, "_SLOW_BYTES", 4000)
    monkeypatch.setattr(cause_finder, "_FEWEST_BYTES", 1000)
    paths = [tmp_path / f"rank_{rank}.log" for rank in range(2)]
    for path in paths:
        path.write_text("x\n" * 10_000)
    assert [len(text.data) for text in ends_of_logs({str(path): "" for path in paths}, {})] == [1998, 1998]


def test_files_of_ranks_are_read_and_name_their_rank(tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "rank_5.log"
    log.write_text("starts\n")
    other.write_text(ERROR.format("x"))
    cause = finder(output_paths=(str(other),)).cause(failed(log))
    assert (cause.path, cause.rank, cause.line) == (str(other), 5, "ValueError: x")
    assert [rank_of(name) for name in ("a/rank_3.log", "task-12.out", "17_4.out")] == [3, 12, None]
    assert (rank_of("17_4.out", numbered=True), rank_of("main.log", numbered=True)) == (4, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "success", "exit_code": 0},
        {"state": "running", "exit_code": None},
        {"state": "cancelled", "cancelled_by": "by hand"},
        {"runs": 0},
    ],
)
def test_nothing_is_read_of_a_job_that_has_not_failed(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cause_finder, "read_end", None)
    job = failed(tmp_path / "log", **fields)
    assert finder().with_cause(job) is job


def test_what_can_not_be_read_hides_nothing_else(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "good").write_text(ERROR.format("x"))
    names = ("fifo", "folder", "absent", "a\0b", "good")
    assert (
        line(failed(tmp_path / "absent"), output_paths=tuple(str(tmp_path / name) for name in names)) == "ValueError: x"
    )
    nothing = finder().cause(changed(failed(tmp_path / "fifo"), exit_code=3))
    assert (nothing.category, nothing.line) == ("unknown", "")


def test_bytes_that_are_no_text_are_no_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\xff\xfe\x00\n" * 50 + b"ValueError: \xff\n" + b"\x80" * 1000)
    assert line(failed(log)).startswith("ValueError: ")
