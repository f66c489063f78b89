"""What is concluded of a job is what happened to it, whatever becomes of its logs, its marks, the clocks and us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import InvalidSubmissionError, Problem, SchedulerError
from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.core.text import digest
from oellm_autoexp.decisions.lifecycle import BEGUN_VANISHED_AFTER_SECONDS, VANISHED_AFTER_SECONDS
from oellm_autoexp.engine import entry_engine
from oellm_autoexp.rules.actions import RestartAction
from oellm_autoexp.session import records, requests
from oellm_autoexp.session.job_state import GONE_LOOKS, JobState
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.jobs import changed
from oellm_autoexp.view.changes import Changes
from oellm_autoexp.view.jobs.cause import causes
from tests.unit.test_executor import (
    FOREVER,
    GOOD,
    LONG,
    Stage,
    happened,
    lived,
    log,
    on_line,
    on_state,
    restart,
    restart_request,
)

STALLS = {"inactivity_threshold_seconds": 60, "startup_seconds": 60}
STALL_LOGGED = {**on_state(log("stalled"), state="stall"), **STALLS}


def running(stage: Stage) -> None:
    stage.until(lambda: stage.a.state == "running")


def end(stage: Stage, *states: str | JobStatus) -> None:
    """Let the newest attempt come into these states, one at each look."""
    scripts = [JobStatus(state) if isinstance(state, str) else state for state in states]
    stage.slurm._scripts[stage.a.newest.scheduler_id] = scripts


# ---- marks that anything may garble


def mark(stage: Stage, kind: str = "start") -> Path:
    folder = Path(stage.manifest.jobs[0].output_dir, "marks")
    folder.mkdir(exist_ok=True)
    return folder / f"{stage.a.newest.scheduler_id}.{kind}"


GARBLED = {
    "huge": b"9" * 400 + b"\n",
    "too long for int": b"9" * 5000,
    "negative": b"-5\n",
    "zero": b"0\n",
    "empty": b"",
    "binary": b"\x00\xff\xfe\n\x80",
    "a word": b"yesterday\n",
    "to come": b"99999999999\n",
    "arabic digits": "١٢٣".encode(),
}


@pytest.mark.parametrize("content", GARBLED.values(), ids=GARBLED)
@pytest.mark.parametrize("kind", ["start", "exit"])
def test_a_garbled_mark_is_ignored_with_one_warning(tmp_path: Path, content: bytes, kind: str) -> None:
    if (content, kind) == (GARBLED["zero"], "exit"):
        return  # the best exit code that there is
    stage = Stage(tmp_path, {}, {"a": [(("PENDING", "RUNNING", "RUNNING", "FAILED"), "")]})
    stage.cycle()
    mark(stage, kind).write_bytes(content)
    os.utime(mark(stage, kind), (1, 1))
    stage.finish()
    assert (stage.a.state, stage.a.answer.exit_code, stage.a.problem) == ("crash", 1, "")
    assert stage.a.newest.started_at is not None
    warnings = [entry.message for entry in stage.a.history if entry.event == "warning"]
    assert len(warnings) == 1
    assert f"marks/1.{kind} is ignored: " in warnings[0]
    assert sum("is ignored" in line for line in stage.messages) == 1


@pytest.mark.parametrize("odd", ["folder", "pipe", "link"])
def test_a_mark_that_is_no_file_is_ignored_and_not_waited_for(tmp_path: Path, odd: str) -> None:
    stage = Stage(tmp_path, {}, {"a": [GOOD]})
    stage.cycle()
    path = mark(stage)
    if odd == "folder":
        path.mkdir()
    elif odd == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    stage.finish()
    assert stage.a.state == "success"
    assert happened(stage.a).count("warning") == 1


def test_a_mark_that_is_just_being_written_is_not_complained_of(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [GOOD]})
    stage.cycle()
    mark(stage).touch()
    stage.finish()
    assert "warning" not in happened(stage.a)


# ---- an exception of one job


def test_what_keeps_a_job_from_being_watched_is_reported_once_and_shown_and_its_end_is_still_concluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, {}, {"a": [FOREVER], "b": [FOREVER]})
    running(stage)
    changes = Changes()
    looks = iter(range(1000))

    def lines(*_: Any) -> None:
        raise ValueError(f"strange, the {next(looks)}th time")

    with monkeypatch.context() as patched:
        patched.setattr(stage.monitor._detectors["a"], "lines", lines)
        shown = []
        for number in range(10):
            stage.write("a", f"{number}\n")
            stage.monitor.cycle()
            shown += changes.lines(stage.monitor)
            stage.clock += 10
        assert happened(stage.a).count("not watched in full") == 1
        assert "Traceback" in stage.a.history[-1].message
        assert sum("retried at each poll: ValueError in" in line for line in shown) == 1
        assert any("can't be watched in full: ValueError in test_watch_faults.py" in text for text in causes(stage.a))
        assert stage.jobs["b"].problem == ""
        end(stage, "RUNNING", "FAILED")
        stage.write("a", "the end\n")
        stage.cycle(3)
        assert stage.a.state == "crash"


def test_a_job_that_can_be_watched_again_is_read_on_from_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, on_line(log("{what}")), {"a": [FOREVER]})
    running(stage)
    stage.write("a", "LINE 1\n")
    with monkeypatch.context() as patched:
        patched.setattr("oellm_autoexp.engine.observing.log_reader.read_added", lambda *_, **__: 1 / 0)
        stage.cycle(3)
    stage.cycle(2)
    assert (stage.a.problem, stage.messages.count("a: 1")) == ("", 1)
    assert happened(stage.a)[-3:-1] == ["not watched in full", "watched"]


# ---- bytes are activity


@pytest.mark.parametrize(
    "piece", [".", "#\b#", "\r 50%|x|", "x" * 70000], ids=["dots", "bar", "returns", "a long line"]
)
def test_a_log_that_grows_without_line_ends_is_not_silent(tmp_path: Path, piece: str) -> None:
    stage = Stage(tmp_path, STALL_LOGGED, {"a": [FOREVER]})
    running(stage)
    for _ in range(20):
        stage.write("a", piece)
        stage.cycle()
    assert (stage.names(), stage.a.state) == ([], "running")
    stage.cycle(10)
    assert stage.names() == ["stall"]


def test_a_further_file_that_grows_without_line_ends_counts_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path, STALL_LOGGED, {"a": [FOREVER]}, {"a": {"output_paths": (str(tmp_path / "more"),)}})
    running(stage)
    for _ in range(20):
        with (tmp_path / "more").open("ab") as file:
            file.write(b".")
        stage.cycle()
    assert stage.names() == []


def test_a_log_that_is_truncated_or_replaced_is_not_silent(tmp_path: Path) -> None:
    stage = Stage(tmp_path, STALL_LOGGED, {"a": [lived("a long line at first\n")]})
    running(stage)
    path = Path(stage.a.logs.resolved_log_path)
    for number in range(10):
        path.write_text("." * (number % 3))
        stage.cycle(3)
    assert stage.names() == []


def test_an_unfinished_line_is_read_once_and_a_look_costs_one_stat_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, on_line(log("{what}")), {"a": [lived("LINE 1\nLINE 2")]})
    running(stage)
    stage.cycle(3)
    calls: list[str] = []
    path = stage.a.logs.resolved_log_path
    with monkeypatch.context() as patched:
        for name in ("stat", "lstat", "open", "scandir"):
            real = getattr(os, name)

            def noting(where: Any, *words: Any, real: Any = real, name: str = name, **more: Any) -> Any:
                if str(where).startswith(str(tmp_path / "a")):
                    calls.append(f"{name} {where}")
                return real(where, *words, **more)

            patched.setattr(os, name, noting)
        stage.cycle(5)
    assert calls == [f"stat {path}"] * 5
    stage.write("a", " and more\n")
    stage.cycle(2)
    assert stage.messages.count("a: 1") == stage.messages.count("a: 2 and more") == 1


# ---- a gap in our own looks


def test_a_gap_between_two_looks_is_no_silence(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {**STALL_LOGGED, "inactivity_threshold_seconds": 100}, {"a": [lived("hello\n")]})
    running(stage)
    for _ in range(3):
        stage.clock += 10_000  # a laptop slept, a monitor was stopped, a file system hung
        stage.cycle(1, seconds=0)
    assert stage.names() == []
    stage.cycle(20)
    assert stage.names() == ["stall"]


def test_a_number_that_stands_still_while_nobody_looks_makes_no_event(tmp_path: Path) -> None:
    rule = {"pattern": r"it (\d+)", "pattern_type": "progress", "stall_seconds": 100, "startup_seconds": 100}
    stage = Stage(tmp_path, {"log_events": {"p": rule}}, {"a": [lived("it 5\n")], "b": [FOREVER]})
    running(stage)
    for _ in range(3):
        stage.clock += 10_000
        stage.cycle(1, seconds=0)
    assert stage.names() == []


@pytest.mark.parametrize("set_by", [-1e6, 1e6])
def test_a_clock_that_is_set_changes_nothing_of_what_is_judged(tmp_path: Path, set_by: float) -> None:
    stage = Stage(tmp_path, STALL_LOGGED, {"a": [lived("hello\n")]})
    running(stage)
    stage.monitor.now = lambda: stage.clock + set_by
    stage.cycle(4)
    assert stage.names() == []
    stage.cycle(8)
    assert stage.names() == ["stall"]


def test_time_between_two_monitors_is_no_silence(tmp_path: Path) -> None:
    stage = Stage(tmp_path, STALL_LOGGED, {"a": [lived("hello\n")]})
    running(stage)
    stage.cycle(4)
    for _ in range(4):
        stage.monitor.session.close()
        stage.clock += 10_000
        stage.resumed()
        stage.cycle()
    assert stage.names() == []
    watched = stage.monitor.session.watched.seconds
    assert 40 <= watched <= 70, "what was watched before counts on"
    stage.cycle(6)
    assert stage.names() == ["stall"]


def single_look(stage: Stage, after_seconds: float) -> None:
    stage.monitor.session.close()
    stage.clock += after_seconds
    stage.resumed().once = True
    stage.cycle(1, seconds=0)


def test_single_looks_ten_minutes_apart_find_a_log_that_does_not_change_silent_at_the_third(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {**STALL_LOGGED, "inactivity_threshold_seconds": 300}, {"a": [lived("hello\n")]})
    running(stage)
    single_look(stage, 600)
    found = []
    for _ in range(4):
        single_look(stage, 600)
        found.append(stage.names())
    assert found == [[], [], ["stall"], ["stall"]]


def test_single_looks_ten_minutes_apart_find_a_log_that_grows_now_and_then_lively(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {**STALL_LOGGED, "inactivity_threshold_seconds": 300}, {"a": [lived("hello\n")]})
    running(stage)
    for _ in range(10):
        stage.write("a", ".")
        single_look(stage, 600)
        single_look(stage, 600)
    assert stage.names() == []


def test_a_session_of_an_older_version_has_a_clock_from_its_first_look_on(tmp_path: Path) -> None:
    stage = Stage(tmp_path, STALL_LOGGED, {"a": [lived("hello\n")]})
    running(stage)
    text = stage.path.read_text()
    line = next(line for line in text.splitlines() if '"watched"' in line)
    stage.path.write_text(text.replace(text[text.index(line) : text.index(' "serial"')], ""))
    assert Session.load(stage.path).watched.seconds == 0
    stage.resumed()
    stage.cycle(6)
    assert stage.names() == []


STOPPED = """
import os, signal, sys, time
from pathlib import Path
from tests.unit.test_executor import LONG, Stage, lived, log, on_state
folder = Path(sys.argv[1])
rules = {**on_state(log("stalled"), state="stall"), "inactivity_threshold_seconds": 2.0, "startup_seconds": 2.0}
stage = Stage(folder, rules, {"a": [lived("hello\\n")]})
stage.slurm.poll_interval_seconds = stage.slurm.longest_poll_interval_seconds = 0.1
monitor = stage.monitor
monitor.now, monitor.monotonic, monitor._planned_seconds = time.time, time.monotonic, 0.1
looks = 0
while looks < 22:
    monitor.cycle()
    looks += 1
    if looks == 6:
        print("watching", flush=True)
    time.sleep(0.02)
print(stage.names(), flush=True)
"""


@pytest.mark.slow
def test_a_monitor_that_was_stopped_by_a_signal_has_seen_no_silence_meanwhile(tmp_path: Path) -> None:
    words = [sys.executable, "-c", STOPPED, str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)  # longer than the threshold
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "[]\n"


# ---- a job that the scheduler has lost, and two copies


class Hidden:
    """A scheduler that answers, and does not list some jobs; what is asked of it is noted."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: set[str] = set()
        self.calls: list[str] = []
        poll, cancel, submit = stage.slurm.poll, stage.slurm.cancel, stage.slurm.submit

        def hiding(jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
            return {job: status for job, status in poll(jobs).items() if job not in self.ids}

        def cancelling(jobs: Mapping[str, str]) -> None:
            self.calls += [f"cancel {job}" for job in jobs]
            cancel(jobs)

        def submitting(submission: Any) -> str:
            self.calls.append("submit")
            return submit(submission)

        monkeypatch.setattr(stage.slurm, "poll", hiding)
        monkeypatch.setattr(stage.slurm, "cancel", cancelling)
        monkeypatch.setattr(stage.slurm, "submit", submitting)


@pytest.fixture
def vanishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Stage, Hidden]:
    stage = Stage(tmp_path, on_state(restart(max_attempts=1)), {"a": [lived("hello\n"), GOOD], "b": [FOREVER]})
    running(stage)
    return stage, Hidden(stage, monkeypatch)


def test_a_job_that_vanished_is_cancelled_and_seen_gone_before_a_new_attempt(vanishing: tuple[Stage, Hidden]) -> None:
    stage, hidden = vanishing
    hidden.ids.add("1")
    stage.until(lambda: stage.a.newest.vanished)
    assert stage.a.state == "crash"
    assert any("left the queue" in entry.message for entry in stage.a.history)
    stage.cycle(GONE_LOOKS + 1)
    assert hidden.calls == ["cancel 1"], "it gets a minute to end by itself"
    assert "waits until job 1 has surely ended: confirmed by 2 of 3 polls" in stage.a.reason
    stage.until(lambda: stage.a.attempt == 2)
    assert set(hidden.calls[:-1]) == {"cancel 1"}
    assert hidden.calls[-1] == "submit"
    stage.until(lambda: stage.a.state == "success")
    assert not stage.a.newest.vanished


def test_a_job_that_vanished_and_comes_back_before_its_new_attempt_is_awaited(vanishing: tuple[Stage, Hidden]) -> None:
    stage, hidden = vanishing
    hidden.ids.add("1")
    stage.until(lambda: stage.a.may_still_run)
    hidden.ids.clear()
    stage.slurm._scripts["1"] = [JobStatus("COMPLETING")] * 12 + [JobStatus("CANCELLED")]
    stage.cycle(4)
    assert (stage.a.attempt, stage.a.newest.gone_looks, "submit" in hidden.calls) == (1, 0, False)
    stage.until(lambda: stage.a.attempt == 2)


def test_while_a_log_grows_a_job_has_not_vanished_and_no_new_attempt_begins(vanishing: tuple[Stage, Hidden]) -> None:
    stage, hidden = vanishing
    hidden.ids.add("1")
    for _ in range(30):
        stage.write("a", ".")
        stage.cycle()
    assert (stage.a.state, hidden.calls) == ("running", [])
    stage.until(lambda: stage.a.may_still_run)
    for _ in range(30):
        stage.write("a", ".")
        stage.cycle()
    assert (stage.a.attempt, stage.a.newest.gone_looks) == (1, 0)
    stage.until(lambda: stage.a.attempt == 2)


def test_a_job_that_says_that_it_runs_has_vanished_only_after_long_silence(vanishing: tuple[Stage, Hidden]) -> None:
    stage, hidden = vanishing
    mark(stage).write_text("1005\n")
    hidden.ids.add("1")
    stage.cycle(int(BEGUN_VANISHED_AFTER_SECONDS / 10))
    assert stage.a.state == "running"
    assert "the scheduler does not know it now" in causes(stage.a)[0]
    stage.cycle(2)
    assert stage.a.newest.vanished


def test_a_job_that_vanished_and_has_said_how_it_ended_is_surely_gone(vanishing: tuple[Stage, Hidden]) -> None:
    stage, hidden = vanishing
    hidden.ids.add("1")
    stage.until(lambda: stage.a.may_still_run)
    mark(stage, "exit").write_text("3\n")
    stage.cycle(2)
    assert stage.a.attempt == 2


def test_a_job_that_vanished_is_running_again_when_the_scheduler_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, {}, {"a": [lived("hello\n")], "b": [FOREVER]})
    running(stage)
    hidden = Hidden(stage, monkeypatch)
    hidden.ids.add("1")
    stage.until(lambda: stage.a.newest.vanished)
    hidden.ids.clear()
    stage.cycle()
    assert (stage.a.state, stage.a.newest.vanished, stage.a.newest.runs, stage.a.newest.ended_at) == (
        "running",
        False,
        1,
        None,
    )


def test_a_job_has_not_vanished_while_nobody_looked(vanishing: tuple[Stage, Hidden]) -> None:
    stage, hidden = vanishing
    hidden.ids.add("1")
    stage.cycle()
    stage.clock += 100 * VANISHED_AFTER_SECONDS
    stage.cycle()
    assert stage.a.state == "running"


def test_a_person_who_wants_a_new_attempt_of_a_job_that_vanished_gets_no_second_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, {}, {"a": [lived("hello\n"), GOOD], "b": [FOREVER]})
    running(stage)
    hidden = Hidden(stage, monkeypatch)
    hidden.ids.add("1")
    stage.until(lambda: stage.a.newest.vanished)
    requests.ask(stage.path, restart_request(at=0))
    stage.until(lambda: stage.a.attempt == 2)
    assert set(hidden.calls[:-1]) == {"cancel 1"}
    assert hidden.calls[-1] == "submit"


# ---- ends are called by their cause


def test_a_hung_job_that_is_given_up_has_stalled_and_nobody_has_cancelled_it(tmp_path: Path) -> None:
    events = {"stall": {"actions": [restart(max_attempts=0), log("stalled")]}, "cancelled": {"actions": [log("no!")]}}
    stage = Stage(tmp_path, {"state_events": events, **STALLS}, {"a": [lived("hello\n")]})
    stage.finish()
    stopped = changed(stage.a, exit_code=143)
    assert stage.a.state == "stall"
    assert stage.a.failed
    assert "cancelled" not in happened(stage.a)
    assert causes(stopped) == ["no new attempt: the limit for 'stall' is reached (0 of 0)"]
    assert stage.names() == ["stall"]
    assert stage.messages.count("a: stalled") == 1
    assert "a: no!" not in stage.messages


def test_a_job_whose_number_stood_still_has_stalled(tmp_path: Path) -> None:
    rule = {
        "pattern": r"it (\d+)",
        "pattern_type": "progress",
        "stall_seconds": 60,
        "actions": [restart(max_attempts=0)],
    }
    rules = {"log_events": {"p": rule}, **on_state(log("stalled by {error_type}"), state="stall")}
    stage = Stage(tmp_path, rules, {"a": [lived("it 1\n")]})
    stage.finish()
    assert (stage.a.state, stage.a.run.error_type, stage.names()) == ("stall", "p", ["p", "stall"])
    assert "a: stalled by p" in stage.messages


@pytest.mark.parametrize("state", [None, "oom", "crash"])
def test_a_job_that_is_given_up_for_a_line_is_called_by_that(tmp_path: Path, state: str | None) -> None:
    more = {"state": state} if state else {}
    stage = Stage(tmp_path, on_line(restart(max_attempts=0), **more), {"a": [lived("LINE x\n")]})
    stage.finish()
    assert (stage.a.state, stage.a.run.error_type, stage.a.failed) == (state or "crash", "seen", True)


def test_an_attempt_that_is_ended_for_a_new_one_is_called_by_its_cause_too(tmp_path: Path) -> None:
    rules = {**on_state(restart(max_attempts=1), state="stall"), **STALLS}
    stage = Stage(tmp_path, rules, {"a": [lived("hello\n"), GOOD]})
    stage.finish()
    assert stage.a.state == "success"
    assert "stall" in happened(stage.a)
    assert "cancelled" not in happened(stage.a)


def test_a_stall_that_nobody_acts_upon_does_not_rename_the_crash_that_follows(tmp_path: Path) -> None:
    rules = {"state_events": {"stall": {"actions": [log("s")]}, "crash": {"actions": [log("c")]}}, **STALLS}
    stage = Stage(tmp_path, rules, {"a": [lived("hello\n")]})
    stage.until(lambda: "stall" in stage.names())
    end(stage, "FAILED")
    stage.finish()
    assert (stage.a.state, stage.names()) == ("crash", ["stall", "crash"])


@pytest.mark.parametrize("rule", ["crash", "cancelled"])
def test_what_a_person_cancelled_is_not_begun_anew_but_by_hand(tmp_path: Path, rule: str) -> None:
    stage = Stage(tmp_path, on_state(restart(), state=rule), {"a": [FOREVER, GOOD], "b": [FOREVER]})
    running(stage)
    end(stage, "CANCELLED")
    stage.cycle(5)
    assert (stage.a.state, stage.a.attempt, stage.a.failed) == ("cancelled", 1, False)
    assert [result.message for result in stage.results] == ["no new attempt: it was cancelled by hand"]
    requests.ask(stage.path, restart_request(at=0))
    stage.until(lambda: stage.a.state == "success")
    assert stage.a.attempt == 2


def test_a_session_in_which_an_older_version_gave_a_job_up_is_read(tmp_path: Path) -> None:
    old = JobState(name="a", state="cancelled", cancelled_by="given up: 'stall' has had 1 of 1 new attempts")
    assert old.over
    assert old.failed
    assert records.job_of(records.flat(old)) == old


# ---- lines that come late


@pytest.fixture
def lagging(tmp_path: Path) -> Stage:
    """Jobs whose nodes write to a shared file system."""
    rules = {
        "log_events": {"full": {"pattern": "out of memory", "state": "oom"}},
        "state_events": {"oom": {"actions": [log("too large")]}, "crash": {"actions": [restart(max_attempts=1)]}},
    }
    stage = Stage(tmp_path, rules, {"a": [lived("hello\n"), GOOD]})
    stage.slurm.log_lag_seconds = 5.0
    running(stage)
    return stage


def test_a_line_that_comes_after_the_end_was_seen_still_says_what_it_was(lagging: Stage) -> None:
    end(lagging, "FAILED")
    lagging.cycle()
    assert (lagging.a.state, lagging.a.attempt, lagging.monitor.session.finished) == ("crash", 1, False)
    lagging.write("a", "out of memory\n")
    lagging.finish()
    assert (lagging.a.state, lagging.a.attempt, lagging.a.run.error_type) == ("oom", 1, "full")
    assert lagging.names() == ["crash", "full", "oom"]
    assert "a: too large" in lagging.messages


def test_a_new_attempt_begins_when_late_lines_have_been_read(lagging: Stage) -> None:
    end(lagging, "FAILED")
    lagging.cycle(1)
    assert (lagging.a.state, lagging.a.logs.late_until is not None) == ("crash", True)
    assert lagging.monitor.interval_seconds <= 5.0, "the end of a session is not put off for a whole poll"
    lagging.finish()
    assert (lagging.a.state, lagging.a.attempt) == ("success", 2)


def test_late_lines_that_can_not_be_read_keep_no_session_open(lagging: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    end(lagging, "CANCELLED")
    lagging.cycle()
    monkeypatch.setattr("oellm_autoexp.engine.observing.log_reader.read_added", lambda *_, **__: 1 / 0)
    lagging.finish(5)
    assert lagging.a.state == "cancelled"


def test_a_job_whose_node_is_lost_is_not_begun_anew_while_its_log_grows(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart()), {"a": [lived("hello\n"), GOOD]})
    stage.slurm.log_lag_seconds = 5.0
    running(stage)
    end(stage, "NODE_FAIL")
    for _ in range(10):
        stage.write("a", ".")
        stage.cycle()
    assert (stage.a.state, stage.a.attempt) == ("node_fail", 1)
    stage.finish()
    assert (stage.a.state, stage.a.attempt) == ("success", 2)


# ---- requeued


def again(number: int, state: str = "RUNNING") -> JobStatus:
    return JobStatus(state, restarts=number)


def test_a_job_that_was_requeued_between_two_looks_has_begun_a_new_run(tmp_path: Path) -> None:
    rules = {**on_line(log("l"), state="oom", overrules_success=True), **on_state(log("r"), state="running")}
    states = (again(0, "PENDING"), again(0), again(0), again(1), again(1), again(1, "COMPLETED"))
    stage = Stage(tmp_path, rules, {"a": [(states, "LINE of the first run\n")]})
    stage.finish()
    assert (stage.a.state, stage.a.newest.runs, stage.a.attempt, stage.a.answer.requeues) == ("success", 2, 1, 1)
    assert stage.names() == ["seen", "running", "running"]
    assert "the scheduler has restarted it" in [entry.message for entry in stage.a.history]


def test_a_job_that_was_requeued_and_has_ended_since_the_last_look_ran_twice(tmp_path: Path) -> None:
    states = (again(0), again(0), again(1, "FAILED"))
    stage = Stage(tmp_path, on_state(log("r"), state="running"), {"a": [(states, "x\n")]})
    stage.finish()
    assert (stage.a.state, stage.a.newest.runs, stage.names()) == ("crash", 2, ["running", "running"])


@pytest.mark.parametrize("first", ["FAILED", "COMPLETED", "CANCELLED"])
def test_a_job_that_has_ended_and_is_requeued_runs_again(tmp_path: Path, first: str) -> None:
    states = (again(0), again(0), again(0, first), again(1, "PENDING"), again(1), again(1), again(1, "TIMEOUT"))
    stage = Stage(tmp_path, on_state(log("t"), state="timeout"), {"a": [(states, "x\n")], "b": [FOREVER]})
    stage.until(lambda: stage.a.state == "pending" and stage.a.newest.runs == 1)
    assert (stage.a.newest.ended_at, stage.a.answer.exit_code) == (None, None)
    stage.until(lambda: stage.a.state == "timeout")
    assert (stage.a.attempt, stage.a.newest.runs, len(stage.a.past.unsettled), stage.names()) == (1, 2, 1, ["timeout"])


def test_a_job_that_is_requeued_while_its_new_attempt_is_on_its_way_has_none_beside_it(tmp_path: Path) -> None:
    failed = [again(0, "FAILED")] * 3
    states = (again(0), again(0), *failed, again(1, "PENDING"), again(1), again(1), again(1, "COMPLETED"))
    stage = Stage(tmp_path, on_state(restart()), {"a": [(states, "x\n"), GOOD]})
    stage.slurm.log_lag_seconds = 5.0
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.newest.runs) == ("success", 1, 2)
    assert len(stage.slurm.submissions) == 1
    assert any("no new attempt" in entry.message for entry in stage.a.history)


@pytest.mark.parametrize("then", ["COMPLETED", "FAILED"])
def test_a_job_that_is_requeued_in_the_cooldown_of_its_new_attempt_is_kept_and_costs_none(
    tmp_path: Path, then: str
) -> None:
    rules = on_state(restart(cooldown_seconds=100, max_attempts=1, overrides={"slurm.sbatch.time": 3}))
    stage = Stage(tmp_path, rules, {"a": [((again(0), again(0), again(0, "FAILED")), "x\n"), GOOD]})
    stage.until(lambda: stage.a.state == "waiting" and bool(stage.a.past.earlier))
    stage.slurm._scripts["1"] = [again(1, "PENDING"), again(1), again(1), again(1, then)]
    stage.until(lambda: stage.a.state == "running")
    assert (stage.a.attempt, stage.a.newest.runs, stage.a.past.restarts, stage.a.past.earlier) == (
        1,
        2,
        {"crash": 0},
        (),
    )
    assert stage.a.changes.overrides == {}
    assert sum("a: no new attempt: the scheduler has restarted job 1" in line for line in stage.messages) == 1
    stage.resumed()
    stage.finish()
    ended = ("success", 1, 1) if then == "COMPLETED" else ("success", 2, 2)  # its budget is not used up
    assert (stage.a.state, stage.a.attempt, len(stage.slurm.submissions)) == ended


def test_a_job_that_is_requeued_after_it_was_cancelled_in_that_cooldown_is_watched_on(tmp_path: Path) -> None:
    failed = (again(0), again(0), again(0, "FAILED"))
    stage = Stage(tmp_path, on_state(restart(cooldown_seconds=100)), {"a": [(failed, "x\n")], "b": [FOREVER]})
    stage.until(lambda: stage.a.state == "waiting" and bool(stage.a.past.earlier))
    stage.monitor.cancel(["a"], "not wanted")
    assert stage.a.state == "cancelled"
    stage.slurm._scripts["1"] = [again(1), again(1), again(1, "COMPLETED")]
    stage.until(lambda: stage.a.state == "success")
    assert (stage.a.attempt, stage.a.newest.runs, len(stage.slurm.submissions)) == (1, 2, 2)


@pytest.mark.parametrize("mode", ["inline", "queue"])
def test_what_a_run_before_the_requeue_called_for_does_not_end_the_run_after_it(tmp_path: Path, mode: str) -> None:
    condition = {"class_name": "FileExistsCondition", "path": str(tmp_path / "go"), "blocking": True}
    action = {"class_name": "EventAction", "mode": mode, "conditions": [condition], "action": restart()}
    stage = Stage(tmp_path, on_state(action), {"a": [((again(0), again(0), again(0, "FAILED")), "x\n"), FOREVER]})
    stage.until(lambda: stage.a.state == "crash")
    stage.slurm._scripts["1"] = [again(1, "PENDING"), *[again(1)] * 9, again(1, "COMPLETED")]
    stage.until(lambda: stage.a.state in ("pending", "running"))
    (tmp_path / "go").touch()
    stage.cycle()
    if mode == "queue":
        (entry,) = Queue(stage.path).entries()
        requests.ask(stage.path, entry_engine._restart_asked(entry, RestartAction.model_validate(restart())))
    stage.until(lambda: stage.a.state in ("success", "crash"))
    assert (stage.a.state, stage.a.attempt, stage.a.newest.runs, len(stage.slurm.submissions)) == ("success", 1, 2, 1)


def test_the_script_of_a_new_attempt_that_was_dropped_is_not_that_of_the_next_one(tmp_path: Path) -> None:
    rules = on_state(restart(), state="timeout")
    rules["state_events"] |= on_state(restart(overrides={"slurm.sbatch.time": 3}))["state_events"]
    stage = Stage(tmp_path, rules, {"a": [((again(0), again(0), *[again(0, "FAILED")] * 2), "x\n"), GOOD]})
    stage.slurm.log_lag_seconds = 5.0
    stage.until(lambda: stage.a.restart is not None)
    stage.slurm._scripts["1"] = [again(1), again(1), again(1, "TIMEOUT")]
    stage.finish()
    assert (stage.a.state, stage.a.attempt) == ("success", 2)
    assert [Path(one.script_path).parent.name for one in stage.slurm.submissions] == ["a", "a"]


def test_a_person_who_wants_a_new_attempt_of_a_job_that_was_requeued_unseen_gets_no_second_copy(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [((again(0), again(0), again(0, "FAILED")), "x\n"), FOREVER]})
    stage.finish()
    stage.slurm._scripts["1"] = [*[again(1)] * 20, again(1, "COMPLETED")]
    requests.ask(stage.path, restart_request())
    stage.cycle()
    assert len(stage.slurm.submissions) == 1
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.newest.runs, len(stage.slurm.submissions)) == ("success", 1, 2, 1)


@pytest.mark.parametrize("new", ["is in the queue", "runs"])
def test_an_earlier_attempt_that_is_requeued_is_ended_and_runs_beside_no_newer_one(tmp_path: Path, new: str) -> None:
    newer = ("PENDING",) * 3 + (("RUNNING",) * 8 if new == "runs" else ()) + ("COMPLETED",)
    stage = Stage(
        tmp_path,
        on_state(restart()),
        {"a": [((again(0), again(0), again(0, "FAILED")), "x\n"), (newer, "y\n")]},
    )
    before = {"runs": lambda: stage.a.attempt == 2 and stage.a.state == "running"}.get(new)
    stage.until(before or (lambda: stage.a.state == "pending" and bool(stage.a.past.earlier)))
    stage.slurm._scripts["1"] = [again(1, "PENDING"), again(1), again(1)]
    stage.until(lambda: bool(stage.a.past.begun_again))
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.past.begun_again) == ("success", 2, ())
    assert stage.slurm._shown["1"].scheduler_state == "CANCELLED"
    assert sum("job 1, an earlier attempt, was restarted" in line for line in stage.messages) == 1


def test_an_attempt_that_had_vanished_and_is_listed_again_is_ended_before_its_new_one_begins(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart(cooldown_seconds=1000)), {"a": [((again(0), again(0)), "x\n"), GOOD]})
    running(stage)
    del stage.slurm._scripts["1"], stage.slurm._shown["1"]
    stage.until(lambda: stage.a.state == "waiting" and bool(stage.a.past.earlier))
    stage.slurm._scripts["1"] = [again(0)] * 50
    stage.until(lambda: bool(stage.a.past.begun_again), 2)
    stage.finish(200)
    assert (stage.a.state, stage.a.attempt, stage.slurm._shown["1"].scheduler_state) == ("success", 2, "CANCELLED")


def test_an_attempt_that_was_refused_for_good_is_no_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(tmp_path, {}, {"a": [GOOD]})
    refused = {"state": "crash", "attempt": 1, "refusals": 1, "scheduler_id": "", "token": ""}
    stage.monitor.session.put(changed(stage.a, **refused))
    asked: list[str] = []
    poll = stage.slurm.poll

    def noting(jobs: Mapping[str, str]) -> Mapping[str, JobStatus]:
        asked.extend(jobs)
        return poll(jobs)

    monkeypatch.setattr(stage.slurm, "poll", noting)
    requests.ask(stage.path, restart_request("again", cooldown_seconds=30))
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.past.earlier) == ("success", 2, ())
    assert set(asked) == {"1"}


def test_an_earlier_attempt_that_the_scheduler_lists_as_it_ended_is_left_alone(tmp_path: Path) -> None:
    odd = (again(0), again(0), again(0, "FAILED"), again(0, "PENDING"), again(0))  # the same count: the same run
    stage = Stage(tmp_path, on_state(restart()), {"a": [(odd, "x\n"), (LONG, "y\n")]})
    stage.until(lambda: stage.a.attempt == 2)
    stage.cycle(5)
    assert (stage.a.past.begun_again, stage.slurm._shown["1"].scheduler_state) == ((), "RUNNING")


def test_a_job_of_the_same_id_that_was_not_begun_again_is_another_one(tmp_path: Path) -> None:
    states = (again(0), again(0), again(0, "FAILED"), again(0, "PENDING"), again(0))
    stage = Stage(tmp_path, {}, {"a": [(states, "x\n")], "b": [FOREVER]})
    stage.cycle(10)
    assert (stage.a.state, stage.a.newest.runs) == ("crash", 1)


def test_a_scheduler_without_that_count_is_understood(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [((*LONG[:5], "COMPLETED"), "x\n")]})
    stage.finish()
    assert (stage.a.state, stage.a.newest.runs, stage.a.answer.requeues) == ("success", 1, None)


# ---- scripts that are not the planned ones when their jobs are to go

ODD = "the script can't be trusted: this is not the script that was planned: "


def with_other_script(folder: Path, lives: Mapping[str, Any]) -> tuple[Stage, Path, str]:
    """A plan of which job a's script is another one than the planned; its path, and the text that was planned."""
    stage = Stage(folder, {}, lives, {name: {"script_digest": digest(SCRIPT)} for name in lives})
    for name in lives:
        Path(folder, name, "job.sbatch").write_text(SCRIPT)
    path = Path(stage.manifest.jobs[0].script_path)
    path.write_text("#!/bin/sh\nfalse\n")
    return stage, path, SCRIPT


SCRIPT = "#!/bin/bash\n#SBATCH --time=5\ntrue\n"


def test_a_job_whose_script_is_not_the_planned_one_waits_alone_and_goes_when_it_is(tmp_path: Path) -> None:
    stage, path, planned = with_other_script(tmp_path, {"a": [GOOD], "b": [GOOD]})
    stage.until(lambda: stage.states == {"a": "waiting", "b": "success"})
    assert stage.a.reason == f"{ODD}{path}"
    assert stage.a.waiting.deadline is not None
    assert stage.a.waiting.deadline.then == "given up"
    stage.cycle(100)  # by now it is tried again seldom
    path.write_text(planned)
    stage.cycle()
    assert stage.a.state == "pending"
    stage.finish()
    assert (stage.a.state, stage.a.attempt) == ("success", 1)


def test_a_job_whose_script_stays_another_one_ends_after_a_day_with_that_reason(tmp_path: Path) -> None:
    stage, path, _ = with_other_script(tmp_path, {"a": [GOOD]})
    stage.cycle()
    stage.clock += 86400
    stage.cycle()
    assert (stage.a.state, stage.a.reason) == ("crash", f"given up: for a day, {ODD}{path}")
    assert stage.monitor.session.finished


# ---- what a person is to see at once


def test_a_rule_that_is_switched_off_is_reported_when_it_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oellm_autoexp.search.patterns.MATCH_SECONDS", 0.05)
    stage = Stage(tmp_path, {"log_events": {"slow": {"pattern": "(a+)+$"}}}, {"a": [lived("")]})
    running(stage)
    stage.write("a", "a" * 60 + "!\n")
    stage.cycle()
    lost = "a: the pattern of the rule 'slow' took too long: a part of the log was not searched for it"
    assert stage.messages.count(lost) == 1
    for _ in range(2):
        stage.write("a", "a" * 60 + "!\n")
        stage.cycle()
    assert stage.messages.count(lost) == 1
    assert sum("a: the rule 'slow' is switched off: its pattern takes too long" in line for line in stage.messages) == 1


def test_why_a_new_attempt_can_not_be_made_is_what_the_job_says(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_state(restart(overrides={"slurm.sbatch.job_name": "x"})), {"a": [lived("x\n")]})
    running(stage)
    end(stage, "FAILED")
    stage.finish()
    assert stage.a.state == "crash"
    assert stage.a.run.not_restarted.startswith("no new attempt: ")
    assert stage.a.run.not_restarted in causes(stage.a)


REFUSED = {"slurm.sbatch.job_name": "x"}


def test_why_a_job_that_runs_can_not_begin_anew_is_still_told_when_it_has_ended(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_line(restart(overrides=REFUSED)), {"a": [lived("LINE x\n")]})
    running(stage)
    stage.cycle()
    assert (stage.a.state, stage.a.restart) == ("running", None)
    end(stage, "FAILED")
    stage.finish()
    assert stage.a.state == "crash"
    assert any(cause.startswith("no new attempt: ") for cause in causes(stage.a))


def test_why_a_new_attempt_that_a_request_asks_for_can_not_be_made_is_kept_with_the_job(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [(("FAILED",), "x\n"), GOOD]})
    stage.finish()
    for id_, overrides in (("odd", REFUSED), ("good", {})):
        asked = restart_request(id_, cause="crash", overrides=overrides)
        requests.ask(stage.path, asked)
        stage.cycle()
        if id_ == "odd":
            assert any(cause.startswith("no new attempt: ") for cause in causes(stage.a))
            assert "restart failed" in happened(stage.a)
    stage.finish()
    assert (stage.a.state, stage.a.attempt, stage.a.run.not_restarted) == ("success", 2, "")


def test_what_the_scheduler_refuses_for_good_is_reported_and_no_wait_of_an_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {"slurm.sbatch.reservation": "nosuch"}
    stage = Stage(tmp_path, on_state(restart(overrides=overrides)), {"a": [lived("x\n")]})
    changes = Changes()
    running(stage)
    monkeypatch.setattr(stage.slurm, "submit", refuses)
    end(stage, "FAILED")
    lines = []
    for _ in range(5):
        stage.monitor.cycle()
        lines += changes.lines(stage.monitor)
        stage.clock += 10
    assert sum("a: not submitted: Requested reservation is invalid" in line for line in lines) == 1
    assert not [line for line in lines if "waits for" in line]
    assert any(
        "the last one was finally refused: Requested reservation is invalid" in cause for cause in causes(stage.a)
    )


def refuses(*_: object) -> str:
    raise InvalidSubmissionError(Problem("Requested reservation is invalid"))


def test_a_link_to_the_newest_log_that_was_deleted_is_there_when_the_log_grows(tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [lived("hello\n")]})
    running(stage)
    link = tmp_path / "a" / "current.log"
    link.unlink()
    stage.write("a", "more\n")
    stage.cycle(1)
    assert link.read_text() == "hello\nmore\n"


# ---- an end that somebody asks for while the scheduler does not answer


def test_an_end_that_is_asked_for_while_the_scheduler_does_not_answer_comes_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise SchedulerError(Problem("no answer"))

    stage = Stage(tmp_path, {}, {"a": [lived("x\n")], "b": [lived("x\n")]})
    with monkeypatch.context() as patch:
        patch.setattr(stage.slurm, "submit", away)
        patch.setattr(stage.slurm, "find", away)
        stage.cycle(3)
        assert stage.states == {"a": "submitting", "b": "waiting"}
        with pytest.raises(SchedulerError):
            stage.monitor.cancel(["a", "b"], "by hand")
        stage.resumed()
        assert (stage.a.state, stage.a.cancelled_by) == ("submitting", "by hand")
        assert stage.states["b"] == "cancelled"
        stage.cycle(3)
        assert "to end (by hand)" in stage.a.reason
    stage.finish()
    assert stage.states == {"a": "cancelled", "b": "cancelled"}
    assert stage.slurm.submissions == []


# ---- many ranks, one word


RANKS = "".join(f"LINE of rank {number}\n" for number in range(64))


@pytest.mark.parametrize("states", [LONG, ("PENDING", "FAILED")], ids=["runs", "has ended"])
def test_a_line_of_each_of_64_ranks_gives_a_job_up_once(tmp_path: Path, states: tuple[str, ...]) -> None:
    stage = Stage(tmp_path, on_line(restart(max_attempts=0)), {"a": [lived(RANKS, states)]})
    stage.finish()
    assert sum("no new attempt" in line and "ended" not in line for line in stage.messages) == 1
    assert sum("no new attempt" in entry.message for entry in stage.a.history if entry.event == "given up") <= 1


def test_a_line_of_each_of_64_ranks_begins_one_new_attempt(tmp_path: Path) -> None:
    stage = Stage(tmp_path, on_line(restart(max_attempts=5)), {"a": [lived(RANKS, ("RUNNING", "FAILED")), GOOD]})
    stage.finish()
    assert (stage.a.attempt, stage.a.past.restarts) == (2, {"seen": 1})
    assert sum("new attempt" in line for line in stage.messages) == 1


def test_a_job_whose_state_the_scheduler_does_not_know_now_is_watched_on_and_that_is_reported(tmp_path: Path) -> None:
    unknown = JobStatus("UNKNOWN", "sacct: connection refused")
    stage = Stage(tmp_path, {}, {"a": [(("RUNNING", unknown, unknown, "COMPLETED"), "")]})
    changes, reported = Changes(), []
    for _ in range(8):
        stage.cycle()
        reported += [line.partition(" ")[2] for line in changes.lines(stage.monitor)]
    assert reported.count("the scheduler does not answer, waiting for it: a: sacct: connection refused") == 1
    assert reported.count("it answers again") == 1
    assert (stage.a.state, stage.a.newest.runs) == ("success", 1)
