"""Reports of a real run on this machine: their numbers are those of status, of results, and of the logs."""

from __future__ import annotations

import csv
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from oellm_autoexp.cli import api
from oellm_autoexp.cli.reporting.exports import optional
from oellm_autoexp.core.errors import ConfigError
from tests.flow.conftest import QUICK, User, until
from tests.reports import curve, data_of

pytestmark = pytest.mark.slow

PLANTED = "hf_pl4ntedQx7ZwT0kEnVaLuE93bd"


def test_numbers_agree_in_status_results_report_tables_and_logs(user: User) -> None:
    planted = f"+slurm.env.HF_TOKEN={PLANTED}"
    done = user.run("run", "--plan-id", "x", *QUICK, "slurm=local", "monitoring.report=true", planted)
    assert done.returncode == 0, done.stderr
    state = user.outputs / "monitoring_state"
    kept = until(lambda: _whole(state / "x.report.html"), "the last report")
    made = user.run("report", "--session", "x", "--csv", "t", "--parquet", "t", "-o", "r.html", "--json")
    assert (made.returncode, made.stderr) == (0, "")
    written = [Path(path) for path in json.loads(made.stdout)["written"]]
    assert [path.name for path in written] == [
        "jobs.csv",
        "points.csv",
        "jobs.parquet",
        "points.parquet",
        "r.html",
    ]
    for path in (state / "x.report.html", *written):
        assert PLANTED.encode() not in path.read_bytes(), path
    data = data_of((user.home / "r.html").read_text())
    assert data["jobs"] == data_of(kept)["jobs"]
    status, tables = user.session(), _table(user.home / "t" / "jobs.csv")
    points = _table(user.home / "t" / "points.csv")
    for number, row in enumerate(api.results("x", state)):
        reported = {name: values[number] for name, values in data["jobs"].items()}
        recorded, table = status[row.name], tables[number]
        assert reported["name"] == table["name"] == row.name
        assert reported["state"] == table["state"] == row.state == recorded["state"] == "success"
        assert reported["attempt"] == int(table["attempt"]) == row.attempt == recorded["attempt"]
        assert reported["scheduler_id"] == table["scheduler_id"] == row.scheduler_id == recorded["scheduler_id"]
        assert reported["started_at"] == float(table["started_at"]) == row.started_at == recorded["started_at"]
        lines = re.findall(r"\] iteration +(\d+)/.*lm loss: (\S+) ", Path(row.log_path).read_text())
        losses = [(int(iteration), float(loss)) for iteration, loss in lines]
        assert (row.iteration, row.loss) == (reported["iteration"], reported["loss"]) == losses[-1]
        iterations, values = curve(data, row.name, "loss")
        assert iterations == [at for at, _ in losses]
        assert values == pytest.approx([loss for _, loss in losses], rel=1e-7)
        mine = [point for point in points if (point["job"], point["metric"]) == (row.name, "loss")]
        assert [(int(point["iteration"]), float(point["value"])) for point in mine] == losses
    arrow = import_module("pyarrow.parquet")
    assert arrow.read_table(user.home / "t" / "jobs.parquet").column("name").to_pylist() == list(status)
    assert arrow.read_table(user.home / "t" / "points.parquet").num_rows == len(points)
    for name in ("loss.svg", "loss.png"):
        assert user.run("report", "--session", "x", "--plot", "loss", "-o", name).stdout == f"wrote {name}\n"
        assert (user.home / name).stat().st_size > 1000
    _mistakes(user)
    assert user.run("monitor", "--session", "x", "--cmd", "remove").returncode == 0
    assert not list(state.glob("x*"))


def _whole(path: Path) -> str:
    """A report in which every job has ended; '' until there is one."""
    text = path.read_text() if path.exists() else ""
    return text if text and set(data_of(text)["jobs"]["state"]) == {"success"} else ""


def _table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def _mistakes(user: User) -> None:
    """What a user can get wrong, with a session that is there."""
    expected = {
        ("--session", "y"): "no session 'y'",
        ("--session", "none/x.json"): "there is no such file",
        ("--session", "x", "--plot", "los"): "did you mean 'loss'?",
        ("--session", "x", "--plot", "loss", "--x", "tokens"): "of no job it is known where iterations are in tokens",
        ("--session", "x", "--plot", "loss", "-o", "a.html"): "a picture is an .svg or .png file",
        ("--session", "x", "-o", "a.svg"): "name it: --plot loss",
        ("--session", "x", "--log"): "this option goes with --plot METRIC",
        ("--session", "x", "-o", "/proc/none/r.html"): "can't write there",
    }
    for words, message in expected.items():
        done = user.run("report", *words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert message in done.stderr, words


def test_a_plan_is_a_page_before_anything_is_written(user: User) -> None:
    words = ("--config-ref", "experiments/examples/stable_decay", "--format", "html")
    done = user.run("visualize_plan", *words)
    data = data_of(done.stdout)
    assert (data["states"], len(data["jobs"]["name"])) == (["planned"], 4)
    assert [stage["name"] for stage in data["sessions"][0]["stages"]] == ["stable", "decay"]
    assert data["depends_on"][1] == [0]
    assert user.run("visualize_plan", *words, "-o", "p.html").stdout == "wrote p.html\n"
    assert sorted(path.name for path in user.home.iterdir()) == ["p.html"]


@pytest.mark.parametrize("folder", [".", "..", "sub"])
def test_a_folder_in_place_of_the_file_to_write_is_one_clear_error(user: User, folder: str) -> None:
    (user.home / "sub").mkdir()
    plan = ("--config-ref", "experiments/examples/stable_decay", "--format", "html")
    for words in (("visualize_plan", *plan), ("config_schema",)):
        done = user.run(*words, "-o", folder)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.startswith(f"error: --output {folder}: this is a folder\n    name a file in it: "), (
            done.stderr
        )


def test_what_an_extra_brings_is_named_where_it_is_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        optional("no_such_module", "plot", "--plot", "or name a file that ends in .svg")
    assert 'pip install "oellm-autoexp[plot]", or name a file that ends in .svg' in str(caught.value)
