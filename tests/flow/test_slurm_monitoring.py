"""What scripts/tests/test_monitor_resume.py checks on any cluster, on a real SLURM: every scenario is a test.

All plans are at work at the same time, as two of the jobs wait for time limits, which SLURM counts in minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.tests.lab import Lab
from scripts.tests.scenarios import JOBS, PLANS, Outcome, node_down, timed
from tests.flow.scenarios import outcomes_of
from tests.slurm.cluster import Cluster
from tests.slurm.fixtures import CLIENT_VARIABLES

PATIENCE_SECONDS = 240


def lab(cluster: Cluster, root: Path) -> Lab:
    """A lab on a cluster; what a surrounding job or a user's profile set for SLURM's commands is gone."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(CLIENT_VARIABLES)}
    words = ("slurm=base", "metadata.patience_seconds=5")
    return Lab(root, words, True, PATIENCE_SECONDS, {**kept, **cluster.environment()})


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, slurm_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """The outcome of every scenario whose test was chosen."""
    return outcomes_of(request, lab(slurm_cluster, tmp_path_factory.mktemp("scenarios")))


@pytest.mark.slurm
@pytest.mark.parametrize("scenario", [*JOBS, *PLANS])
def test_a_scenario_goes_as_promised(outcomes: dict[str, Outcome], scenario: str) -> None:
    assert outcomes[scenario].ok, outcomes[scenario].seen


@pytest.mark.slurm
def test_a_job_whose_node_dies_is_begun_anew_on_another_one(
    make_slurm_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = make_slurm_cluster(nodes=2, slurmd_timeout_seconds=5)
    outcome = timed("node_down", lambda: node_down(lab(cluster, tmp_path), cluster.kill_node))
    assert outcome.ok, outcome.seen
