"""The fake, the local scheduler and a real SLURM keep what every scheduler promises: the suite that is shipped."""

from __future__ import annotations

import subprocess
import sys

import pytest

from oellm_autoexp.testing.scheduler_contract import RunningSchedulerContract, SchedulerContract
from tests.contract.harness import FakeHarness, LocalHarness, SlurmHarness


class TestFake(SchedulerContract):
    harness_class = FakeHarness


class TestLocal(RunningSchedulerContract):
    harness_class = LocalHarness


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
class TestSlurm(RunningSchedulerContract):
    harness_class = SlurmHarness


def test_where_there_is_no_pytest_the_suite_says_so_and_the_program_needs_none() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None; import oellm_autoexp.cli.run_autoexp; "
        "import oellm_autoexp.testing.scheduler_contract"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (
        result.stderr.splitlines()[-1] == "ModuleNotFoundError: oellm_autoexp.testing needs pytest: pip install pytest"
    )
