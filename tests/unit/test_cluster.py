"""What is made of answers of a cluster's programs, and of what a job reports of its compute node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from oellm_autoexp.schedulers.site import Association, Partition, Site
from oellm_autoexp.schedulers.slurm import cluster
from oellm_autoexp.schedulers.slurm.cluster import Answer

FACTS = "time 1000\nhost n1\nmachine aarch64\nreads yes\nhas apptainer\nsubmits sbatch: Job 7 to start at now\n"


def verdicts(found: Sequence[cluster.Finding]) -> dict[str, str]:
    return {finding.topic: finding.verdict for finding in found}


def test_a_job_that_sees_all_and_can_submit_is_well() -> None:
    found = cluster.compute_node(FACTS, 1003.0)
    assert set(verdicts(found).values()) == {"ok"}
    assert found[0].text == "n1 (aarch64) has apptainer"


@pytest.mark.parametrize(
    ("facts", "seen_at", "topic", "verdict", "said"),
    [
        (FACTS.replace("reads yes\n", ""), 1000, "shared files", "failed", "does not see"),
        (FACTS.replace("Job 7 to start at now", "error: not allowed"), 1000, "submission", "warning", "not allowed"),
        (FACTS.replace("submits sbatch: Job 7 to start at now\n", ""), 1000, "submission", "warning", "is missing"),
        (FACTS.replace("submits ", "inside yes\nlost "), 1000, "submission", "ok", "an image has no sbatch"),
        (FACTS, 990, "clocks", "failed", "at least 10 s ahead"),
        (FACTS, 1100, "clocks", "failed", "100 s behind"),
        ("", 1000, "shared files", "failed", "does not see"),
        ("time \x00x\nhas\n", 1000, "compute node", "ok", "?"),
    ],
)
def test_what_a_compute_node_lacks_is_reported(facts: str, seen_at: float, topic: str, verdict: str, said: str) -> None:
    (found,) = [finding for finding in cluster.compute_node(facts, seen_at) if finding.topic == topic]
    assert found.verdict == verdict
    assert said in found.text


def test_container_runtimes_are_found_by_themselves_and_by_sruns_options() -> None:
    def ask(words: Sequence[str]) -> Answer:
        if words[-1] == "--help":
            return Answer(0, "      --container-image=[USER@][REGISTRY#]IMAGE\n")
        return Answer(0, "apptainer version 1.4.5\n") if words[0] == "apptainer" else Answer(None, "")

    texts = [finding.text for finding in cluster.runtimes(ask, lambda name: (name,))]
    assert texts == ["apptainer: apptainer version 1.4.5", "srun takes --container-image (Pyxis)"]
    (none,) = cluster.runtimes(lambda _: Answer(None, ""), lambda name: (name,))
    assert none.verdict == "warning"


def test_partitions_and_accounts_are_reported_with_their_limits() -> None:
    site = Site(
        {"a": Partition("a", True, 3600, 4), "b": Partition("b")},
        associations=(Association("x", qos=frozenset({"long", "normal"})),),
        default_account="x",
    )
    assert [finding.text for finding in cluster.partitions(site)] == [
        "a (default): up to 0-01:00:00, 4 nodes",
        "b: no time limit known",
        "x (default), QOS long, normal",
    ]


def test_an_output_root_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = cluster.output_root(tmp_path / "file" / "outputs", lambda _: Answer(None, ""), "me")
    assert found.verdict == "failed"
    assert found.hint.startswith("export OUTPUT_DIR=")


def test_a_program_that_is_not_there_is_an_answer() -> None:
    assert cluster.ask(["/nowhere/scontrol"]).code is None
    assert cluster.ask(["sh", "-c", "echo no >&2; exit 3"]).first_error == "no"


def test_the_file_system_of_a_path_is_that_of_the_innermost_mount() -> None:
    assert cluster.filesystem(Path("/proc/self")) == "proc"
    assert cluster.filesystem(Path("/")) != "proc"


@pytest.mark.parametrize("kind", ["accounting_storage/none", "(null)"])  # up to 23.02, and in 24.11
def test_accounts_that_are_off_are_no_failure(kind: str) -> None:
    found = cluster.accounting(
        lambda words: Answer(0, f"AccountingStorageType   = {kind}\n") if "config" in words else Answer(1, ""),
        lambda name: (name,),
    )
    assert (found.verdict, found.text.partition(":")[0]) == ("warning", "off")


def test_commands_that_do_not_answer_are_not_said_to_be_absent() -> None:
    silent = cluster.Answer(None, "", "sinfo did not answer within 30 s", timed_out=True)
    (finding,) = cluster.controller(lambda _: silent, lambda name: (name,))
    assert (finding.verdict, finding.text) == (cluster.FAILED, "sinfo did not answer within 30 s")
