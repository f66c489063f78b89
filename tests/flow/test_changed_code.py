"""Code that has changed since a plan was made is told before its jobs begin."""

from __future__ import annotations

import subprocess

import pytest

from tests.flow.conftest import User


def git(user: User, *words: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *who, *words], cwd=user.home, env=user.environment, check=True, capture_output=True)


@pytest.fixture
def checkout(user: User) -> User:
    """A user in a checkout with an edited file."""
    git(user, "init", "-q")
    (user.home / "train.py").write_text("1\n")
    git(user, "add", "train.py")
    git(user, "commit", "-qm", "first")
    (user.home / "train.py").write_text("2\n")
    return user


def test_code_that_was_edited_or_committed_since_the_plan_is_told_by_submit_and_status(checkout: User) -> None:
    words = ("backend=command", "backend.argv=[sh,-c,'sleep 30']", "project.name=job", "slurm=fake")
    assert checkout.run("plan", "--manifest", "m.json", *words).returncode == 0
    dry = ("submit", "--manifest", "m.json", "--dry-run")
    assert "has changed" not in checkout.run(*dry).stdout
    (checkout.home / "train.py").write_text("3\n")
    assert "has changed since the plan was made (files have been edited since commit" in checkout.run(*dry).stdout
    git(checkout, "commit", "-qam", "second")
    assert "(its commit was " in checkout.run(*dry).stdout


def test_status_of_a_session_that_goes_on_tells_it(checkout: User) -> None:
    words = ("backend=command", "backend.argv=[sh,-c,'sleep 30']", "project.name=job")
    started = checkout.run("run", "--no-monitor", "--plan-id", "p", *words)
    assert started.returncode == 0, started.stderr
    status = ("monitor", "--session", "p", "--cmd", "status")
    assert "has changed" not in checkout.run(*status).stdout
    (checkout.home / "train.py").write_text("3\n")
    try:
        assert "has changed since the plan was made" in checkout.run(*status).stdout
    finally:
        checkout.run("monitor", "--session", "p", "--cmd", "cancel")
