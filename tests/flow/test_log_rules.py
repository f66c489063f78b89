"""Rules of logs from the plan to the end of a run, as a user meets them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

from oellm_autoexp.cli import api, monitor_autoexp, plan_autoexp
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.jobs import changed
from tests.flow.conftest import User
from tests.flow.single import command, on_crash, planned

EMPTY_BRANCHES = {
    "step": r"(iter|iteration) (\d+)",
    "error": "error|errors",
    "nan": "(nan|nans)",
    "done": "done(:|) ok",
}
SAYS = "iteration 7\nerrors\nnans\ndone ok\n"


@pytest.mark.slow
def test_patterns_with_an_empty_branch_are_planned_run_and_watched_also_beside_other_sessions(user: User) -> None:
    rules = {"log_events": {name: {"pattern": pattern} for name, pattern in EMPTY_BRANCHES.items()}}
    planned(user, "other", on_crash(command("true")))
    planned(user, "x", rules, ["printf", "%s", SAYS])
    result = user.run("monitor", "--all")
    assert (result.returncode, result.stderr) == (1, ""), "the other one has failed"
    assert "other: crash" in result.stdout
    (job,) = user.session().values()
    assert {name: tally["count"] for name, tally in job["events"].items()} == dict.fromkeys(EMPTY_BRANCHES, 1)


def test_status_tells_which_rule_was_switched_off_for_a_job(user: User) -> None:
    planned(user, "x", {"log_events": {"ends": {"pattern": "(a+)+$"}}})
    session = Session.load(user.outputs / "monitoring_state" / "x.json")
    session.put(changed(session.jobs["x"], slow={"ends": 3}))
    session.snapshot()
    result = user.run("monitor", "--session", "x", "--cmd", "status")
    assert "rule switched off, its pattern takes too long: ends" in result.stdout, result.stderr


CONFIG = """# @package _global_
defaults: [{override /backend: command}]
backend: {argv: [train]}
monitoring:
  log_events:
    saved: {pattern: 'saved (?P<path>\\S+)', extract_groups: {checkpoint_path: path}}
    error: {pattern: 'errors?', state: crash}
    never: {pattern: nowhere}
"""


def test_rules_of_a_config_are_tried_on_a_log_without_a_plan(user: User) -> None:
    (user.home / "my.yaml").write_text(CONFIG)
    (user.home / "train.log").write_text("x\nsaved /a\n\x1b[31merrors\n")
    words = ("--cmd", "try", "--log", "train.log", "--config-ref", "./my.yaml")
    result = user.run("monitor", *words)
    assert (result.returncode, result.stderr) == (0, "")
    assert "2  path=/a, checkpoint_path=/a  saved /a" in result.stdout
    assert "never  regex  never" in result.stdout
    assert "counts as crash (error)" in result.stdout
    assert "\x1b" not in result.stdout
    reported = json.loads(user.run("monitor", *words, "--json", "++monitoring.log_events.never.pattern='^x'").stdout)
    assert {rule["name"]: rule["matches"] for rule in reported["rules"]} == {"saved": 1, "error": 1, "never": 1}
    assert not user.outputs.exists()


@pytest.mark.slow
def test_rules_of_a_session_are_tried_on_the_standard_input(user: User) -> None:
    planned(user, "x", {"log_events": {"error": {"pattern": "(error|errors) (\\d)"}}})
    result = subprocess.run(
        user.words("monitor", "--session", "x", "--cmd", "try", "--log", "-", "--json"),
        cwd=user.home,
        env=user.environment,
        input="errors 7\n" * 3,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout)["rules"][0]["matches"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cmd", "try"], "give --log FILE"),
        (["--cmd", "try", "--log", "absent"], "can't read absent: No such file"),
        (["--cmd", "try", "--log", "."], "is a folder"),
        (["--cmd", "try", "--log", "fifo"], "is no regular file"),
        (["--cmd", "try", "--log", "/dev/zero"], "is no regular file"),
        (["--cmd", "try", "--log", "a\udcffb"], "can't read"),
        (["--cmd", "try", "--log", "log", "--all"], "--all does not go with"),
        (["--cmd", "try", "--log", "log", "--session", "x", "a=b"], "does not go with --session"),
        (["--cmd", "try", "--log", "log", "--job", "x"], "by its index"),
        (["--cmd", "try", "--log", "log", "--job", "99"], "no job has index 99"),
        (["--cmd", "try", "--log", "log", "++monitoring.log_events.x.pattern='('"], "no regular expression"),
        (
            ["--cmd", "try", "--log", "log", "++monitoring.log_events.x.pattern='x{99999999999}'"],
            "no regular expression",
        ),
        (["--cmd", "status", "--log", "log"], "--log goes with --cmd try"),
        (["a=b"], "key=value goes with --cmd try"),
    ],
)
def test_a_trial_of_what_can_not_be_tried_is_one_clear_error(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log").write_text("x\n")
    os.mkfifo("fifo")
    assert monitor_autoexp.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


MISSION = """# @package _global_
defaults: [{override /backend: megatron}]
backend: {validate: none, script: /opt/pretrain_gpt.py}
slurm: {sbatch: {gpus_per_node: 1}}
monitoring:
  log_events:
    - name: checkpoint_saved
      pattern: "saved checkpoint (?P<path>\\\\S+)"
      extract_groups: {checkpoint_path: path}
"""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["backend=tiny_megatron", "~backend.validate", "~backend.script"],
        ["backend=tiny_lm", "~backend.validate", "~backend.script"],
        ["backend=command", "~backend.validate", "~backend.script", "backend.argv=[x]", "backend.prints=megatron"],
    ],
    ids=["Megatron-LM", "a rehearsal of it", "the small trainer", "a program that prints the same"],
)
def test_the_plan_notes_a_rule_that_catches_a_wrong_word_of_megatrons_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(MISSION)
    assert plan_autoexp.main(["--config-ref", "./my.yaml", *words]) == 0
    reported = " ".join(capsys.readouterr().out.split())
    assert (
        "checkpoint_saved extracts 'from' as path, which is not a path, in a line that the program prints" in reported
    )
    assert "successfully saved checkpoint from iteration 40 to /scratch/out/checkpoints" in reported


@pytest.mark.slow
def test_metrics_of_json_lines_are_planned_run_and_kept(user: User) -> None:
    lines = "".join(json.dumps({"update": n, "eval": {"reward": n / 2}}) + "\n" for n in (3, 4))
    (user.home / "lines").write_text(lines)
    rules = {"metrics": {"reward": {"json": "eval.reward", "iteration_key": "update"}}}
    planned(user, "x", rules, ["cat", str(user.home / "lines")])
    assert '"iteration_key": "update"' in (user.outputs / "manifests" / "x.json").read_text()
    result = user.run("monitor", "--session", "x")
    assert (result.returncode, result.stderr) == (0, "")
    user.run("report", "--session", "x", "--csv", "t", "-o", "r.html")
    _, *points = (line.split(",") for line in (user.home / "t" / "points.csv").read_text().splitlines())
    assert [(metric, iteration, value) for _, _, metric, iteration, _, value, _ in points] == [
        ("reward", "3", "1.5"),
        ("reward", "4", "2.0"),
    ]


@pytest.mark.slow
def test_the_loss_of_a_run_that_has_diverged_is_shown_everywhere(user: User) -> None:
    rules = {"metrics": {"loss": r"step (?P<iteration>\d+) loss (?P<value>\S+)"}}
    planned(user, "x", rules, ["printf", r"step 1 loss 0.25\nstep 2 loss nan\n"])
    assert user.run("monitor", "--session", "x").returncode == 0
    status = ("monitor", "--session", "x", "--cmd", "status", "--filter", "loss=nan")
    (row,) = csv.DictReader(user.run(*status, "--csv").stdout.splitlines())
    assert row["loss"] == "nan"
    shown = json.loads(user.run(*status[:5], "--json").stdout, parse_constant=lambda word: f"{word} is no JSON")
    assert shown["jobs"][0]["progress"]["loss"] is None
    assert user.run("report", "--session", "x", "--csv", "t", "-o", "r.html").returncode == 0
    (told,) = csv.DictReader((user.home / "t" / "jobs.csv").read_text().splitlines())
    (result,) = api.results("x", user.outputs / "monitoring_state")
    assert (told["loss"], str(result.loss)) == ("nan", "nan")
    assert " x  nan" in user.run("monitor", "--session", "x", "--cmd", "plot", "loss").stdout


@pytest.mark.slow
def test_a_group_whose_name_says_that_it_is_a_secret_is_hidden_everywhere(user: User) -> None:
    say = {"class_name": "LogAction", "message": "{line} {wandb_api_key}"}
    tell = {"class_name": "NotifyAction", "message": "got {wandb_api_key}", "command": ["cat"], "digest_seconds": 0}
    rules = {"log_events": {"login": {"pattern": r"login with (?P<wandb_api_key>\S+)", "actions": [say, tell]}}}
    word = "hunter-horse"
    (user.home / "log").write_text(f"login with {word}\n")
    planned(user, "x", rules, ["cat", str(user.home / "log")])
    result = user.run("monitor", "--session", "x")
    assert "x: login with *** ***" in result.stdout
    assert user.run("report", "--session", "x", "-o", "r.html").returncode == 0
    events = user.run("monitor", "--session", "x", "--cmd", "events").stdout
    tried = user.run("monitor", "--session", "x", "--cmd", "try", "--log", "log").stdout
    state = user.outputs / "monitoring_state"
    files = [user.home / "r.html", *(path for path in state.rglob("x.*") if path.is_file())]
    shown = [result.stdout, events, tried, *(path.read_text(errors="replace") for path in files)]
    assert [text for text in shown if word in text] == []
