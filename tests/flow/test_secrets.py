"""What a plan, a run, a new attempt and its actions leave behind: others find no secret, and the jobs get theirs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import transient_settings

from tests import secrets
from tests.flow.conftest import User

S, T = secrets.S, secrets.T
ORACLE = [
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "IbmCloudIamDetector",
    "IbmCosHmacDetector",
    "JwtTokenDetector",
    "KeywordDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SoftlayerDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
]
"""Those that know a secret by its form or its name; the ones by entropy find every commit and id."""


def telling(name: str) -> list[str]:
    """A program that keeps its words and its variables of these names in a file for its owner alone."""
    return ["sh", "-c", f'umask 077; (env | grep {S[1:]}; printf "%s\\n" "$@") >>{name}', "x"]


def program(name: str, **more: Any) -> dict[str, Any]:
    words = [*telling(name), "--token", f"{T}-{name}", f"https://me:{T}@host/x?sig={T}", f"PRIVATE-TOKEN: {T}"]
    return {"class_name": "RunCommandAction", "command": words, "env": {"API_TOKEN": f"{T}-env"}, **more}


def _braced(word: str) -> str:
    """A word as a template has it."""
    return word.replace("{", "{{").replace("}", "}}")


def config() -> dict[str, Any]:
    asked = {"class_name": "CommandCondition", "command": ["sh", "-c", "exit 0", "x", "--token", T]}
    crash = [
        {"class_name": "LogAction", "message": f"look at https://me:{T}@host, api_key={T}"},
        {"class_name": "EventAction", "action": program("inline"), "conditions": [asked]},
        {"class_name": "EventAction", "mode": "queue", "action": program("queued")},
        {
            "class_name": "NotifyAction",
            "command": ["sh", "-c", "cat >>messages"],
            "message": f"token={T} {{metadata.note}}",
        },
        {"class_name": "PublishEventAction", "event_name": "more", "metadata": {"password": f"{T}-published"}},
    ]
    used = {
        "class_name": "RunCommandAction",
        "command": [*telling("published"), "{password}", "{metadata.db_password}"],
    }
    given = [word for words in secrets.COMMANDS for word in words]
    words = [*given, f"export A_TOKEN={T}; exit 3", *secrets.TEXTS[:6], *secrets.FORMS]
    return {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "p"},
        "metadata": {
            "db_password": f"{T}-metadata",
            "note": f"Authorization: Bearer {T}",
            "texts": [*secrets.TEXTS],
            "commands": [[*words] for words in secrets.COMMANDS],
            "secrets": {"some": {"where": T}},
        },
        "slurm": {
            "env": {
                "HF_TOKEN": T,
                "PROXY": f"http://me:{T}@host",
                "JOBS_OPTIONS": f"--token {T}-options",
                "PLAIN": "${oc.env:WANDB_API_KEY}",
            }
        },
        "backend": {
            "argv": [
                *telling("job"),
                *map(_braced, words),
                "--report=${oc.env:WANDB_API_KEY}",
            ]
        },
        "job": {"start_conditions": [asked], "start_condition_cmd": ["sh", "-c", "exit 0", "x", "--api-key", T]},
        "monitoring": {
            "poll_interval_seconds": 0.2,
            "termination_command": ["sh", "-c", "exit 1", "x", "--password", T],
            "state_events": {"success": {"actions": crash}, "crash": {"actions": crash}},
            "log_events": {"more": {"metadata": {"password": "x"}, "actions": [used]}},
        },
        "sweep": {"grids": [{"project.name": ["p"], "slurm.env.SWEPT_TOKEN": [f"{T}-swept"]}]},
    }


@pytest.fixture
def said(user: User) -> list[str]:
    """What the commands of a whole life of a plan print, `--debug` included."""
    (user.home / "p.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config(), width=10000)}")
    (user.home / "notes.txt").write_text("")
    for words in (
        ["init", "-q"],
        ["add", "notes.txt"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qmx"],
    ):
        subprocess.run(["git", "-C", str(user.home), *words], check=True)
    (user.home / "notes.txt").write_text("\n".join([*secrets.TEXTS, *secrets.FORMS, *secrets.BARE]))
    printed = []

    def run(command: str, *words: str, code: int = 0) -> str:
        result = user.run(command, *words, HF_HOME=f"https://me:{T}@host", WANDB_API_KEY=T)
        assert result.returncode == code, result.stderr
        printed.extend([result.stdout, result.stderr])
        return result.stdout

    given = (
        "--config-ref",
        "./p.yaml",
        "--plan-id",
        "p",
        "--manifest",
        "copy.json",
        f"+slurm.env.GIVEN_TOKEN={T}-given",
    )
    run("run", "--debug", *given)
    restarted = (f"+slurm.env.LATER_TOKEN={T}-later", "slurm.sbatch.time=5", f"slurm.env.PROXY=http://me:{T}@other")
    words = [word for override in restarted for word in ("--override", override)]
    run("monitor", "--session", "p", "--cmd", "restart", "--job", "p", *words, "--json", "--reason", f"token={T}")
    run("monitor", "--session", "p", "--debug")
    run("monitor", "--session", "p", "--cmd", "actions")
    for cmd in ("status", "events", "queue", "list", "actions"):
        run("monitor", "--session", "p", "--cmd", cmd, "--json")
        run("monitor", "--session", "p", "--cmd", cmd)
    done = [path.stem for path in user.outputs.rglob("done/*.json")]
    assert len(done) == 2
    run("monitor", "--session", "p", "--cmd", "queue", "--queue-id", done[0], "--queue-show")
    run("monitor", "--session", "p", "--cmd", "queue", "--queue-id", done[0], "--queue-retry", "--json")
    run("visualize_plan", "--config-ref", "./p.yaml")
    run("render_config", "--config-ref", "./p.yaml", "--job", "0")
    run("submit", "--dry-run", "--manifest", "copy.json")
    run("plan", f"project.nme=token={T}", code=2)
    return printed


def readable_by_others(top: Path) -> Iterator[Path]:
    """The files that somebody else could open, by their modes and those of the folders above them."""
    for path in top.iterdir():
        mode = path.lstat().st_mode
        if path.is_symlink():
            continue
        if path.is_dir() and mode & 0o011:
            yield from readable_by_others(path)
        elif path.is_file() and mode & 0o044:
            yield path


def oracle(home: Path, paths: list[Path]) -> list[tuple[str, str, int]]:
    """What detect-secrets finds: file, kind, line."""
    with transient_settings({"plugins_used": [{"name": name} for name in ORACLE]}):
        found = SecretsCollection(root=str(home))
        for path in paths:
            found.scan_file(str(path.relative_to(home)))
    return [(path, secret.type, secret.line_number) for path, secret in found]


@pytest.mark.slow
def test_others_find_no_secret_in_what_a_run_leaves_and_its_programs_got_theirs(user: User, said: list[str]) -> None:
    own = {user.home / name for name in ("p.yaml", "notes.txt", ".git")}
    left = [path for path in readable_by_others(user.home) if own.isdisjoint([path, *path.parents])]
    assert {"p.json", "copy.json", "config.json", "p.sweep.json", "p.events.jsonl"} <= {path.name for path in left}
    assert not [path for path in left if S in path.read_text(errors="replace")]
    assert not [text for text in said if S in text]
    assert not [path for path in user.outputs.rglob("git.diff") if S in path.read_text()]
    assert any("notes.txt" in path.read_text() for path in user.outputs.rglob("git.diff"))
    assert oracle(user.home, [user.home / "p.yaml", user.home / "notes.txt"])
    assert not oracle(user.home, left)
    assert T in (user.outputs / "manifests/p.provenance/secrets.json").read_text()
    check_jobs_and_actions(user.home)


def check_jobs_and_actions(home: Path) -> None:
    """They got what they were to get, in each attempt."""
    job = (home / "job").read_text()
    for words in secrets.COMMANDS:
        assert "\n".join(words) in job
    assert job.count(f"SWEPT_TOKEN={T}-swept\n") == job.count(f"GIVEN_TOKEN={T}-given\n") == 2
    assert job.count(f"LATER_TOKEN={T}-later\n") == 1
    assert f"PROXY=http://me:{T}@other\n" in job
    for name in ("inline", "queued"):
        got = (home / name).read_text()
        assert got.count(f"API_TOKEN={T}-env\n") == got.count(f"--token\n{T}-{name}\n") == 2
        assert f"https://me:{T}@host/x?sig={T}\nPRIVATE-TOKEN: {T}\n" in got
    assert (home / "published").read_text().count(f"{T}-published\n{T}-metadata\n") == 2
    assert S not in (home / "messages").read_text()


@pytest.mark.slow
def test_what_is_shown_of_a_log_tells_no_secret(user: User) -> None:
    line = f"saved HF_TOKEN={T} at https://me:{T}@host/x"
    text = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "a"},
        "backend": {"argv": ["echo", line]},
        "monitoring": {
            "poll_interval_seconds": 0.2,
            "log_events": {"saved": {"pattern": r"saved (.*)", "extract_groups": {"path": 1}}},
        },
    }
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(text)}")
    assert user.run("run", "--config-ref", "./e.yaml", "--plan-id", "p").returncode == 0
    log = str(user.outputs / "a" / "current.log")
    assert T in Path(log).read_text()
    for words in (["tail"], ["tail", "--json"], ["try", "--log", log], ["try", "--log", log, "--json"], ["events"]):
        shown = user.run("monitor", "--session", "p", "--cmd", *words)
        assert shown.returncode == 0, shown.stderr
        assert "saved" in shown.stdout
        assert T not in shown.stdout + shown.stderr


@pytest.mark.slow
def test_a_manifest_without_its_secrets_is_still_read_and_says_what_it_can_not_do(user: User) -> None:
    (user.home / "p.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config(), width=10000)}")
    assert user.run("plan", "--config-ref", "./p.yaml", "--plan-id", "p", WANDB_API_KEY=T).returncode == 0
    (user.outputs / "manifests/p.provenance/secrets.json").unlink()
    result = user.run("run_sweep_entry", "--sweep", "outputs/sweep.json", "--index", "0", "--dry-run")
    assert result.returncode == 0
    result = user.run("submit", "--manifest", "outputs/manifests/p.json")
    assert "secrets of the plan can't be read" in result.stderr
    events = user.run("monitor", "--session", "p", "--cmd", "events", "--json")
    messages = [a["message"] for event in json.loads(events.stdout)["events"] for a in event["actions"]]
    assert any("the secret that this needs can't be read" in message for message in messages)


@pytest.mark.slow
def test_what_shows_a_plan_tells_no_secret_of_the_environment_under_any_key(user: User) -> None:
    asked = "${oc.env:WANDB_API_KEY}"
    text = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "a"},
        "backend": {"argv": ["true", f"--report={asked}"]},
        "job": {"start_conditions": [{"class_name": "CommandCondition", "command": ["true", asked]}]},
        "monitoring": {"poll_interval_seconds": 0.2},
    }
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(text)}")
    given = ("--config-ref", "./e.yaml")
    shown = [user.run("visualize_plan", *given, *more, WANDB_API_KEY=T) for more in ((), ("--format", "html"))]
    assert user.run("run", *given, "--plan-id", "p", WANDB_API_KEY=T).returncode == 0
    shown += [
        user.run("visualize_plan", "--manifest", str(user.outputs / "manifests/p.json")),
        user.run("report", "--session", "p", "-o", "page.html"),
    ]
    assert [result.returncode for result in shown] == [0] * 4
    assert not [result for result in shown if S in result.stdout + result.stderr]
    assert S not in (user.home / "page.html").read_text()
