"""The Python API, as a notebook uses it: in one process, with the commands beside it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import oellm_autoexp
from oellm_autoexp.cli import api
from oellm_autoexp.core.errors import AutoexpError
from tests.flow.conftest import QUICK, User

STABLE = ["Planned", "Row", "load", "plan", "results", "submit"]


def test_its_names_are_those_that_were_promised() -> None:
    assert api.__all__ == STABLE
    assert set(STABLE) <= set(oellm_autoexp.__all__)
    assert list(api.Row.__dataclass_fields__) == [
        "name",
        "stage",
        "parameters",
        "output_dir",
        "gpu_hours_planned",
        "session",
        "state",
        "reason",
        "cause",
        "category",
        "fingerprint",
        "attempt",
        "exit_code",
        "scheduler_id",
        "log_path",
        "iteration",
        "total",
        "loss",
        "validation_loss",
        "grad_norm",
        "throughput",
        "seconds_per_iteration",
        "gpu_hours",
        "saved_iteration",
        "nodes",
        "submitted_at",
        "started_at",
        "ended_at",
    ]
    with pytest.raises(AttributeError):
        oellm_autoexp.no_such_name  # noqa: B018


PROGRAM = f"""
import oellm_autoexp
planned = oellm_autoexp.plan("autoexp", *{QUICK!r}, "slurm=local", plan_id="x")
assert [row for row in planned.manifest.jobs]
session = oellm_autoexp.submit(planned)
print([(row.name, row.attempt) for row in oellm_autoexp.results(session)])
"""


@pytest.mark.slow
def test_a_program_plans_and_submits_and_reads_what_the_commands_have_watched(user: User) -> None:
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(words, cwd=user.home, env=user.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    submitted = ast.literal_eval(done.stdout.splitlines()[-1])
    assert [attempt for _, attempt in submitted] == [1, 1, 1, 1]
    assert user.run("monitor", "--session", "x").returncode == 0
    rows = api.results("x", user.outputs / "monitoring_state")
    assert [row.name for row in rows] == [name for name, _ in submitted]
    for row in rows:
        assert (row.state, row.exit_code, row.iteration, row.total) == ("success", 0, 12, 12)
        assert row.loss is not None
        assert row.loss > 0
        assert Path(row.log_path).exists()
        assert row.parameters


@pytest.mark.slow
def test_what_is_wrong_is_an_error_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AutoexpError) as caught:
        api.plan("autoexp", "project=default", "slurm.arary=true")
    assert "did you mean 'slurm.array'" in str(caught.value)
    with pytest.raises(AutoexpError):
        api.load("none", tmp_path)
