"""What SLURM's reasons for a pending job are said to mean."""

from __future__ import annotations

import pytest

from oellm_autoexp.schedulers.slurm.reasons import explained

MEANINGS = {
    "Priority": "other jobs have a higher priority",
    "Resources": "other jobs have a higher priority",
    "": "other jobs have a higher priority",
    "JobHeldUser": "it is held",
    "JobHeldAdmin": "an administrator holds it",
    "job_requeued_in_held_state": "it is held",
    "PartitionDown": "its partition starts no jobs now",
    "PartitionTimeLimit": "more nodes or time",
    "ReqNodeNotAvail, Reserved for maintenance": "down, drained or reserved",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions": "down, drained",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved": "down, drained",
    "AssocGrpCPUMinutesLimit": "computing time",
    "QOSGrpBillingMinutes": "computing time",
    "AssocGrpCPURunMinutesLimit": "computing time",
    "QOSMaxJobsPerUserLimit": "a limit of its QOS is reached",
    "QOSMaxWallDurationPerJobLimit": "does not allow this time limit",
    "QOSMinNodes": "does not allow this time limit",
    "QOSNotAllowed": "may not be used there",
    "InvalidAccount": "may not be used there",
    "AssocMaxJobsLimit": "a limit of the account",
    "MaxNodePerAccount": "a limit of the account",
    "BadConstraints": "no node has",
    "BeginTime": "its start time is not reached yet",
    "Dependency": "another job",
    "Licenses": "a license",
}


@pytest.mark.parametrize("reason", MEANINGS)
def test_a_reason_is_reported_with_its_meaning_and_what_to_do(reason: str) -> None:
    meaning, advice = explained(reason, "7")
    assert MEANINGS[reason] in meaning
    assert advice
    assert "{" not in advice


def test_a_reason_that_is_not_known_is_not_explained_but_looked_up() -> None:
    meaning, advice = explained("BlockFreeAction", "7")
    assert meaning == ""
    assert "scontrol show job 7" in advice
