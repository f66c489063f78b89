"""What is inside an image, by its own Python, and whether it has the version that runs outside."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oellm_autoexp import MANIFEST_VERSION, __version__
from oellm_autoexp.containers import inside
from oellm_autoexp.containers.image import Image
from oellm_autoexp.containers.runtime import Runtime
from oellm_autoexp.core.errors import ConfigError, Problem

PYTHON = ("python3", "-P", "-s")
"""Runs the image's Python without the current folder and the user's packages, which are not part of the image."""
_OLD_PYTHON = ("python3", "-s")
REBUILD_HINT = "build the image again from this version: container/build_container.sh or build_container_user.py"
_PATIENCE_SECONDS = 600  # an image of many GB on a network file system, read for the first time


@dataclass(frozen=True)
class Contents:
    """The content of an image: its Python, and this package (if it is missing, version '' and the reason in `problem`).

    `root` is the folder that holds the package and what is shipped with it; `talk` is that of container.inside; `build`
    is the record of its build.
    """

    python: str
    python_version: str
    version: str = ""
    manifest_version: int | None = None
    root: str = ""
    digest: str = ""
    problem: str = ""
    talk: int = 0
    build: Mapping[str, Any] = field(default_factory=dict)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process without the variables of its own Python (PYTHONPATH, VIRTUAL_ENV)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, **(extra or {})}


def look_into(runtime: Runtime, image: Image) -> Contents:
    """The content of an image. Raises ConfigError if no program can be run in it, or if it has no python3."""
    program = Path(inside.__file__).read_text(encoding="utf-8")
    words = runtime.exec_words(str(image.path), [*_OLD_PYTHON, "-c", program], cwd="/")
    try:
        done = subprocess.run(
            words,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(Problem(f"can't run {runtime}: {error}", str(image.path))) from None
    line = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "")
    if not line:
        tried = runtime.exec_words(str(image.path), ["true"], cwd="/")
        raise ConfigError(Problem(*_not_run(runtime, image, tried, done.returncode, done.stderr)))
    return Contents(**json.loads(line))


def check_same_version(contents: Contents, image: Image) -> tuple[str, ...]:
    """Notes on how the image's package differs from this one. Raises ConfigError if its plans could not be read here.

    The program outside reads the manifest, so both must have the same version. Different sources of the same version
    (a newer checkout) are noted: planning uses the sources in the image.
    """
    place = str(image.path)
    if not contents.version:
        what = f"the image's python3 ({contents.python}, {contents.python_version}) has no oellm-autoexp"
        if contents.problem and "No module named 'oellm_autoexp'" not in contents.problem:
            what = f"the oellm-autoexp in the image can't be imported: {contents.problem}"
        raise ConfigError(Problem(what, place, "build one that has it: container/build_container.sh or _user.py"))
    if contents.manifest_version is None:
        what = f"the oellm-autoexp {contents.version} in the image can't be imported: {contents.problem}"
        raise ConfigError(Problem(what, place, REBUILD_HINT))
    theirs = f"{contents.version} (manifests of version {contents.manifest_version})"
    ours = f"{__version__} (manifests of version {MANIFEST_VERSION})"
    if theirs != ours:
        what = f"the image has oellm-autoexp {theirs}, but this program is {ours}"
        raise ConfigError(Problem(what, place, f"{REBUILD_HINT}; or use version {contents.version} here"))
    commit = str(dict(contents.build.get("git") or {}).get("commit") or "")
    since = f" (built from commit {commit[:12]})" if commit else ""
    if contents.talk != inside.TALK:
        age = "an older" if contents.talk < inside.TALK else "a newer"
        what = f"the image has {age} state of oellm-autoexp {contents.version}{since} than what runs here"
        raise ConfigError(Problem(f"{what}: the two are not compatible", place, REBUILD_HINT))
    if contents.digest != inside.source_digest(str(Path(inside.__file__).parents[1])):
        return (f"the image's oellm-autoexp{since} has other source files than this one; the image's makes the plan",)
    return ()


_ABSENT = 'for name; do command -v "$name" > /dev/null || printf "%s\\n" "$name"; done'


def absent_programs(runtime: Runtime, image: Image, programs: Sequence[str], options: Sequence[str]) -> tuple[str, ...]:
    """Those of the programs (names or paths) that an image does not have; `options` are those of `exec`.

    Raises ConfigError if nothing can be run in the image.
    """
    words = runtime.exec_words(str(image.path), ["sh", "-c", _ABSENT, "sh", *programs], options=options)
    try:
        done = subprocess.run(
            words,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(Problem(f"can't run {runtime}: {error}", str(image.path))) from None
    if done.returncode not in (0, 1):
        tried = runtime.exec_words(str(image.path), ["true"], options=options)
        raise ConfigError(Problem(*_not_run(runtime, image, tried, done.returncode, done.stderr)))
    return tuple(done.stdout.splitlines())


def _not_run(runtime: Runtime, image: Image, tried: Sequence[str], code: int, said: str) -> tuple[str, str, str]:
    """Why no program was run in an image: what, where, hint. `tried` is a command with which the user sees the same."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    fatal = next((line for line in reversed(lines) if line.startswith(("FATAL", "ERROR"))), (lines or [""])[-1])
    if "python3" in fatal and ("not found" in fatal or "no such file" in fatal):
        return "the image has no python3 in its PATH", str(image.path), REBUILD_HINT
    what = f"{runtime} can't run a program in the image (exit code {code}): {fatal or 'it printed nothing'}"
    return what, str(image.path), f"try it by hand: {shlex.join(tried)}"
