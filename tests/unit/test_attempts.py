"""The script of a job's next attempt: the plan's, with other directives and without the nodes at fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import AutoexpError, StateError
from oellm_autoexp.core.nouns import Resources
from oellm_autoexp.submission.attempts import write_script
from tests.unit.test_executor import GOOD, Stage

SCRIPT = "#!/bin/bash\n#SBATCH --time=5\n#SBATCH --nodes=2\n#SBATCH --gpus-per-node=4\n\necho '#SBATCH --time=7'\n"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path, {}, {"a": [GOOD]})
    (tmp_path / "a" / "job.sbatch").write_text(SCRIPT)
    return made


def written(stage: Stage, overrides: dict[str, Any], *excluded: str) -> tuple[str, Resources]:
    made = write_script(stage.manifest, stage.manifest.jobs[0], 2, overrides, excluded)
    assert made is not None
    return Path(made[0]).read_text(), made[1]


def test_an_attempt_like_the_first_has_its_script(stage: Stage) -> None:
    assert write_script(stage.manifest, stage.manifest.jobs[0], 2, {}, ()) is None
    assert not (stage.folder / "a" / "attempt_2").exists()


def test_directives_are_changed_in_a_script_of_its_own_and_the_plans_stays(stage: Stage) -> None:
    text, resources = written(stage, {"slurm.sbatch.time": 120, "slurm.sbatch.partition": "long"})
    assert "#SBATCH --time=120\n" in text
    assert "#SBATCH --partition=long\n" in text
    assert "echo '#SBATCH --time=7'\n" in text
    assert resources == Resources(nodes=2, gpus=8, time_limit_seconds=7200)
    assert (stage.folder / "a" / "job.sbatch").read_text() == SCRIPT


def test_nodes_are_left_out_beside_those_that_were_already(stage: Stage) -> None:
    assert "#SBATCH --exclude=n1,n2\n" in written(stage, {}, "n1", "n2")[0]
    text, _ = written(stage, {"slurm.sbatch.exclude": "m1"}, "n1")
    assert "#SBATCH --exclude=m1,n1\n" in text


def test_the_same_attempt_may_be_written_again(stage: Stage) -> None:
    assert written(stage, {}, "n1") == written(stage, {}, "n1")


def test_overrides_that_can_not_be_and_scripts_that_are_gone_are_reported(stage: Stage) -> None:
    with pytest.raises(AutoexpError):
        write_script(stage.manifest, stage.manifest.jobs[0], 2, {"slurm.sbatch.output": "x"}, ())
    (stage.folder / "a" / "job.sbatch").unlink()
    with pytest.raises(StateError, match="can't write the script of a new attempt"):
        write_script(stage.manifest, stage.manifest.jobs[0], 2, {}, ("n1",))


@pytest.mark.parametrize("node", ["$(touch x)", "n1\n#SBATCH --wrap=x", "n1; x", "'", "{nodes_at_fault}"])
def test_a_hostile_name_of_a_node_stays_one_value_or_is_refused(stage: Stage, node: str) -> None:
    try:
        text, _ = written(stage, {}, node)
    except AutoexpError:
        return
    assert len(text.splitlines()) <= len(SCRIPT.splitlines()) + 1


def test_a_signal_for_the_shell_is_not_put_into_a_script_that_has_no_trap_for_it(stage: Stage) -> None:
    with pytest.raises(AutoexpError):
        write_script(stage.manifest, stage.manifest.jobs[0], 2, {"slurm.sbatch.signal": "B:USR1@9"}, ())
    assert "#SBATCH --signal=USR1@9\n" in written(stage, {"slurm.sbatch.signal": "USR1@9"})[0]
    (stage.folder / "a" / "job.sbatch").write_text(f"{SCRIPT}trap : USR1\n")
    assert "#SBATCH --signal=B:USR1@9\n" in written(stage, {"slurm.sbatch.signal": "B:USR1@9"})[0]
