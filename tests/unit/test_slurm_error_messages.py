"""What the error messages of SLURM's commands mean, as captured from real clusters."""

from __future__ import annotations

import pytest

from oellm_autoexp.core.errors import (
    InvalidSubmissionError,
    SchedulerError,
    SubmitError,
    TooManyJobsError,
    UnreachableError,
)
from oellm_autoexp.schedulers.slurm import error_messages

NOT_CONFIGURED = """\
sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
sbatch: error: fetch_config: DNS SRV lookup failed
sbatch: error: _establish_config_source: failed to fetch config
sbatch: fatal: Could not establish a configuration source
"""
NO_SUCH_CONFIGURATION = """\
sbatch: error: s_p_parse_file: cannot stat file /nonexistent: No such file or directory, retrying in 1sec up to 60sec
sbatch: error: ClusterName needs to be specified
sbatch: fatal: Unable to process configuration file
"""
NO_SCRIPT = """\
sbatch: error: This does not look like a batch script.  The first
sbatch: error: line must start with #! followed by the path to an interpreter.
sbatch: error: For instance: #!/bin/sh
"""
NO_PARTITION = """\
sbatch: error: invalid partition specified: nix
sbatch: error: Batch job submission failed: Invalid partition name specified
"""
FAILED = "sbatch: error: Batch job submission failed: "
NEVER_ASKED = [
    (1, NOT_CONFIGURED),
    (1, NO_SUCH_CONFIGURATION),
    (127, "bash: line 1: sbatch: command not found"),
    (127, "sh: 1: sbatch: not found"),
]
REFUSED = [
    (1, f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"),
    (1, f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{FAILED}Job violates accounting/QOS policy"),
    (1, f"{FAILED}Job dependency problem"),
    # words of a transport in refusals that have nothing to do with one
    (1, "sbatch: error: --gpus-per-socket option requires --sockets-per-node specification"),
    (1, f"{FAILED}Protocol buffers are for paying users"),
    (1, "sbatch: error: lua: jobs need a connection to the licence server: use --licenses"),
    (1, "sbatch: error: cli_filter plugin terminated with error: --network=transport is not for you"),
]
TOO_MANY = [
    (1, f"sbatch: error: AssocMaxSubmitJobLimit\n{FAILED}Job violates accounting/QOS policy"),
    (1, f"sbatch: error: AssocGrpSubmitJobsLimit\n{FAILED}Job violates accounting/QOS policy"),
    (1, f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{FAILED}Job violates accounting/QOS policy"),
    (1, f"{FAILED}Slurm temporarily unable to accept job, sleeping and retrying"),
    (1, f"{FAILED}Resource temporarily unavailable"),
    (1, f"{FAILED}Invalid job array specification"),
]
INVALID = [
    (1, NO_PARTITION),
    (1, NO_SCRIPT),
    (1, f"{FAILED}Requested node configuration is not available"),
    (1, "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\nsbatch: error: instead of expected UNIX ones"),
    (1, "sbatch: error: Batch script is empty!"),
    (1, "sbatch: error: Unable to open file gone"),
    (255, "sbatch: error: Invalid --time specification"),
    (255, "sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\" for more information"),
]
UNCLEAR = [
    (1, f"{FAILED}Unable to contact slurm controller (connect failure)"),
    (1, f"{FAILED}Socket timed out on send/recv operation"),
    (1, f"{FAILED}Zero Bytes were transmitted or received"),
    (1, f"{FAILED}Transport endpoint is not connected"),
    (1, f"{FAILED}Unexpected message received"),
    (255, "client_loop: send disconnect: Broken pipe"),
    (255, "Connection to login1 closed by remote host."),
    (255, "Timeout, server login1 not responding."),
    (255, "Killed by signal 15."),
    (1, "my-wrapper: something went wrong"),
    (1, f"{FAILED}Protocol authentication error"),
    (1, f"{FAILED}Header lengths are longer than data received"),
    (1, f"{FAILED}Message receive failure"),
    (1, f"{FAILED}Slurm backup controller in standby mode"),
    (1, f"{FAILED}Connection refused"),
    (1, "sbatch: error: slurm_persist_conn_open: failed\nsbatch: error: Connection reset by peer"),
    (1, ""),
    (-9, ""),
    (-15, NO_PARTITION),
]


@pytest.mark.parametrize(
    ("returncode", "stderr", "kind"),
    [(*case, UnreachableError) for case in NEVER_ASKED]
    + [(*case, SubmitError) for case in REFUSED]
    + [(*case, TooManyJobsError) for case in TOO_MANY]
    + [(*case, InvalidSubmissionError) for case in INVALID]
    + [(*case, SchedulerError) for case in UNCLEAR],
)
def test_a_failed_sbatch_was_never_asked_or_has_refused_or_nobody_knows(
    returncode: int, stderr: str, kind: type[SchedulerError]
) -> None:
    found, words = error_messages.refusal(returncode, stderr + "\n")
    assert found is kind
    assert "\n" not in words
    assert words


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        (NOT_CONFIGURED, "Could not establish a configuration source"),
        (NO_SUCH_CONFIGURATION, "Unable to process configuration file"),
        (
            NO_PARTITION,
            "invalid partition specified: nix Batch job submission failed: Invalid partition name specified",
        ),
        ("\nslurm_load_jobs error: Invalid job id specified\n", "slurm_load_jobs error: Invalid job id specified"),
        ("sacct: error: Problem talking to the database", "Problem talking to the database"),
        (" \n", "failed without a message"),
    ],
)
def test_an_error_text_becomes_one_line(stderr: str, words: str) -> None:
    assert error_messages.message(stderr) == words


@pytest.mark.parametrize(
    ("stderr", "harmless"),
    [
        ("scancel: error: Kill job error on job id 5: Invalid job id specified\n", True),
        ("scancel: error: Kill job error on job id 5: Job/step already completing or completed\n", True),
        ("scancel: error: Kill job error on job id 5: Invalid job id specified\nscancel: error: No more\n", False),
        ("scancel: error: Kill job error on job id 5: Access/permission denied\n", False),
        ("scancel: error: Unable to contact slurm controller (connect failure)\n", False),
        ("", False),
    ],
)
def test_complaints_about_jobs_that_have_ended_are_harmless(stderr: str, harmless: bool) -> None:
    assert error_messages.only_ended_jobs(stderr) == harmless


@pytest.mark.parametrize(
    ("stderr", "disabled"),
    [
        ("Slurm accounting storage is disabled\n", True),
        ("sacct: error: Problem talking to the database: Connection refused\n", False),
        ("", False),
    ],
)
def test_no_accounts_are_reported_from_accounts_out_of_reach(stderr: str, disabled: bool) -> None:
    assert error_messages.no_accounting(stderr) == disabled


def test_accounts_that_have_no_such_field_say_so() -> None:
    assert error_messages.no_such_field('sacct: error: Invalid field requested: "FailedNode"\n')
    assert not error_messages.no_such_field("sacct: error: Problem talking to the database: Connection refused\n")
