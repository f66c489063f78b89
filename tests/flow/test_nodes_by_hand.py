"""`monitor --cmd nodes` as a user types it, on a machine without SLURM: reports, forgives, shows, and refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flow.conftest import User

REASON = "GPU 3 falls off the bus"
SHARE = "at most 10% of a partition's nodes, or one, at a time"


def nodes(user: User, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return user.run("monitor", "--cmd", "nodes", *words, **more)


def recorded(user: User, *words: str, **more: str) -> dict[str, Any]:
    result = nodes(user, "--json", *words, **more)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def run(user: User, plan: str, **monitoring: Any) -> dict[str, Any]:
    """Run a plan of one job on a scheduler that plays; the job, as `status --json` shows it."""
    config = {
        "defaults": [{"override /backend": "command"}, {"override /slurm": "fake"}],
        "project": {"name": plan},
        "backend": {"argv": ["true"]},
        "slurm": {"client": {"nodes": ["n1", "n2", "n3", "n4"]}},
        "monitoring": {"poll_interval_seconds": 0.1, **monitoring},
    }
    (user.home / "p.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    result = user.run("run", "--config-ref", "./p.yaml", "--plan-id", plan)
    assert result.returncode == 0, result.stderr
    shown = user.run("monitor", "--session", plan, "--cmd", "status", "--json")
    (job,) = json.loads(shown.stdout)["jobs"]
    return dict(job)


@pytest.mark.slow
def test_what_is_reported_is_shown_left_out_and_forgiven_without_a_session(user: User) -> None:
    empty = nodes(user)
    assert (empty.returncode, empty.stdout) == (0, "no node is recorded in outputs/monitoring_state\n")
    done = nodes(user, "--report", "n2", "--reason", f"{REASON} hf_{'a1B2' * 9}")
    assert (done.returncode, done.stdout) == (
        0,
        f"n2 is left out of jobs from now on ({SHARE}); end that with --forgive\n",
    )
    assert "the names of nodes are not checked: " in done.stderr
    shown = nodes(user).stdout.splitlines()
    assert [line.split()[:3] for line in shown[:2]] == [["node", "state", "until"], ["n2", "left", "out"]]
    assert shown[3].startswith(f"n2: {REASON} ***")
    (node,) = recorded(user)["nodes"]
    assert (node["state"], node["attempts"], node["causes"]) == ("left_out", 1, {"by hand": 1})
    assert "a1B2" not in next((user.outputs / "monitoring_state").glob("*.nodes.jsonl")).read_text()
    job = run(user, "first")
    assert list(job["left_out"]) == ["n2"]
    (entry,) = [entry for entry in job["history"] if entry["event"] == "nodes"]
    assert entry["message"].startswith("left out n2 (blamed 1 time, last: by hand by ")
    assert nodes(user, "--forgive", "all").stdout.startswith("forgiven: n2; jobs may get it again")
    assert nodes(user, "--forgive", "all").stdout == "nothing to forgive: no node is blamed now\n"
    assert run(user, "second")["left_out"] == {}


@pytest.mark.slow
def test_a_session_names_the_folder_the_limits_and_the_nodes(user: User, tmp_path: Path) -> None:
    folder = tmp_path / "group"
    folder.mkdir()
    run(user, "p", nodes={"folder": str(folder), "expires_after_hours": 1, "exclude_after": None})
    refused = nodes(user, "--session", "p", "--report", "n22", "--reason", REASON)
    assert (refused.returncode, "the cluster fake has no node 'n22'" in refused.stderr) == (2, True)
    assert "did you mean 'n2'?" in refused.stderr
    done = nodes(user, "--session", "p", "--report", "n[2-3]", "--reason", REASON)
    assert (
        done.stdout
        == "n2, n3 are recorded; none is left out (monitoring.nodes: exclude_after is null, or max_share 0)\n"
    )
    found = recorded(user, "--session", "p")
    assert (found["folder"], found["expires_after_hours"], found["exclude_after"]) == (str(folder), 1, None)
    assert [(each["node"], each["state"]) for each in found["nodes"]] == [("n2", "counted"), ("n3", "counted")]
    assert "none is left out" in nodes(user, "--session", "p").stdout
    assert recorded(user)["nodes"] == []
    assert len(recorded(user, OELLM_NODES_DIR=str(folder))["nodes"]) == 2
    missing = nodes(user, "--report", "n1", "--reason", REASON, OELLM_NODES_DIR=str(tmp_path / "none"))
    assert (missing.returncode, "can't record it: No such file or directory" in missing.stderr) == (2, True)
    assert "Traceback" not in missing.stderr


def test_spaces_separate_names_as_commas_do(user: User) -> None:
    done = nodes(user, "--report", "n1 n[2-3],n5", "--reason", REASON)
    assert done.stdout.startswith("n1, n2, n3, n5 are left out of jobs")
    assert {node["node"] for node in recorded(user)["nodes"]} == {"n1", "n2", "n3", "n5"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cmd", "nodes", "--report", "n1"), "no reason is given"),
        (("--cmd", "nodes", "--report", "n1", "--forgive", "n1", "--reason", "x"), "one at a time"),
        (("--cmd", "nodes", "--reason", "x"), "--reason goes with --report or --forgive"),
        (("--cmd", "status", "--report", "n1"), "--report goes with --cmd nodes"),
        (("--cmd", "nodes", "--report", "$(reboot)", "--reason", "x"), "'$(reboot)' names no node"),
        (("--cmd", "nodes", "--forgive", "n1"), "nothing is recorded of 'n1'"),
        (("--cmd", "nodes", "--report", "n[1-100000]", "--reason", "x"), "names more than 1000 nodes"),
    ],
)
def test_mistakes_are_refused(user: User, words: tuple[str, ...], message: str) -> None:
    refused = user.run("monitor", *words)
    assert (refused.returncode, message in refused.stderr, "Traceback" in refused.stderr) == (2, True, False)


def test_a_variable_with_a_folder_that_each_command_would_look_for_elsewhere_is_refused(user: User) -> None:
    (user.home / "here").mkdir()
    refused = nodes(user, "--report", "n1", "--reason", "x", OELLM_NODES_DIR="here")
    assert refused.returncode == 2
    assert "$OELLM_NODES_DIR: must be a whole path, which begins with '/' or '~', not 'here'" in refused.stderr
    assert nodes(user, OELLM_NODES_DIR="").returncode == 0


def test_what_others_wrote_can_not_change_the_screen(user: User) -> None:
    folder = user.outputs / "monitoring_state"
    folder.mkdir(parents=True)
    assert nodes(user, "--report", "n1", "--reason", "x").returncode == 0
    (log,) = folder.glob("*.nodes.jsonl")
    line = {**json.loads(log.read_text()), "cluster": "\x1b[2Ja", "category": "\x1b[31m", "reason": "\x1b[31m"}
    log.write_text(f"{json.dumps(line)}\n")
    shown = nodes(user)
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout


def test_a_folder_that_is_no_whole_path_is_refused_when_planning(user: User) -> None:
    (user.home / "p.yaml").write_text("# @package _global_\nmonitoring: {nodes: {folder: nodes, exclude_after: 0}}\n")
    refused = user.run("plan", "--config-ref", "./p.yaml")
    assert refused.returncode == 2
    assert "must be a whole path" in refused.stderr
    assert "must be at least 1, not 0" in refused.stderr
