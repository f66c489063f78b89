"""Planning where there are checkpoints: those used are reported, and a plan that is to begin anew is refused."""

from __future__ import annotations

import pytest

from tests.flow.conftest import User

TRAINING = ("backend=megatron", "backend/megatron=130M", "project.name=job")


@pytest.mark.slow
def test_a_rerun_tells_what_it_goes_on_from_and_one_that_is_to_begin_anew_is_refused(user: User) -> None:
    anew = (*TRAINING, "project.resume=false")
    first = user.run("plan", *anew)
    assert first.returncode == 0, first.stderr
    assert "go on from" not in first.stdout
    folder = user.outputs / "job" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("500\n")
    again = user.run("plan", *TRAINING)
    assert again.returncode == 0, again.stderr
    assert f"note: 1 job may continue from old checkpoints: job from {folder} (iteration 500)" in again.stdout
    refused = user.run("plan", *anew)
    assert refused.returncode == 2
    assert (
        f"job job must start at the beginning, but its folder has checkpoints (iteration 500): {folder}"
        in refused.stderr
    )
    assert "move the folder away" in refused.stderr
