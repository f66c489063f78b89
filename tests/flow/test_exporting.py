"""Exports of real runs: beside a watch that is killed, and by command; numbers are those of results and tables."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.cli import api
from tests.exports import Curves, of_mlflow, of_tensorboard, of_wandb, single
from tests.flow.conftest import QUICK, User, until
from tests.flow.test_plugins import PLUGINS
from tests.flow.test_plugins import packages as packages

pytestmark = pytest.mark.slow

PLANTED = "hf_pl4ntedQx7ZwT0kEnVaLuE93bd"
KINDS = ("TensorBoardExporter", "WandbExporter", "MlflowExporter", "OpenMetricsExporter")
TRAIN = """#!/bin/bash
# two attempts: the first ends badly after some iterations, the second repeats some of them
number=$(ls attempts_$1 2>/dev/null | wc -l)
mkdir -p attempts_$1/$number
first=1 last=30
if ((number)); then first=15; fi
for ((i = first; i <= last; i++)); do
  if ((number)) || [[ $i -lt 29 ]]; then
    echo "step $i/$last loss $((100 - i)).$number$1"
    if ((i % 10 == 0)); then echo "step $i/$last val nan"; fi
  fi
  sleep 0.2
done
((number)) || exit 7
"""
EXPERIMENT = f"""
defaults:
  - /backend: command
  - /slurm: local
  - _self_
project:
  name: job_${{index}}
backend:
  argv: [bash, "${{project.output_dir}}/../../train.sh", "${{metadata.digit}}"]
metadata: {{digit: 1, token: none}}
sweep:
  params: {{metadata.digit: [1, 2], metadata.hf_token: [{PLANTED}]}}
monitoring:
  poll_interval_seconds: 0.2
  metrics:
    loss: 'step (?P<iteration>\\d+)/(?P<total>\\d+) loss (?P<value>\\S+)'
    validation_loss: 'step (?P<iteration>\\d+)/(?P<total>\\d+) val (?P<value>\\S+)'
  state_events:
    crash:
      actions: [{{class_name: RestartAction, max_attempts: 1}}]
  exporters:
    - {{class_name: TensorBoardExporter, folder: runs, interval_seconds: 1}}
    - {{class_name: WandbExporter, interval_seconds: 1}}
    - {{class_name: MlflowExporter, interval_seconds: 1}}
    - {{class_name: OpenMetricsExporter, interval_seconds: 1}}
"""


def points_of(user: User, plan: str) -> dict[str, Curves]:
    """The points of jobs by metric, as the tables of the report have them."""
    made = user.run("report", "--session", plan, "--csv", "tables")
    assert made.returncode == 0, made.stderr
    found: dict[str, Curves] = {}
    for row in csv.DictReader((user.home / "tables" / "points.csv").read_text().splitlines()):
        curves = found.setdefault(row["job"], {})
        point = int(row["iteration"]), float(row["time"]), float(row["value"])
        curves.setdefault(row["metric"], []).append(point)
    return found


def to_milliseconds(curves: Curves) -> Curves:
    return {name: [(step, round(at * 1000) / 1000, value) for step, at, value in own] for name, own in curves.items()}


def compared(user: User, plan: str) -> None:
    """What the four formats have, compared with tables and rows."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    wanted, rows = points_of(user, plan), api.results(plan, user.outputs / "monitoring_state")
    samples = {
        (sample.name, *(sample.labels.get(key) for key in ("job", "state", "metric"))): sample.value
        for family in text_string_to_metric_families((user.outputs / f"{plan}.prom").read_text())
        for sample in family.samples
    }
    offline = {run.run.display_name: run for run in map(of_wandb, user.outputs.glob("wandb/offline-run-*/*.wandb"))}
    tracked = of_mlflow(f"sqlite:///{user.outputs / 'mlflow.db'}")
    assert set(wanted) == set(offline) == set(tracked) == {row.name for row in rows}
    for row in rows:
        curves = wanted[row.name]
        assert repr(of_tensorboard(user.home / "runs" / plan / row.name)) == repr(single(curves))
        assert repr(sorted(tracked[row.name][1].items())) == repr(sorted(to_milliseconds(curves).items()))
        kept: dict[str, Any] = {}
        for step, reported in offline[row.name].rows.items():
            for name, text in reported.items():
                if not name.startswith("_"):
                    kept.setdefault(name, []).append((step, float(json.loads(text))))
        short = {name: [(step, value) for step, _, value in own] for name, own in curves.items()}
        assert repr(sorted(kept.items())) == repr(sorted(short.items()))
        for metric, points in curves.items():
            assert repr(samples["autoexp_job_metric", row.name, None, metric]) == repr(points[-1][2])
        assert samples["autoexp_job_state", row.name, row.state, None] == 1
        assert samples["autoexp_job_gpu_hours", row.name, None, None] == row.gpu_hours
        assert samples["autoexp_job_attempt", row.name, None, None] == row.attempt
        assert samples["autoexp_job_iteration", row.name, None, None] == row.iteration
        assert tracked[row.name][0].data.tags["state"] == row.state
        assert json.loads(offline[row.name].summary["state"]) == row.state


def test_exports_beside_a_watch_that_is_killed_are_those_of_the_whole_run(user: User) -> None:
    (user.home / "train.sh").write_text(TRAIN)
    (user.home / "mine.yaml").write_text(EXPERIMENT)
    planned = user.run("plan", "--config-ref", "mine", "--config-dir", ".", "--plan-id", "x")
    assert planned.returncode == 0, planned.stderr + planned.stdout
    watch = user.start("submit", "--manifest", "outputs/manifests/x.json")
    state = user.outputs / "monitoring_state"
    until(lambda: (user.outputs / "x.prom").exists() and len(list(user.home.glob("runs/x/*/ev*"))) == 2, "exports")
    os.kill(watch.pid, signal.SIGKILL)
    watch.wait()
    early = of_tensorboard(user.home / "runs" / "x" / "job_0")
    resumed = user.run("monitor", "--session", "x")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "has failed" not in resumed.stderr + (user.home / "output.txt").read_text()
    for kind in KINDS:
        log = state / "x.exports" / f"{kind}.log"
        until(lambda: log.read_text().startswith("exported x to "), f"the last export by {kind}")  # noqa: B023
    compared(user, "x")
    points = points_of(user, "x")["job_0"]
    assert [step for step, *_ in points["loss"]] == [*range(1, 31)]
    assert [value for step, _, value in points["loss"] if step >= 15] == [100 - step + 0.11 for step in range(15, 31)]
    assert early["loss"][0] == of_tensorboard(user.home / "runs" / "x" / "job_0")["loss"][0]
    secret = PLANTED.encode()
    written = [
        path for place in (user.home / "runs", user.outputs / "wandb", state / "x.exports") for path in place.rglob("*")
    ]
    for path in (*written, user.outputs / "mlflow.db", user.outputs / "x.prom"):
        assert not path.is_file() or secret not in path.read_bytes(), path
    assert user.run("monitor", "--session", "x", "--cmd", "remove").returncode == 0
    assert not list(state.glob("x*"))


def test_exports_by_command_of_a_session_that_has_ended(user: User) -> None:
    done = user.run("run", "--plan-id", "x", *QUICK, "slurm=local")
    assert done.returncode == 0, done.stderr
    words = ("--export", "tensorboard=runs", "--export", "wandb", "--export", "mlflow", "--export", "openmetrics")
    for _ in range(2):
        made = user.run("report", "--session", "x", *words, "--json")
        assert (made.returncode, made.stderr) == (0, "")
        reported = json.loads(made.stdout)
        assert reported["written"] == []
        assert [each["exporter"] for each in reported["exported"]] == list(KINDS)
        compared(user, "x")
    assert not (user.home / "report.html").exists()
    expected = {
        "tensorbord": "did you mean 'tensorboard'?",
        "csv": "known: mlflow, openmetrics, tensorboard, wandb",
        "wandb=": "the place is empty",
    }
    for word, message in expected.items():
        refused = user.run("report", "--session", "x", "--export", word)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert message in refused.stderr
    (user.home / "file").touch()
    failed = user.run("report", "--session", "x", "--export", "tensorboard=file", "--export", "openmetrics=prom")
    assert failed.returncode == 1
    assert "TensorBoardExporter: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (user.home / "prom" / "x.prom").exists()


def test_an_export_that_fails_is_reported_once_and_the_watch_goes_on(user: User) -> None:
    (user.home / "file").touch()
    exporters = (
        "[{class_name: TensorBoardExporter, folder: file, interval_seconds: 1}, {class_name: OpenMetricsExporter}]"
    )
    done = user.run("run", "--plan-id", "x", *QUICK, "slurm=local", f"monitoring.exporters={exporters}")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("its export by TensorBoardExporter has failed: ") == 1
    assert "Not a directory" in done.stderr
    assert "works again" not in done.stderr
    assert (user.outputs / "x.prom").exists()


def test_mistakes_and_what_is_not_installed_are_errors_of_the_plan(user: User, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *more: None if name == 'wandb' else find(name, *more)\n"
    )
    (user.home / "mine.yaml").write_text(
        "defaults: [/backend: command, /slurm: local, _self_]\n"
        "backend: {argv: [echo]}\n"
        "monitoring:\n"
        "  exporters:\n"
        "    - {class_name: WandbExporter}\n"
    )
    words = ("plan", "--config-ref", "mine", "--config-dir", ".")
    lacking = user.run(*words, PYTHONPATH=str(hidden))
    assert lacking.returncode == 2
    assert "WandbExporter can't work here: wandb is not installed: pip install 'oellm-autoexp[wandb]'" in lacking.stderr
    assert "mine.yaml:5" in lacking.stderr
    (user.home / "mine.yaml").write_text("monitoring: {exporters: [{class_name: WandbExporter, foldr: x}]}\n")
    wrong = user.run(*words)
    assert wrong.returncode == 2
    assert "did you mean 'folder'?" in wrong.stderr


@pytest.mark.xdist_group("plugins")
def test_an_exporter_of_another_package_runs_beside_the_watch_and_by_command(user: User, packages: Path) -> None:
    guest = User(user.home, {**user.environment, "PYTHONPATH": str(packages)})
    exporters = "[{class_name: LeaderboardExporter, folder: board}]"
    done = guest.run("run", "--plan-id", "x", *QUICK, "slurm=local", f"monitoring.exporters={exporters}")
    assert done.returncode == 0, done.stderr
    table = (guest.home / "board" / "x.md").read_text().splitlines()
    lowest = {name: min(value for *_, value in curves["loss"]) for name, curves in points_of(guest, "x").items()}
    shown = [line.removeprefix("| ").split(" | ")[:2] for line in table[2:]]
    assert shown == [[name, f"{lowest[name]:g}"] for name in sorted(lowest, key=lambda name: lowest[name])]
    assert guest.run("report", "--session", "x", "--export", "leaderboard=other").returncode == 0
    assert (guest.home / "other" / "x.md").read_text().splitlines() == table
    plain = user.run("monitor", "--session", "x", "--cmd", "status")
    assert plain.returncode == 0, plain.stderr
    assert PLUGINS.is_dir()
