"""A run that an action starts without a config_ref: it trains with what the sweep has set for its parent."""

from __future__ import annotations

import json

import pytest

from tests.flow.conftest import User

CONFIG = """\
# @package _global_
project: {name: '${stage}'}
stage: ''
backend:
  argv: [sh, -c, 'echo trains $0 steps', '${backend.megatron.train_iters}']
  megatron: {train_iters: 5}
monitoring:
  poll_interval_seconds: 0.2
  output_paths: [first.txt, second.txt]
  state_events:
    success:
      actions:
        - class_name: RunAutoexpAction
          overrides: ['project.name={name}_again', 'monitoring.state_events.success=null']
sweep:
  configs: [{stage: plain}, SWEPT]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("swept", "steps", "watched"),
    [
        ("{stage: swept, backend.megatron.train-iters: 7}", 7, ["first.txt", "second.txt"]),
        ("{stage: swept, monitoring.output_paths.0: third.txt}", 5, ["third.txt", "second.txt"]),
        ("{stage: swept, backend: tiny_lm, backend.options.train_iters: 3}", 5, ["first.txt", "second.txt"]),
    ],
)
def test_the_run_has_the_values_of_its_parent(user: User, swept: str, steps: int, watched: list[str]) -> None:
    (user.home / "own.yaml").write_text(CONFIG.replace("SWEPT", swept))
    outcome = user.run("run", "--config-ref", "own.yaml", "--plan-id", "parent")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    folder = user.outputs / "swept_again"
    (plan_id,) = (path.name for path in (folder / "provenance").iterdir())
    assert user.run("monitor", "--session", plan_id).returncode == 0
    config, of_parent = (
        json.loads((user.outputs / name / "provenance" / made / "config.json").read_text())
        for name, made in (("swept_again", plan_id), ("swept", "parent"))
    )
    assert config["backend"]["megatron"] == of_parent["backend"]["megatron"]
    assert config["backend"]["options"].get("train_iters") == of_parent["backend"]["options"].get("train_iters")
    assert config["monitoring"]["output_paths"] == of_parent["monitoring"]["output_paths"] == watched
    assert f"trains {steps} steps" in (folder / "current.log").read_text()
