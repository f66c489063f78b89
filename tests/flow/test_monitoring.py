"""What scripts/tests/test_monitor_resume.py checks on any cluster, on this machine: every scenario is a test.

The jobs go as one plan, and two plans are at work at a time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.tests import test_monitor_resume
from scripts.tests.lab import Lab
from scripts.tests.scenarios import JOBS, PLANS, Outcome
from tests.flow.scenarios import outcomes_of

pytestmark = pytest.mark.xdist_group("monitoring")  # one worker, as the outcomes are those of one round


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The outcome of every scenario whose test was chosen."""
    return outcomes_of(request, Lab(tmp_path_factory.mktemp("scenarios")))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [*JOBS, *PLANS])
def test_a_scenario_goes_as_promised(outcomes: dict[str, Outcome], scenario: str) -> None:
    assert outcomes[scenario].ok, outcomes[scenario].seen


@pytest.mark.slow
def test_the_script_by_hand_tells_of_each_scenario_and_cleans_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert test_monitor_resume.main(["--only", "exit93", "monitoring.poll_interval_seconds=0.2"]) == 0
    reported = capsys.readouterr().out
    assert "ok    exit93" in reported
    assert "exit code 93 asks for none" in reported
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_script_ends_with_1_and_says_where_to_look_if_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--only", "exit93", "backend.options.train_iters=5", "--output", str(tmp_path / "kept")]
    assert test_monitor_resume.main(words) == 1
    reported = capsys.readouterr().out
    assert "FAIL  exit93" in reported
    assert f"what was written is in {tmp_path / 'kept'}" in reported


def test_the_script_lists_its_scenarios_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert test_monitor_resume.main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [*JOBS, *PLANS]
    with pytest.raises(SystemExit):
        test_monitor_resume.main(["--only", "no_such_thing"])
    assert "no scenario is called no_such_thing" in capsys.readouterr().err
