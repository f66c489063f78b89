"""The states of jobs, each once: ours (`crash`), and SLURM's (`OUT_OF_MEMORY`) with what each means to us. Pure.

A state of SLURM that is added to MEANING is read, concluded from, and taken in conditions. SLURM's words are those of
squeue(1), JOB STATE CODES.
"""

WAITING, BLOCKED, SUBMITTING, PENDING, RUNNING = "waiting", "blocked", "submitting", "pending", "running"
SUCCESS, CRASH, TIMEOUT, CANCELLED = "success", "crash", "timeout", "cancelled"
PREEMPTED, NODE_FAIL, OOM, STALL = "preempted", "node_fail", "oom", "stall"
_BAD = (CRASH, TIMEOUT, STALL, CANCELLED, PREEMPTED, NODE_FAIL, OOM)
OURS = (WAITING, BLOCKED, SUBMITTING, PENDING, RUNNING, SUCCESS, *_BAD)
BAD_ENDS = frozenset(_BAD)
FINAL = frozenset({SUCCESS, *BAD_ENDS})
"""States that a job does not leave by itself."""
UNSUBMITTED = frozenset({WAITING, BLOCKED})
"""States of a job whose next attempt is not submitted: it waits for its start conditions. BLOCKED: they can be
fulfilled only after another job of the plan gets a new attempt, or is repaired by hand."""
IN_QUEUE = frozenset({PENDING, RUNNING})
HELD_BY_PLAN = "held by its plan: it waits until `--cmd release`"
"""The reason of a job that this program holds in the scheduler's queue."""
LIKE_A_CRASH = frozenset({CANCELLED, PREEMPTED, NODE_FAIL, OOM})
"""Failures that use the rule for `crash` if they have no rule of their own."""

MEANING = {
    "CONFIGURING": PENDING,
    "EXPEDITING": PENDING,
    "PENDING": PENDING,
    "POWER_UP_NODE": PENDING,
    "REQUEUED": PENDING,
    "REQUEUE_FED": PENDING,
    "REQUEUE_HOLD": PENDING,
    "RESV_DEL_HOLD": PENDING,
    "SPECIAL_EXIT": PENDING,
    "COMPLETING": RUNNING,
    "RESIZING": RUNNING,
    "RUNNING": RUNNING,
    "SIGNALING": RUNNING,
    "STAGE_OUT": RUNNING,
    "STOPPED": RUNNING,
    "SUSPENDED": RUNNING,
    "COMPLETED": SUCCESS,
    "BOOT_FAIL": NODE_FAIL,
    "CANCELLED": CANCELLED,
    "DEADLINE": TIMEOUT,
    "FAILED": CRASH,
    "LAUNCH_FAILED": CRASH,
    "NODE_FAIL": NODE_FAIL,
    "OUT_OF_MEMORY": OOM,
    "PREEMPTED": PREEMPTED,
    "RECONFIG_FAIL": CRASH,
    "REVOKED": CANCELLED,
    "TIMEOUT": TIMEOUT,
}
"""SLURM's words, and ours for each. Pending: no processes; running: its processes exist or its end is not settled."""
ENDED = frozenset(word for word, ours in MEANING.items() if ours in FINAL)
"""SLURM's states of a job that does not run again by itself."""
SUCCEEDED = frozenset(word for word, ours in MEANING.items() if ours == SUCCESS)
STOPPED = frozenset({"STOPPED", "SUSPENDED"})
"""SLURM's states of a job whose processes are suspended."""
UNKNOWN = "UNKNOWN"
"""Used when the scheduler gives no answer; no decision may be based on it."""


def conclude(slurm_state: str) -> str:
    """Our state for a state of SLURM; `pending` for an unknown one."""
    return MEANING.get(slurm_state, PENDING)


DO_NOT_REQUEUE = 93
"""The exit code by which NVIDIA's resiliency launcher asks not to be run again."""
