"""Exporters: what other programs read is what counts of the series, after restarts of jobs and kills of exports."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from oellm_autoexp.core.errors import ExportError, StateError
from oellm_autoexp.core.nouns import Series
from oellm_autoexp.exporters.base import EXPORTERS, Exporter, Growth, not_installed, short_name
from oellm_autoexp.exporters.mlflow import MlflowExporter
from oellm_autoexp.exporters.openmetrics import OpenMetricsExporter
from oellm_autoexp.exporters.tensorboard import TensorBoardExporter
from oellm_autoexp.exporters.wandb import WandbExporter
from oellm_autoexp.rules.rules import MonitoringSection
from tests.exports import (
    BEGAN,
    Reporting,
    WandbRun,
    killed_at_change,
    of_mlflow,
    of_tensorboard,
    of_wandb,
    results,
    single,
)
from tests.wandb_server import wandb_server

ODD = (math.nan, math.inf, -math.inf, 1e-45, 16_777_217.0, 1e300)


def exporter(kind: str, **fields: Any) -> Exporter:
    made: Exporter = TypeAdapter(EXPORTERS.union()).validate_python({"class_name": kind, **fields})
    return made


# ---------------------------------------------------------------------------------------------------------------------
# What is new

iterations = st.lists(st.integers(0, 12), max_size=30)


@given(iterations, st.integers(0, 40))
def test_what_was_exported_and_what_is_new_are_what_counts(steps: list[int], before: int) -> None:
    numbers = range(len(steps))
    series = Series(steps, [float(n) for n in numbers], [n / 2 for n in numbers], [0] * len(steps))
    growth = Growth.of(series, before)
    first = Series(series.iterations[:before], series.times[:before], series.values[:before], series.attempts[:before])
    earlier, current = list(first.current().values), list(series.current().values)
    assert growth.points == series.current()
    if before <= len(series):
        assert earlier[: growth.kept] == current[: growth.kept]
        assert growth.kept + growth.replaced == len(earlier)
        assert not set(earlier[growth.kept :]) & set(current)
    assert [value for *_, value in growth.new()] == current[growth.kept :]
    assert [step for step, *_ in growth.from_iteration(5)] == [step for step in growth.points.iterations if step >= 5]


# ---------------------------------------------------------------------------------------------------------------------
# TensorBoard


def run_folder(folder: Path) -> Path:
    return folder / "job" / "tensorboard" / "plan-1"


def test_a_run_of_tensorboard_is_what_counts_and_grows_by_what_is_new(tmp_path: Path) -> None:
    reported, made = Reporting().more(range(1, 6)), exporter("TensorBoardExporter")
    reported.points += [("odd", number, BEGAN + number, value, 1) for number, value in enumerate(ODD)]
    made.export(results(tmp_path, reported.job(tmp_path)))
    (path,) = run_folder(tmp_path).glob("events.out.tfevents.*")
    begin, inode, reads = path.read_bytes(), path.stat().st_ino, reported.reads
    assert repr(of_tensorboard(path.parent)) == repr(single(reported.current()))
    reads = reported.reads
    made.export(results(tmp_path, reported.job(tmp_path)))
    assert (reported.reads, path.read_bytes()) == (reads, begin)
    reported.more(range(6, 9)).more(range(6, 7), metrics=["validation_loss"])
    made.export(results(tmp_path, reported.job(tmp_path)))
    assert repr(of_tensorboard(path.parent)) == repr(single(reported.current()))
    assert path.read_bytes().startswith(begin)
    assert path.stat().st_ino == inode
    assert path.stat().st_size - len(begin) < 8 * 64


def test_repeated_iterations_give_way_and_other_metrics_keep_their_points(tmp_path: Path) -> None:
    reported, made = (
        Reporting().more(range(1, 9)).more([4, 8], metrics=["validation_loss"]),
        exporter("TensorBoardExporter"),
    )
    made.export(results(tmp_path, reported.job(tmp_path)))
    reported.more(range(5, 7), attempt=2)
    made.export(results(tmp_path, reported.job(tmp_path)))
    found = of_tensorboard(run_folder(tmp_path))
    assert found == single(reported.current())
    assert [step for step, *_ in found["loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, *_ in found["validation_loss"]] == [4, 8]


rounds = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 4), st.sampled_from([("loss",), ("loss", "v"), ("v",)])),
    min_size=1,
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(rounds, st.sets(st.integers(0, 7)))
def test_whatever_attempts_repeat_and_whenever_it_is_exported(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, tuple[str, ...]]], exported: set[int]
) -> None:
    folder, reported, made = tmp_path_factory.mktemp("tb"), Reporting(), exporter("TensorBoardExporter")
    for number, (first, count, metrics) in enumerate(steps):
        reported.more(range(first, first + count), number, metrics)
        if number in exported:
            made.export(results(folder, reported.job(folder)))
    made.export(results(folder, reported.job(folder)))
    assert of_tensorboard(run_folder(folder)) == single(reported.current())


def test_an_export_that_is_killed_anywhere_leaves_nothing_twice_and_nothing_out(tmp_path: Path) -> None:
    kills = 0
    for first_time in (True, False):
        for number in range(1, 40):
            folder, reported, made = (
                tmp_path / f"{first_time}{number}",
                Reporting().more(range(1, 6)),
                TensorBoardExporter,
            )
            act = made(class_name="TensorBoardExporter").export
            if not first_time:
                act(results(folder, reported.job(folder)))
                reported.more(range(3, 9), attempt=2)
            killed = killed_at_change(number, lambda: act(results(folder, reported.job(folder))))  # noqa: B023
            reported.more(range(9, 11), attempt=2)
            act(results(folder, reported.job(folder)))
            assert of_tensorboard(run_folder(folder)) == single(reported.current()), number
            if not killed:
                break
            kills += 1
    assert kills >= 8


@pytest.mark.parametrize("cut", [0, 20, 10**6])
def test_a_file_that_does_not_have_what_its_position_says_is_written_anew(tmp_path: Path, cut: int) -> None:
    reported, made = Reporting().more(range(1, 6)), exporter("TensorBoardExporter")
    made.export(results(tmp_path, reported.job(tmp_path)))
    (path,) = run_folder(tmp_path).glob("events.*")
    if cut:
        os.truncate(path, min(cut, path.stat().st_size - 1))
    else:
        path.unlink()
    reported.more(range(6, 8))
    made.export(results(tmp_path, reported.job(tmp_path)))
    assert of_tensorboard(path.parent) == single(reported.current())


def test_swept_values_are_hyperparameters_of_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    exporter("TensorBoardExporter", folder="tb").export(results(tmp_path, Reporting().more([1]).job(tmp_path)))
    reader = EventAccumulator(str(tmp_path / "tb" / "plan-1" / "job"))
    reader.Reload()
    content = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["backend.lr"].number_value == 1e-3
    assert (found["model"].string_value, found["+data"].string_value) == ("130M", '["a", "b"]')


def test_files_of_strangers_are_not_appended_to(tmp_path: Path) -> None:
    reported, made = Reporting().more([1]), exporter("TensorBoardExporter")
    made.export(results(tmp_path, reported.job(tmp_path)))
    (path,) = run_folder(tmp_path).glob("events.*")
    os.chown(path, 12345, 12345)
    with pytest.raises(StateError, match="belongs to user 12345"):
        made.export(results(tmp_path, reported.more([2]).job(tmp_path)))


# ---------------------------------------------------------------------------------------------------------------------
# Weights & Biases


def wandb_file(folder: Path) -> Path:
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return path


def curves_of(run: WandbRun) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for step, row in run.rows.items():
        for name, text in row.items():
            if not name.startswith("_"):
                found.setdefault(name, []).append((step, json.loads(text)))
    return found


def values_of(reported: Reporting) -> dict[str, list[tuple[int, float]]]:
    return {name: [(step, value) for step, _, value in points] for name, points in reported.current().items()}


def test_an_offline_run_of_wandb_is_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "other")
    reported, made = Reporting().more(range(1, 6)), exporter("WandbExporter")
    reported.points += [("odd", number, BEGAN + 9, value, 1) for number, value in enumerate(ODD)]
    made.export(results(tmp_path, reported.job(tmp_path)))
    path = wandb_file(tmp_path)
    found = of_wandb(path)
    assert repr(sorted(curves_of(found).items())) == repr(sorted(values_of(reported).items()))
    assert found.rows[1]["_timestamp"] == "1.7e+09"
    assert (found.run.run_group, found.run.display_name, found.run.project) == ("plan-1", "job", "proj")
    assert (found.run.job_type, found.exit_code) == ("stable", 0)
    config = {each.key: json.loads(each.value_json) for each in found.run.config.update if each.key != "_wandb"}
    assert config == {"backend.lr": 1e-3, "+data": ["a", "b"], "model": "130M"}
    assert (found.summary["state"], found.summary["gpu_hours"]) == ('"running"', "1.5")
    assert os.environ["WANDB_PROJECT"] == "other"
    synced = path.with_name(f"{path.name}.synced")
    synced.touch()
    made.export(results(tmp_path, reported.job(tmp_path)))
    assert synced.exists()
    reported.more(range(4, 8), attempt=2)
    made.export(results(tmp_path, reported.job(tmp_path, state="crash", attempt=2)))
    found = of_wandb(wandb_file(tmp_path))
    assert repr(sorted(curves_of(found).items())) == repr(sorted(values_of(reported).items()))
    assert (found.exit_code, found.summary["state"], synced.exists()) == (1, '"crash"', False)
    assert sorted(each.name for each in path.parent.iterdir()) == [".oellm-autoexp.json", "files", path.name]


@pytest.mark.parametrize(("before", "rows"), [(1, 3), (2, 5), (3, 5)], ids=["file", "mark", "position"])
def test_an_offline_run_is_whole_although_its_export_was_killed(tmp_path: Path, before: int, rows: int) -> None:
    reported, made = Reporting().more(range(1, 4)), exporter("WandbExporter")
    made.export(results(tmp_path, reported.job(tmp_path)))
    path = wandb_file(tmp_path)
    first, synced = of_wandb(path), path.with_name(f"{path.name}.synced")
    synced.touch()
    reported.more(range(4, 6))

    def act() -> None:
        made.export(results(tmp_path, reported.job(tmp_path)))

    assert killed_at_change(before, act, path.name, ".oellm-autoexp.json")
    assert len(of_wandb(path).rows) == rows
    act()
    assert curves_of(of_wandb(path)) == values_of(reported)
    assert (of_wandb(path).run.run_id, synced.exists()) == (first.run.run_id, False)
    assert not list(path.parent.glob(".part-*"))


@pytest.mark.slow
def test_wandb_sync_sends_a_run_and_sends_it_again_after_it_has_grown(tmp_path: Path) -> None:
    reported, made = Reporting().more(range(1, 4)), exporter("WandbExporter")
    with wandb_server() as server:
        environment = {**os.environ, "WANDB_BASE_URL": server.address, "WANDB_API_KEY": "a" * 40, "HOME": str(tmp_path)}
        for last in (4, 6):
            reported.more(range(last, last + 2))
            made.export(results(tmp_path, reported.job(tmp_path)))
            words = [sys.executable, "-m", "wandb", "sync", "--yes"]
            done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            (run,) = server.runs.values()
            (lines,) = server.lines.values()
            sent = [(line["_step"], line["loss"], line["lr"]) for _, line in sorted(lines.items())]
            assert sent == [(step, value, value) for step, _, value in reported.current()["loss"]]
            assert (run["groupName"], run["displayName"], run["project"]) == ("plan-1", "job", "proj")
            assert json.loads(run["config"])["backend.lr"]["value"] == 1e-3


# ---------------------------------------------------------------------------------------------------------------------
# MLflow


@pytest.mark.slow
def test_a_run_of_mlflow_is_what_counts(tmp_path: Path) -> None:
    reported, made = Reporting().more(range(1, 6)), exporter("MlflowExporter")
    reported.points += [("odd name é", number, BEGAN + 9, value, 1) for number, value in enumerate(ODD[3:])]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    reported.points.append(("nan", 1, BEGAN, math.nan, 1))
    made.export(results(tmp_path, reported.job(tmp_path)))
    run, curves = of_mlflow(uri)["job"]
    expected = reported.current()
    expected["odd name _"] = expected.pop("odd name é")
    assert repr(sorted(curves.items())) == repr(sorted(expected.items()))
    assert run.data.params == {"backend.lr": "0.001", "_data": "['a', 'b']", "model": "130M"}
    assert (run.info.status, run.data.tags["plan"], run.data.tags["gpu_hours"]) == ("RUNNING", "plan-1", "1.5")
    reported.more(range(6, 2500))
    made.export(results(tmp_path, reported.job(tmp_path, state="success", ended_at=BEGAN + 3)))
    later, curves = of_mlflow(uri)["job"]
    assert curves["loss"] == reported.current()["loss"]
    assert (later.info.run_id, later.info.status) == (run.info.run_id, "FINISHED")
    assert (later.info.start_time, later.info.end_time) == (BEGAN * 1000, (BEGAN + 3) * 1000)


@pytest.mark.slow
def test_a_run_of_mlflow_is_replaced_where_iterations_are_repeated(tmp_path: Path) -> None:
    reported, made, uri = (
        Reporting().more(range(1, 6)),
        exporter("MlflowExporter", tracking_uri="x/m.db", experiment="e"),
        "",
    )
    made.export(results(tmp_path, reported.job(tmp_path), Reporting().more([1]).job(tmp_path, "other")))
    uri = f"sqlite:///{tmp_path / 'x/m.db'}"
    first = of_mlflow(uri)
    reported.more(range(3, 5), attempt=2)
    made.export(results(tmp_path, reported.job(tmp_path, attempt=2), Reporting().more([1]).job(tmp_path, "other")))
    found = of_mlflow(uri)
    assert found["job"][1] == reported.current()
    assert found["other"][0].info.run_id == first["other"][0].info.run_id
    assert found["job"][0].info.run_id != first["job"][0].info.run_id


CHANGING = ("create_run", "delete_run", "set_tag", "log_batch", "set_terminated", "update_run")
"""The calls of MLflow's client that change something: each is a request to a server."""


@pytest.mark.slow
def test_a_run_of_mlflow_takes_few_requests_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT

    asked: list[str] = []

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            asked.append(name)
            return original(*args, **more)

        return call

    for name in CHANGING:
        monkeypatch.setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
    reported, made = Reporting().more(range(1, 6)), exporter("MlflowExporter")
    made.export(results(tmp_path, reported.job(tmp_path)))
    assert asked == ["create_run", "log_batch", "log_batch", "log_batch"]
    asked.clear()
    reported.more(range(6, 9))
    made.export(results(tmp_path, reported.job(tmp_path, state="success", ended_at=BEGAN)))
    assert asked == ["set_tag", "log_batch", "set_terminated", "log_batch"]
    assert MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("repeating", [False, True])
def test_a_run_of_mlflow_has_every_point_once_although_its_export_was_killed(tmp_path: Path, repeating: bool) -> None:
    made, calls = exporter("MlflowExporter"), 0
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    reported = {}
    for number in range(1, 30):
        reported[number] = Reporting().more(range(1, 4))
        jobs = [reported[number].job(tmp_path, f"job{number}")]
        made.export(results(tmp_path, *jobs, plan=f"plan-{number}"))
        reported[number].more(range(2 if repeating else 4, 1200), attempt=2)
        jobs = [reported[number].job(tmp_path, f"job{number}", attempt=2)]
        act: Callable[[], object] = lambda: made.export(results(tmp_path, *jobs, plan=f"plan-{number}"))  # noqa: B023, E731
        killed = _killed_at_call(number, act)
        act()
        if not killed:
            break
        calls += 1
    assert calls >= 5
    found = of_mlflow(uri)
    assert {name: curves for name, (_, curves) in found.items()} == {
        f"job{number}": each.current() for number, each in reported.items()
    }


def _killed_at_call(number: int, act: Callable[[], object]) -> bool:
    """Run an export in a process that is killed behind its call of that number to MLflow which changes something."""
    from mlflow import MlflowClient

    seen = 0

    def killing(name: str) -> Callable[..., Any]:
        original = getattr(MlflowClient, name)

        def call(*args: Any, **more: Any) -> Any:
            nonlocal seen
            made = original(*args, **more)
            seen += 1
            if seen == number:
                os.kill(os.getpid(), 9)
            return made

        return call

    def acting() -> None:
        for name in CHANGING:
            setattr(MlflowClient, name, killing(name))
        act()

    return killed_at_change(0, acting)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("$NO_SUCH_VARIABLE", "the variable NO_SUCH_VARIABLE with the address is not set"),
        ("http://me:hunter2secret@127.0.0.1:9/x", "MLflow: "),
    ],
)
def test_a_store_that_can_not_be_used_is_reported_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ExportError) as caught:
        exporter("MlflowExporter", tracking_uri=uri).export(results(tmp_path, Reporting().more([1]).job(tmp_path)))
    assert said in str(caught.value)
    assert "hunter2secret" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# OpenMetrics


def test_a_file_of_openmetrics_says_states_newest_values_and_hours(tmp_path: Path) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
    from prometheus_client.parser import text_string_to_metric_families as of_the_collector

    reported = Reporting().more(range(1, 6)).more(range(2, 4), attempt=2)
    reported.points += [("nan", 1, BEGAN, math.nan, 1), ("inf", 1, BEGAN, -math.inf, 1)]
    odd = 'a"b\\c\nd'
    jobs = (reported.job(tmp_path), Reporting().job(tmp_path, odd, state="oom", stage=None, gpu_hours=0.0))
    made = exporter("OpenMetricsExporter", folder="prom")
    assert made.export(results(tmp_path, *jobs)) == str(tmp_path / "prom" / "plan-1.prom")
    text = (tmp_path / "prom" / "plan-1.prom").read_text()
    for parse in (openmetrics, of_the_collector):
        found = {}
        for family in parse(text):
            assert family.type == "gauge"
            for sample in family.samples:
                assert (sample.labels.pop("plan"), sample.timestamp) == ("plan-1", None)
                found[sample.name, *sorted(sample.labels.values())] = sample.value
        assert repr(sorted(found.items())) == repr(
            sorted(
                {
                    ("autoexp_job_state", "job", "running", "stable"): 1.0,
                    ("autoexp_job_state", "", odd, "oom"): 1.0,
                    ("autoexp_job_attempt", "job"): 1.0,
                    ("autoexp_job_attempt", odd): 1.0,
                    ("autoexp_job_gpu_hours", "job"): 1.5,
                    ("autoexp_job_gpu_hours", odd): 0.0,
                    ("autoexp_job_iteration", "job"): 5.0,
                    ("autoexp_job_metric", "job", "loss"): reported.current()["loss"][-1][2],
                    ("autoexp_job_metric", "job", "lr"): reported.current()["lr"][-1][2],
                    ("autoexp_job_metric", "job", "nan"): math.nan,
                    ("autoexp_job_metric", "inf", "job"): -math.inf,
                }.items()
            )
        )


# ---------------------------------------------------------------------------------------------------------------------


def test_sections_are_read_by_class_name_and_have_intervals() -> None:
    kinds = [TensorBoardExporter, WandbExporter, MlflowExporter, OpenMetricsExporter]
    section = MonitoringSection.model_validate(
        {"exporters": [{"class_name": kind.__name__, "interval_seconds": 5} for kind in kinds]}
    )
    assert [type(each) for each in section.exporters] == kinds
    assert {each.interval_seconds for each in section.exporters} == {5}
    assert [short_name(kind.__name__) for kind in kinds] == ["tensorboard", "wandb", "mlflow", "openmetrics"]
    assert all(not each.lacks() for each in section.exporters)
    with pytest.raises(ValidationError):
        MonitoringSection.model_validate({"exporters": [{"class_name": "WandbExporter", "interval_seconds": 0}]})


def test_a_library_that_is_not_installed_is_named_with_its_extra() -> None:
    said = "no_such_module is not installed: pip install 'oellm-autoexp[mlflow]'"
    assert not_installed("mlflow", "json", "no_such_module") == said
