"""The options that sbatch knows."""

from __future__ import annotations

import pytest

from oellm_autoexp.sbatch.known_options import (
    OPTIONS,
    SRUN_OPTIONS,
    option_problems,
    options_in_help,
    unknown_option,
)


@pytest.mark.parametrize("name", ["time", "t", "gpus_per_node", "cpus-per-task", "ntasks-per-n", "open_mode"])
def test_options_are_known_in_every_spelling_that_sbatch_takes(name: str) -> None:
    assert not unknown_option(name)


def test_a_misspelt_option_is_reported_with_the_nearest_and_a_plugins_own_is_known_from_the_help() -> None:
    known = OPTIONS | options_in_help("      --container-image=[USER@]... image\n  -x, --exclude=hosts\n")
    problems = option_problems(["gpus_per_nod", "gpu_per_node", "container_image"], known, "job.sbatch")
    (problem,) = problems
    assert problem.what == "sbatch has no option --gpu-per-node"
    assert problem.hint.startswith("did you mean 'gpus-per-node'")


@pytest.mark.parametrize("name", ["kill_on_bad_exit", "cpu_bind", "label", "l", "container_image", "mpi", "nodes"])
def test_options_of_srun_and_of_pyxis_are_known(name: str) -> None:
    assert not unknown_option(name, SRUN_OPTIONS)


def test_a_misspelt_option_of_srun_is_reported_as_sruns() -> None:
    (problem,) = option_problems(["kil_on_bad_exit"], SRUN_OPTIONS, "", "srun")
    assert problem.what == "srun has no option --kil-on-bad-exit"
    assert problem.hint.startswith("did you mean 'kill-on-bad-exit'")
