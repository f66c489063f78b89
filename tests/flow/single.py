"""Plans of one job that ends at once, submitted and watched by nobody."""

from __future__ import annotations

from typing import Any

import yaml

from tests.flow.conftest import User, until

FAILS = ["sh", "-c", "echo no luck; exit 3"]


def planned(user: User, name: str, monitoring: dict[str, Any], argv: list[str] = FAILS, **more: Any) -> str:
    """Submit a plan of one job, and wait until that has ended with nobody watching; the plan's id."""
    config = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": name},
        "backend": {"argv": argv},
        "monitoring": monitoring,
        **more,
    }
    (user.home / f"{name}.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    result = user.run("run", "--config-ref", f"./{name}.yaml", "--plan-id", name, "--no-monitor")
    assert result.returncode == 0, result.stderr
    until(lambda: list((user.outputs / name / "marks").glob("*.exit")), "the job's end")
    return name


def on_crash(*actions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"state_events": {"crash": {"actions": list(actions)}}, **more}


def command(script: str) -> dict[str, Any]:
    return {"class_name": "RunCommandAction", "command": ["sh", "-c", script], "cwd": "."}
