"""Conditions: what each says of what it sees, as rows; and what it refuses to be."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from oellm_autoexp.decisions.condition_context import CheckRunner, ConditionContext
from oellm_autoexp.rules.conditions import Condition, ConditionField, Surroundings
from oellm_autoexp.session.job_state import JobState, Restarting
from oellm_autoexp.storage.world import Files
from oellm_autoexp.testing.jobs import changed, job_state

_ADAPTER: TypeAdapter[ConditionField] = TypeAdapter(ConditionField)


@dataclass(frozen=True)
class Seen:
    """A world in place of the world."""

    paths: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    number: int = 1
    ago: float | None = None
    text: str = ""
    job: tuple[str, str] = ("running", "RUNNING")
    over: bool = False
    why: str = ""

    def exists(self, path: str) -> bool:
        return path in self.paths

    def count(self, pattern: str) -> int:
        return len([path for path in self.paths if path.startswith(pattern.rstrip("*"))])

    def states(self, job: str) -> tuple[str, str]:  # noqa: ARG002
        return self.job

    def attempt(self) -> int:
        return self.number

    def metadata(self, key: str) -> Any:
        return self.values[key]

    def elapsed_seconds(self, since: str) -> float | None:  # noqa: ARG002
        return self.ago

    def cooldown_seconds(self) -> float | None:
        return self.ago

    def answer(self, words: tuple[str, ...], interval_seconds: float) -> bool | None:  # noqa: ARG002
        return None

    def tail(self, path: str | None, length: int) -> str:  # noqa: ARG002
        return self.text[-length:]

    def ended(self, job: str | None) -> bool:
        if job == "nobody":
            raise KeyError(job)
        return self.over

    def writer(self, path: str) -> str:
        return "p" if path.startswith("/p/") or path == "/p" else ""

    def dead_end(self, job: str) -> str:
        if job == "nobody":
            raise KeyError(job)
        return self.why


def condition(kind: str, **more: Any) -> Condition:
    return _ADAPTER.validate_python({"class_name": f"{kind}Condition", **more})


ERROR = {"error_type": "oom", "code": 7, "lr": "1e-3", "yes": True, "word": "x"}


@pytest.mark.parametrize(
    ("kind", "fields", "seen", "holds"),
    [
        ("FileExists", {"path": "a"}, Seen(("a",)), True),
        ("FileExists", {"path": "b"}, Seen(("a",)), False),
        ("GlobExists", {"pattern": "a*"}, Seen(("a1", "b")), True),
        ("GlobExists", {"pattern": "a*", "min_count": 2}, Seen(("a1", "b")), False),
        ("GlobExists", {"pattern": "a*", "min_count": 2}, Seen(("a1", "a2")), True),
        ("Metadata", {"key": "code"}, Seen(values=ERROR), True),
        ("Metadata", {"key": "absent"}, Seen(values=ERROR), False),
        ("Metadata", {"key": "absent", "equals": "x"}, Seen(values=ERROR), False),
        ("Metadata", {"key": "error_type", "equals": "oom"}, Seen(values=ERROR), True),
        ("Metadata", {"key": "error_type", "equals": "nccl"}, Seen(values=ERROR), False),
        ("Metadata", {"key": "code", "equals": "7"}, Seen(values=ERROR), True),
        ("Metadata", {"key": "code", "equals": 7}, Seen(values={"code": "7"}), True),
        ("Metadata", {"key": "error_type", "one_of": ["nccl", "oom"]}, Seen(values=ERROR), True),
        ("Metadata", {"key": "error_type", "one_of": []}, Seen(values=ERROR), False),
        ("Metadata", {"key": "error_type", "one_of": ["nccl"], "equals": "oom"}, Seen(values=ERROR), True),
        ("Metadata", {"key": "code", "at_least": 7}, Seen(values=ERROR), True),
        ("Metadata", {"key": "code", "at_least": 7.5}, Seen(values=ERROR), False),
        ("Metadata", {"key": "lr", "at_most": 0.01}, Seen(values=ERROR), True),
        ("Metadata", {"key": "lr", "at_most": 0.0001}, Seen(values=ERROR), False),
        ("Metadata", {"key": "code", "at_least": 1, "at_most": 9}, Seen(values=ERROR), True),
        ("Metadata", {"key": "word", "at_least": 1}, Seen(values=ERROR), False),
        ("Metadata", {"key": "code", "at_least": 1}, Seen(values={"code": None}), False),
        ("Metadata", {"key": "code", "at_least": 1}, Seen(values={"code": "nan"}), False),
        ("MaxAttempts", {"max_attempts": 3}, Seen(number=2), True),
        ("MaxAttempts", {"max_attempts": 3}, Seen(number=3), False),
        ("ElapsedTime", {"seconds": 60}, Seen(ago=60), True),
        ("ElapsedTime", {"seconds": 60}, Seen(ago=59), False),
        ("ElapsedTime", {"seconds": 60}, Seen(ago=None), False),
        ("Cooldown", {"seconds": 60}, Seen(ago=None), True),
        ("Cooldown", {"seconds": 60}, Seen(ago=59), False),
        ("Cooldown", {"seconds": 60}, Seen(ago=60), True),
        ("SlurmState", {"job_name": "p", "state": "RUNNING"}, Seen(), True),
        ("SlurmState", {"job_name": "p", "state": ["failed", "running"]}, Seen(), True),
        ("SlurmState", {"job_name": "p", "state": ["crash"]}, Seen(), False),
        ("SlurmState", {"job_name": "p", "state": ["crash"]}, Seen(job=("crash", "FAILED")), True),
        ("Command", {"command": "test -e x"}, Seen(), None),
        ("LogPattern", {"pattern": r"saved (\d+)"}, Seen(text="x\nsaved 12\ny"), True),
        ("LogPattern", {"pattern": "^y$"}, Seen(text="x\r\ny"), True),
        ("LogPattern", {"pattern": "x\ny"}, Seen(text="x\ny"), False),
        ("LogPattern", {"pattern": "saved (", "pattern_type": "substring"}, Seen(text="saved (3"), True),
        ("LogPattern", {"pattern": "x", "tail_bytes": 1}, Seen(text="xy"), False),
        ("LogPattern", {"pattern": "x"}, Seen(text=""), False),
        ("AlwaysTrue", {}, Seen(), True),
    ],
)
def test_a_condition_holds_exactly_when_it_should(
    kind: str, fields: dict[str, Any], seen: Seen, holds: bool | None
) -> None:
    made = condition(kind, **fields)
    assert made.holds(seen) is holds
    assert str(made).startswith(kind)


@pytest.mark.parametrize(
    ("kind", "fields", "seen", "lost"),
    [
        ("FileExists", {"path": "a"}, Seen(over=True), False),
        ("Metadata", {"key": "k", "equals": 1}, Seen(values={"k": 2}), False),
        ("Metadata", {"key": "k", "equals": 1}, Seen(values={"k": 2}, over=True), True),
        ("MaxAttempts", {"max_attempts": 1}, Seen(), True),
        ("ElapsedTime", {"seconds": 9}, Seen(ago=3, over=True), False),
        ("ElapsedTime", {"seconds": 9}, Seen(), False),
        ("ElapsedTime", {"seconds": 9}, Seen(over=True), True),
        ("SlurmState", {"job_name": "p", "state": "FAILED"}, Seen(), False),
        ("SlurmState", {"job_name": "p", "state": "FAILED"}, Seen(job=("success", "COMPLETED"), over=True), True),
        ("SlurmState", {"job_name": "nobody", "state": "FAILED"}, Seen(), True),
        ("LogPattern", {"pattern": "x"}, Seen(over=True), False),
    ],
)
def test_what_can_not_come_true_any_more_is_known_of_conditions_on_attempts_times_and_states(
    kind: str, fields: dict[str, Any], seen: Seen, lost: bool
) -> None:
    made = condition(kind, **fields)
    assert made.holds(seen) is False
    assert made.lost(seen) is lost


FAILED = Seen(why="p has failed", over=True)
SUCCEEDED = Seen(job=("success", "COMPLETED"), over=True)


@pytest.mark.parametrize(
    ("kind", "fields", "seen", "why"),
    [
        ("FileExists", {"path": "/p/x"}, FAILED, "p has failed"),
        ("FileExists", {"path": "/q/x"}, FAILED, ""),  # nobody knows who writes it
        ("FileExists", {"path": "/p/x"}, Seen(), ""),
        ("GlobExists", {"pattern": "/p/iter_*"}, FAILED, "p has failed"),
        ("GlobExists", {"pattern": "/p/*/iter_*"}, FAILED, "p has failed"),
        ("GlobExists", {"pattern": "/*/iter_1"}, FAILED, ""),  # another job may write what matches
        ("GlobExists", {"pattern": "/q/iter_*"}, FAILED, ""),
        ("GlobExists", {"pattern": "/p/[[]1]/x"}, FAILED, "p has failed"),
        ("SlurmState", {"job_name": "p", "state": "COMPLETED"}, FAILED, "p has failed"),
        ("SlurmState", {"job_name": "p", "state": "COMPLETED"}, Seen(), ""),
        (
            "SlurmState",
            {"job_name": "p", "state": "FAILED"},
            SUCCEEDED,
            "SlurmState: p = FAILED can no longer be fulfilled",
        ),
        (
            "SlurmState",
            {"job_name": "nobody", "state": "FAILED"},
            Seen(),
            "SlurmState: nobody = FAILED can no longer be fulfilled",
        ),
        ("LogPattern", {"pattern": "x", "path": "/p/current.log"}, FAILED, "p has failed"),
        ("LogPattern", {"pattern": "x", "log_path": "/q/current.log"}, FAILED, ""),
        ("LogPattern", {"pattern": "x"}, FAILED, ""),
        ("MaxAttempts", {"max_attempts": 1}, Seen(), "MaxAttempts: 1 can no longer be fulfilled"),
        ("ElapsedTime", {"seconds": 9}, Seen(ago=3, why="p has failed"), ""),
    ],
)
def test_what_a_job_waits_for_is_blocked_by_the_job_that_would_fulfil_it(
    kind: str, fields: dict[str, Any], seen: Seen, why: str
) -> None:
    made = condition(kind, **fields)
    assert made.holds(seen) is False
    assert made.blocked_by(seen) == why


def test_a_condition_that_says_nothing_of_it_may_still_come_true() -> None:
    class Own(Condition):
        def holds(self, context: Surroundings) -> bool:  # noqa: ARG002
            return False

        def lost(self, context: Surroundings) -> bool:
            return context.attempt() > 1

        def __str__(self) -> str:
            return "Own"

    assert Own().blocked_by(FAILED) == ""
    assert Own().blocked_by(Seen(number=2)) == "Own can no longer be fulfilled"
    assert condition("Command", command="false").blocked_by(FAILED) == ""


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("FileExists", {}),
        ("FileExists", {"path": "a", "timeout_seconds": 0}),
        ("FileExists", {"path": "a", "timeout_seconds": float("inf")}),
        ("FileExists", {"path": "a", "typo": 1}),
        ("GlobExists", {"pattern": "a", "min_count": 0}),
        ("MaxAttempts", {"max_attempts": 0}),
        ("MaxAttempts", {"max_attempts": True}),
        ("Metadata", {"key": "a", "at_least": float("nan")}),
        ("ElapsedTime", {"seconds": -1}),
        ("ElapsedTime", {"seconds": 1, "since": "birth"}),
        ("Cooldown", {"seconds": 0}),
        ("SlurmState", {"job_name": "p", "state": "FAILD"}),
        ("Command", {"command": []}),
        ("Command", {"command": ""}),
        ("Command", {"command": "a 'b"}),
        ("LogPattern", {"pattern": "("}),
        ("LogPattern", {"pattern": "x", "tail_bytes": 0}),
        ("Nonsense", {}),
    ],
)
def test_a_condition_that_can_not_be_is_refused(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        condition(kind, **fields)


def test_an_empty_log_pattern_is_refused() -> None:
    with pytest.raises(ValidationError):
        condition("LogPattern", pattern="", pattern_type="substring")


# ---- the real surroundings


def around(tmp_path: Path, checks: CheckRunner | None = None, now: float = 100.0, **more: Any) -> ConditionContext:
    asked = checks or CheckRunner()
    jobs = {"a": JobState(name="a"), **more.pop("jobs", {})}

    def ask(words: tuple[str, ...], interval_seconds: float) -> bool | None:
        return asked.answer("me", words, str(tmp_path), interval_seconds, now)

    return ConditionContext(Files(str(tmp_path)), jobs, more.pop("me", jobs["a"]), now, ask, **more)


def test_a_job_that_is_to_be_restarted_has_no_state_just_now(tmp_path: Path) -> None:
    crashed = job_state(name="p", state="crash", scheduler_state="FAILED")
    coming = changed(crashed, restart=Restarting(attempt=1, cause="c"))
    failed = condition("SlurmState", job_name="p", state="FAILED")
    assert failed.holds(around(tmp_path, jobs={"p": crashed})) is True
    assert failed.holds(around(tmp_path, jobs={"p": coming})) is False


def test_times_are_counted_from_the_event_the_start_and_the_submission(tmp_path: Path) -> None:
    me = job_state(name="a", started_at=90.0, submitted_at=50.0)
    seen = around(tmp_path, me=me, event_at=99.0, last_run=70.0)
    assert [seen.elapsed_seconds(since) for since in ("event", "start", "submit")] == [1, 10, 50]
    assert seen.cooldown_seconds() == 30
    assert around(tmp_path).elapsed_seconds("start") is None


def test_the_own_log_is_looked_at_from_its_end_and_odd_paths_are_empty(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"saved\n" + b"x" * 100 + b"\xff")
    me = job_state(name="a", resolved_log_path=str(log))
    assert condition("LogPattern", pattern="saved").holds(around(tmp_path, me=me)) is True
    assert condition("LogPattern", pattern="saved", tail_bytes=50).holds(around(tmp_path, me=me)) is False
    assert condition("LogPattern", pattern="saved", path="x.log").holds(around(tmp_path)) is True
    assert condition("LogPattern", pattern="saved").holds(around(tmp_path)) is False
    assert condition("LogPattern", pattern="saved", path="nowhere").holds(around(tmp_path)) is False


@pytest.mark.parametrize(
    "made",
    [
        condition("FileExists", path="a\x00b"),
        condition("GlobExists", pattern="a\x00*/b*"),
        condition("LogPattern", pattern="x", path="a\x00b"),
    ],
)
def test_a_path_with_nul_from_a_hostile_log_is_not_there_and_no_error(made: Condition, tmp_path: Path) -> None:
    assert made.holds(around(tmp_path)) is False


def until_answered(made: Condition, tmp_path: Path, checks: CheckRunner, now: float) -> bool:
    deadline = time.monotonic() + 10
    while (found := made.holds(around(tmp_path, checks, now))) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def test_a_command_runs_beside_us_in_the_jobs_folder_and_answers_later(tmp_path: Path) -> None:
    checks = CheckRunner()
    there = condition("Command", command=["sh", "-c", "test -p gate && cat gate; test -e there"])
    assert until_answered(there, tmp_path, checks, 100) is False
    (tmp_path / "there").touch()
    os.mkfifo(tmp_path / "gate")
    assert there.holds(around(tmp_path, checks, 130)) is False  # not asked again so soon
    assert not checks.in_progress
    assert there.holds(around(tmp_path, checks, 160)) is False  # its last answer stands until there is a new one
    assert checks.in_progress
    (tmp_path / "gate").write_text("")
    deadline = time.monotonic() + 10
    while not there.holds(around(tmp_path, checks, 161)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    checks.close()


def test_a_command_that_said_yes_has_said_so_until_it_is_asked_again(tmp_path: Path) -> None:
    checks = CheckRunner()
    yes = condition("Command", command="true")
    assert until_answered(yes, tmp_path, checks, 100) is True
    again = yes.holds(around(tmp_path, checks, 110))
    checks.close()
    assert again is True


def test_a_command_that_hangs_is_ended_with_its_asker(tmp_path: Path) -> None:
    checks = CheckRunner()
    sleeps = condition("Command", command="sleep 60")
    assert sleeps.holds(around(tmp_path, checks)) is None
    assert checks.in_progress
    checks.forget("me")
    assert not checks.in_progress
