"""What SLURM's reasons for a pending job mean, and what a user can do about them (squeue(1), "Job Reason Codes")."""

from __future__ import annotations

import re

_LIMITS = "`squeue --me` shows your jobs; "
_REASONS = (
    (r"JobHeldAdmin", "an administrator holds it", "ask the site"),
    (r"[Hh]eld|JobHoldMaxRequeue", "it is held", "release it: scontrol release {job}"),
    (
        r"PartitionDown|PartitionInactive",
        "its partition starts no jobs now",
        "choose another one (slurm.sbatch.partition), or wait until it is up: scontrol show partition",
    ),
    (
        r"PartitionNodeLimit|PartitionTimeLimit|PartitionConfig",
        "it asks for more nodes or time than its partition allows now",
        "ask for less (slurm.sbatch.nodes, slurm.sbatch.time), or choose another partition",
    ),
    (
        r"^Reservation|ReqNodeNotAvail|NodeDown|Nodes[ _]required[ _]for[ _]job[ _]are",
        "nodes that it needs are down, drained or reserved, as for a maintenance",
        "`sinfo -R` and `scontrol show reservation` show which, and until when; choose another partition, or wait",
    ),
    (
        r"(?:Assoc|QOS).*(?:Minutes|Billing)|QOSUsageThreshold",
        "the computing time of the account or QOS is used up, or running jobs will use up the rest",
        "use another account or QOS, or ask the site for more; `sshare`, or the site's own command, shows what is left",
    ),
    (
        r"InvalidAccount|AccountNotAllowed|InvalidQOS|QOSNotAllowed|AccountingPolicy",
        "its account or QOS may not be used there",
        "set SLURM_ACCOUNT, SLURM_QOS and SLURM_PARTITION to values that fit together: sacctmgr show assoc user=$USER",
    ),
    (
        r"QOSMin|QOSMaxWall|QOSTimeLimit|AssocMaxWall|MaxWall",
        "its QOS or account does not allow this time limit or number of nodes",
        "change slurm.sbatch.time or nodes, or choose another QOS: sacctmgr show qos",
    ),
    (
        r"QOS",
        "a limit of its QOS is reached",
        _LIMITS + "wait until some have ended, or choose another QOS: sacctmgr show qos",
    ),
    (
        r"Assoc|Max\w*Per(?:Account|User)",
        "a limit of the account is reached",
        _LIMITS + "wait until some have ended, or use another account: sacctmgr show assoc user=$USER",
    ),
    (
        r"BadConstraints",
        "no node has what it asks for",
        "ask for less, or choose another partition: `sinfo -N -l` shows the nodes",
    ),
    (r"Licenses", "it waits for a license", "`scontrol show licenses` shows which are free"),
    (
        r"BeginTime",
        "its start time is not reached yet, or it is restarted after a failed start",
        "scontrol show job {job}",
    ),
    (r"Dependency", "it waits for another job", "scontrol show job {job} shows which one"),
    (
        r"Priority|Resources|^$|None",
        "other jobs have a higher priority",
        "wait longer (`squeue --start -j {job}` shows when it starts, if SLURM knows it), or use the partition or QOS "
        "for tests: slurm.debug=true",
    ),
)
"""A part of the reason (newer versions have `_` for its blanks), what it means, what to do; the first found counts."""


def explained(reason: str, job: str) -> tuple[str, str]:
    """What a reason means ('' where that is not known), and what to do; `job` is the waiting job's id."""
    for pattern, meaning, advice in _REASONS:
        if re.search(pattern, reason):
            return meaning, advice.format(job=job)
    return "", f"squeue(1) says what the reason means; scontrol show job {job} shows more"
