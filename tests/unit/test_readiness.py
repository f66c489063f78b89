"""The gate of a waiting job: which verdict, and the reason that a person reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from oellm_autoexp.core.nouns import NEVER_BEGAN, JobSpec, JobStatus
from oellm_autoexp.decisions.condition_context import CheckRunner
from oellm_autoexp.decisions.readiness import StartGate, Verdict, cut_off, needs_monitor
from oellm_autoexp.decisions.writers import Writers
from oellm_autoexp.session.job_state import JobState, Restarting
from oellm_autoexp.storage.world import Files
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.testing.plans import job_spec

EXISTS = {"class_name": "FileExistsCondition", "path": "/c/done.txt"}
GLOB = {"class_name": "GlobExistsCondition", "pattern": "/c/iter_*", "min_count": 2}
FAILED = {"class_name": "SlurmStateCondition", "job_name": "parent", "state": ["FAILED"]}
SUCCEEDED = {"class_name": "SlurmStateCondition", "job_name": "parent", "state": ["COMPLETED"]}
PATIENT = {"class_name": "FileExistsCondition", "path": "/c/data", "timeout_seconds": 60}
CHANGES = {"class_name": "MaxAttemptsCondition", "max_attempts": 3}
BEHIND = Verdict("start", after=("parent",))
WRITTEN = {"class_name": "FileExistsCondition", "path": "/o/parent/checkpoints/iter_40"}
MATCHED = {"class_name": "GlobExistsCondition", "pattern": "parent/checkpoints/iter_*"}
OWN = {"class_name": "FileExistsCondition", "path": "/o/child/x"}
YES = {"class_name": "CommandCondition", "command": ["true"]}
AGAIN = Restarting(attempt=1, cause="crash")
BLOCKED = Verdict("blocked", "blocked: parent has failed")
BOTH: dict[str, Any] = {"start_conditions": (EXISTS,), "cancel_conditions": (FAILED,)}


@dataclass(frozen=True)
class Seen:
    """Files that are there, in place of the file system."""

    paths: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)

    def exists(self, path: str) -> bool:
        return path in self.paths

    def count(self, pattern: str) -> int:
        return self.counts.get(pattern, 0)


class Silence(CheckRunner):
    """Commands that have not answered yet."""

    def answer(self, *_asked: object) -> bool | None:
        return None


def spec(name: str, *depends_on: str, **more: Any) -> JobSpec:
    return job_spec("/o", name, index=1, stage="decay", depends_on=depends_on, **more)


def verdict(
    seen: Seen,
    parent: JobState | None = None,
    *,
    native: bool = False,
    overruled: tuple[str, ...] = (),
    waited: float = 0,
    **conditions: Any,
) -> Verdict:
    job = spec("child", *(("parent",) if parent else ()), **conditions)
    jobs = {"child": JobState(name="child"), **({"parent": parent} if parent else {})}
    checks = Silence()
    files: Any = lambda work_dir: seen  # noqa: E731
    writers = Writers([job, spec("parent")])
    gate = StartGate(job, files, native=native, overruled=overruled, checks=checks, writers=writers)
    return gate.verdict(jobs, waited)


def parent(state: str, word: str = "") -> JobState:
    return job_state(name="parent", state=state, scheduler_state=word)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (verdict(Seen()), Verdict("start")),
        (verdict(Seen(), parent("waiting")), Verdict("wait", "waits for parent")),
        (verdict(Seen(), parent("running")), Verdict("wait", "waits for parent")),
        (verdict(Seen(), parent("success")), Verdict("start")),
        (verdict(Seen(), parent("crash")), Verdict("cancel", "cancelled: parent ended as crash")),
        (verdict(Seen(), parent("timeout")), Verdict("cancel", "cancelled: parent ended as timeout")),
        (verdict(Seen(), start_conditions=(EXISTS,)), Verdict("wait", "waits for FileExists: /c/done.txt")),
        (verdict(Seen(("/c/done.txt",)), start_conditions=(EXISTS,)), Verdict("start")),
        # with conditions of its own it may start while the sibling still runs, and is not cancelled with it
        (verdict(Seen(("/c/done.txt",)), parent("running"), start_conditions=(EXISTS,)), Verdict("start")),
        (verdict(Seen(), parent("crash"), start_conditions=(EXISTS,)).step, "wait"),
        # a start condition that the failed sibling would have fulfilled
        (verdict(Seen(), parent("crash"), start_conditions=(WRITTEN,)), BLOCKED),
        (verdict(Seen(), parent("oom"), start_conditions=(MATCHED,)), BLOCKED),
        (verdict(Seen(), parent("crash"), start_conditions=(EXISTS, WRITTEN)), BLOCKED),
        (verdict(Seen(), parent("crash"), start_conditions=(YES, WRITTEN)), BLOCKED),
        (verdict(Seen(), parent("crash"), start_conditions=(YES,)).step, "wait"),
        (verdict(Seen(), parent("cancelled"), start_conditions=(WRITTEN,)).reason, "blocked: parent was cancelled"),
        (verdict(Seen(), parent("blocked"), start_conditions=(WRITTEN,)).reason, "blocked: parent is blocked"),
        (verdict(Seen(), parent("blocked"), start_conditions=(SUCCEEDED,)).reason, "blocked: parent is blocked"),
        (verdict(Seen(), parent("blocked")), Verdict("blocked", "blocked: parent is blocked")),
        (verdict(Seen(), parent("blocked"), native=True).step, "blocked"),
        (verdict(Seen((WRITTEN["path"],)), parent("crash"), start_conditions=(WRITTEN,)), Verdict("start")),
        (verdict(Seen(), parent("success"), start_conditions=(WRITTEN,)).step, "wait"),
        (verdict(Seen(), parent("running"), start_conditions=(WRITTEN,)).step, "wait"),
        (verdict(Seen(), parent("waiting"), start_conditions=(WRITTEN,)).step, "wait"),
        (verdict(Seen(), changed(parent("crash"), restart=AGAIN), start_conditions=(WRITTEN,)).step, "wait"),
        (verdict(Seen(), changed(parent("crash"), late_until=9.0), start_conditions=(WRITTEN,)).step, "wait"),
        (verdict(Seen(), parent("crash"), start_conditions=(OWN,)).step, "wait"),
        (
            verdict(Seen(), parent("crash", "FAILED"), start_conditions=(WRITTEN,), cancel_conditions=(FAILED,)).step,
            "cancel",
        ),
        (verdict(Seen(), parent("crash"), start_conditions=(WRITTEN,), cancel_conditions=(YES,)).undecided, True),
        (
            verdict(Seen(), parent("crash"), start_conditions=({**WRITTEN, "timeout_seconds": 60},), waited=59),
            Verdict("blocked", "blocked: parent has failed", patience_seconds=60),
        ),
        (
            verdict(Seen(), parent("crash"), start_conditions=({**WRITTEN, "timeout_seconds": 60},), waited=60).step,
            "cancel",
        ),
        (verdict(Seen(), parent("crash", "FAILED"), **BOTH).step, "cancel"),
        (verdict(Seen(), parent("timeout", "TIMEOUT"), **BOTH).step, "wait"),
        (verdict(Seen(counts={"/c/iter_*": 1}), start_conditions=(GLOB,)).step, "wait"),
        (verdict(Seen(counts={"/c/iter_*": 2}), start_conditions=(GLOB,)).step, "start"),
        (verdict(Seen(("/c/done.txt",)), done_conditions=(EXISTS,)).step, "done"),
        (verdict(Seen(), done_conditions=(EXISTS,)).step, "start"),
        (verdict(Seen(), waited=59, start_conditions=(PATIENT,)).step, "wait"),
        (
            verdict(Seen(), waited=60, start_conditions=(EXISTS, PATIENT)),
            Verdict("cancel", "cancelled: waited 60 s for FileExists: /c/data"),
        ),
        (verdict(Seen(("/c/data",)), waited=99, start_conditions=(PATIENT,)).step, "start"),
        # the scheduler itself awaits a sibling that is in its queue, where nothing else is to be judged later
        (verdict(Seen(), parent("pending"), native=True), Verdict("start", after=("parent",))),
        (verdict(Seen(), parent("running"), native=True), Verdict("start", after=("parent",))),
        (verdict(Seen(), parent("success"), native=True), Verdict("start")),
        (verdict(Seen(), parent("waiting"), native=True).step, "wait"),
        (verdict(Seen(), parent("crash"), native=True).step, "cancel"),
        (verdict(Seen(), parent("running"), native=True, cancel_conditions=(FAILED,)).step, "wait"),
        (verdict(Seen(), parent("running"), native=True, start_condition_cmd=("true",)).step, "wait"),
        (verdict(Seen(), parent("running"), native=True, done_conditions=(EXISTS,)).step, "wait"),
        (verdict(Seen(), parent("running"), native=True, start_conditions=(EXISTS,)).step, "wait"),
        # beside conditions, when what only we can judge has come true and stays so
        (verdict(Seen(), parent("running"), native=True, start_conditions=(SUCCEEDED,)), BEHIND),
        (verdict(Seen(), parent("running"), start_conditions=(SUCCEEDED,)).step, "wait"),
        (verdict(Seen(), parent("running"), native=True, start_conditions=(SUCCEEDED, EXISTS)).step, "wait"),
        (verdict(Seen(("/c/done.txt",)), parent("running"), native=True, start_conditions=(SUCCEEDED, EXISTS)), BEHIND),
        (verdict(Seen(), parent("waiting"), native=True, start_conditions=(SUCCEEDED,)).step, "wait"),
        (verdict(Seen(), parent("crash"), native=True, start_conditions=(SUCCEEDED,)), BLOCKED),
        (verdict(Seen(), parent("running"), native=True, start_conditions=(SUCCEEDED, CHANGES)).step, "wait"),
        (
            verdict(
                Seen(), parent("running"), native=True, start_conditions=({**SUCCEEDED, "timeout_seconds": 9},)
            ).step,
            "wait",  # SLURM would not give it up
        ),
        (
            verdict(
                Seen(), parent("running"), native=True, start_conditions=(SUCCEEDED,), cancel_conditions=(FAILED,)
            ).step,
            "wait",
        ),
        # SLURM would take exit code 0 for a success that a rule may overrule
        (verdict(Seen(), parent("running"), native=True, overruled=("parent",)).step, "wait"),
        (
            verdict(Seen(), parent("running"), native=True, overruled=("parent",), start_conditions=(SUCCEEDED,)).step,
            "wait",
        ),
        (verdict(Seen(), parent("running"), native=True, overruled=("other",)), BEHIND),
    ],
)
def test_the_verdict_follows_from_conditions_files_and_siblings(found: Any, expected: Any) -> None:
    assert found == expected


def test_which_jobs_native_dependencies_do_not_bring_to_their_end_and_why() -> None:
    jobs = [
        spec("a"),
        spec("b", "a"),
        spec("c", "a", start_conditions=(SUCCEEDED,)),
        spec("d", "a", start_conditions=(EXISTS,)),
        spec("e", "d"),
        spec("f", "e", "a"),
        spec("g", "a", cancel_conditions=(FAILED,)),
        spec("h", start_condition_cmd=("true",)),
        spec("judged", monitoring={"log_events": {"bad": {"overrules_success": True}}}),
        spec("i", "judged"),
        spec("j", done_conditions=(EXISTS,)),
    ]
    assert needs_monitor(jobs, {}) == {
        "d": "waits for FileExists: /c/done.txt",
        "e": "follows d, which needs a monitor",
        "f": "follows e, which needs a monitor",
        "g": "has cancel conditions",
        "h": "has a start_condition_cmd",
        "i": "a rule of judged has overrules_success, but SLURM looks only at the exit code",
    }
    assert "b" in needs_monitor(jobs, {"log_events": {"bad": {"overrules_success": True}}})


def test_our_own_words_for_states_work_as_well_as_slurms() -> None:
    condition = {**FAILED, "state": ["crash", "oom"]}
    assert verdict(Seen(), parent("oom", "OUT_OF_MEMORY"), cancel_conditions=(condition,)).step == "cancel"


def test_files_are_looked_for_from_the_jobs_working_directory(tmp_path: Any) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "iter_1").touch()
    files = Files(str(tmp_path))
    assert files.exists("a/iter_1")
    assert not files.exists("a/iter_2")
    assert files.count("a/iter_*") == files.count("**/iter_1") == 1


def test_a_job_does_not_start_before_a_command_that_may_cancel_it_has_answered() -> None:
    found = verdict(Seen(), cancel_conditions=(YES,))
    assert found == Verdict("wait", "waits for the result of: Command: true", undecided=True)


@pytest.mark.parametrize(
    ("path", "writer"),
    [
        ("/o/parent", "parent"),
        ("/o/parent/a/b", "parent"),
        ("parent/a", "parent"),
        ("/o/other/../parent/a", "parent"),
        ("/o/parent/inner/a", "inner"),
        ("/logs/parent.log", "parent"),
        ("/o/parents", ""),
        ("/o", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_a_path_belongs_to_the_job_whose_output_directory_or_log_it_is(path: str, writer: str) -> None:
    jobs = [spec("parent", log_path_current="/logs/parent.log"), spec("inner", output_dir="/o/parent/inner/")]
    assert Writers(jobs).of(path, "/o") == writer


def test_a_condition_that_cancels_does_so_without_the_answer_of_another() -> None:
    assert verdict(Seen(("/c/done.txt",)), cancel_conditions=(YES, EXISTS)).step == "cancel"


@pytest.mark.parametrize(
    ("status", "parents", "expected"),
    [
        (JobStatus("CANCELLED", "DependencyNeverSatisfied"), {"7": "crash"}, True),
        (JobStatus("CANCELLED", "DependencyNeverSatisfied"), {"7": "running"}, True),  # not seen yet
        (JobStatus("CANCELLED"), {"7": "crash"}, True),  # by the accounts
        (JobStatus("CANCELLED"), {"9": "pending"}, True),  # it is another attempt
        (JobStatus("CANCELLED"), {"7": "running"}, False),  # by a person
        (JobStatus("CANCELLED"), {"7": "success"}, False),
        (JobStatus("CANCELLED", NEVER_BEGAN), {"7": "crash"}, True),
        (JobStatus("CANCELLED", NEVER_BEGAN), {"7": "running"}, False),
        (JobStatus("FAILED"), {"7": "crash"}, False),
        (JobStatus("PENDING", "Dependency"), {"7": "crash"}, False),
        (None, {"7": "crash"}, False),
    ],
)
def test_a_job_whose_siblings_can_not_succeed_any_more_was_not_cancelled_by_anybody(
    status: JobStatus | None, parents: dict[str, str], expected: bool
) -> None:
    child = job_state(name="child", state="pending", scheduler_id="8", after=("7",))
    jobs = {
        "child": child,
        **{key: job_state(name=key, state=state, scheduler_id=key) for key, state in parents.items()},
    }
    assert cut_off(child, status, jobs) == expected
    assert not cut_off(changed(child, cancelled_by="by hand"), status, jobs)
    assert not cut_off(changed(child, after=()), status, jobs)
