"""The stage `packages`: what pip has to add to the base image, resolved inside of it and fetched as wheels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from oellm_autoexp.containers import mounts
from oellm_autoexp.containers.building import packages
from oellm_autoexp.containers.building.files import digest, identity
from oellm_autoexp.containers.building.workspace import Workspace
from oellm_autoexp.containers.image import Image
from oellm_autoexp.core.text import plural
from oellm_autoexp.storage.files import write_atomic


def fetched_packages(workspace: Workspace, base: Image) -> tuple[dict[str, str], dict[str, str]]:
    """The pinned packages of the base, and the added ones, whose wheels are then in the work folder: name → version.

    Raises BackendError.
    """
    request = workspace.request
    own = "".join(f"{line}\n" for line in _own_requirements(request.checkout))
    key = digest(own, json.dumps(list(workspace.requirements.items())), identity(base.path), *request.unpinned)
    if known := workspace.done("packages", key):
        workspace.title("packages", f"{plural(len(known['added']), 'wheel')} are there")
        return known["pinned"], known["added"]
    workspace.title("packages", f"the packages of {request.requirements} that the base lacks")
    pinned = packages.pins(workspace.installed(base), request.unpinned)
    names = ("own.txt", "constraints.txt", "report.json", "wheels")
    ours, limits, report, wheels = (workspace.folder / name for name in names)
    write_atomic(ours, own)
    write_atomic(limits, packages.constraints(pinned))
    given = ["-c", str(limits), "-r", str(request.requirements), "-r", str(ours)]
    _pip(workspace, "resolving the requirements", base, ["install", "--dry-run", "--report", str(report), *given])
    added, words = packages.locked(json.loads(report.read_text(encoding="utf-8")))
    wheels.mkdir(exist_ok=True)
    if words:
        fetched = workspace.folder / "fetched.txt"
        write_atomic(fetched, "".join(f"{word}\n" for word in words))
        asked = ["wheel", "--no-deps", "--wheel-dir", str(wheels), "-r", str(fetched)]
        _pip(workspace, "fetching the packages", base, asked, watched=wheels)
    workspace.mark_done("packages", key, {"pinned": pinned, "added": added})
    torch = f"torch {pinned['torch']}" if "torch" in pinned else "no torch"
    workspace.say(f"    the base has {plural(len(pinned), 'package')}, {torch}; {len(added)} are added")
    return pinned, added


def _own_requirements(checkout: Path) -> list[str]:
    """The dependencies of this program in its pyproject.toml."""
    import tomllib

    with (checkout / "pyproject.toml").open("rb") as file:
        found: list[str] = tomllib.load(file)["project"]["dependencies"]
    return found


def _pip(workspace: Workspace, title: str, base: Image, words: Sequence[str], watched: Path | None = None) -> None:
    """Run the pip of the base image, with the settings of pip on this machine (indexes, certificates)."""
    settings = {**packages.pip_settings(_pip_config()), **_variables(packages.CERTIFICATES)}
    named = packages.local_places({**settings, **workspace.requirements})
    binds = mounts.outermost([str(workspace.folder), *filter(os.path.exists, named), *workspace.requirements])
    env = {
        **workspace.environment,
        **settings,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_BREAK_SYSTEM_PACKAGES": "1",  # PEP 668 protects a Debian's own Python, which here is the image's
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "TMPDIR": str(workspace.folder / "tmp"),
    }
    program = ["python3", "-s", "-m", "pip", *words]
    command = workspace.request.runtime.exec_words(str(base.path), program, binds=binds, cwd=str(workspace.folder))
    workspace.step(title, command, env=env, watched=watched)


def _variables(names: Sequence[str]) -> dict[str, str]:
    """Those of these environment variables that are set."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _pip_config() -> str:
    """The settings of pip on this machine, of its files and variables; '' where there is no pip."""
    words = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
