"""A plan in three stages of which each waits for the file of the one before, and whose first one fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User

PROGRAM = 'echo "$2" >> ran; [ "$2" = stable ] && ! [ -e well ] && exit 3; mkdir -p "$1"; touch "$1/checkpoint"'
"""Notes its stage in the working directory and writes its checkpoint; the first stage needs a file `well` for that."""
KINDS = {
    "file": lambda stage: {
        "class_name": "FileExistsCondition",
        "path": f"${{sibling.{stage}.output_dir}}/checkpoint",
    },
    "glob": lambda stage: {
        "class_name": "GlobExistsCondition",
        "pattern": f"${{sibling.{stage}.output_dir}}/check*",
    },
    "state": lambda stage: {
        "class_name": "SlurmStateCondition",
        "job_name": f"${{sibling.{stage}.name}}",
        "state": "COMPLETED",
    },
}


def after(stage: str, kind: str) -> dict[str, Any]:
    """What makes a job wait for one of a stage."""
    return {"backend.options.after": f"${{sibling.{stage}.name}}", "job.start_conditions": [KINDS[kind](stage)]}


def write(user: User, kind: str = "file", **sections: Any) -> str:
    """Write the experiment; what `--config-ref` is to be."""
    stages = [
        {"stage": "stable"},
        {"stage": "decay", **after("stable", kind)},
        {"stage": "anneal", **after("decay", kind)},
    ]
    content = {
        "defaults": [{"override /backend": "command"}, *sections.pop("defaults", ())],
        "project": {"name": "${stage}_lr${backend.options.lr}"},
        "backend": {
            "argv": ["sh", "-c", PROGRAM, "x", "${project.output_dir}", "${stage}"],
            "options": {"lr": 1, "after": None},
        },
        "monitoring": {"poll_interval_seconds": 0.2},
        "sweep": {"type": "product", "groups": [{"params": {"backend.options.lr": [1]}}, {"configs": stages}]},
        **sections,
    }
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(content)}")
    return "./e.yaml"


def session_file(user: User) -> Path:
    return SessionFiles.named(user.outputs / "monitoring_state", "p").path


def jobs(user: User) -> dict[str, JobState]:
    """The jobs of the session by their stages; none before there is one."""
    path = session_file(user)
    found = Session.load(path).jobs if path.exists() else {}
    return {name.partition("_")[0]: job for name, job in found.items()}


def ends(user: User) -> dict[str, str]:
    return {stage: job.state for stage, job in jobs(user).items()}


def ran(user: User) -> list[str]:
    """The stages that have run, in this order."""
    path = user.home / "ran"
    return path.read_text().split() if path.exists() else []
