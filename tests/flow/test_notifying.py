"""People get messages, and an outside service sees that a monitor is alive, whatever the services for messages do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flow.conftest import User, until
from tests.hook_server import HookServer, hook_server

pytestmark = pytest.mark.slow

MAIL = {"class_name": "SendmailNotifier", "to": "team@example.org"}
SENDMAIL = """#!/bin/sh
cat > $(mktemp "$0.XXXXXX.mail")
"""


@pytest.fixture
def server() -> Iterator[HookServer]:
    with hook_server() as made:
        yield made


@pytest.fixture
def teller(user: User, server: HookServer) -> User:
    """A user whose site has a sendmail, and who has the addresses of a server in variables."""
    programs = user.home / "bin"
    programs.mkdir()
    (programs / "sendmail").write_text(SENDMAIL)
    (programs / "sendmail").chmod(0o755)
    path = f"{programs}:{user.environment['PATH']}"
    return replace(user, environment={**user.environment, "PATH": path, "HOOK": server.url, "no_proxy": "*"})


def notify(**more: Any) -> dict[str, Any]:
    return {"class_name": "NotifyAction", "message": "{name} ended with {exit_code}", **more}


def planned(user: User, argv: list[str], jobs: int, monitoring: dict[str, Any]) -> tuple[str, ...]:
    """The options of a run of so many jobs."""
    config = {
        "defaults": [{"/backend": "command"}, {"/slurm": "local"}, "_self_"],
        "project": {"name": "job_${index}"},
        "slurm": {"client": {"slots": 4}},
        "backend": {"argv": argv},
        "sweep": {"params": {"metadata.number": [*range(jobs)]}, "allow_duplicates": True},
        "monitoring": {"poll_interval_seconds": 0.2, **monitoring},
    }
    (user.home / "notify.yaml").write_text(yaml.safe_dump(config))
    return "--config-ref", "notify", "--config-dir", ".", "--plan-id", "x"


def mails(user: User) -> list[str]:
    return [path.read_text() for path in sorted((user.home / "bin").glob("*.mail"))]


def on_crash(*actions: dict[str, Any]) -> dict[str, Any]:
    return {"state_events": {"crash": {"actions": [*actions]}}}


def test_jobs_that_fail_are_reported_by_mail_and_webhook_in_few_messages(teller: User, server: HookServer) -> None:
    actions = (notify(notifier=MAIL, subject="{name}: {error_type}"), notify(webhook="$HOOK"))
    result = teller.run("run", *planned(teller, ["false"], 12, on_crash(*actions)))
    assert result.returncode == 1, result.stderr
    for messages in (mails(teller), server.texts):
        assert 1 <= len(messages) <= 5
        assert {f"job_{number} ended with 1" for number in range(12)} <= {
            line.removeprefix("- ") for text in messages for line in text.splitlines()
        }
    assert "s3cr3t" not in result.stdout + result.stderr
    kept = (path for path in teller.outputs.rglob("*") if path.is_file() and path.stat().st_mode & 0o077)
    assert [path for path in kept if b"s3cr3t" in path.read_bytes()] == []


@pytest.mark.parametrize("answer", [0, 503])
def test_a_server_that_hangs_or_refuses_neither_delays_the_jobs_nor_breaks_the_monitor(
    teller: User, server: HookServer, answer: int
) -> None:
    server.answer = answer
    hanging = notify(webhook="$HOOK", timeout_seconds=0.5)
    again = {"class_name": "RestartAction", "max_attempts": 1}
    monitoring = {**on_crash(hanging, again), "alive": {"url": "$HOOK", "file": "alive", "every_seconds": 0.5}}
    began = time.monotonic()
    result = teller.run("run", *planned(teller, ["false"], 3, monitoring))
    assert result.returncode == 1, result.stderr
    assert time.monotonic() - began < 30
    session = teller.session()
    assert [job["attempt"] for job in session.values()] == [2] * 3
    assert not (teller.home / "alive").exists()
    events = (teller.outputs / "monitoring_state" / "x.events.jsonl").read_text()
    assert ("did not answer within 0.5 s" if answer == 0 else "answered 503") in events
    assert "Traceback" not in result.stdout + result.stderr


def test_what_was_not_told_when_a_monitor_was_killed_is_reported_by_the_next_one(
    teller: User, server: HookServer
) -> None:
    script = "case $0 in 0) exit 1;; 1) sleep 2; exit 1;; *) until [ -e go ]; do sleep 0.1; done;; esac"
    argv = ["sh", "-c", script, "${metadata.number}"]
    monitoring = {**on_crash(notify(webhook="$HOOK")), "alive": {"file": "alive", "every_seconds": 0.3}}
    words = planned(teller, argv, 3, monitoring)
    monitor = teller.start("run", *words)
    until(
        lambda: (teller.outputs / "sweep.json").exists() and teller.states()[:2] == ["crash", "crash"], "two failures"
    )
    until(lambda: server.texts == ["job_0 ended with 1"], "the first message")
    assert (teller.home / "alive").exists()
    monitor.kill()
    monitor.wait()
    (teller.home / "alive").touch()
    (teller.home / "go").touch()
    assert teller.run("monitor", "--session", "x").returncode == 1
    assert server.texts[1:] == ["job_1 ended with 1"]
    assert not (teller.home / "alive").exists()


def test_a_look_by_itself_gives_the_signal_and_tells_what_is_due(teller: User, server: HookServer) -> None:
    monitoring = {**on_crash(notify(webhook="$HOOK")), "alive": {"url": "$HOOK", "file": "signs/alive"}}
    (teller.home / "signs").mkdir()
    assert teller.run("run", "--no-monitor", *planned(teller, ["false"], 1, monitoring)).returncode == 0
    for _ in range(20):
        assert teller.run("monitor", "--session", "x", "--once").stderr == ""
        if teller.states() == ["crash"]:
            break
        assert Path(teller.home, "signs", "alive").exists()
        time.sleep(0.2)
    assert "job_0 ended with 1" in [body["text"] for _, body in server.received if body]
    assert None in [body for _, body in server.received]


def test_a_plan_that_needs_apprise_is_refused_where_it_is_not_installed(teller: User) -> None:
    hidden = teller.home / "lib"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'apprise' else find(name, *more)\n"
    )
    guest = User(teller.home, {**teller.environment, "PYTHONPATH": str(hidden)})
    notifier = {"class_name": "AppriseNotifier", "url": "$HOOK"}
    result = guest.run("plan", *planned(teller, ["true"], 1, on_crash(notify(notifier=notifier))))
    assert result.returncode == 2
    assert "AppriseNotifier can't work here: the package apprise is not installed" in result.stderr
    assert "pip install 'oellm-autoexp[apprise]'" in result.stderr
    assert "notify.yaml:" in result.stderr
