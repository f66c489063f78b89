"""What stands on a screen of a given size: tables with their summary, the last look, events."""

from __future__ import annotations

import io
import json
import re
import time
from collections import deque
from pathlib import Path

import pytest
from rich.console import Console

from oellm_autoexp.core.errors import CorruptError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.states import RUNNING, WAITING
from oellm_autoexp.rules.events import Event
from oellm_autoexp.session.event_log import EventLog, Result
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.view.live import Screen
from oellm_autoexp.view.session_table import jobs_table
from tests.flow.conftest import User
from tests.flow.terminal import at_terminal, plain

SWEEP = """\
# @package _global_
defaults: [override /backend: command]
project: {name: "dense_300M_seed${stage}_fineweb_edu_100BT_with_a_long_end_${stage}"}
backend: {argv: [sh, -c, "until [ -e go ]; do sleep 0.1; done"]}
monitoring: {poll_interval_seconds: 0.2}
sweep: {params: {stage: [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9]}}
"""


class Watched:
    """What is shown of a session that nothing has happened in."""

    scheduler_error = storage_error = ""
    messages = deque[str]()

    def __init__(self, session: Session) -> None:
        self.session = session
        self.manifest = Manifest.model_construct(plan_id=session.plan_id, jobs=())  # type: ignore[call-arg]


def watched(tmp_path: Path, count: int, **job: object) -> Watched:
    """A session of so many jobs, of which the last one runs."""
    jobs = {f"j{number:04}": job_state(name=f"j{number:04}", state=WAITING, **job) for number in range(count)}
    last = f"j{count - 1:04}"
    jobs[last] = changed(jobs[last], state=RUNNING)
    return Watched(Session(tmp_path / f"p{count}.json", f"p{count}", tmp_path, jobs, 0))


def drawn(what: object, height: int, width: int = 80) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, height=height, color_system=None, force_terminal=True)
    screen.print(what)
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("height", [5, 24, 50])
@pytest.mark.parametrize("count", [3, 24, 1000])
def test_a_watch_fits_the_screen_with_its_summary_whatever_the_number_of_jobs(
    tmp_path: Path, count: int, height: int
) -> None:
    session = watched(tmp_path, count, reason="waits for a reason that is longer than what the row has room for, far")
    lines = drawn(Screen().of([session], alone=True), height)
    assert len(lines) < height
    assert lines[0] == f"{count} jobs: {count - 1} waiting, 1 running"
    assert [f"j{count - 1:04}", "running"] in [line.split()[:2] for line in lines]
    rows = [line for line in lines if line.startswith("j0")]
    if len(rows) < count:
        assert f"… and {count - len(rows)} more" in lines


def test_several_sessions_share_the_screen_and_each_has_its_summary(tmp_path: Path) -> None:
    lines = drawn(Screen().of([watched(tmp_path, count) for count in (2, 100, 30)], alone=False), 40)
    assert len(lines) < 40
    for count in (2, 100, 30):
        assert f"p{count}" in lines
        assert any(line.startswith(f"{count} jobs: ") for line in lines)


def test_logs_that_are_left_out_below_a_narrow_table_are_counted(tmp_path: Path) -> None:
    session = watched(tmp_path, 6, resolved_log_path="/a/rather/long/path/of/a/log/" * 3).session
    lines = drawn(jobs_table(session), 24)
    assert sum(line.startswith("log  ") for line in lines) == 4
    assert "… and 2 more logs (--wide shows all)" in lines


@pytest.mark.slow
def test_after_ctrl_c_the_last_look_stays_and_the_end_is_one_screen_of_jobs(user: User) -> None:
    (user.home / "p.yaml").write_text(SWEEP)
    words = ("run", "--config-ref", "p.yaml", "--plan-id", "p")
    code, output = at_terminal(user, *words, rows=16, interrupt=lambda reported: "20 jobs: " in reported)
    lines = plain(output)
    assert code == 130
    interrupted = lines.index("interrupted: the jobs go on. Resume with:")
    frame = lines[:interrupted]
    assert any("20 jobs: " in line for line in frame[-17:]), frame[-17:]
    assert any(line.startswith("… and ") and line.endswith(" more") for line in frame)
    names = [line.split()[0] for line in frame if line.split()[1:2] and line.split()[1] in ("pending", "running")]
    shown = names[-5:]
    assert len(set(shown)) == len(shown), "shortened names stay distinct"
    (user.home / "go").touch()
    code, output = at_terminal(user, "monitor", "p", rows=20)
    lines = plain(output)
    assert code == 0
    end = lines[max(number for number, line in enumerate(lines) if line.startswith("job ")) :]
    assert len(end) <= 20, end
    (more,) = [line for line in end if line.startswith("… and ")]
    assert more.endswith("more: --cmd status --wide")
    assert "20 jobs: 20 success" in end
    everything = user.run("monitor", "p", "--cmd", "status").stdout.splitlines()
    assert sum(" success " in line for line in everything) == 20


@pytest.mark.slow
def test_once_shows_as_many_jobs_as_a_screen_has_and_how_to_see_all(user: User) -> None:
    many = ", ".join(f"x{number}" for number in range(60))
    text = SWEEP.replace("a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, b0, b1, b2, b3, b4, b5, b6, b7, b8, b9", many)
    (user.home / "p.yaml").write_text(text)
    words = ("run", "--config-ref", "p.yaml", "--plan-id", "p", "--no-monitor", "scheduler.max_jobs=1")
    assert user.run(*words).returncode == 0
    shown = user.run("monitor", "p", "--once").stdout
    rows = sum(" waiting " in line or " pending " in line or " running " in line for line in shown.splitlines())
    assert rows == 60
    everything = user.run("monitor", "p", "--cmd", "status").stdout.splitlines()
    assert sum(line.split()[1:2] == ["waiting"] for line in everything) == 59, "a pipe gets all"
    code, output = at_terminal(user, "monitor", "p", "--cmd", "status", rows=30)
    screen = [line for line in plain(output) if line]
    assert (code, len(screen) < 30) == (0, True), screen
    assert any(re.fullmatch(r"… and \d\d more: --wide", line) for line in screen)
    cancelled = user.run("monitor", "p", "--cmd", "cancel").stdout
    assert "and 55 more" in cancelled
    assert len(cancelled.splitlines()) < 25


def test_a_terminal_without_any_features_gets_one_screen_of_its_own_size_too(user: User) -> None:
    (user.home / "p.yaml").write_text(SWEEP)
    words = ("run", "--config-ref", "p.yaml", "--plan-id", "p", "--no-monitor", "scheduler.max_jobs=1")
    assert user.run(*words).returncode == 0
    bare = User(user.home, {**user.environment, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"})
    code, output = at_terminal(bare, "monitor", "p", "--cmd", "status", rows=18, columns=90, term="dumb")
    lines = [line for line in output.replace("\r", "").split("\n") if line]
    assert code == 0
    assert (output.isascii(), "\x1b" in output) == (True, False)
    assert len(lines) < 18, lines
    assert 80 < max(map(len, lines[:-1])) <= 90 or len(lines) > 12
    assert lines[0].startswith("job "), "the header is on the screen"
    assert any("19 jobs: waits for room in the queue" in line for line in lines)


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_watch_at_a_terminal_without_any_features_has_a_line_for_each_change(user: User, term: str) -> None:
    (user.home / "p.yaml").write_text(SWEEP.split("sweep:")[0] + "sweep: {params: {stage: [a, b]}}\n")
    (user.home / "go").touch()
    code, output = at_terminal(user, "run", "--config-ref", "p.yaml", "--plan-id", "p", term=term)
    assert (code, "\x1b" in output) == (0, False), output
    lines = plain(output)
    assert any(re.search(r": (waiting|pending|running)", line) for line in lines), lines
    assert any(re.search(r": success", line) for line in lines), lines


@pytest.mark.slow
def test_a_watch_into_a_pipe_says_of_many_jobs_that_they_wait_in_one_line(user: User) -> None:
    (user.home / "p.yaml").write_text(SWEEP)
    (user.home / "go").touch()
    result = user.run("run", "--config-ref", "p.yaml", "--plan-id", "p", "scheduler.max_jobs=2")
    assert result.returncode == 0, result.stderr
    assert re.search(r": waiting|jobs: waiting \(waits for room", result.stdout)
    assert sum(": waiting (waits for room" in line for line in result.stdout.splitlines()) <= 20
    again = user.run("monitor", "p").stdout.splitlines()
    assert any(line.endswith(" 20 jobs: success") for line in again), again


# ---- events


NOW = time.time()


@pytest.fixture
def recorded(user: User) -> User:
    """A user with a session `x` of two jobs, whose record has 300 events of turns, one a minute until now."""
    (user.home / "x.yaml").write_text(SWEEP.split("sweep:")[0] + "sweep: {params: {stage: [a, b]}}\n")
    (user.home / "go").touch()
    result = user.run("run", "--config-ref", "x.yaml", "--plan-id", "x")
    assert result.returncode == 0, result.stderr
    path = SessionFiles.named(user.outputs / "monitoring_state", "x").path
    names = list(Session.load(path).jobs)
    entries: list[Event | Result] = []
    for number in range(300):
        seen = Event(
            id=f"saved-{number:012}",
            kind="log",
            name="saved",
            job=names[number % 2],
            attempt=1,
            at=NOW - 60 * (300 - number),
            metadata={"line": f"number {number} " + "long " * 100},
        )
        done = Result(
            event_id=seen.id, id=f"r{number}", job=seen.job, action="LogAction", status="done", message="", at=0
        )
        entries += [seen, done]
    EventLog(path).add([*entries, *entries[-2:]])  # what is seen again after a crash stands there twice
    return user


def test_events_fill_one_screen_newest_first_and_how_many_are_left_out_is_reported(recorded: User) -> None:
    code, output = at_terminal(recorded, "monitor", "x", "--cmd", "events", rows=24, columns=100)
    lines = plain(output)
    assert code == 0
    rows = [line for line in lines if "saved-" in line]
    assert [int(row.split("saved-")[1][:12]) for row in rows] == list(range(299, 299 - len(rows), -1))
    assert 15 <= len(rows) < 24
    assert max(map(len, lines)) <= 100
    assert f"… and {300 - len(rows)} earlier (--lines N, --since TIME, --job NAME)" in lines
    assert all("LogAction: done" in row and "number" in row for row in rows)


@pytest.mark.slow
def test_events_can_be_asked_for_by_number_time_and_job_and_come_whole_into_a_pipe(recorded: User) -> None:
    def ids(*words: str) -> list[int]:
        result = recorded.run("monitor", "x", "--cmd", "events", *words)
        assert result.returncode == 0, result.stderr
        assert max(map(len, result.stdout.splitlines())) <= 200
        return [int(line.split("saved-")[1][:12]) for line in result.stdout.splitlines() if "saved-" in line]

    assert ids() == list(range(299, -1, -1))
    assert ids("--lines", "3") == [299, 298, 297]
    assert ids("--lines", "0") == []
    assert ids("--job", "1", "--lines", "3") == [299, 297, 295]
    since = ids("--since", "3h")
    assert since == list(range(299, 299 - len(since), -1))
    assert 60 <= len(since) <= 180  # one a minute, and some of them have passed since
    reported = json.loads(recorded.run("monitor", "x", "--cmd", "events", "--lines", "2", "--json").stdout)
    assert [event["id"][-3:] for event in reported["events"]] == ["298", "299"]
    wrong = recorded.run("monitor", "x", "--cmd", "events", "--since", "soon")
    assert (wrong.returncode, "--since: 'soon' is no time" in wrong.stderr) == (2, True)


def test_a_record_of_any_length_is_read_without_keeping_it(recorded: User) -> None:
    record = EventLog(SessionFiles.named(recorded.outputs / "monitoring_state", "x").path)
    found = record.histories(lambda event: True, newest_first=True, most=2)
    assert found.total == 300
    opened = [(event.id, [result.id for result in results]) for event, results in found.shown]
    assert opened == [("saved-000000000299", ["r299"]), ("saved-000000000298", ["r298"])]
    lines = record.path.read_bytes().splitlines(keepends=True)
    record.path.write_bytes(b"".join([*lines[:4], b'{"event": 3}\n', *lines[4:]]))
    with pytest.raises(CorruptError, match=r"x\.events\.jsonl:5"):
        record.histories(lambda event: True, newest_first=True)
