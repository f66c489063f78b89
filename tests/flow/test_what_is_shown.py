"""What people see when something went wrong: its cause, the log's last lines, and commands that work as printed."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from oellm_autoexp.cli.main import main
from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.core.text import fill
from oellm_autoexp.decisions.template_values import values
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.testing.plans import job_spec
from oellm_autoexp.view.changes import Changes
from oellm_autoexp.view.session_table import jobs_table
from tests.flow.conftest import QUICK, User
from tests.flow.single import command as running
from tests.flow.single import on_crash, planned
from tests.unit.test_executor import Stage

SPEC = job_spec()

WATCHDOG = {
    "log_events": {"nccl_watchdog": {"pattern": "Watchdog caught", "state": "crash"}},
    "state_events": {"crash": {"actions": [{"class_name": "RestartAction", "max_attempts": 0}]}},
}
HANGS = ["sh", "-c", "echo '[rank3] Watchdog caught collective operation timeout'; exit 1"]


def hinted(user: User, output: str, label: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is printed as a hint, as it is printed."""
    found = re.search(rf"^  {label} +(\S.*)$", output, re.MULTILINE)
    assert found, output
    return subprocess.run(
        shlex.split(found[1]), cwd=user.home, env=user.environment, capture_output=True, text=True, check=False
    )


def monitor(user: User, plan: str, *words: str) -> subprocess.CompletedProcess[str]:
    return user.run("monitor", "--session", plan, *words)


@pytest.mark.slow
def test_a_failure_is_shown_with_the_rule_that_named_it_and_its_last_lines_are_one_command_away(user: User) -> None:
    planned(user, "x", WATCHDOG, argv=HANGS)
    watched = monitor(user, "x")
    shown = monitor(user, "x", "--cmd", "status")
    assert watched.returncode == shown.returncode == 1
    for output in (watched.stdout, shown.stdout):
        assert re.search(r"^x +crash( .*)?\n    nccl_watchdog, exit 1: a collective operation", output, re.MULTILINE)
        assert "no new attempt: the limit for 'crash'" in " ".join(output.split())
        reported = hinted(user, output, "why did it fail")
        assert reported.stdout.startswith("==> x (crash, exit 1, nccl_watchdog, no new attempt")
        assert "[rank3] Watchdog caught collective operation timeout" in reported.stdout
    assert re.search(r"^\S+ x: crash \(job \d+, exit 1, nccl_watchdog", watched.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_table_of_jobs_is_chosen_sorted_and_written_for_programs(user: User) -> None:
    kinds = "sweep.grids=[{backend.options.lr:[0.01,0.1],backend.options.misbehave:[null,'exit:7@3']}]"
    assert user.run("run", *QUICK, kinds, "++sweep.base_values={project.name:'m${index}'}", "--plan-id", "x").returncode
    shown = monitor(user, "x", "--cmd", "status").stdout.splitlines()
    assert shown[0].split()[:4] == ["job", "state", "lr", "misbehave"]
    assert max(map(len, shown[: shown.index("next:")])) <= max(80, *(len(line) for line in shown if "log  " in line))
    assert sum(re.match(r"    exit 7: its log ends with: ", line) is not None for line in shown) == 2
    words = ("--filter", "state=crash", "--filter", "loss>0", "--sort", "-lr", "--columns", "job,lr")
    reported = monitor(user, "x", "--cmd", "status", *words)
    assert reported.stdout.split("\n4 jobs")[0].split() == ["job", "lr", "m3", "0.1", "m1", "0.01"]
    rows = list(csv.DictReader(io.StringIO(monitor(user, "x", "--cmd", "status", "--csv").stdout)))
    assert [(row["session"], row["job"], row["exit_code"]) for row in rows][1] == ("x", "m1", "7")
    wide = monitor(user, "x", "--cmd", "status", "--wide").stdout.splitlines()
    assert [line.split()[0] for line in wide] == ["job", "m0", "m1", "m2", "m3", "4"]
    assert re.search(r"^m0 .* [▁▂▃▄▅▆▇█]{4,10} ", "\n".join(shown), re.MULTILINE), "the trend of its loss"
    curves = monitor(user, "x", "--cmd", "plot", "loss", "--filter", "state=success", "--log-scale").stdout.splitlines()
    assert curves[0] == "loss over iterations, logarithmic"
    assert (len(curves), [line[:4] for line in curves[-2:]]) == (25, ["* m0", "+ m2"])
    assert max(map(len, curves)) <= 80
    points = json.loads(user.run("monitor", "x", "--cmd", "plot", "loss", "grad_norm", "--json").stdout)["metrics"]
    assert points["loss"]["m0"]["iterations"] == list(range(1, 13))
    assert points["grad_norm"].keys() == {"m0", "m1", "m2", "m3"}
    lossy = monitor(user, "x", "--cmd", "plot", "lossy")
    assert (lossy.returncode, "no job has points of 'lossy'\n    did you mean 'loss'?" in lossy.stderr) == (2, True)
    for choice, why in ((("--columns", "los"), "no column 'los'"), (("--csv", "--wide"), "one form at a time")):
        wrong = monitor(user, "x", "--cmd", "status", *choice)
        assert (wrong.returncode, why in wrong.stderr) == (2, True), wrong.stderr


@pytest.mark.slow
def test_only_the_jobs_that_failed_are_shown_where_that_is_asked_for(user: User) -> None:
    kinds = "sweep.grids=[{backend.options.misbehave:[null,'exit:7@3']}]"
    result = user.run("run", *QUICK, kinds, "++sweep.base_values={project.name:'m${index}'}", "--plan-id", "x")
    assert result.returncode == 1, result.stderr
    (shown,) = json.loads(monitor(user, "x", "--cmd", "tail", "--failed", "--json").stdout)["logs"]
    assert (shown["job"], shown["state"]) == ("m1", "crash")
    assert len(json.loads(monitor(user, "x", "--cmd", "tail", "--json").stdout)["logs"]) == 2
    assert monitor(user, "x", "--cmd", "tail", "--failed", "--job", "m0").stdout == "no job has failed\n"
    refused = monitor(user, "x", "--cmd", "cancel", "--failed")
    assert refused.returncode == 2
    assert "--failed goes with --cmd tail or events or restart" in refused.stderr


@pytest.mark.slow
def test_an_odd_end_that_is_a_success_and_one_by_hand_are_not_asked_why(user: User) -> None:
    planned(user, "done", {"termination_string": "ALL DONE"}, argv=["sh", "-c", "echo ALL DONE; exit 1"])
    watched = monitor(user, "done")
    assert (watched.returncode, "why did it fail" in watched.stdout) == (0, False), watched.stdout
    slow = ("backend.options.step_seconds=1", "backend.options.train_iters=1000")
    submitted = user.run("run", *QUICK, *slow, "sweep.grids=[{stage:[a]}]", "--no-monitor")
    assert submitted.returncode == 0, submitted.stderr
    plan = user.plan_id
    assert monitor(user, plan, "--cmd", "cancel").returncode == 0
    ended = monitor(user, plan)
    assert (ended.returncode, "why did it fail" in ended.stdout) == (1, False), ended.stdout


@pytest.mark.slow
def test_a_failure_without_an_exit_code_is_asked_why(user: User) -> None:
    slow = ("backend.options.step_seconds=0.15", "backend.options.train_iters=1000", "slurm.sbatch.time='0:02'")
    result = user.run("run", *QUICK, *slow, "sweep.grids=[{stage: [a]}]", "slurm.client.kill_grace_seconds=0.1")
    assert result.returncode == 1, result.stderr
    (job,) = user.session().values()
    session = Session.load(user.outputs / "monitoring_state" / f"{user.plan_id}.json")
    session.put(changed(session.jobs[job["name"]], exit_code=None))
    session.snapshot()
    assert "==> " in hinted(user, monitor(user, user.plan_id, "--cmd", "status").stdout, "why did it fail").stdout


QUEUED = {"class_name": "EventAction", "mode": "queue", "action": running("echo done")}


@pytest.mark.slow
def test_a_session_whose_queued_actions_wait_is_not_removed_and_the_way_to_carry_them_out_is_reported(
    user: User,
) -> None:
    planned(user, "x", on_crash(QUEUED), project={"name": "x", "monitoring_state_dir": str(user.home / "else where")})
    where = ("--monitoring-state-dir", "else where")
    unfinished = monitor(user, "x", "--cmd", "remove", *where)
    assert unfinished.returncode == 2
    reported = re.search(r"end it first: (.*)", unfinished.stderr)
    assert reported
    assert shlex.split(reported[1])[-4:] == ["--monitoring-state-dir", str(user.home / "else where"), "--cmd", "cancel"]
    watched = monitor(user, "x", *where)
    assert watched.returncode == 1, watched.stderr
    refused = monitor(user, "x", "--cmd", "remove", *where)
    assert refused.returncode == 2
    assert "1 action waits in its queue" in refused.stderr
    assert re.search(r"carry it out first: .*--cmd actions", refused.stderr)
    assert "1 done" in hinted(user, watched.stdout, "queued actions").stdout
    assert monitor(user, "x", "--cmd", "remove", *where).returncode == 0
    assert not list(Path(user.home, "else where").glob("x.*"))


@pytest.mark.slow
def test_what_a_terminal_would_obey_is_shown_and_not_sent(user: User) -> None:
    script = r"printf '\033[31mRED \033]0;pwned\007 LINE\r\n'; exit 1"
    seen = {"pattern": "RED (?P<rest>.*)"}
    say = {"class_name": "LogAction", "message": "saw {line}"}
    queued = {**QUEUED, "action": running("printf '\\033[2J'")}
    rules: dict[str, Any] = {"log_events": {"red": {**seen, "actions": [say, queued]}}}
    planned(user, "x", rules, argv=["sh", "-c", script])
    watched = monitor(user, "x")
    events = monitor(user, "x", "--cmd", "events")
    worked = monitor(user, "x", "--cmd", "actions")
    (entry,) = (user.outputs / "monitoring_state" / "x.actions").glob("*/done/*.json")
    shown = monitor(user, "x", "--cmd", "queue", "--queue-id", entry.stem, "--queue-show")
    tail = monitor(user, "x", "--cmd", "tail")
    assert "saw RED  LINE\n" in watched.stdout, "escape sequences are no part of a line"
    for result in (watched, events, worked, shown, tail):
        assert not set("\x1b\x07\r") & set(result.stdout + result.stderr), result.args


HOSTILE = "st\x1b[31mX\x07\u202e\x9b5m"


def test_a_config_with_what_a_terminal_would_obey_is_printed_as_yaml_that_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    metadata = {HOSTILE: [HOSTILE, "plain: text", "two\nlines\u2028", "🙂 \U000e0001", 1, None]}
    Path("x.yaml").write_text(f"# @package _global_\n{yaml.safe_dump({'stage': HOSTILE, 'metadata': metadata})}")
    assert main(["render-config", "--config-ref", "./x.yaml"]) == 0
    shown = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert yaml.safe_load(shown)["stage"] == HOSTILE
    assert yaml.safe_load(shown)["metadata"] == metadata


def test_the_command_of_a_script_with_an_odd_path_can_be_pasted_and_tells_a_terminal_nothing(user: User) -> None:
    planned(user, "x", {})
    sweep = json.loads((user.outputs / "sweep.json").read_text())
    odd = user.home / f"a 'b\\{HOSTILE}" / "job.sbatch"
    odd.parent.mkdir()
    shutil.copy(sweep["entries"][0]["script_path"], odd)
    sweep["entries"][0]["script_path"] = str(odd)
    (user.home / "odd.json").write_text(json.dumps(sweep))
    shown = user.run("run_sweep_entry", "--sweep", "odd.json", "--index", "0", "--dry-run").stdout
    assert all(c.isprintable() or c == "\n" for c in shown)
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {shown}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    ).stdout.decode()
    assert words.split("\0")[-2] == str(odd)


@pytest.mark.parametrize("words", [("--cmd", "status"), ("--cmd", "tail"), ("--once",), ()])
def test_a_session_without_jobs_is_no_success(user: User, words: tuple[str, ...]) -> None:
    planned(user, "x", {})
    path = user.outputs / "monitoring_state" / "x.json"
    session = Session.load(path)
    session.jobs.clear()
    session.snapshot()
    result = monitor(user, "x", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert "x.json: not a valid session: it has no jobs" in result.stderr


@pytest.mark.parametrize("command", ["status", "restart", "cancel", "tail"])
def test_a_session_that_has_other_jobs_than_its_plan_is_not_taken_for_whole(user: User, command: str) -> None:
    planned(user, "x", {})
    session = Session.load(user.outputs / "monitoring_state" / "x.json")
    session.put(changed(session.jobs.pop("x"), name="y"))
    session.snapshot()
    result = monitor(user, "x", "--cmd", command)
    assert (result.returncode, result.stdout) == (2, "")
    assert "x.json: it has other jobs than its plan" in result.stderr


def shown(session: Session, width: int) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, color_system=None)
    screen.print(jobs_table(session), crop=False)
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.slow
def test_a_narrow_screen_gets_what_matters_and_the_logs_below_in_whole_lines(user: User) -> None:
    words = (*QUICK, "++sweep.base_values={project.name:'a_rather_long_name_of_an_experiment_${backend.options.lr}'}")
    assert user.run("run", *words).returncode == 0
    session = Session.load(SessionFiles.named(user.outputs / "monitoring_state", user.plan_id).path)
    logs = [job.logs.resolved_log_path for job in session.jobs.values()]
    wide, narrow = shown(session, 300), shown(session, 60)
    assert wide[0].split() == ["job", "state", "iterations", "loss", "trend", "grad_norm", "time", "log"]
    assert [line.split()[-1] for line in wide[1:]] == logs
    assert narrow[0].split() == ["job", "state", "iterations", "loss", "time"]
    assert all(len(line) <= 60 for line in narrow[:5])
    assert [line.split()[0][-5:] for line in narrow[1:5]] == ["0.003", "_0.01", "_0.03", "t_0.1"]
    assert narrow[5:] == [f"log  {path}" for path in logs]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cmd", "status", "--job", "0"), "--job goes with --cmd tail or events or plot or restart or cancel"),
        (("--lines", "3"), "--lines goes with --cmd tail"),
        (("--cmd", "queue", "--once", "--reason", "x"), "2 problems"),
    ],
)
def test_options_that_a_command_would_not_heed_are_refused(user: User, words: tuple[str, ...], message: str) -> None:
    result = user.run("monitor", "--session", "any", *words)
    assert result.returncode == 2
    assert message in result.stderr


@pytest.mark.slow
def test_run_and_submit_print_one_document_for_programs(user: User) -> None:
    planned = json.loads(user.run("run", *QUICK, "--no-submit", "--json").stdout)
    assert len(planned["jobs"]) == 4
    result = user.run("submit", "--manifest", planned["manifest"], "--json")
    assert result.returncode == 0
    assert [job["state"] for job in json.loads(result.stdout)["jobs"]] == ["success"] * 4
    assert "4 jobs: 4 success" in result.stderr
    refused = user.run("run", *QUICK, "scheduler.max_jobz=1", "--json")
    reported = json.loads(refused.stdout)
    assert (refused.returncode, reported["exit_code"], reported["problems"][0]["where"]) == (
        2,
        2,
        "scheduler.max_jobz=1",
    )


_LAUNCH_FAILED = "a node could not start it (its prolog, or its slurmd's log, says why)"


@pytest.mark.parametrize(
    "reason", ["JobHeldUser", "JobHeldAdmin", "launch failed requeued held", "job_requeued_in_held_state"]
)
def test_a_held_job_is_reported_with_the_command_that_lets_it_go(reason: str, tmp_path: Path) -> None:
    stage = Stage(tmp_path, {}, {"a": [(("PENDING", JobStatus("PENDING", reason), "RUNNING", "COMPLETED"), "")]})
    changes, reported = Changes(), []
    for _ in range(6):
        stage.cycle()
        reported += [line.partition(" ")[2] for line in changes.lines(stage.monitor)]
    more = {"JobHeldAdmin": " of an administrator", "launch failed requeued held": f"; {_LAUNCH_FAILED}"}
    assert f"a: pending (job 1, {reason}: it waits until `scontrol release 1`{more.get(reason, '')})" in reported
    assert [line for line in reported if "scontrol release" in line] == [line for line in reported if reason in line]
    assert reported[-1].startswith("a: success")


def test_where_a_job_has_no_exit_code_texts_say_so() -> None:
    job = job_state(name="a", state="oom", error_type="oom")
    assert fill("{error_type}, exit code {exit_code}", values(SPEC, job, None, "p").__getitem__) == (
        "oom, exit code unknown"
    )


@pytest.mark.slow
def test_an_encoding_without_some_letters_is_no_error(user: User) -> None:
    says = ["sh", "-c", "echo ' [x] iteration 3/ 9 | lm loss: 2.5E+00 | x'; echo 'ValueError: größe — Ω'; exit 3"]
    planned(user, "x", {}, argv=says)
    environment = {"PYTHONIOENCODING": "ascii"}
    assert user.run("monitor", "--session", "x", **environment).returncode == 1
    for words in (["status"], ["status", "--wide"], ["status", "--csv"], ["tail"], ["events"], ["plot"], ["list"]):
        shown = user.run("monitor", "--session", "x", "--cmd", *words, **environment)
        assert shown.returncode in (0, 1), (words, shown.stderr)
        assert "codec" not in shown.stderr, words
    assert "\\u2014 \\u03a9" in user.run("monitor", "--session", "x", "--cmd", "tail", **environment).stdout
