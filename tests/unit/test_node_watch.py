"""What a monitor records of nodes, and which jobs it keeps from them, with a scheduler in memory."""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import InvalidSubmissionError, Problem, SchedulerError
from oellm_autoexp.core.nouns import JobStatus, Submission
from oellm_autoexp.nodes.blames import blames
from oellm_autoexp.nodes.entry import BY_HAND, PREFLIGHT, Entry
from oellm_autoexp.nodes.node_log import NodeLog
from oellm_autoexp.schedulers.site import ClusterNodes
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.testing.jobs import changed, job_state
from tests.unit.test_executor import LONG, Life, Stage, on_state, restart

ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered\n"
NODES = ("n1", "n2", "n3", "n4")


def failing_on(node: str, log: str = ECC) -> Life:
    """An attempt that fails on a node."""
    return (JobStatus("RUNNING", nodes=node), JobStatus("FAILED", nodes=node, exit_code=1)), log


class Cluster(Stage):
    """A stage on a cluster of four nodes."""

    def __init__(
        self,
        folder: Path,
        lives: Mapping[str, Sequence[Life]],
        monitoring: Mapping[str, Any] | None = None,
        nodes: Sequence[str] = NODES,
        **more: Any,
    ) -> None:
        super().__init__(folder, monitoring or {}, lives, **more)
        self.slurm._nodes = tuple(nodes)
        self.log = NodeLog(Path(self.manifest.monitoring_state_dir))

    def report(self, node: str, at: float = 999) -> None:
        """What a person does by `--report`."""
        self.log.append([Entry(at=at, kind="blamed", node=node, category=BY_HAND, reason="broken")])

    @property
    def blamed(self) -> list[tuple[str, str, int]]:
        return [(entry.node, entry.job, entry.attempt) for entry in self.log.read()]

    @property
    def excluded(self) -> list[tuple[str, ...]]:
        """Of each submission."""
        return [one.exclude for one in self.slurm.submissions]


def of_nodes(job: JobState) -> list[str]:
    return [entry.message for entry in job.history if entry.event == "nodes"]


# ---- what blames a node


def ended(**fields: Any) -> JobState:
    plain: dict[str, Any] = {"state": "crash", "attempt": 1, "nodes": "n[1-2]", "ended_at": 50.0}
    return job_state("a", **{**plain, **fields})


def cause(category: str, *nodes: str) -> Any:
    from oellm_autoexp.causes.cause import Cause

    return Cause(category=category, text="why", fingerprint="f", blamed_nodes=nodes)


def test_a_cause_blames_the_nodes_at_fault_if_it_is_of_the_infrastructure_and_they_were_the_attempts() -> None:
    (entry,) = blames(ended(cause=cause("gpu-hardware", "n2", "m7")), "p", 99)
    expected: dict[str, Any] = {
        "category": "gpu-hardware",
        "reason": "why",
        "plan": "p",
        "job": "a",
        "attempt": 1,
        "fingerprint": "f",
    }
    assert entry == Entry(at=50, kind="blamed", node="n2", **expected)
    assert [e.node for e in blames(ended(cause=cause("filesystem", "n1", "n2")), "p", 99)] == ["n1", "n2"]
    for none in (ended(cause=cause("nan", "n1")), ended(cause=cause("gpu-hardware")), ended()):
        assert blames(none, "p", 99) == []
    assert blames(ended(state="running", cause=cause("node", "n1")), "p", 99) == []


def test_late_lines_may_change_a_cause_and_what_slurm_says_counts_at_once() -> None:
    failed = {"state": "node_fail", "failed_nodes": "n1", "late_until": 60.0, "cause": cause("gpu-hardware", "n2")}
    assert [(e.node, e.category) for e in blames(ended(**failed), "p", 99)] == [("n1", "node")]
    read = ended(**{**failed, "late_until": None})
    assert [(e.node, e.category) for e in blames(read, "p", 99)] == [("n2", "gpu-hardware"), ("n1", "node")]
    assert blames(ended(state="crash", failed_nodes="n1"), "p", 99) == []


def test_nodes_that_a_script_left_out_are_blamed_once_each_by_what_they_failed() -> None:
    sick = {"n1": "gpus: 3 of 4 GPUs are visible", "n2": "answer: it does not answer"}
    for job in (ended(state="running", sick_nodes=sick), ended(sick_nodes=sick, cause=cause("node", "n1", "n2"))):
        assert [(e.node, e.category) for e in blames(job, "p", 99)] == [("n1", PREFLIGHT), ("n2", "node")]


def test_a_check_that_no_node_passes_blames_none() -> None:
    both = {"n1": "mine: not found", "n2": "mine: not found"}
    assert blames(ended(sick_nodes=both), "p", 99, 2) == []
    assert blames(ended(state="pending", nodes="", sick_nodes=both), "p", 99, 2) == [], "it waits for others"
    for job, asked in (
        (ended(nodes="n[3-4]", sick_nodes=both), 2),
        (ended(state="pending", nodes="", sick_nodes=both), 3),
        (ended(sick_nodes={"n1": "mine: no", "n2": "gpus: no"}), 2),
        (ended(sick_nodes={"n1": "answer: no", "n2": "answer: no"}), 2),
    ):
        assert [entry.node for entry in blames(job, "p", 99, asked)] == ["n1", "n2"]
    assert [entry.node for entry in blames(ended(nodes="n1", sick_nodes={"n1": "mine: no"}), "p", 99, 1)] == ["n1"]


def test_each_attempt_blames_its_node_once_whoever_watches(tmp_path: Path) -> None:
    stage = Cluster(tmp_path, {"a": [failing_on("n2")]}, on_state(restart(max_attempts=1)))
    stage.finish()
    assert stage.blamed == [("n2", "a", 1), ("n2", "a", 2)]
    assert "node n2 is blamed (gpu-hardware: " in "".join(stage.messages)
    assert sum("1 time so far" in line for line in stage.messages) == 1
    stage.resumed()
    stage.cycle(2)
    assert len(stage.blamed) == 2, "the last one is not blamed again by a monitor that is started again"


def test_a_monitor_that_died_before_it_wrote_does_it_when_it_is_started_again(tmp_path: Path) -> None:
    stage = Cluster(tmp_path, {"a": [failing_on("n2")]})
    stage.monitor.nodes.blame = lambda: None  # type: ignore[method-assign]
    stage.finish()
    assert stage.blamed == []
    stage.resumed()
    stage.cycle()
    assert stage.blamed == [("n2", "a", 1)]


def test_a_blame_that_can_not_be_written_is_reported_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Cluster(tmp_path, {"a": [failing_on("n2")], "b": [(LONG, "")]})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    with monkeypatch.context() as patch:
        patch.setattr("oellm_autoexp.nodes.node_log.append_line", full)
        stage.cycle(5)
    said = [line for line in stage.messages if "can't record which nodes failed: No space left" in line]
    assert (len(said), stage.blamed) == (1, [])
    stage.cycle()
    assert stage.blamed == [("n2", "a", 1)]


def test_a_blame_waits_for_the_scheduler_to_name_its_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Cluster(tmp_path, {"a": [failing_on("n2")], "b": [(LONG, "")]})

    def silent() -> ClusterNodes:
        raise SchedulerError(Problem("no answer"))

    with monkeypatch.context() as patch:
        patch.setattr(stage.slurm, "cluster_nodes", silent)
        stage.cycle(5)
        assert stage.blamed == []
    stage.cycle()
    (entry,) = stage.log.read()
    assert (entry.node, entry.cluster) == ("n2", "fake")


def test_a_check_that_failed_counts_at_once_and_is_recorded_once(tmp_path: Path) -> None:
    stage = Cluster(tmp_path, {"a": [(LONG, "")], "b": [(("PENDING",), "")]})
    stage.cycle(2)
    sick = {"n2": "gpus: GPU 1 has too little memory", "no node": "gpus: x"}
    stage.monitor.session.put(changed(stage.a, sick_nodes=sick))
    for _ in range(2):
        stage.monitor.nodes.blame()
    assert [(entry.node, entry.category, entry.of) for entry in stage.log.read()] == [("n2", PREFLIGHT, ("p", "a", 1))]
    stage.cycle()
    assert stage.slurm.excluded == {"2": ("n2",)}
    assert (
        sum("node n2 is blamed (preflight: gpus: GPU 1 has too little memory)" in line for line in stage.messages) == 1
    )


def test_nodes_that_a_script_left_out_are_kept_from_jobs_within_the_same_bounds_as_others(tmp_path: Path) -> None:
    lives: dict[str, Sequence[Life]] = {
        "a": [(("PENDING", "RUNNING", "RUNNING", "FAILED"), ""), (LONG, "")],
        "b": [(("PENDING",), "")],
    }
    stage = Cluster(tmp_path, lives, on_state(restart(max_attempts=1)))
    stage.cycle(2)
    sick = dict.fromkeys(NODES, "image: no result within 60 s")  # the file system did not answer for some minutes
    stage.monitor.session.put(changed(stage.a, sick_nodes=sick))
    stage.cycle(4)
    assert sorted(node for node, *_ in stage.blamed) == sorted(NODES)
    assert (stage.a.attempt, stage.a.changes.excluded) == (2, ())
    assert [len(nodes) for nodes in stage.excluded] == [0, 0, 1], "one node of four at most"
    assert [len(nodes) for nodes in stage.slurm.excluded.values()] == [1]
    assert "jobs may still get " in "".join(stage.messages)


def test_the_folder_of_a_group_is_not_made_and_that_it_is_missing_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "group"
    stage = Cluster(tmp_path, {"a": [failing_on("n2")], "b": [(LONG, "")]}, {"nodes": {"folder": str(folder)}})
    stage.cycle(6)
    assert not folder.exists()
    assert sum(f"{folder} does not count: No such file or directory" in line for line in stage.messages) == 1
    assert sum("can't record which nodes failed: No such file or directory" in line for line in stage.messages) == 1
    folder.mkdir()
    stage.cycle()
    assert [entry.node for entry in NodeLog(folder).read()] == ["n2"]


def test_where_there_is_one_machine_nothing_is_recorded_and_nothing_left_out(tmp_path: Path) -> None:
    stage = Cluster(tmp_path, {"a": [failing_on("n2")]}, on_state(restart(max_attempts=3)), nodes=())
    stage.report("n1")
    stage.finish()
    assert ([node for node, *_ in stage.blamed], set(stage.excluded)) == (["n1"], {()})


# ---- what follows


def test_the_third_attempt_and_other_jobs_are_kept_from_a_node_that_two_attempts_blamed(tmp_path: Path) -> None:
    action = restart(max_attempts=2, max_same_failures=None)
    stage = Cluster(tmp_path, {"a": [failing_on("n2"), failing_on("n2"), (("COMPLETED",), "")]}, on_state(action))
    stage.finish()
    assert stage.excluded == [(), (), ("n2",)]
    assert stage.a.newest.left_out.keys() == {"n2"}
    (said,) = of_nodes(stage.a)
    assert said.startswith("left out n2 (blamed 2 times, last: gpu-hardware: ")


def test_a_first_attempt_is_kept_from_a_reported_node_until_that_is_forgiven_or_expires(tmp_path: Path) -> None:
    def excluded(number: int) -> tuple[str, ...]:
        folder = tmp_path / str(number)
        folder.mkdir()
        stage = Cluster(folder, {"a": [(("COMPLETED",), "")]}, {"nodes": settings})
        stage.finish()
        return stage.excluded[0]

    settings = {"folder": str(tmp_path), "expires_after_hours": 0.25}
    log = NodeLog(tmp_path)
    log.append([Entry(at=500, kind="blamed", node="n3", category=BY_HAND, reason="broken")])
    assert excluded(1) == ("n3",)
    log.append([Entry(at=600, kind="forgiven", node="n3")])
    assert excluded(2) == ()
    log.append([Entry(at=700, kind="blamed", node="n3", category=BY_HAND, reason="broken")])
    assert excluded(3) == ("n3",)
    log.append([Entry(at=99, kind="blamed", node="n4", category=BY_HAND, reason="broken")])
    settings["max_share"] = 0.5
    assert excluded(4) == ("n3",)


def test_a_node_that_was_reported_for_each_cluster_is_left_out_where_only_others_name_it(tmp_path: Path) -> None:
    stage = Cluster(tmp_path, {"a": [(("COMPLETED",), "")]})
    stage.report("n2")
    stage.log.append([Entry(at=999, kind="blamed", node="n2", category="node", reason="died", cluster="elsewhere")])
    stage.finish()
    assert stage.excluded == [("n2",)]


def test_jobs_in_the_queue_are_kept_from_a_node_that_comes_to_the_limit(tmp_path: Path) -> None:
    waits = (("PENDING",), "")
    stage = Cluster(tmp_path, {"a": [waits], "b": [waits], "c": [(LONG, "")]})
    stage.cycle(3)
    assert stage.slurm.excluded == {}
    stage.report("n2")
    stage.cycle(2)
    assert stage.slurm.excluded == {"1": ("n2",), "2": ("n2",)}
    assert stage.jobs["b"].newest.left_out["n2"].endswith(": broken")
    assert (len(of_nodes(stage.a)), of_nodes(stage.jobs["c"])) == (1, [])
    stage.resumed()
    stage.cycle(2)
    assert len(of_nodes(stage.a)) == 1, "once"


def test_jobs_in_the_queue_are_asked_for_again_while_the_scheduler_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Cluster(tmp_path, {"a": [(("PENDING",), "")]})
    stage.cycle(2)
    stage.report("n2")

    def silent(jobs: Mapping[str, str], nodes: Collection[str]) -> Mapping[str, str]:
        raise SchedulerError(Problem("no answer"))

    with monkeypatch.context() as patch:
        patch.setattr(stage.slurm, "exclude", silent)
        stage.cycle()
        assert (stage.a.newest.left_out, stage.monitor.scheduler_error) == ({}, "no answer")
    stage.cycle()
    assert stage.slurm.excluded == {"1": ("n2",)}


def test_jobs_in_the_queue_that_have_no_other_nodes_are_left_alone_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Cluster(tmp_path, {"a": [(("PENDING",), "")], "b": [(("PENDING",), "")]})
    asked: list[frozenset[str]] = []
    monkeypatch.setattr(stage.slurm, "suits", lambda _path, without: asked.append(without))
    stage.cycle(2)
    stage.report("n2")
    stage.cycle(2)
    assert stage.slurm.excluded == {}
    assert asked == [frozenset({"n2"})], "once for jobs that ask for the same"
    assert [line for line in stage.messages if "n2" in line] == [
        "jobs in the queue may still get n2, which was blamed: the scheduler has no other nodes for them"
    ]


def test_a_job_that_the_scheduler_does_not_change_keeps_no_other_one_from_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oellm_autoexp.engine.node_watch._MOST_AT_ONCE", 1)
    waits: Life = (("PENDING",), "")
    stage = Cluster(tmp_path, {"a": [waits], "b": [waits]})
    stage.cycle(2)
    stage.report("n2")
    take = stage.slurm.exclude

    def choosy(jobs: Mapping[str, str], nodes: Collection[str]) -> Mapping[str, str]:
        take({job: token for job, token in jobs.items() if job != "1"}, nodes)
        return {job: "scontrol: Job is in a burst buffer stage" for job in jobs if job == "1"}

    monkeypatch.setattr(stage.slurm, "exclude", choosy)
    stage.cycle(4)
    assert stage.slurm.excluded == {"2": ("n2",)}
    assert (stage.a.newest.left_out, stage.monitor.scheduler_error) == ({}, "")
    words = "a may still get n2, which was blamed: scontrol: Job is in a burst buffer stage"
    assert [line for line in stage.messages if "may still get" in line] == [words]


def test_what_can_not_be_left_out_is_said_once(tmp_path: Path) -> None:
    stage = Cluster(tmp_path, {"a": [(LONG, "")], "b": [(LONG, "")]})
    stage.report("n2", at=998)
    stage.report("n3", at=999)
    stage.cycle(2)
    assert stage.excluded == [("n3",), ("n3",)]
    assert [line for line in stage.messages if "n2" in line] == [
        "jobs may still get n2, which was blamed: at most 1 of the 4 nodes of its partition may be "
        "(monitoring.nodes.max_share)"
    ]


def test_a_submission_that_is_refused_without_a_node_is_made_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Cluster(tmp_path, {"a": [(("COMPLETED",), "")]})
    stage.report("n2")
    take = stage.slurm.submit

    def choosy(submission: Submission) -> str:
        if submission.exclude:
            raise InvalidSubmissionError(Problem("sbatch: Requested node configuration is not available", "a"))
        return take(submission)

    monkeypatch.setattr(stage.slurm, "submit", choosy)
    stage.finish()
    assert (stage.a.state, stage.a.newest.left_out, stage.excluded) == ("success", {}, [()])
    words = "n2 can't be left out: sbatch: Requested node configuration is not available"
    assert (of_nodes(stage.a), [line for line in stage.messages if "n2" in line]) == ([words], [words])


def test_a_job_that_is_refused_for_another_reason_says_nothing_of_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Cluster(tmp_path, {"a": [(("COMPLETED",), "")]})
    stage.report("n2")

    def refuses(_: Submission) -> str:
        raise InvalidSubmissionError(Problem("sbatch: Invalid account or account/partition combination", "a"))

    monkeypatch.setattr(stage.slurm, "submit", refuses)
    stage.cycle(2)
    assert (of_nodes(stage.a), [line for line in stage.messages if "n2" in line]) == ([], [])
    assert "Invalid account" in stage.a.reason


def test_a_scheduler_is_not_asked_for_its_nodes_while_none_was_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Cluster(tmp_path, {"a": [(("RUNNING", "FAILED"), "ValueError: x\n")]}, on_state(restart()))
    monkeypatch.setattr(stage.slurm, "cluster_nodes", lambda: pytest.fail("asked"))
    stage.finish()
    assert stage.log.read() == []
